//! Asking for weights before they are needed.

/// How far ahead of the weights in hand memory is asked for, again and again: what finds all of a core's requests under way is
/// dropped in silence. Into the second cache, since the first one's few requests would stall the loads in hand. What was tried
/// stands in docs/kernel-log.md.
const AHEAD_BYTES: [usize; 3] = [4096, 6144, 8192];

/// Asks for `bytes` bytes somewhat ahead of `start`, which is walked in steps of as many. They need not belong to anyone.
#[inline(always)]
pub fn prefetch_ahead(start: *const u8, bytes: usize) {
    for ahead in AHEAD_BYTES {
        prefetch(start.wrapping_add(ahead), bytes);
    }
}

/// Asks for `bytes` bytes at `start`. They need not belong to anyone.
#[inline(always)]
pub fn prefetch(start: *const u8, bytes: usize) {
    #[cfg(target_arch = "x86_64")]
    for line in (0..bytes).step_by(64) {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: a prefetch reads nothing that the program sees, and never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(start.wrapping_add(line).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (start, bytes);
}

/// Asks for `bytes` bytes at `start`, which the second cache has, into the first. They need not belong to anyone.
#[inline(always)]
pub fn prefetch_first(start: *const u8, bytes: usize) {
    #[cfg(target_arch = "x86_64")]
    for line in (0..bytes).step_by(64) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch reads nothing that the program sees, and never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(start.wrapping_add(line).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (start, bytes);
}
