//! Which tokens each sequence of a run holds: a pure function of the recipe, the shards and the chats, the same whatever the ranks and
//! micro-batches are.
//!
//! A source of shards is an endless row of tokens: all of its documents in one order, then all of them again in another, epoch after
//! epoch, each order a [`Permutation`] that the seed, the source's name and the epoch decide. A phase's sequences take from their sources
//! as its [`Mixture`] says, each `sequence_tokens` tokens; a phase goes on where the ones before it stopped, so nothing is seen again
//! before all has been seen. Documents are cut where a sequence ends and go on in the row's next one, which [`Spread`] keeps out of the
//! same batch. (Megatron shuffles cut sequences instead; here a place in the row costs no table, and one can ask what a document became.)
//! To find a place in an epoch its documents' lengths are summed in its order, once an epoch: eight bytes a document.
//!
//! A source of chats is packed into sequences once ([`crate::chats::Pack`]), and each epoch of a phase goes through them in an order of
//! its own.

mod feistel;
mod find;
mod mixture;
mod spread;
mod untie;

#[cfg(test)]
mod tests;

use std::{
    ops::Range,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use sha2::{Digest, Sha256};

pub(crate) use self::feistel::mix;
pub use self::{feistel::Permutation, find::Seen, mixture::Mixture, spread::Spread};
use crate::{
    DataError,
    chats::{Chats, Pack, Packed},
    recipe::{Kind, Recipe, Source, Utk},
    rejection::round::Sampled,
    schedule::Schedule,
    shards::Shard,
};

/// Epochs' sums that are kept: the one that is read, and the next one of a sequence that crosses over.
const KEPT_EPOCHS: usize = 2;

/// The order of a recipe's documents and chats.
#[derive(Debug)]
pub struct Order {
    sources: Vec<Documents>,
    chats: Vec<Chats>,
    phases: Vec<Mixed>,
}

/// A piece of a document or chat, as it lies in a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Index of the source among [`Order::sources`]; in a phase of fine-tuning, among [`Order::chats`].
    pub source: usize,
    /// How often the source was gone through before; in a phase of fine-tuning, in this phase.
    pub epoch: u64,
    /// Index of the shard, or the file of chats, in its source.
    pub shard: usize,
    /// Index of the document or chat there.
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
    /// The phase's name.
    name: String,
    mixture: Mixture,
    /// By source of the mixture: its index among all of its kind.
    sources: Vec<usize>,
    sequence_tokens: u64,
    sequences: u64,
    takes: Takes,
    utk: Option<Utk>,
}

/// What a phase's sequences are taken from, by source of the mixture.
#[derive(Debug)]
enum Takes {
    /// Rows of documents: tokens that the phases before took, and the order of this one's sequences.
    Rows(Vec<(u64, Spread)>),
    /// Packed chats.
    Packs(Vec<Pack>),
}

/// Reads and packs a recipe's chats, counts its steps and opens its shards: all that is to be known before the first step. Both end
/// before the first phase whose answers are not among those that were `sampled`. 0 threads are every core.
pub fn open(recipe: &Recipe, sampled: &Sampled, threads: usize) -> Result<(Schedule, Order), DataError> {
    let packed = Packed::open(recipe, sampled, threads)?;
    let schedule = Schedule::of_first(recipe, packed.phases(), |phase| packed.sequences(phase));
    let order = Order::with_chats(recipe, &schedule, packed)?;
    Ok((schedule, order))
}

/// A number that these decide, and any other one otherwise.
pub(crate) fn key(seed: u64, nth: u64, name: &str) -> u64 {
    let hash = Sha256::digest(format!("{seed}\n{nth}\n{name}"));
    hash.iter().take(8).fold(0, |key, byte| key << 8 | u64::from(*byte))
}

impl Order {
    /// The order of `recipe`, whose shards are opened, their ids held to the vocabulary. Phases of fine-tuning are refused: see [`open`].
    pub fn new(recipe: &Recipe, schedule: &Schedule) -> Result<Self, DataError> {
        if let Some(phase) = recipe.phases.iter().find(|phase| phase.kind == Kind::Sft) {
            return Err(DataError::Refused(format!("phase {}: expected its chats to be read, found none", phase.name)));
        }
        Self::with_chats(recipe, schedule, Packed::open(recipe, &Sampled::default(), 1)?)
    }

    /// As [`Order::new`], for phases of fine-tuning too, whose chats are packed as `packed` says.
    pub fn with_chats(recipe: &Recipe, schedule: &Schedule, packed: Packed) -> Result<Self, DataError> {
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
        for ((phase, of), packs) in recipe.phases.iter().enumerate().zip(packed.phases) {
            let sequence_tokens = of.sequence_tokens as u64;
            let sequences = schedule.tokens_of(phase) / sequence_tokens;
            let batch = of.batch.iter().map(|stage| stage.tokens / sequence_tokens).max().unwrap_or(1);
            let (mixture, indices, takes) = if of.kind == Kind::Sft {
                let weights: Vec<f64> = packs.iter().map(|(pack, times, _)| pack.sequences() as f64 * times).collect();
                let indices = packs.iter().map(|(_, _, index)| *index).collect();
                let packs = packs.into_iter().map(|(pack, ..)| pack).collect();
                (Mixture::new(&weights, sequences), indices, Takes::Packs(packs))
            } else {
                let (names, weights): (Vec<_>, Vec<f64>) =
                    of.mixture.iter().map(|(name, weight)| (name, *weight)).unzip();
                let indices = names.iter().map(|name| index_of(name)).collect::<Result<Vec<_>, _>>()?;
                let mixture = Mixture::new(&weights, sequences);
                let mut rows = Vec::new();
                for (nth, &source) in indices.iter().enumerate() {
                    let from_here = mixture.taken(nth, sequences);
                    rows.push((taken[source], Spread::new(from_here, batch)));
                    taken[source] += from_here * sequence_tokens;
                }
                (mixture, indices, Takes::Rows(rows))
            };
            let (name, utk) = (of.name.clone(), of.utk);
            phases.push(Mixed { name, mixture, sources: indices, sequence_tokens, sequences, takes, utk });
        }
        Ok(Self { sources, chats: packed.chats, phases })
    }

    /// Whether it is of `recipe`'s phases, all of them or the first ones.
    pub(crate) fn is_of(&self, recipe: &Recipe) -> bool {
        self.phases.len() <= recipe.phases.len()
            && self.phases.iter().zip(&recipe.phases).all(|(mixed, phase)| mixed.name == phase.name)
    }

    /// All sources of shards, by name.
    pub fn sources(&self) -> &[Documents] {
        &self.sources
    }

    /// All chats that are learnt from: the sources of chats, and as `phase/source` what phases sampled.
    pub fn chats(&self) -> &[Chats] {
        &self.chats
    }

    /// The source of that name.
    pub fn source(&self, name: &str) -> Option<&Documents> {
        self.sources.iter().find(|source| source.name == name)
    }

    /// `(phase, source, chats, those that are cut, those that are left out)` of each source of chats in each phase: what is longer than the
    /// phase's sequences, and what has no answer within one.
    pub fn shortened(&self) -> impl Iterator<Item = (&str, &str, usize, usize, usize)> {
        self.phases.iter().flat_map(|mixed| {
            let packs = if let Takes::Packs(packs) = &mixed.takes { &packs[..] } else { &[] };
            packs.iter().zip(&mixed.sources).map(|(pack, &source)| {
                let chats = &self.chats[source];
                (mixed.name.as_str(), chats.name(), chats.len(), pack.cut, pack.left_out)
            })
        })
    }

    /// What sequence `index` of a phase holds, from its first token to its last; what follows the last chat is padding.
    pub fn sample(&self, phase: usize, index: u64) -> Vec<Piece> {
        let mixed = &self.phases[phase];
        let (nth, before) = mixed.mixture.at(index);
        let source = mixed.sources[nth];
        match &mixed.takes {
            Takes::Rows(rows) => {
                let (first, spread) = rows[nth];
                let documents = &self.sources[source];
                let start = first + spread.at(before) * mixed.sequence_tokens;
                let mut pieces = documents.pieces(start, mixed.sequence_tokens);
                pieces.iter_mut().for_each(|piece| piece.source = source);
                match mixed.utk {
                    Some(utk) => untie::tie(&pieces, utk.chunks, key(documents.seed, index, &mixed.name)),
                    None => pieces,
                }
            }
            Takes::Packs(packs) => {
                let (pack, chats) = (&packs[nth], &self.chats[source]);
                let (epoch, within) = (before / pack.sequences(), before % pack.sequences());
                let sequence = self.shuffled(mixed, nth, epoch).at(within);
                let piece = |(chat, tokens): (usize, usize)| {
                    let (shard, document) = chats.place(chat);
                    let tokens = tokens as u64;
                    Piece { source, epoch, shard, document, offset: 0, tokens, goes_on: false }
                };
                pack.sequence(chats, sequence).map(piece).collect()
            }
        }
    }

    /// The first `tokens` ids of a piece of a phase of that kind.
    pub fn ids(&self, kind: Kind, piece: &Piece, tokens: u64, vocab_size: usize) -> Result<Vec<u32>, DataError> {
        let tokens = tokens.min(piece.tokens);
        let mut ids = Vec::new();
        match kind {
            Kind::Pretrain => {
                let range = piece.offset..piece.offset + tokens;
                self.sources[piece.source].read(piece, range, vocab_size, &mut ids)?;
            }
            Kind::Sft => {
                let chats = &self.chats[piece.source];
                let chat = chats.find(piece.shard, piece.document);
                ids.extend(chat.into_iter().flat_map(|chat| chats.ids(chat, tokens as usize)).map(|(id, _)| id));
            }
        }
        Ok(ids)
    }

    /// The order of a source's packed sequences in an epoch of a phase. A source of rows has none.
    fn shuffled(&self, mixed: &Mixed, nth: usize, epoch: u64) -> Permutation {
        let (sequences, chats) = match &mixed.takes {
            Takes::Packs(packs) => (packs[nth].sequences(), &self.chats[mixed.sources[nth]]),
            Takes::Rows(_) => return Permutation::new(0, 0),
        };
        Permutation::new(sequences, key(chats.seed(), epoch, &format!("{} {}", chats.name(), mixed.name)))
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

    /// The tokens of the endless row that a document is in an epoch, from the first to behind the last; `None` where there is no such
    /// document.
    fn place_in_row(&self, epoch: u64, shard: usize, document: usize) -> Option<(u64, u64)> {
        let tokens = self.shards.get(shard).filter(|shard| document < shard.documents())?.document_tokens(document);
        let nth = self.permutation(epoch).index_of(self.firsts[shard] + document as u64);
        let start = epoch * self.tokens + self.sums(epoch)[nth as usize];
        Some((start, start + tokens))
    }

    fn permutation(&self, epoch: u64) -> Permutation {
        Permutation::new(self.documents(), key(self.seed, epoch, &self.name))
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
