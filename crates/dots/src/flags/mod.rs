//! Flags that commands share, and the numbers that flags take.

pub mod engine;
pub mod sampling;

use dots_kernels::pool::MAX_THREADS;

/// A whole number from 1 up, small enough that no size computed from it overflows.
pub fn count(text: &str) -> Result<usize, String> {
    const MOST: usize = 1 << 30;
    match text.parse() {
        Ok(number) if (1..=MOST).contains(&number) => Ok(number),
        _ => Err(format!("expected a whole number from 1 to {MOST}")),
    }
}

/// As many threads as a pool may have.
pub fn threads(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if (1..=MAX_THREADS).contains(&number) => Ok(number),
        _ => Err(format!("expected a whole number from 1 to {MAX_THREADS}")),
    }
}
