//! Which tokens each sequence of a run holds: a pure function of the recipe and the shards, the same whatever the ranks and
//! micro-batches are.
//!
//! A source is an endless row of tokens: all of its documents in one order, then all of them again in another, epoch after epoch, each
//! order a [`Permutation`] that the seed, the source's name and the epoch decide. A phase's sequences take from their sources as its
//! [`Mixture`] says, each the next `sequence_tokens` tokens; a phase goes on where the ones before it stopped, so nothing is seen again
//! before all has been seen. Documents are cut where a sequence ends and go on in the source's next one. (Megatron shuffles cut
//! sequences instead; here a document's parts follow each other, which costs no table and lets one ask what a document became.)
//!
//! To find a place in an epoch its documents' lengths are summed in its order, once an epoch: eight bytes a document.

mod feistel;
mod mixture;

#[cfg(test)]
mod tests;

use std::{
    ops::Range,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use sha2::{Digest, Sha256};

pub(crate) use self::feistel::mix;
pub use self::{feistel::Permutation, mixture::Mixture};
use crate::{
    DataError,
    recipe::{Recipe, Source},
    schedule::Schedule,
    shards::Shard,
};

/// Epochs' sums that are kept: the one that is read, and the next one of a sequence that crosses over.
const KEPT_EPOCHS: usize = 2;

/// The order of a recipe's documents.
#[derive(Debug)]
pub struct Order {
    sources: Vec<Documents>,
    phases: Vec<Mixed>,
}

/// A piece of a document, as it lies in a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Index of the source among [`Order::sources`].
    pub source: usize,
    /// How often the source was gone through before.
    pub epoch: u64,
    /// Index of the shard in its source.
    pub shard: usize,
    /// Index of the document in its shard.
    pub document: usize,
    /// First of its tokens.
    pub offset: u64,
    /// How many of them.
    pub tokens: u64,
    /// Whether the document goes on after them.
    pub goes_on: bool,
}

/// A source of shards.
#[derive(Debug)]
pub struct Documents {
    name: String,
    seed: u64,
    shards: Vec<Shard>,
    /// `(shards + 1)`: documents before each.
    firsts: Vec<u64>,
    tokens: u64,
    epochs: Mutex<Vec<(u64, Arc<Vec<u64>>)>>,
}

#[derive(Debug)]
struct Mixed {
    mixture: Mixture,
    /// By source of the mixture: its index among all.
    sources: Vec<usize>,
    sequence_tokens: u64,
    /// By source of the mixture: tokens of it that the phases before took.
    starts: Vec<u64>,
}

impl Order {
    /// The order of `recipe`, whose shards are opened, their ids held to the vocabulary. Every phase must take from shards.
    pub fn new(recipe: &Recipe, schedule: &Schedule) -> Result<Self, DataError> {
        let mut sources = Vec::new();
        for (name, source) in &recipe.sources {
            if let Source::Shards(prefixes) = source {
                let documents = Documents::open(name, recipe.seed, prefixes)?;
                documents.shards.iter().try_for_each(|shard| shard.check_ids(recipe.model.config.vocab_size))?;
                sources.push(documents);
            }
        }
        let index_of = |name: &str| {
            let refused = || {
                DataError::Refused(format!("source {name}: expected shards, found chats; only `sft` phases take those"))
            };
            sources.iter().position(|source: &Documents| source.name == name).ok_or_else(refused)
        };
        let (mut taken, mut phases) = (vec![0u64; sources.len()], Vec::new());
        for (phase, of) in recipe.phases.iter().enumerate() {
            let (names, weights): (Vec<_>, Vec<f64>) = of.mixture.iter().map(|(name, weight)| (name, *weight)).unzip();
            let indices = names.iter().map(|name| index_of(name)).collect::<Result<Vec<_>, _>>()?;
            let mixture = Mixture::new(&weights);
            let sequences = schedule.tokens_of(phase) / of.sequence_tokens as u64;
            let starts = indices.iter().map(|&source| taken[source]).collect();
            for (nth, &source) in indices.iter().enumerate() {
                taken[source] += mixture.taken(nth, sequences) * of.sequence_tokens as u64;
            }
            phases.push(Mixed { mixture, sources: indices, sequence_tokens: of.sequence_tokens as u64, starts });
        }
        Ok(Self { sources, phases })
    }

    /// All sources of shards, by name.
    pub fn sources(&self) -> &[Documents] {
        &self.sources
    }

    /// The source of that name.
    pub fn source(&self, name: &str) -> Option<&Documents> {
        self.sources.iter().find(|source| source.name == name)
    }

    /// What sequence `index` of a phase holds, from its first token to its last.
    pub fn sample(&self, phase: usize, index: u64) -> Vec<Piece> {
        let mixed = &self.phases[phase];
        let (nth, before) = mixed.mixture.at(index);
        let source = mixed.sources[nth];
        let start = mixed.starts[nth] + before * mixed.sequence_tokens;
        let mut pieces = self.sources[source].pieces(start, mixed.sequence_tokens);
        pieces.iter_mut().for_each(|piece| piece.source = source);
        pieces
    }
}

impl Documents {
    /// Opens the shards of the source `name`. A source without a token is refused.
    pub fn open(name: &str, seed: u64, prefixes: &[impl AsRef<Path>]) -> Result<Self, DataError> {
        let shards = prefixes.iter().map(|prefix| Shard::open(prefix.as_ref())).collect::<Result<Vec<_>, _>>()?;
        let mut firsts = vec![0];
        for shard in &shards {
            firsts.push(firsts[firsts.len() - 1] + shard.documents() as u64);
        }
        let tokens = shards.iter().map(Shard::tokens).sum();
        if tokens == 0 {
            return Err(DataError::Refused(format!(
                "source {name}: expected at least one token, found none in its shards"
            )));
        }
        Ok(Self { name: name.to_owned(), seed, shards, firsts, tokens, epochs: Mutex::default() })
    }

    /// Its name in the recipe.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its shards.
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// Documents of all shards.
    pub fn documents(&self) -> u64 {
        self.firsts[self.firsts.len() - 1]
    }

    /// Tokens of all shards, those of one epoch.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// The shard of a document among all, and its index there.
    fn place(&self, document: u64) -> (usize, usize) {
        let shard = self.firsts.partition_point(|first| *first <= document) - 1;
        (shard, (document - self.firsts[shard]) as usize)
    }

    fn permutation(&self, epoch: u64) -> Permutation {
        let hash = Sha256::digest(format!("{}\n{epoch}\n{}", self.seed, self.name));
        let key = hash.iter().take(8).fold(0, |key, byte| key << 8 | u64::from(*byte));
        Permutation::new(self.documents(), key)
    }

    /// `(documents)`: tokens of an epoch before each document of its order.
    fn sums(&self, epoch: u64) -> Arc<Vec<u64>> {
        let mut kept = self.epochs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, sums)) = kept.iter().find(|(of, _)| *of == epoch) {
            return Arc::clone(sums);
        }
        let permutation = self.permutation(epoch);
        let mut sum = 0;
        let sums = (0..self.documents()).map(|nth| {
            let (shard, document) = self.place(permutation.at(nth));
            let before = sum;
            sum += self.shards[shard].document_tokens(document);
            before
        });
        let sums = Arc::new(sums.collect::<Vec<_>>());
        if kept.len() == KEPT_EPOCHS {
            kept.remove(0);
        }
        kept.push((epoch, Arc::clone(&sums)));
        sums
    }

    /// The `tokens` tokens from `start` on of the endless row, with [`Piece::source`] left at 0.
    fn pieces(&self, start: u64, tokens: u64) -> Vec<Piece> {
        let (mut pieces, mut at, end) = (Vec::new(), start, start + tokens);
        while at < end {
            let (epoch, in_epoch) = (at / self.tokens, at % self.tokens);
            let (sums, permutation) = (self.sums(epoch), self.permutation(epoch));
            // The last document that begins at or before the place; empty ones before it begin there too and hold nothing.
            let mut nth = sums.partition_point(|sum| *sum <= in_epoch) - 1;
            let epoch_end = (epoch + 1) * self.tokens;
            while at < end.min(epoch_end) {
                let (shard, document) = self.place(permutation.at(nth as u64));
                let offset = at - epoch * self.tokens - sums[nth];
                let length = self.shards[shard].document_tokens(document);
                let taken = (length - offset).min(end - at);
                if taken > 0 {
                    let goes_on = offset + taken < length;
                    pieces.push(Piece { source: 0, epoch, shard, document, offset, tokens: taken, goes_on });
                }
                at += taken;
                nth += 1;
            }
        }
        pieces
    }

    /// All documents, whole, in the order that they lie in the shards.
    pub(crate) fn in_order(&self) -> impl Iterator<Item = Piece> {
        (0..self.documents()).map(|document| {
            let (shard, document) = self.place(document);
            let tokens = self.shards[shard].document_tokens(document);
            Piece { source: 0, epoch: 0, shard, document, offset: 0, tokens, goes_on: false }
        })
    }

    /// Ids of `range` of a document's tokens; see [`Shard::read`].
    pub fn read(
        &self,
        piece: &Piece,
        range: Range<u64>,
        vocab_size: usize,
        ids: &mut Vec<u32>,
    ) -> Result<(), DataError> {
        self.shards[piece.shard].read(piece.document, range, vocab_size, ids)
    }
}
