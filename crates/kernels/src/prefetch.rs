//! Asking for weights before they are needed.

/// How far ahead of the block in hand memory is asked for. The processor's own prefetching stops at each page, and while a
/// tile is multiplied nothing is read; what was tried stands in docs/kernel-log.md.
const AHEAD_BYTES: usize = 8192;

/// Asks for the `BYTES` bytes that lie [`AHEAD_BYTES`] behind the start of `bytes`. They need not belong to anyone.
#[inline(always)]
pub fn prefetch<const BYTES: usize>(bytes: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    for line in (0..BYTES).step_by(64) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch reads nothing that the program sees, and never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(bytes.as_ptr().wrapping_add(AHEAD_BYTES + line).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = bytes;
}
