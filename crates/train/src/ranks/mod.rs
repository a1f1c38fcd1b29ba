//! A step shared among ranks, which are threads of this process.
//!
//! ```text
//!                 data rank 0          data rank 1            each holds the same layers, sees other sequences, and keeps
//! stage 1   layers  4.. 8, head   layers  4.. 8, head         the moments of its half of them
//!               ▲ │ streams           ▲ │
//!               │ ▼ gradients         │ ▼
//! stage 0   embedding, layers 0..4   embedding, layers 0..4
//! ```
//!
//! The sequences of a step are kept until its end and then dealt, so that every rank has as many micro-batches. Each rank goes through
//! its stage's [`schedule`], the data ranks sum their gradients by a fixed tree, each updates the weights whose moments it keeps,
//! and all give each other what they updated. A state is one model's, whoever holds it: [`Step::export`] shows whole tensors in
//! the order of one rank, and any other layout imports them.

mod deal;
mod layout;
mod rank;
mod schedule;

use std::{io, ops::Range, thread};

use dots_model::{Checkpoint, Config, Error};

pub use self::schedule::{Action, Way, schedule};
use self::{
    deal::{Sequences, deal},
    layout::{Layout, Ways},
    rank::{Done, Rank, Seen, Work},
};
use crate::{
    cpu::{Options, Parameter, Plan, batch, memory::Memory, part::Part, state},
    recipe::Ranks,
    step::{Dials, MicroBatch, NO_TARGET, RouterReport, StateTensor, Step, StepError, StepReport, TakeState, Totals},
};

/// A model dealt to ranks of this process.
#[derive(Debug)]
pub struct RankedStep {
    config: Config,
    options: Options,
    layout: Layout,
    ranks: Vec<Rank>,
    /// By rank.
    parts: Vec<Part>,
    sequences: Sequences,
    step: Option<Open>,
}

/// A step that has begun.
#[derive(Debug, Clone, Copy)]
struct Open {
    totals: Totals,
    dials: Dials,
    targets: u64,
}

impl RankedStep {
    /// What a step takes, in bytes, by part, over all ranks. Fails where ranks do not divide what they are to share.
    pub fn plan(config: &Config, options: &Options, ranks: Ranks) -> Result<Plan, StepError> {
        let layout = Layout::new(config, ranks)?;
        let options = per_rank(options, &layout);
        let mut plan = Plan::default();
        for rank in 0..layout.count() {
            let mut memory = Memory::counted();
            // Counting takes nothing, so it cannot fail.
            let _ = Rank::new(config, &options, &layout, rank, &mut memory);
            plan.add(&memory.plan());
        }
        Ok(plan)
    }

    /// A model with random weights: those of [`crate::cpu::CpuStep::random`].
    pub fn random(
        config: &Config,
        seed: u64,
        deviation: f64,
        options: &Options,
        ranks: Ranks,
    ) -> Result<Self, RanksError> {
        let mut step = Self::zeros(config, options, ranks)?;
        step.parts.iter_mut().for_each(|part| part.initialise(seed, deviation));
        Ok(step)
    }

    /// A model of this `config` with a checkpoint's weights and biases: those of [`crate::cpu::CpuStep::from_checkpoint`].
    pub fn from_checkpoint(
        checkpoint: &Checkpoint,
        config: &Config,
        options: &Options,
        ranks: Ranks,
    ) -> Result<Self, RanksError> {
        let mut step = Self::zeros(config, options, ranks)?;
        for part in &mut step.parts {
            part.load(checkpoint)?;
        }
        Ok(step)
    }

    /// Freezes as many of each parameter's first rows as `frozen_rows` says, of a vector its first numbers, and lets all others learn.
    pub fn freeze(&mut self, frozen_rows: impl Fn(&Parameter) -> usize) {
        self.parts.iter_mut().for_each(|part| part.freeze(&frozen_rows));
    }

    fn zeros(config: &Config, options: &Options, ranks: Ranks) -> Result<Self, RanksError> {
        let layout = Layout::new(config, ranks)?;
        let options = per_rank(options, &layout);
        let made = (0..layout.count()).map(|rank| Rank::new(config, &options, &layout, rank, &mut Memory::taken()));
        let (ranks, parts) = made.collect::<Result<Vec<_>, Error>>()?.into_iter().unzip();
        let sequences = Sequences::default();
        Ok(Self { config: config.clone(), options, layout, ranks, parts, sequences, step: None })
    }

    /// Runs `body` on every rank, each on a thread of its own. Where ranks fail, the error is of the one that did not fail because of
    /// another.
    fn on_all<T: Send>(
        &mut self,
        body: impl Fn(usize, &mut Rank, &mut Part, &Ways) -> Result<T, StepError> + Sync,
    ) -> Result<Vec<T>, StepError> {
        let ways = self.layout.ways();
        let results: Vec<_> = thread::scope(|scope| {
            let body = &body;
            let threads: Vec<_> = (self.ranks.iter_mut().zip(&mut self.parts).zip(ways).enumerate())
                // The ways end with the rank, so that nobody waits for it.
                .map(|(index, ((rank, part), ways))| scope.spawn(move || body(index, rank, part, &ways)))
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect()
        });
        let (mut done, mut failed) = (Vec::with_capacity(results.len()), None);
        for result in results {
            match result {
                Ok(result) => done.push(result),
                Err(error) if matches!(failed, None | Some(StepError::Ranks(_))) => failed = Some(error),
                Err(_) => {}
            }
        }
        failed.map_or(Ok(done), |error| Err(self.cause(error)))
    }

    /// What made a loss not finite: the first weight that is not, in the order of layers, or else the first layer's output.
    fn cause(&self, error: StepError) -> StepError {
        if !matches!(error, StepError::NotFinite { what: "loss", .. }) {
            return error;
        }
        let weights = self.parts.iter().filter_map(Part::find_not_finite_weight);
        if let Some((_, found)) = weights.min_by_key(|(place, _)| *place) {
            return found;
        }
        let streams = self.ranks.iter().flat_map(Rank::streams);
        let broken = streams.filter_map(|(layer, x)| Some((layer, *x.iter().find(|x| !x.is_finite())?)));
        broken.min_by_key(|(layer, _)| *layer).map_or(error, |(layer, value)| StepError::NotFinite {
            what: "output",
            tensor: layer.map_or("model.embed_tokens".to_owned(), |layer| format!("model.layers.{layer}")),
            value: value.into(),
        })
    }

    /// How sequences are dealt: micro-batches by data rank.
    fn deal(&self, sequences: &Sequences) -> Vec<Vec<Range<usize>>> {
        let most = (self.options.micro_batch_tokens / sequences.sequence_tokens().max(1)).max(1);
        // Interleaved pieces take micro-batches in groups of as many as there are stages.
        let multiple = if self.layout.ranks.interleave > 1 { self.layout.ranks.pipeline } else { 1 };
        deal(sequences.count(), self.layout.ranks.data, most, multiple)
    }

    /// The routers of all layers, each of those data ranks that share it.
    fn routers(&self, done: &[Done]) -> Vec<RouterReport> {
        let mut all: Vec<RouterReport> = Vec::new();
        for report in done.iter().flat_map(|done| &done.routers) {
            match all.iter_mut().find(|other| other.layer == report.layer) {
                Some(other) => other.entropy += report.entropy,
                None => all.push(report.clone()),
            }
        }
        all.sort_by_key(|report| report.layer);
        all
    }
}

/// Threads are shared among the ranks.
fn per_rank(options: &Options, layout: &Layout) -> Options {
    let threads = dots_kernels::pool::Pool::workers(options.threads);
    Options { threads: (threads / layout.count()).max(1), ..*options }
}

/// Why ranks were not made.
#[derive(Debug, thiserror::Error)]
pub enum RanksError {
    /// They do not divide what they are to share.
    #[error(transparent)]
    Layout(#[from] StepError),
    /// The model could not be read or has no room.
    #[error(transparent)]
    Model(#[from] Error),
}

impl Step for RankedStep {
    fn begin(&mut self, totals: Totals, dials: Dials) -> Result<(), StepError> {
        self.step = None;
        self.sequences.clear();
        batch::check_totals(&totals)?;
        self.step = Some(Open { totals, dials, targets: 0 });
        Ok(())
    }

    /// Keeps the sequences: they are learnt from in [`Step::update`], when all are there.
    fn forward_backward(&mut self, batch: &MicroBatch<'_>) -> Result<(), StepError> {
        // A step that failed is over: taken here, put back at the end.
        let mut step = self.step.take().ok_or_else(batch::no_step)?;
        let sequences = batch::check(batch, &self.config, &self.options)?;
        step.targets += batch.targets.iter().filter(|target| **target != NO_TARGET).count() as u64;
        // What was announced bounds what is kept.
        let sequences = self.sequences.count() + sequences;
        if sequences as u64 > step.totals.sequences {
            return Err(batch::other_totals(
                step.totals,
                Totals { targets: step.targets, sequences: sequences as u64 },
            ));
        }
        self.sequences.push(batch)?;
        self.step = Some(step);
        Ok(())
    }

    fn update(&mut self) -> Result<StepReport, StepError> {
        let Open { totals, dials, targets } = self.step.take().ok_or_else(batch::no_step)?;
        let seen = Totals { targets, sequences: self.sequences.count() as u64 };
        if seen != totals {
            return Err(batch::other_totals(totals, seen));
        }
        let sequences = std::mem::take(&mut self.sequences);
        let dealt = self.deal(&sequences);
        let data = self.layout.ranks.data;
        let done = self.on_all(|index, rank, part, ways| {
            let work = Work { sequences: &sequences, micro_batches: &dealt[index % data], totals, dials };
            rank.step(part, ways, &work)
        });
        self.sequences = sequences;
        let done = done?;
        let sum = |of: &dyn Fn(&Done) -> f64| done.iter().map(of).sum::<f64>();
        Ok(StepReport {
            loss: sum(&|done| done.seen.loss) / totals.targets as f64,
            sequence_loss: sum(&|done| done.seen.sequence_loss) / totals.sequences as f64,
            gradient_norm: done[0].gradient_norm,
            weight_norm: sum(&|done| done.weight_squares).sqrt(),
            routers: self.routers(&done),
        })
    }

    fn evaluate(&mut self, batch: &MicroBatch<'_>) -> Result<(f64, u64), StepError> {
        let count = batch::check(batch, &self.config, &self.options)?;
        let mut sequences = Sequences::default();
        sequences.push(batch)?;
        let data = self.layout.ranks.data;
        let dealt = deal(count, data, count, 1);
        let seen: Vec<Seen> =
            self.on_all(|index, rank, part, ways| rank.evaluate(part, ways, &sequences.some(&dealt[index % data][0])))?;
        Ok((seen.iter().map(|seen| seen.loss).sum(), seen.iter().map(|seen| seen.targets).sum()))
    }

    fn updates(&self) -> u64 {
        self.parts[0].updates()
    }

    fn export(&mut self, give: &mut dyn FnMut(StateTensor<'_>) -> io::Result<()>) -> io::Result<()> {
        state::each(&mut self.parts, &mut |name, kind, shape, numbers| give(StateTensor { name, kind, shape, numbers }))
    }

    fn import(&mut self, updates: u64, take: &mut TakeState<'_>) -> io::Result<()> {
        self.step = None;
        state::each(&mut self.parts, take)?;
        self.parts.iter_mut().for_each(|part| part.set_updates(updates));
        Ok(())
    }
}
