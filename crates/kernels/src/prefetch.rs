//! Asking for weights before they are needed: the processor's own prefetching stops at each page, and while a tile is
//! multiplied nothing is read. What was tried stands in docs/kernel-log.md.

/// Asks for `len` bytes that lie `ahead` bytes behind the start of `bytes`. They need not belong to anyone.
#[inline(always)]
pub fn prefetch(bytes: &[u8], ahead: usize, len: usize) {
    #[cfg(target_arch = "x86_64")]
    for line in (0..len).step_by(64) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch reads nothing that the program sees, and never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(bytes.as_ptr().wrapping_add(ahead + line).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (bytes, ahead, len);
}
