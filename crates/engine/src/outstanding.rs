//! How many requests run or wait, and how long they take.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Instant,
};

use crate::request::SubmitError;

/// Weight of the newest request in the mean of how long they take.
const NEWEST: f64 = 0.1;
/// Longest time after which a client is asked to come again, in seconds.
const LONGEST_RETRY_SECONDS: u64 = 60;

/// Counts places, and gives none beyond its limit.
#[derive(Debug)]
pub(crate) struct Places {
    limit: usize,
    taken: AtomicUsize,
    /// Mean time that a place was held, in milliseconds.
    mean_ms: AtomicU64,
}

/// One place, held while a request runs or waits.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Places>,
    since: Instant,
}

impl Places {
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, taken: AtomicUsize::new(0), mean_ms: AtomicU64::new(0) })
    }

    pub fn take(self: &Arc<Self>) -> Result<Place, SubmitError> {
        let more = |taken| Some(taken + 1).filter(|_| taken < self.limit);
        match self.taken.fetch_update(Relaxed, Relaxed, more) {
            Ok(_) => Ok(Place { places: Arc::clone(self), since: Instant::now() }),
            Err(outstanding) => {
                Err(SubmitError::QueueFull { outstanding, retry_after_seconds: self.retry_after_seconds(outstanding) })
            }
        }
    }

    /// When a place may be free: places are held for the mean time, so one is given back in that time by their number.
    fn retry_after_seconds(&self, outstanding: usize) -> u64 {
        let ms = self.mean_ms.load(Relaxed) / outstanding.max(1) as u64;
        ms.div_ceil(1000).clamp(1, LONGEST_RETRY_SECONDS)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let held_ms = self.since.elapsed().as_millis() as f64;
        let mean = |mean| match mean {
            0 => Some(held_ms as u64),
            mean => Some((mean as f64 + (held_ms - mean as f64) * NEWEST) as u64),
        };
        // Always some, so it cannot fail.
        let _ = self.places.mean_ms.fetch_update(Relaxed, Relaxed, mean);
        self.places.taken.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_given_up_to_the_limit_and_come_back() {
        let places = Places::new(2);
        let first = places.take().unwrap();
        let _second = places.take().unwrap();
        let full = SubmitError::QueueFull { outstanding: 2, retry_after_seconds: 1 };
        assert_eq!(places.take().err(), Some(full));
        drop(first);
        assert!(places.take().is_ok());
    }

    #[test]
    fn the_time_to_come_again_follows_how_long_requests_take() {
        let places = Places::new(0);
        places.mean_ms.store(90_000, Relaxed);
        assert_eq!([1, 4, 45, 1000].map(|outstanding| places.retry_after_seconds(outstanding)), [60, 23, 2, 1]);
    }
}
