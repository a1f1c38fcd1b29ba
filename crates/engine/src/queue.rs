//! Who waits, and who is next.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
};

use crate::sequence::Sequence;

/// Tokens of an answer that are charged to whoever asks before anyone knows its length; few answers are longer.
const CHARGED_ANSWER_TOKENS: usize = 1024;

/// A place in the queue: the lower priority number first, as in vLLM; then whose tenant was served least; then who came
/// first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    priority: i32,
    /// Tokens of work after which it is this request's turn, in the tenants' common count.
    start: u64,
    arrival: u64,
}

/// Waiting sequences. Tenants share fairly, by tokens: start-time fair queueing (Goyal, Vin and Cheng, 1996). A tenant's
/// requests are queued behind each other's work; one who has not asked for a while joins where the queue is now, so that
/// nobody saves up turns. Where there is one tenant, the first to come is the first served.
#[derive(Default)]
pub(crate) struct Queue {
    waiting: BTreeMap<Place, Sequence>,
    /// Start of the request that was last taken: how far the common count is.
    served: u64,
    /// Where each tenant's last request ends; only tenants who are ahead of `served`.
    tenants: HashMap<u64, u64>,
    arrivals: u64,
}

impl Queue {
    /// Takes a new request in.
    pub fn push(&mut self, mut sequence: Sequence) {
        let (priority, tenant) = (sequence.priority(), sequence.tenant());
        let start = self.tenants.get(&tenant).copied().unwrap_or(0).max(self.served);
        let work = sequence.prompt_tokens() + sequence.max_tokens().min(CHARGED_ANSWER_TOKENS);
        self.tenants.insert(tenant, start + work as u64);
        self.arrivals += 1;
        let place = Place { priority, start, arrival: self.arrivals };
        sequence.place = Some(place);
        self.waiting.insert(place, sequence);
    }

    /// Takes one back that had run, to the place that it had.
    pub fn put_back(&mut self, sequence: Sequence) {
        match sequence.place {
            Some(place) => drop(self.waiting.insert(place, sequence)),
            None => self.push(sequence),
        }
    }

    /// Who is next behind `after`, or first of all.
    pub fn next(&self, after: Option<Place>) -> Option<(Place, &Sequence)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.waiting.range((from, Bound::Unbounded)).next().map(|(&place, sequence)| (place, sequence))
    }

    /// Takes out the sequence whose turn it is.
    pub fn take(&mut self, place: Place) -> Option<Sequence> {
        let sequence = self.waiting.remove(&place)?;
        if place.start > self.served {
            self.served = place.start;
            self.tenants.retain(|_, end| *end > place.start);
        }
        Some(sequence)
    }

    /// Drops those for whom nobody waits any more.
    pub fn remove_done(&mut self) {
        self.waiting.retain(|_, sequence| !sequence.is_done());
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Sequence> {
        self.waiting.values_mut()
    }

    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}
