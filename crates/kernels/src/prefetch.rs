//! Asking for weights before they are needed.

use crate::isa::amd_family;

/// How far ahead of the weights in hand memory is asked for, again and again: what finds all of a core's requests under way is
/// dropped in silence. Into the second cache, since the first one's few requests would stall the loads in hand. What was tried
/// stands in docs/kernel-log.md.
const AHEAD_BYTES: [usize; 3] = [4096, 6144, 8192];

/// The same for a Zen 5 and what follows it, into the first cache: one row of activations reads a tenth faster so.
const AHEAD_INTO_FIRST_BYTES: [usize; 3] = [2048, 4096, 6144];

/// How far ahead of the weights in hand memory is asked for where that is done once: where a product is seldom waiting, and asking
/// takes the place of loads.
const ONCE_AHEAD_BYTES: usize = 6144;

/// A place in memory that is asked for little by little, while a product goes on elsewhere.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    next: *const u8,
    /// Lines of 64 bytes that are asked for in a step.
    lines: usize,
}

impl Ask {
    /// For `bytes` bytes at `start` in `steps` steps; they need not belong to anyone.
    pub fn new(start: *const u8, bytes: usize, steps: usize) -> Self {
        Self { next: start, lines: bytes.div_ceil(64).div_ceil(steps.max(1)) }
    }

    /// The next step.
    #[inline(always)]
    pub fn ask(&mut self) {
        for _ in 0..self.lines {
            prefetch(self.next, 1);
            self.next = self.next.wrapping_add(64);
        }
    }
}

/// What is asked of memory while a product walks its weights.
pub trait Ahead {
    /// The next step of the walk: `bytes` bytes at `at`.
    fn step(&mut self, at: *const u8, bytes: usize);
}

/// What lies somewhat ahead, again and again: for products that wait for memory.
#[derive(Clone, Copy, Debug)]
pub struct Again {
    into_first: bool,
}

impl Again {
    /// In the way that suits this processor.
    pub fn new() -> Self {
        Self { into_first: amd_family().is_some_and(|family| family >= 0x1a) }
    }
}

impl Ahead for Again {
    #[inline(always)]
    fn step(&mut self, at: *const u8, bytes: usize) {
        match self.into_first {
            true => AHEAD_INTO_FIRST_BYTES.into_iter().for_each(|ahead| prefetch_first(at.wrapping_add(ahead), bytes)),
            false => AHEAD_BYTES.into_iter().for_each(|ahead| prefetch(at.wrapping_add(ahead), bytes)),
        }
    }
}

/// What lies somewhat ahead, once: for products that seldom wait.
#[derive(Clone, Copy, Debug)]
pub struct Once;

impl Ahead for Once {
    #[inline(always)]
    fn step(&mut self, at: *const u8, bytes: usize) {
        prefetch(at.wrapping_add(ONCE_AHEAD_BYTES), bytes);
    }
}

impl Ahead for Ask {
    #[inline(always)]
    fn step(&mut self, _: *const u8, _: usize) {
        self.ask();
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

/// Asks for the line of `place`, to be written to. It need not belong to anyone.
#[inline(always)]
pub fn prefetch_to_write(place: *const u8) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_ET0, _mm_prefetch};
        // SAFETY: a prefetch reads nothing that the program sees, and never faults.
        unsafe { _mm_prefetch::<_MM_HINT_ET0>(place.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}
