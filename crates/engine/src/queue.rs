//! Who waits, and who is next.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
};

use crate::{sequence::Sequence, turn::Turn};

/// Tokens of an answer that are charged to whoever asks before anyone knows its length; few answers are longer.
const CHARGED_ANSWER_TOKENS: usize = 1024;

/// Waiting sequences. Tenants share fairly, by tokens: start-time fair queueing (Goyal, Vin and Cheng, 1996). A tenant's
/// requests are queued behind each other's work; one who has not asked for a while joins where the queue is now, so that
/// nobody saves up turns. Where there is one tenant, the first to come is the first served.
#[derive(Default)]
pub(crate) struct Queue {
    waiting: BTreeMap<Turn, Sequence>,
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
        let turn = Turn { priority, start, arrival: self.arrivals };
        sequence.turn = Some(turn);
        self.waiting.insert(turn, sequence);
    }

    /// Takes one back that had run, to the turn that it had.
    pub fn put_back(&mut self, sequence: Sequence) {
        match sequence.turn {
            Some(turn) => drop(self.waiting.insert(turn, sequence)),
            None => self.push(sequence),
        }
    }

    /// Who is next behind `after`, or first of all.
    pub fn next(&self, after: Option<Turn>) -> Option<(Turn, &Sequence)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.waiting.range((from, Bound::Unbounded)).next().map(|(&turn, sequence)| (turn, sequence))
    }

    /// Takes out the sequence whose turn it is.
    pub fn take(&mut self, turn: Turn) -> Option<Sequence> {
        let sequence = self.waiting.remove(&turn)?;
        if turn.start > self.served {
            self.served = turn.start;
            self.tenants.retain(|_, end| *end > turn.start);
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
