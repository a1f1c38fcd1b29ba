//! The two types of what products take: f32, and bf16 where whoever makes it rounds it once for all of them.

use crate::float::f32_to_bf16;

/// A number as products take it.
pub(super) trait Number: Copy + Default + Send + Sync {
    /// The nearest one.
    fn of(x: f32) -> Self;
}

impl Number for f32 {
    #[inline(always)]
    fn of(x: f32) -> Self {
        x
    }
}

/// bf16, as its bits.
impl Number for u16 {
    #[inline(always)]
    fn of(x: f32) -> Self {
        f32_to_bf16(x)
    }
}

/// Where numbers for products are written.
#[derive(Debug)]
pub enum DataMut<'a> {
    /// f32.
    F32(&'a mut [f32]),
    /// bf16, as its bits.
    Bf16(&'a mut [u16]),
}
