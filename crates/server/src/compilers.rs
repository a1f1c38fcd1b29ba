//! Whose form is compiled next. Compiling takes a core, so few are compiled at once; and a form may take seconds, so nobody
//! waits behind all of another tenant's.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::{sync::oneshot, time::timeout_at};

use crate::{error::ApiError, shares::Shares};

/// Forms that are compiled at once.
const AT_ONCE: usize = 2;
/// The same where tenants wait of whom none is compiled: a form that takes long, and keeps its place until its thread ends,
/// holds up its own tenant.
const AT_ONCE_FOR_ALL: usize = 8;
/// Most that wait.
const MAX_WAITING: usize = 1024;
/// Most bytes of all that waits.
const MAX_BYTES: usize = 256 << 20;
/// Longest wait.
const PATIENCE: Duration = Duration::from_secs(10);
/// After which a client may ask again.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// Who compiles and who waits.
#[derive(Debug)]
pub struct Compilers {
    queue: Mutex<Queue>,
    patience: Duration,
}

#[derive(Debug)]
struct Queue {
    /// By when they came.
    waiting: BTreeMap<u64, Waiting>,
    arrivals: u64,
    places: Shares,
    bytes: Shares,
    /// Of each tenant whose forms are compiled, how many.
    compiling: HashMap<u64, usize>,
    compiling_in_all: usize,
    /// When each tenant who waits or compiles was last given a place, in a count of places.
    served: HashMap<u64, u64>,
    given: u64,
}

#[derive(Debug)]
struct Waiting {
    tenant: u64,
    bytes: usize,
    turn: oneshot::Sender<()>,
}

/// A place in the queue, and then at a compiler; given back when this is dropped.
#[derive(Debug)]
pub struct Place {
    compilers: Arc<Compilers>,
    tenant: u64,
    arrival: u64,
    turn: oneshot::Receiver<()>,
}

impl Default for Compilers {
    fn default() -> Self {
        Self::with_limits(MAX_WAITING, MAX_BYTES, PATIENCE)
    }
}

impl Compilers {
    fn with_limits(max_waiting: usize, max_bytes: usize, patience: Duration) -> Self {
        let queue = Queue {
            waiting: BTreeMap::new(),
            arrivals: 0,
            places: Shares::new(max_waiting),
            bytes: Shares::new(max_bytes),
            compiling: HashMap::new(),
            compiling_in_all: 0,
            served: HashMap::new(),
            given: 0,
        };
        Self { queue: Mutex::new(queue), patience }
    }

    /// Waits for a compiler, with `bytes` bytes and until `deadline` at most. 429 where too many wait, or for too long; 408 at the
    /// deadline.
    pub async fn place(
        self: &Arc<Self>,
        tenant: u64,
        bytes: usize,
        deadline: Option<Instant>,
    ) -> Result<Place, ApiError> {
        let mut place = self.enter(tenant, bytes)?;
        let patience_ends = tokio::time::Instant::now() + self.patience;
        let end = deadline.map_or(patience_ends, |deadline| patience_ends.min(deadline.into()));
        match timeout_at(end, &mut place.turn).await {
            Ok(_) => Ok(place),
            Err(_) if end < patience_ends => Err(ApiError::deadline()),
            Err(_) => {
                let seconds = self.patience.as_secs();
                Err(full(format!("The answer's form waited {seconds} s to be compiled, behind others.")))
            }
        }
    }

    fn enter(self: &Arc<Self>, tenant: u64, bytes: usize) -> Result<Place, ApiError> {
        let (send, turn) = oneshot::channel();
        let mut queue = self.lock();
        if !queue.places.has_room(tenant, 1) || !queue.bytes.has_room(tenant, bytes) {
            return Err(full(format!("{} answers' forms wait to be compiled already.", queue.places.all())));
        }
        queue.places.take(tenant, 1);
        queue.bytes.take(tenant, bytes);
        let arrival = queue.arrivals;
        queue.arrivals += 1;
        queue.waiting.insert(arrival, Waiting { tenant, bytes, turn: send });
        queue.give_places();
        Ok(Place { compilers: Arc::clone(self), tenant, arrival, turn })
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn give_places(&mut self) {
        while let Some(arrival) = self.next()
            && let Some(waiting) = self.leave(arrival)
        {
            self.compiling_in_all += 1;
            *self.compiling.entry(waiting.tenant).or_default() += 1;
            self.given += 1;
            self.served.insert(waiting.tenant, self.given);
            // Who waits has the receiver until it has left the queue, under this lock.
            let _ = waiting.turn.send(());
        }
    }

    /// Whose turn it is, where there is a place: of those whose tenant has the fewest places and was given one the longest ago,
    /// the first to come.
    fn next(&self) -> Option<u64> {
        let first = self.waiting.iter().min_by_key(|(arrival, Waiting { tenant, .. })| {
            (self.compiling_of(*tenant), self.served.get(tenant).copied().unwrap_or(0), **arrival)
        });
        let (&arrival, waiting) = first?;
        let places = if self.compiling_of(waiting.tenant) == 0 { AT_ONCE_FOR_ALL } else { AT_ONCE };
        (self.compiling_in_all < places).then_some(arrival)
    }

    fn compiling_of(&self, tenant: u64) -> usize {
        self.compiling.get(&tenant).copied().unwrap_or(0)
    }

    fn leave(&mut self, arrival: u64) -> Option<Waiting> {
        let waiting = self.waiting.remove(&arrival)?;
        self.places.give_back(waiting.tenant, 1);
        self.bytes.give_back(waiting.tenant, waiting.bytes);
        Some(waiting)
    }

    fn end(&mut self, tenant: u64) {
        self.compiling_in_all -= 1;
        if let Some(own) = self.compiling.get_mut(&tenant) {
            *own -= 1;
            if *own == 0 {
                self.compiling.remove(&tenant);
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut queue = self.compilers.lock();
        if queue.leave(self.arrival).is_none() {
            queue.end(self.tenant);
        }
        queue.give_places();
        let is_there = queue.compiling.contains_key(&self.tenant)
            || queue.waiting.values().any(|waiting| waiting.tenant == self.tenant);
        if !is_there {
            queue.served.remove(&self.tenant);
        }
    }
}

fn full(message: String) -> ApiError {
    ApiError::too_many(message, RETRY_AFTER)
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use super::*;

    const BYTES: usize = 10;

    fn compilers(max_waiting: usize) -> Arc<Compilers> {
        Arc::new(Compilers::with_limits(max_waiting, 1000, Duration::from_secs(10)))
    }

    /// Those of `places` that are at a compiler; the others wait.
    fn compiling(places: &[Option<Place>]) -> Vec<usize> {
        let is_compiling = |place: &Place| !place.compilers.lock().waiting.contains_key(&place.arrival);
        (0..places.len()).filter(|&i| places[i].as_ref().is_some_and(is_compiling)).collect()
    }

    fn enter(compilers: &Arc<Compilers>, tenants: &[u64]) -> Vec<Option<Place>> {
        tenants.iter().map(|&tenant| Some(compilers.enter(tenant, BYTES).unwrap())).collect()
    }

    #[test]
    fn one_tenant_has_two_compilers_and_is_served_in_its_order() {
        let mut places = enter(&compilers(9), &[1, 1, 1, 1]);
        assert_eq!(compiling(&places), [0, 1]);
        places[1] = None;
        assert_eq!(compiling(&places), [0, 2]);
        // Who gives up makes no room.
        places[3] = None;
        assert_eq!(compiling(&places), [0, 2]);
    }

    #[test]
    fn a_tenant_whose_forms_take_long_holds_up_itself_alone() {
        let compilers = compilers(100);
        let stuck = enter(&compilers, &[1, 1, 1]);
        let mut others = enter(&compilers, &[2, 2, 3]);
        assert_eq!((compiling(&stuck), compiling(&others)), (vec![0, 1], vec![0, 2]));
        others[0] = None;
        assert_eq!((compiling(&stuck), compiling(&others)), (vec![0, 1], vec![1, 2]));
        let more = enter(&compilers, &[4, 5, 6, 7, 8, 9]);
        assert_eq!(compiling(&more), [0, 1, 2, 3], "eight in all");
    }

    #[test]
    fn tenants_take_turns_however_many_forms_one_has_brought() {
        let compilers = compilers(100);
        let mut places = enter(&compilers, &[1, 1, 1, 1, 1, 2, 2, 2]);
        assert_eq!(compiling(&places), [0, 1, 5]);
        places[0] = None;
        assert_eq!(compiling(&places), [1, 5], "each has one, and two are compiled at once");
        places[1] = None;
        assert_eq!(compiling(&places), [2, 5]);
        places[5] = None;
        assert_eq!(compiling(&places), [2, 6]);
        (places[2], places[6]) = (None, None);
        assert_eq!(compiling(&places), [3, 7]);
        places.clear();
        let queue = compilers.lock();
        assert!(queue.waiting.is_empty() && queue.compiling.is_empty() && queue.served.is_empty());
        assert_eq!((queue.compiling_in_all, queue.places.all(), queue.bytes.all()), (0, 0, 0));
    }

    #[test]
    fn as_many_wait_as_there_is_room_for_and_each_tenant_has_its_share() {
        let compilers = compilers(4);
        let _all = enter(&compilers, &[1; 6]);
        assert_eq!(compilers.enter(1, BYTES).unwrap_err().parts().0, 429);
        let _first = enter(&compilers, &[2]);
        let _share = enter(&compilers, &[2, 2]);
        assert_eq!(compilers.enter(2, BYTES).unwrap_err().parts().0, 429);
        let compilers = super::tests::compilers(100);
        let _some = enter(&compilers, &[1, 1, 1]);
        assert_eq!(compilers.enter(1, 1000).unwrap_err().parts().0, 429, "bytes count, too");
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_ever_nor_beyond_its_deadline() {
        let compilers = compilers(9);
        let _stuck = enter(&compilers, &[1, 1]);
        let began = tokio::time::Instant::now();
        let error = compilers.place(1, BYTES, None).await.unwrap_err();
        assert_eq!((error.parts().0, began.elapsed().as_secs()), (429, 10));
        let deadline = began.into_std() + Duration::from_secs(13);
        let error = compilers.place(1, BYTES, Some(deadline)).await.unwrap_err();
        assert_eq!(error.parts().0, 408);
        assert!(compilers.place(2, BYTES, None).await.is_ok());
        assert_eq!(compilers.lock().waiting.len(), 0);
    }

    #[tokio::test]
    async fn who_waits_is_told_when_its_turn_has_come_and_may_go_away_before() {
        let compilers = compilers(9);
        let mut stuck = enter(&compilers, &[1, 1]);
        let mut goes = Box::pin(compilers.place(1, BYTES, None));
        let mut stays = Box::pin(compilers.place(1, BYTES, None));
        for waiting in [&mut goes, &mut stays] {
            assert!(std::future::poll_fn(|cx| Poll::Ready(waiting.as_mut().poll(cx).is_pending())).await);
        }
        drop(goes);
        stuck.pop();
        assert!(stays.await.is_ok());
    }
}
