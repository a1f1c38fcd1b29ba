//! The CPU's step: forward and backward of every operation, over `dots_kernels::train`.
//!
//! All parameters lie in one row of numbers, and so do their gradients and moments ([`Parameter`] says where each is), so that
//! what sums, shards or saves them needs to know no layer. Every result is the same bits for any number of threads.

mod batch;
mod buffers;
mod head;
mod layer;
mod memory;
mod operand;
mod parameters;
mod random;
mod state;
mod update;

use dots_kernels::{
    Compute, RopeTable,
    train::{
        Precision,
        embedding::{embedding_backward, embedding_forward},
    },
};
use dots_model::{Checkpoint, Config, Error};

use self::{
    buffers::{Kept, Scratch},
    head::Learning,
    layer::Pass,
    memory::Memory,
    parameters::{Parameters, Whole},
};
pub use self::{memory::Plan, parameters::Parameter};
use crate::recipe::Optimizer;
use crate::step::{Dials, MicroBatch, RouterReport, Step, StepError, StepReport, Totals};

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
    config: Config,
    options: Options,
    compute: Compute,
    rope: RopeTable,
    parameters: Parameters,
    /// `(layers + 1)`: the residual stream before each layer, and after the last.
    streams: Vec<Vec<f32>>,
    /// One a layer, or one for all where activations are computed again.
    kept: Vec<Kept>,
    scratch: Scratch,
    /// `(MoE layers, experts)`.
    loads: Vec<u64>,
    /// `(MoE layers)`: sum of the tokens' entropies.
    entropies: Vec<f64>,
    /// How many experts, from the first, each router's sign balancing moves.
    balanced: Vec<usize>,
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
        let _ = Self::take(config, options, &mut memory, Vec::new());
        memory.plan()
    }

    /// A model with random weights: matrices from a normal distribution of `deviation`, norms one, biases zero. A weight depends on the
    /// seed, its tensor's name and its place in it only. Fails where the machine does not give the memory.
    pub fn random(config: &Config, seed: u64, deviation: f64, options: &Options) -> Result<Self, Error> {
        let mut step = Self::zeros(config, options)?;
        let Parameters { table, weights, .. } = &mut step.parameters;
        random::initialise(&step.compute, table, seed, deviation, weights);
        Ok(step)
    }

    /// A checkpoint's weights and biases, with moments of zero.
    pub fn from_checkpoint(checkpoint: &Checkpoint, options: &Options) -> Result<Self, Error> {
        let mut step = Self::zeros(&checkpoint.config, options)?;
        step.load(checkpoint)?;
        Ok(step)
    }

    fn zeros(config: &Config, options: &Options) -> Result<Self, Error> {
        Self::take(config, options, &mut Memory::taken(), parameters::table(config))
    }

    fn take(config: &Config, options: &Options, memory: &mut Memory, table: Vec<Parameter>) -> Result<Self, Error> {
        let parameters = Parameters::new(config, memory, table)?;
        let tokens = options.micro_batch_tokens;
        memory.part("residual stream before each layer");
        let layers = config.num_hidden_layers;
        let streams =
            (0..=layers).map(|_| memory.numbers(&[tokens, config.hidden_size])).collect::<Result<_, Error>>()?;
        memory.part("activations kept for the backward pass");
        let has_dense = config.first_k_dense_replace > 0;
        let has_moe = config.first_k_dense_replace < layers;
        let kept = if options.recompute {
            vec![Kept::new(config, tokens, has_dense, has_moe, memory)?]
        } else {
            let layer = |index| Kept::new(config, tokens, !config.is_moe(index), config.is_moe(index), memory);
            (0..layers).map(layer).collect::<Result<_, Error>>()?
        };
        let scratch = Scratch::new(config, tokens, options.precision, memory)?;
        memory.part("loads and entropies");
        let moe_layers = layers - config.first_k_dense_replace;
        let loads = memory.numbers(&[moe_layers, config.n_routed_experts])?;
        let entropies = memory.numbers(&[moe_layers])?;
        memory.part("rotations");
        let positions = if memory.is_taken() { options.sequence_tokens } else { 0 };
        memory.elsewhere(RopeTable::bytes(options.sequence_tokens, config.head_dim));
        let rope = RopeTable::new(positions, config.head_dim, config.rope_theta);
        memory.part("scratch of threads");
        let workers = dots_kernels::pool::Pool::workers(options.threads);
        memory.elsewhere(workers.saturating_mul(dots_kernels::train::gemm::Scratch::BYTES));
        let compute =
            if memory.is_taken() { Compute::new(options.threads, 0).with_training() } else { Compute::new(1, 0) };
        Ok(Self {
            config: config.clone(),
            options: *options,
            compute,
            rope,
            parameters,
            streams,
            kept,
            scratch,
            loads,
            entropies,
            balanced: vec![config.n_routed_experts; moe_layers],
            step: None,
        })
    }

    /// The model's shape.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Every trained tensor, and where it lies in [`CpuStep::gradients`] and [`CpuStep::weights`].
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters.table
    }

    /// All weights, as [`CpuStep::parameters`] says.
    pub fn weights(&self) -> &[f32] {
        &self.parameters.weights
    }

    /// The gradients of the step under way, as [`CpuStep::parameters`] says.
    pub fn gradients(&self) -> &[f32] {
        &self.parameters.gradients
    }

    /// The same for whoever sums them over ranks before [`Step::update`].
    pub fn gradients_mut(&mut self) -> &mut [f32] {
        &mut self.parameters.gradients
    }

    /// Freezes the parameters whose name `is_frozen` says so of, and lets all others learn.
    pub fn freeze(&mut self, is_frozen: impl Fn(&str) -> bool) {
        for parameter in &mut self.parameters.table {
            parameter.frozen = is_frozen(&parameter.name);
        }
    }

    /// Leaves all experts of a layer's router but the first `experts` outside the sign balancing. A layer that is dense has none.
    pub fn balance_first(&mut self, layer: usize, experts: usize) {
        let index = layer.checked_sub(self.config.first_k_dense_replace);
        if let Some(balanced) = index.and_then(|index| self.balanced.get_mut(index)) {
            *balanced = experts.min(self.config.n_routed_experts);
        }
    }

    /// Forward, and backward where `learn`.
    fn run(&mut self, batch: &MicroBatch<'_>, learn: Option<Open>) -> Result<(f64, u64, f64), StepError> {
        let Self { config, options, compute, rope, parameters, streams, kept, scratch, loads, entropies, .. } = self;
        let (n, hidden) = (batch.tokens.len(), config.hidden_size);
        let Parameters { weights, gradients, biases, table, .. } = parameters;
        let whole = || Whole::of(config, &weights[..]);
        let experts = config.n_routed_experts;
        let bias_of = |layer: usize| match layer.checked_sub(config.first_k_dense_replace) {
            Some(moe) => &biases[moe * experts..(moe + 1) * experts],
            None => &[][..],
        };
        let pass = Pass {
            config,
            compute,
            precision: options.precision,
            rope,
            sequence_tokens: batch.sequence_tokens,
            attend_from: batch.attend_from,
            balance_scale: learn.map_or(0.0, |step| {
                let rows = step.totals.sequences as f64 * batch.sequence_tokens as f64;
                (step.dials.sequence_loss / rows) as f32
            }),
            accumulate: learn.is_some_and(|step| step.tokens > 0),
        };
        embedding_forward(compute, whole().embedding, hidden, batch.tokens, &mut streams[0][..n * hidden]);
        let mut balance = 0.0;
        for layer in 0..config.num_hidden_layers {
            let kept = &mut kept[if options.recompute { 0 } else { layer }];
            let (before, after) = streams.split_at_mut(layer + 1);
            let (x, out) = (&before[layer][..n * hidden], &mut after[0][..n * hidden]);
            pass.forward(&whole().layer(config, layer), bias_of(layer), x, kept, scratch, out);
            let Some(moe) = layer.checked_sub(config.first_k_dense_replace) else { continue };
            let routing = &kept.routing;
            balance += routing.balance[..n].iter().map(|share| f64::from(*share)).sum::<f64>();
            if learn.is_some() {
                for (load, ends) in loads[moe * experts..].iter_mut().zip(routing.starts.windows(2)) {
                    *load += (ends[1] - ends[0]) as u64;
                }
                entropies[moe] += routing.entropy[..n].iter().map(|entropy| f64::from(*entropy)).sum::<f64>();
            }
        }
        let x = &streams[config.num_hidden_layers][..n * hidden];
        let learning = learn.map(|step| Learning {
            gradients: Whole::of(config, &mut gradients[..]),
            loss_scale: (1.0 / step.totals.targets as f64) as f32,
        });
        let (loss, targets) = pass.head(&whole(), x, batch.targets, scratch, learning);
        if !(loss.is_finite() && balance.is_finite()) {
            let weight = update::find_not_finite("weight", table, weights);
            return Err(weight.unwrap_or_else(|| first_not_finite(streams, n * hidden, loss)));
        }
        if learn.is_some() {
            for layer in (0..config.num_hidden_layers).rev() {
                let kept = &mut kept[if options.recompute { 0 } else { layer }];
                let weights = whole().layer(config, layer);
                let (before, after) = streams.split_at_mut(layer + 1);
                let (x, out) = (&before[layer][..n * hidden], &mut after[0][..n * hidden]);
                // What the last layer left is still there.
                if options.recompute && layer + 1 < config.num_hidden_layers {
                    pass.forward(&weights, bias_of(layer), x, kept, scratch, out);
                }
                let mut gradients = Whole::of(config, &mut gradients[..]).layer(config, layer);
                pass.backward(&weights, bias_of(layer), x, kept, scratch, &mut gradients);
            }
            let table = Whole::of(config, &mut gradients[..]).embedding;
            if !pass.accumulate {
                table.fill(0.0);
            }
            embedding_backward(compute, &scratch.d_x.exact[..n * hidden], hidden, batch.tokens, table);
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
        let wrong = |expected: &str| StepError::Batch {
            field: "totals",
            expected: expected.to_owned(),
            found: format!("{totals:?}"),
        };
        if totals.targets == 0 || totals.sequences == 0 {
            return Err(wrong("at least one sequence and one target in a step"));
        }
        self.loads.fill(0);
        self.entropies.fill(0.0);
        self.step = Some(Open { totals, dials, targets: 0, sequences: 0, tokens: 0, loss: 0.0, sequence_loss: 0.0 });
        Ok(())
    }

    fn forward_backward(&mut self, batch: &MicroBatch<'_>) -> Result<(), StepError> {
        // A step that failed is over: taken here, put back at the end.
        let mut step = self.step.take().ok_or_else(no_step)?;
        let sequences =
            batch::check(batch, &self.config, self.options.micro_batch_tokens, self.options.sequence_tokens)?;
        let (loss, targets, sequence_loss) = self.run(batch, Some(step))?;
        step.sequences += sequences as u64;
        step.targets += targets;
        step.tokens += batch.tokens.len() as u64;
        step.loss += loss;
        step.sequence_loss += sequence_loss;
        self.step = Some(step);
        Ok(())
    }

    fn update(&mut self) -> Result<StepReport, StepError> {
        let step = self.step.take().ok_or_else(no_step)?;
        let seen = Totals { targets: step.targets, sequences: step.sequences };
        if seen != step.totals {
            return Err(StepError::Batch {
                field: "totals",
                expected: format!("{:?}, as the step began with", step.totals),
                found: format!("{seen:?} in its micro-batches"),
            });
        }
        let Self { config, options, compute, parameters, loads, entropies, balanced, .. } = self;
        let gradient_norm = update::gradient_norm(compute, parameters)?;
        let learning_rate = step.dials.learning_rate;
        let weight_norm = update::update(compute, &options.optimizer, parameters, learning_rate, gradient_norm);
        let experts = config.n_routed_experts;
        let routers = balanced.iter().enumerate().map(|(moe, balanced)| {
            let loads = &loads[moe * experts..(moe + 1) * experts];
            let biases = &mut parameters.biases[moe * experts..(moe + 1) * experts];
            update::balance(biases, loads, *balanced, step.dials.bias_rate);
            RouterReport {
                layer: config.first_k_dense_replace + moe,
                loads: loads.to_vec(),
                biases: biases.to_vec(),
                entropy: entropies[moe] / step.tokens as f64,
            }
        });
        Ok(StepReport {
            loss: step.loss / step.totals.targets as f64,
            sequence_loss: step.sequence_loss / step.totals.sequences as f64,
            gradient_norm,
            weight_norm,
            routers: routers.collect(),
        })
    }

    fn evaluate(&mut self, batch: &MicroBatch<'_>) -> Result<(f64, u64), StepError> {
        batch::check(batch, &self.config, self.options.micro_batch_tokens, self.options.sequence_tokens)?;
        let (loss, targets, _) = self.run(batch, None)?;
        Ok((loss, targets))
    }

    fn updates(&self) -> u64 {
        self.parameters.updates
    }

    fn export(
        &mut self,
        give: &mut dyn FnMut(crate::step::StateTensor<'_>) -> std::io::Result<()>,
    ) -> std::io::Result<()> {
        self.give_state(give)
    }

    fn import(&mut self, updates: u64, take: &mut crate::step::TakeState<'_>) -> std::io::Result<()> {
        self.take_state(updates, take)
    }
}

fn no_step() -> StepError {
    StepError::Batch {
        field: "step",
        expected: "`begin` before it".to_owned(),
        found: "no step under way, or one that failed".to_owned(),
    }
}
