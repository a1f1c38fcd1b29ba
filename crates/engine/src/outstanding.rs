//! How many requests run or wait, and how long they take.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use crate::request::SubmitError;

/// Weight of the newest request in the mean of how long they take.
const NEWEST: f64 = 0.1;
/// Longest time after which a client is asked to come again, in seconds.
const LONGEST_RETRY_SECONDS: u64 = 60;

/// Counts places, and gives none beyond its limit, save to who has less than a fair share of them: one who fills them all keeps
/// nobody else out. With `k` who ask at once there are so at most `limit * (1 + 1/2 + ... + 1/k)`.
#[derive(Debug)]
pub(crate) struct Places {
    limit: usize,
    taken: Mutex<Taken>,
    /// Mean time that a place was held, in milliseconds.
    mean_ms: AtomicU64,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    /// Of each tenant who holds any.
    by_tenant: HashMap<u64, usize>,
}

/// One place, held while a request runs or waits.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Places>,
    tenant: u64,
    since: Instant,
}

impl Places {
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, taken: Mutex::default(), mean_ms: AtomicU64::new(0) })
    }

    pub fn take(self: &Arc<Self>, tenant: u64) -> Result<Place, SubmitError> {
        let mut taken = self.taken();
        let own = taken.by_tenant.get(&tenant).copied().unwrap_or(0);
        let tenants = taken.by_tenant.len() + usize::from(own == 0);
        if taken.all >= self.limit && own >= self.limit / tenants {
            let (outstanding, retry_after_seconds) = (taken.all, self.retry_after_seconds(taken.all));
            return Err(SubmitError::QueueFull { outstanding, retry_after_seconds });
        }
        taken.all += 1;
        taken.by_tenant.insert(tenant, own + 1);
        Ok(Place { places: Arc::clone(self), tenant, since: Instant::now() })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
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
        let mut taken = self.places.taken();
        taken.all -= 1;
        if let Entry::Occupied(mut own) = taken.by_tenant.entry(self.tenant) {
            *own.get_mut() -= 1;
            if *own.get() == 0 {
                own.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_given_up_to_the_limit_and_come_back() {
        let places = Places::new(2);
        let first = places.take(0).unwrap();
        let _second = places.take(0).unwrap();
        let full = SubmitError::QueueFull { outstanding: 2, retry_after_seconds: 1 };
        assert_eq!(places.take(0).err(), Some(full));
        drop(first);
        assert!(places.take(0).is_ok());
    }

    #[test]
    fn one_who_takes_all_places_keeps_nobody_else_out() {
        let places = Places::new(6);
        let take = |tenant: u64, count: usize| {
            let taken: Vec<_> = (0..count).map_while(|_| places.take(tenant).ok()).collect();
            taken
        };
        let all = take(1, 100);
        let (second, third) = (take(2, 100), take(3, 100));
        assert_eq!((all.len(), second.len(), third.len()), (6, 3, 2));
        drop((all, second));
        let more = |tenant| take(tenant, 100).len();
        assert_eq!((more(1), more(3)), (4, 4), "whoever is gone takes no share");
        drop(third);
        assert!(places.taken().all == 0 && places.taken().by_tenant.is_empty());
    }

    #[test]
    fn the_time_to_come_again_follows_how_long_requests_take() {
        let places = Places::new(0);
        places.mean_ms.store(90_000, Relaxed);
        assert_eq!([1, 4, 45, 1000].map(|outstanding| places.retry_after_seconds(outstanding)), [60, 23, 2, 1]);
    }
}
