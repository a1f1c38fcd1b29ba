//! The CPU's step: forward and backward of every operation, over `dots_kernels::train`.
//!
//! All parameters lie in one row of numbers, and so do their gradients and moments ([`Parameter`] says where each is), so that
//! what sums, shards or saves them needs to know no layer. Every result is the same bits for any number of threads.

pub(crate) mod batch;
mod buffers;
mod far;
mod head;
mod layer;
pub(crate) mod memory;
mod operand;
mod parameters;
pub(crate) mod part;
pub(crate) mod random;
pub(crate) mod share;
pub(crate) mod state;
mod update;

use dots_kernels::train::Precision;
use dots_model::{Checkpoint, Config, Error};

use self::{
    memory::Memory,
    part::{Activations, Learn, Part},
    share::Share,
};
pub use self::{memory::Plan, parameters::Parameter};
use crate::recipe::Optimizer;
use crate::step::{Dials, MicroBatch, NO_TOKEN, StateTensor, Step, StepError, StepReport, TakeState, Totals};

/// How a [`CpuStep`] computes, and how much it may be given.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Options {
    /// How products multiply; the router's are f32 whatever it says.
    pub precision: Precision,
    /// Whether a layer's activations are computed again in the backward pass instead of being kept: the same bits, less memory.
    pub recompute: bool,
    /// Most tokens of one micro-batch.
    pub micro_batch_tokens: usize,
    /// Most tokens of one sequence.
    pub sequence_tokens: usize,
    /// Threads; 0 takes every core.
    pub threads: usize,
    /// AdamW's settings.
    pub optimizer: Optimizer,
}

/// Weights, gradients and moments in this machine's memory.
#[derive(Debug)]
pub struct CpuStep {
    part: Part,
    activations: Activations,
    step: Option<Open>,
}

/// A step that has begun.
#[derive(Debug, Clone, Copy)]
struct Open {
    totals: Totals,
    dials: Dials,
    targets: u64,
    sequences: u64,
    tokens: u64,
    loss: f64,
    sequence_loss: f64,
}

impl CpuStep {
    /// What a step takes, in bytes, by part.
    pub fn plan(config: &Config, options: &Options) -> Plan {
        let mut memory = Memory::counted();
        // Counting takes nothing, so it cannot fail.
        let _ = Self::take(config, options, &mut memory);
        memory.plan()
    }

    /// A model with random weights: matrices from a normal distribution of `deviation`, norms one, biases zero. A weight depends on the
    /// seed, its tensor's name and its place in it only. Fails where the machine does not give the memory.
    pub fn random(config: &Config, seed: u64, deviation: f64, options: &Options) -> Result<Self, Error> {
        let mut step = Self::zeros(config, options)?;
        step.part.initialise(seed, deviation);
        Ok(step)
    }

    /// A model of this `config` with a checkpoint's weights and biases, and moments of zero. What is no size may be another than the
    /// checkpoint's; another shape is refused.
    pub fn from_checkpoint(checkpoint: &Checkpoint, config: &Config, options: &Options) -> Result<Self, Error> {
        let mut step = Self::zeros(config, options)?;
        step.part.load(checkpoint)?;
        Ok(step)
    }

    fn zeros(config: &Config, options: &Options) -> Result<Self, Error> {
        Self::take(config, options, &mut Memory::taken())
    }

    fn take(config: &Config, options: &Options, memory: &mut Memory) -> Result<Self, Error> {
        let part = Part::new(config, options, &Share::all(config), memory)?;
        let activations = Activations::new(config, options, 0..config.num_hidden_layers, 1, memory)?;
        Ok(Self { part, activations, step: None })
    }

    /// The model's shape.
    pub fn config(&self) -> &Config {
        &self.part.config
    }

    /// Every trained tensor, and where it lies in [`CpuStep::gradients`] and [`CpuStep::weights`].
    pub fn parameters(&self) -> &[Parameter] {
        &self.part.parameters.table
    }

    /// All weights, as [`CpuStep::parameters`] says.
    pub fn weights(&self) -> &[f32] {
        &self.part.parameters.weights
    }

    /// The gradients of the step under way, as [`CpuStep::parameters`] says.
    pub fn gradients(&self) -> &[f32] {
        &self.part.parameters.gradients
    }

    /// The same for whoever sums them over ranks before [`Step::update`].
    pub fn gradients_mut(&mut self) -> &mut [f32] {
        &mut self.part.parameters.gradients
    }

    /// Freezes as many of each parameter's first rows as `frozen_rows` says, of a vector its first numbers, and lets all others learn.
    pub fn freeze(&mut self, frozen_rows: impl Fn(&Parameter) -> usize) {
        self.part.freeze(&frozen_rows);
    }

    /// Forward, and backward where `learn`.
    fn run(&mut self, batch: &MicroBatch<'_>, learn: Option<Open>) -> Result<(f64, u64, f64), StepError> {
        let Self { part, activations, .. } = self;
        let layers = part.config.num_hidden_layers;
        let n = batch.tokens.len() * part.config.hidden_size;
        let learn = learn.map(|step| Learn { totals: step.totals, dials: step.dials, accumulate: step.tokens > 0 });
        part.embed(batch.tokens, &mut activations.streams[0][..n]);
        let balance = part.forward(0..layers, batch, learn, None, activations)?;
        let (loss, targets) = part.head(batch, learn, &activations.streams[layers]);
        if !(loss.is_finite() && balance.is_finite()) {
            let weight = part.find_not_finite_weight().map(|(_, weight)| weight);
            return Err(weight.unwrap_or_else(|| first_not_finite(&activations.streams, n, loss)));
        }
        if let Some(learn) = learn {
            part.backward(0..layers, batch, learn, None, activations, true)?;
            part.embed_backward(batch.tokens, learn);
        }
        Ok((loss, targets, balance / batch.sequence_tokens as f64))
    }
}

/// Where the residual stream first stops being finite, and the loss where it never does.
fn first_not_finite(streams: &[Vec<f32>], len: usize, loss: f64) -> StepError {
    for (layer, stream) in streams.iter().enumerate() {
        if let Some(x) = stream[..len].iter().find(|x| !x.is_finite()) {
            let tensor = match layer.checked_sub(1) {
                Some(layer) => format!("model.layers.{layer}"),
                None => "model.embed_tokens".to_owned(),
            };
            return StepError::NotFinite { what: "output", tensor, value: f64::from(*x) };
        }
    }
    StepError::NotFinite { what: "loss", tensor: "lm_head".to_owned(), value: loss }
}

impl Step for CpuStep {
    fn begin(&mut self, totals: Totals, dials: Dials) -> Result<(), StepError> {
        self.step = None;
        batch::check_totals(&totals)?;
        self.part.begin();
        self.step = Some(Open { totals, dials, targets: 0, sequences: 0, tokens: 0, loss: 0.0, sequence_loss: 0.0 });
        Ok(())
    }

    fn forward_backward(&mut self, batch: &MicroBatch<'_>) -> Result<(), StepError> {
        // A step that failed is over: taken here, put back at the end.
        let mut step = self.step.take().ok_or_else(batch::no_step)?;
        let sequences = batch::check(batch, &self.part.config, &self.part.options)?;
        let (loss, targets, sequence_loss) = self.run(batch, Some(step))?;
        step.sequences += sequences as u64;
        step.targets += targets;
        step.tokens += batch.tokens.iter().filter(|token| **token != NO_TOKEN).count() as u64;
        step.loss += loss;
        step.sequence_loss += sequence_loss;
        self.step = Some(step);
        Ok(())
    }

    fn update(&mut self) -> Result<StepReport, StepError> {
        let step = self.step.take().ok_or_else(batch::no_step)?;
        let seen = Totals { targets: step.targets, sequences: step.sequences };
        if seen != step.totals {
            return Err(batch::other_totals(step.totals, seen));
        }
        let gradient_norm = self.part.gradient_squares()?.sqrt();
        let weight_norm = self.part.update(step.dials.learning_rate, gradient_norm).sqrt();
        let all = 0..self.part.config.num_hidden_layers;
        Ok(StepReport {
            loss: step.loss / step.totals.targets as f64,
            sequence_loss: step.sequence_loss / step.totals.sequences as f64,
            gradient_norm,
            weight_norm,
            routers: self.part.balance(std::slice::from_ref(&all), &step.dials, step.tokens),
        })
    }

    fn steepest(&self) -> Option<(String, f64)> {
        let norm = |parameter: &Parameter| {
            let squares = self.gradients()[parameter.learning()].iter().map(|x| f64::from(*x).powi(2));
            squares.sum::<f64>().sqrt()
        };
        let norms = self.parameters().iter().map(|parameter| (parameter, norm(parameter)));
        norms.max_by(|one, other| one.1.total_cmp(&other.1)).map(|(parameter, norm)| (parameter.name.clone(), norm))
    }

    fn evaluate(&mut self, batch: &MicroBatch<'_>) -> Result<(f64, u64), StepError> {
        batch::check(batch, &self.part.config, &self.part.options)?;
        let (loss, targets, _) = self.run(batch, None)?;
        Ok((loss, targets))
    }

    fn updates(&self) -> u64 {
        self.part.parameters.updates
    }

    fn export(&mut self, give: &mut dyn FnMut(StateTensor<'_>) -> std::io::Result<()>) -> std::io::Result<()> {
        state::each(std::slice::from_mut(&mut self.part), &mut |name, kind, shape, numbers| {
            give(StateTensor { name, kind, shape, numbers })
        })
    }

    fn import(&mut self, updates: u64, take: &mut TakeState<'_>) -> std::io::Result<()> {
        // A step that was under way is of another state.
        self.step = None;
        state::each(std::slice::from_mut(&mut self.part), take)?;
        self.part.parameters.updates = updates;
        Ok(())
    }
}
