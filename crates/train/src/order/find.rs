//! Where in a run a document or chat is seen: [`Order::sample`] the other way round.

use super::{Order, Takes};

/// A sequence of a run that holds some of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seen {
    /// Index of the phase.
    pub phase: usize,
    /// Index of the sequence in its phase.
    pub sequence: u64,
    /// How often the source was gone through before.
    pub epoch: u64,
}

impl Order {
    /// The sequences that hold a document of the source `name`, in their order: `shard` and `document` as [`super::Piece`] has them. None where there is no
    /// such source or document, or the run never comes to it.
    pub fn seen(&self, name: &str, shard: usize, document: usize) -> Vec<Seen> {
        let mut seen = Vec::new();
        for phase in 0..self.phases.len() {
            let mixed = &self.phases[phase];
            for (nth, &source) in mixed.sources.iter().enumerate() {
                match &mixed.takes {
                    Takes::Rows(rows) if self.sources[source].name == name => {
                        let (first, spread) = rows[nth];
                        let documents = &self.sources[source];
                        let taken = mixed.mixture.taken(nth, mixed.sequences);
                        let end = first + taken * mixed.sequence_tokens;
                        for epoch in first / documents.tokens..end.div_ceil(documents.tokens) {
                            let Some((from, until)) = documents.place_in_row(epoch, shard, document) else { break };
                            let (from, until) = (from.max(first), until.min(end));
                            if from >= until {
                                continue;
                            }
                            let sequences =
                                (from - first) / mixed.sequence_tokens..=(until - 1 - first) / mixed.sequence_tokens;
                            for number in sequences {
                                let index = mixed.mixture.index_of(nth, spread.place(number), mixed.sequences);
                                seen.extend(index.map(|sequence| Seen { phase, sequence, epoch }));
                            }
                        }
                    }
                    Takes::Packs(packs) if self.chats[source].name() == name => {
                        let (pack, chats) = (&packs[nth], &self.chats[source]);
                        let chat = chats.find(shard, document);
                        let Some(packed) = chat.and_then(|chat| pack.sequence_of(chat)) else { continue };
                        let taken = mixed.mixture.taken(nth, mixed.sequences);
                        for epoch in 0..taken.div_ceil(pack.sequences()) {
                            let within = self.shuffled(mixed, nth, epoch).index_of(packed);
                            let index = mixed.mixture.index_of(nth, epoch * pack.sequences() + within, mixed.sequences);
                            seen.extend(index.map(|sequence| Seen { phase, sequence, epoch }));
                        }
                    }
                    _ => {}
                }
            }
        }
        seen.sort_unstable();
        seen.dedup();
        seen
    }
}
