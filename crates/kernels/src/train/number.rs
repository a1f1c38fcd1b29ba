//! The two types of what products take: f32, and bf16 where whoever makes it rounds it once for all of them.

use crate::{float::f32_to_bf16, isa::for_each_isa};

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

for_each_isa! {
    /// `out = x`.
    pub(super) fn copy<N: Number>(x: &[f32], out: &mut [N]) = copy_body
}

#[inline(always)]
fn copy_body<N: Number>(x: &[f32], out: &mut [N]) {
    for (x, out) in x.iter().zip(out) {
        *out = N::of(*x);
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
