//! One rank: its part of the model, and what it does in a step.

use std::ops::Range;

use dots_model::{Config, Error};

use super::{
    deal::Sequences,
    layout::{Layout, Ways},
    schedule::{Action, Way, in_flight, schedule},
};
use crate::{
    comm::{Comm, Thread},
    cpu::{
        Options,
        memory::Memory,
        part::{Activations, Learn, Part},
    },
    step::{Dials, MicroBatch, RouterReport, StepError, Totals},
};

/// Numbers that are summed or gathered at once, over all ranks of a group: what bounds the memory of it.
const AT_ONCE: usize = 1 << 20;

/// What one rank holds.
#[derive(Debug)]
pub(super) struct Rank {
    stage: usize,
    stages: usize,
    pieces: Vec<Range<usize>>,
    /// By piece: as many as are in flight at once.
    slots: Vec<Vec<Activations>>,
}

/// What a step is, to one rank.
#[derive(Debug, Clone, Copy)]
pub(super) struct Work<'a> {
    pub(super) sequences: &'a Sequences,
    /// This rank's.
    pub(super) micro_batches: &'a [Range<usize>],
    pub(super) totals: Totals,
    pub(super) dials: Dials,
}

/// What a rank has seen of a step or an evaluation.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Seen {
    pub(super) loss: f64,
    pub(super) targets: u64,
    /// Sum over sequences and this rank's mixtures.
    pub(super) sequence_loss: f64,
}

/// What a rank's step did.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) seen: Seen,
    pub(super) gradient_norm: f64,
    /// Sum of the squares of the weights whose moments it keeps.
    pub(super) weight_squares: f64,
    /// Of its layers; loads are of all ranks, entropies of the tokens that it saw, divided by all tokens.
    pub(super) routers: Vec<RouterReport>,
}

impl Rank {
    pub(super) fn new(
        config: &Config,
        options: &Options,
        layout: &Layout,
        rank: usize,
        memory: &mut Memory,
    ) -> Result<(Self, Part), Error> {
        let part = Part::new(config, options, &layout.share(rank), memory)?;
        let (stage, stages) = (layout.stage(rank), layout.ranks.pipeline);
        let pieces = layout.pieces(stage);
        let slots = in_flight(stage, stages, pieces.len());
        let slots = pieces.iter().zip(slots).map(|(piece, count)| {
            (0..count).map(|_| Activations::new(config, options, piece.clone(), layout.ranks.expert, memory)).collect()
        });
        let slots = slots.collect::<Result<_, Error>>()?;
        memory.part("messages between ranks");
        // A sum is sent and received in pieces; what a stage sends, the next may not have taken yet.
        memory.elsewhere(4 * 4 * AT_ONCE);
        let in_flight = in_flight(stage, stages, pieces.len()).iter().sum::<usize>();
        let stream = options.micro_batch_tokens.saturating_mul(config.hidden_size).saturating_mul(4);
        memory.elsewhere(if stages > 1 { stream.saturating_mul(in_flight) } else { 0 });
        Ok((Self { stage, stages, pieces, slots }, part))
    }

    /// All of a step. Where it fails, on this rank or another, nothing was updated.
    pub(super) fn step(&mut self, part: &mut Part, ways: &Ways, work: &Work<'_>) -> Result<Done, StepError> {
        let Work { sequences, micro_batches, totals, dials } = *work;
        part.begin();
        // An expert that nobody of this micro-batch chose keeps what the others left.
        part.gradients_mut().fill(0.0);
        let learn = Learn { totals, dials, accumulate: true };
        let mut seen = Seen::default();
        let mut before = None;
        for action in schedule(self.stage, self.stages, self.pieces.len(), micro_batches.len()) {
            let batch = sequences.some(&micro_batches[action.micro_batch]);
            match action.pass {
                Way::Forward => seen.sequence_loss += self.forward(part, ways, &action, &batch, Some(learn))?,
                Way::Backward => {
                    let forward = Action { pass: Way::Forward, ..action };
                    let (loss, targets) = self.backward(part, ways, &action, &batch, learn, before == Some(forward))?;
                    seen.loss += loss;
                    seen.targets += targets;
                }
            }
            before = Some(action);
        }
        for (way, row) in [&ways.data, &ways.replicas].into_iter().zip(part.gradient_rows_mut()) {
            sum(way, row)?;
        }
        let gradient_norm = of_all(&ways.world, part.gradient_squares()?)?.sqrt();
        if !gradient_norm.is_finite() {
            return Err(StepError::Ranks("the gradient of another rank is not finite".to_owned()));
        }
        ways.data.all_reduce_counts(part.loads_mut())?;
        let weight_squares = part.update(dials.learning_rate, gradient_norm);
        for (way, row) in [&ways.data, &ways.replicas].into_iter().zip(part.weight_rows_mut()) {
            gather(way, row)?;
        }
        let routers = part.balance(&self.pieces, &dials, sequences.tokens());
        Ok(Done { seen, gradient_norm, weight_squares, routers })
    }

    /// One micro-batch through all pieces; nothing learnt.
    pub(super) fn evaluate(&mut self, part: &mut Part, ways: &Ways, batch: &MicroBatch<'_>) -> Result<Seen, StepError> {
        let mut seen = Seen::default();
        for chunk in 0..self.pieces.len() {
            let action = Action { pass: Way::Forward, chunk, micro_batch: 0 };
            seen.sequence_loss += self.forward(part, ways, &action, batch, None)?;
            if self.is_last(chunk) && !batch.tokens.is_empty() {
                let x = self.slots[chunk][0].streams.last().expect("a stream after the last layer");
                (seen.loss, seen.targets) = part.head(batch, None, x);
                finite(seen.loss)?;
            }
        }
        Ok(seen)
    }

    fn is_first(&self, chunk: usize) -> bool {
        chunk == 0 && self.stage == 0
    }

    fn is_last(&self, chunk: usize) -> bool {
        chunk + 1 == self.pieces.len() && self.stage + 1 == self.stages
    }

    /// Returns the balance loss, summed over sequences.
    fn forward(
        &mut self,
        part: &mut Part,
        ways: &Ways,
        action: &Action,
        batch: &MicroBatch<'_>,
        learn: Option<Learn>,
    ) -> Result<f64, StepError> {
        let (is_first, is_last) = (self.is_first(action.chunk), self.is_last(action.chunk));
        let slots = &mut self.slots[action.chunk];
        let slot = action.micro_batch % slots.len();
        let activations = &mut slots[slot];
        let n = batch.tokens.len() * part.hidden();
        let x = &mut activations.streams[0][..n];
        if is_first {
            part.embed(batch.tokens, x);
        } else {
            ways.forward.receive((self.stage + self.stages - 1) % self.stages, x)?;
        }
        let balance = part.forward(self.pieces[action.chunk].clone(), batch, learn, ways.of_experts(), activations)?;
        finite(balance)?;
        if !is_last {
            let out = activations.streams.last().expect("a stream after the last layer");
            ways.forward.send((self.stage + 1) % self.stages, &out[..n])?;
        }
        Ok(balance / batch.sequence_tokens as f64)
    }

    /// Returns the loss and its targets, where this is the last piece.
    fn backward(
        &mut self,
        part: &mut Part,
        ways: &Ways,
        action: &Action,
        batch: &MicroBatch<'_>,
        learn: Learn,
        is_fresh: bool,
    ) -> Result<(f64, u64), StepError> {
        let (is_first, is_last) = (self.is_first(action.chunk), self.is_last(action.chunk));
        let slots = &mut self.slots[action.chunk];
        let slot = action.micro_batch % slots.len();
        let activations = &mut slots[slot];
        let rows = batch.tokens.len();
        let mut found = (0.0, 0);
        if is_last {
            if rows > 0 {
                let x = activations.streams.last().expect("a stream after the last layer");
                found = part.head(batch, Some(learn), x);
                finite(found.0)?;
            }
        } else {
            let from = (self.stage + 1) % self.stages;
            part.take_d_x(rows, |d_x| ways.backward.receive(from, d_x))?;
        }
        part.backward(self.pieces[action.chunk].clone(), batch, learn, ways.of_experts(), activations, is_fresh)?;
        if is_first {
            part.embed_backward(batch.tokens, learn);
        } else {
            ways.backward.send((self.stage + self.stages - 1) % self.stages, part.d_x(rows))?;
        }
        Ok(found)
    }

    /// The residual streams, with the layer that each comes out of: none for the embedding.
    pub(super) fn streams(&self) -> impl Iterator<Item = (Option<usize>, &[f32])> {
        self.pieces.iter().zip(&self.slots).flat_map(|(piece, slots)| {
            slots.iter().flat_map(|slot| {
                let layers = piece.start.checked_sub(1).into_iter().map(Some);
                let layers = layers.chain((piece.start == 0).then_some(None)).chain(piece.clone().map(Some));
                layers.zip(slot.streams.iter().map(Vec::as_slice))
            })
        })
    }
}

/// Whoever deals the step finds out what it is that is not finite.
fn finite(number: f64) -> Result<(), StepError> {
    if number.is_finite() {
        return Ok(());
    }
    Err(StepError::NotFinite { what: "loss", tensor: "lm_head".to_owned(), value: number })
}

/// Each rank's own of `ways.ranks()` equal parts of `row` becomes the sum over all ranks (ZeRO-1; Rajbhandari et al., 2020).
fn sum(way: &Thread, row: &mut [f32]) -> Result<(), StepError> {
    let (ranks, rank) = (way.ranks(), way.rank());
    if ranks == 1 {
        return Ok(());
    }
    let part = row.len() / ranks;
    let (mut sent, mut received) = (Vec::new(), Vec::new());
    for start in (0..part).step_by(AT_ONCE / ranks) {
        let len = (part - start).min(AT_ONCE / ranks);
        sent.clear();
        (0..ranks).for_each(|of| sent.extend_from_slice(&row[of * part + start..][..len]));
        received.resize(len, 0.0);
        way.reduce_scatter(&sent, &mut received)?;
        row[rank * part + start..][..len].copy_from_slice(&received);
    }
    Ok(())
}

/// Each rank's own of `ways.ranks()` equal parts of `row` becomes that of all.
fn gather(way: &Thread, row: &mut [f32]) -> Result<(), StepError> {
    let (ranks, rank) = (way.ranks(), way.rank());
    if ranks == 1 {
        return Ok(());
    }
    let part = row.len() / ranks;
    let mut received = Vec::new();
    for start in (0..part).step_by(AT_ONCE / ranks) {
        let len = (part - start).min(AT_ONCE / ranks);
        received.resize(len * ranks, 0.0);
        way.all_gather(&row[rank * part + start..][..len], &mut received)?;
        for (of, received) in received.chunks_exact(len).enumerate() {
            row[of * part + start..][..len].copy_from_slice(received);
        }
    }
    Ok(())
}

/// The sum over all ranks, in their order, the same bits on each.
fn of_all(way: &Thread, number: f64) -> Result<f64, StepError> {
    // Counts are whole: each rank's bits, beside everybody else's zeros.
    let mut bits = vec![0; way.ranks()];
    bits[way.rank()] = number.to_bits();
    way.all_reduce_counts(&mut bits)?;
    Ok(bits.into_iter().map(f64::from_bits).sum())
}
