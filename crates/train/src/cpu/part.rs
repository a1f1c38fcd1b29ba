//! A part of a model, or all of it, with what computes it.

use std::ops::Range;

use dots_kernels::{
    Compute, RopeTable,
    train::embedding::{embedding_backward, embedding_forward},
};
use dots_model::{Config, Error};

use super::{
    Options, batch,
    buffers::{Kept, Scratch},
    head::Learning,
    layer::Pass,
    memory::Memory,
    parameters::{self, Parameter, Parameters},
    random,
    share::{Share, expert_of},
    update,
};
use crate::comm::Comm;
use crate::step::{Dials, MicroBatch, NO_TOKEN, RouterReport, StepError, Totals};

/// The layers and experts of a [`Share`], their optimizer, and the scratch to compute them in.
#[derive(Debug)]
pub(crate) struct Part {
    pub(super) config: Config,
    pub(super) options: Options,
    pub(super) compute: Compute,
    rope: RopeTable,
    pub(super) parameters: Parameters,
    pub(super) scratch: Scratch,
    /// Where activations are computed again, those of the layer at hand.
    again: Option<Kept>,
    /// `(MoE layers, experts)` of the whole model.
    loads: Vec<u64>,
    /// `(MoE layers)`: sum of the tokens' entropies.
    entropies: Vec<f64>,
}

/// Where a tensor comes among those of all parts: by layer, expert, and its place in its part's table.
pub(crate) type Place = (Option<usize>, Option<usize>, usize);

/// What one micro-batch leaves in consecutive layers for its backward pass.
#[derive(Debug)]
pub(crate) struct Activations {
    /// `(layers + 1)`: the residual stream before each layer, and after the last.
    pub(crate) streams: Vec<Vec<f32>>,
    /// One a layer; none where activations are computed again.
    kept: Vec<Kept>,
}

/// What the gradients of a micro-batch are of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Learn {
    pub(crate) totals: Totals,
    pub(crate) dials: Dials,
    /// Whether gradients are added to what is there, or written over it.
    pub(crate) accumulate: bool,
}

impl Activations {
    pub(crate) fn new(
        config: &Config,
        options: &Options,
        layers: Range<usize>,
        expert_ranks: usize,
        memory: &mut Memory,
    ) -> Result<Self, Error> {
        let tokens = options.micro_batch_tokens;
        memory.part("residual stream before each layer");
        let stream = |_| memory.numbers(&[tokens, config.hidden_size]);
        let streams = (layers.start..=layers.end).map(stream).collect::<Result<_, Error>>()?;
        memory.part("activations kept for the backward pass");
        let kept = |index| Kept::new(config, tokens, !config.is_moe(index), config.is_moe(index), expert_ranks, memory);
        let kept = if options.recompute { Vec::new() } else { layers.map(kept).collect::<Result<_, Error>>()? };
        Ok(Self { streams, kept })
    }
}

impl Part {
    pub(crate) fn new(config: &Config, options: &Options, share: &Share, memory: &mut Memory) -> Result<Self, Error> {
        // Names are for what is taken: a plan may be of more tensors than fit in memory.
        let table = if memory.is_taken() { parameters::table(config, share) } else { Vec::new() };
        let parameters = Parameters::new(config, share, memory, table)?;
        let tokens = options.micro_batch_tokens;
        let layers = config.num_hidden_layers;
        let again = if options.recompute {
            memory.part("activations of the layer that is computed again");
            let has = |is_moe| share.layers.iter().cloned().flatten().any(|index| config.is_moe(index) == is_moe);
            Some(Kept::new(config, tokens, has(false), has(true), share.expert_ranks(config), memory)?)
        } else {
            None
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
        memory.elsewhere(Compute::training_bytes(workers));
        let compute =
            if memory.is_taken() { Compute::new(options.threads, 0).with_training() } else { Compute::new(1, 0) };
        Ok(Self {
            config: config.clone(),
            options: *options,
            compute,
            rope,
            parameters,
            scratch,
            again,
            loads,
            entropies,
        })
    }

    /// Random weights: see [`super::CpuStep::random`].
    pub(crate) fn initialise(&mut self, seed: u64, deviation: f64) {
        let Parameters { table, weights, .. } = &mut self.parameters;
        random::initialise(&self.compute, table, seed, deviation, weights);
    }

    /// Freezes as many of each parameter's first rows as `frozen_rows` says, of a vector its first numbers, and lets all others learn.
    pub(crate) fn freeze(&mut self, frozen_rows: &dyn Fn(&Parameter) -> usize) {
        for parameter in &mut self.parameters.table {
            let row = parameter.shape[1..].iter().product::<usize>();
            parameter.frozen = frozen_rows(parameter).saturating_mul(row).min(parameter.len());
        }
    }

    /// Numbers of a position in the residual stream.
    pub(crate) fn hidden(&self) -> usize {
        self.config.hidden_size
    }

    /// Updates made.
    pub(crate) fn updates(&self) -> u64 {
        self.parameters.updates
    }

    /// Says that so many were made.
    pub(crate) fn set_updates(&mut self, updates: u64) {
        self.parameters.updates = updates;
    }

    /// All gradients.
    pub(crate) fn gradients_mut(&mut self) -> &mut [f32] {
        &mut self.parameters.gradients
    }

    /// The two rows that are cut among replicas, first what is no expert and then experts: of gradients.
    pub(crate) fn gradient_rows_mut(&mut self) -> [&mut [f32]; 2] {
        let Parameters { rooms, gradients, .. } = &mut self.parameters;
        gradients.split_at_mut(rooms.experts).into()
    }

    /// The same of weights.
    pub(crate) fn weight_rows_mut(&mut self) -> [&mut [f32]; 2] {
        let Parameters { rooms, weights, .. } = &mut self.parameters;
        weights.split_at_mut(rooms.experts).into()
    }

    /// `(MoE layers, experts)` of the whole model: tokens of the step under way routed to each.
    pub(crate) fn loads_mut(&mut self) -> &mut [u64] {
        &mut self.loads
    }

    /// Forgets the loads of the step before.
    pub(crate) fn begin(&mut self) {
        self.loads.fill(0);
        self.entropies.fill(0.0);
    }

    /// The residual stream before the first layer, `x: (rows, hidden)`.
    pub(crate) fn embed(&self, tokens: &[u32], x: &mut [f32]) {
        let Parameters { rooms, weights, .. } = &self.parameters;
        let hidden = self.config.hidden_size;
        embedding_forward(&self.compute, rooms.ends(&weights[..]).embedding, hidden, &batch::ids(tokens), x);
    }

    /// From the first stream of `activations` to its last, through `layers`; `way` leads to the ranks that share their experts. Returns the sum of the rows' shares of the balance loss, those of a sequence with padding as if it were as long as the others.
    pub(crate) fn forward(
        &mut self,
        layers: Range<usize>,
        batch: &MicroBatch<'_>,
        learn: Option<Learn>,
        way: Option<&dyn Comm>,
        activations: &mut Activations,
    ) -> Result<f64, StepError> {
        let Self { config, options, compute, rope, parameters, scratch, again, loads, entropies, .. } = self;
        let filled = batch::filled_of_each(batch);
        let pass = Pass { way, ..pass(config, options, compute, rope, batch, &filled, learn) };
        let Parameters { rooms, weights, biases, .. } = parameters;
        let (n, experts) = (batch.tokens.len() * config.hidden_size, config.n_routed_experts);
        let mut balance = 0.0;
        for (nth, layer) in layers.enumerate() {
            let kept = again.as_mut().unwrap_or_else(|| &mut activations.kept[nth]);
            let (before, after) = activations.streams.split_at_mut(nth + 1);
            let (x, out) = (&before[nth][..n], &mut after[0][..n]);
            let held = rooms.layer(config, &weights[..], layer);
            pass.forward(&held, bias_of(config, biases, layer), x, kept, scratch, out)?;
            let Some(moe) = layer.checked_sub(config.first_k_dense_replace) else { continue };
            let (routing, rows) = (&kept.routing, batch.tokens.len());
            // Of a sequence with padding, the mean is of what is none.
            let longer = |row: usize| batch.sequence_tokens as f64 / f64::from(filled[row / batch.sequence_tokens]);
            balance += (0..rows).map(|row| f64::from(routing.balance[row]) * longer(row)).sum::<f64>();
            if learn.is_some() {
                for (load, ends) in loads[moe * experts..].iter_mut().zip(routing.starts.windows(2)) {
                    *load += (ends[1] - ends[0]) as u64;
                }
                let top_k = config.num_experts_per_tok;
                for (row, entropy) in routing.entropy[..rows].iter().enumerate() {
                    if batch.tokens[row] == NO_TOKEN {
                        let chosen = &routing.chosen[row * top_k..][..top_k];
                        chosen.iter().for_each(|expert| loads[moe * experts + *expert as usize] -= 1);
                    } else {
                        entropies[moe] += f64::from(*entropy);
                    }
                }
            }
        }
        Ok(balance)
    }

    /// Sum of the targets' cross-entropies of `x: (rows, hidden)`, the stream after the last layer, and how many targets there are. Where
    /// something is learnt, [`Part::d_x`] becomes the gradient of `x`.
    pub(crate) fn head(&mut self, batch: &MicroBatch<'_>, learn: Option<Learn>, x: &[f32]) -> (f64, u64) {
        let Self { config, options, compute, rope, parameters, scratch, .. } = self;
        let filled = batch::filled_of_each(batch);
        let pass = pass(config, options, compute, rope, batch, &filled, learn);
        let Parameters { rooms, weights, gradients, .. } = parameters;
        let learning = learn.map(|learn| Learning {
            gradients: rooms.ends(&mut gradients[..]),
            loss_scale: (1.0 / learn.totals.targets as f64) as f32,
        });
        let x = &x[..batch.tokens.len() * config.hidden_size];
        pass.head(&rooms.ends(&weights[..]), x, batch.targets, scratch, learning)
    }

    /// The gradient of a residual stream, `(rows, hidden)`: what [`Part::backward`] starts from and ends with.
    pub(crate) fn d_x(&self, rows: usize) -> &[f32] {
        &self.scratch.d_x.exact[..rows * self.config.hidden_size]
    }

    /// Sets it to what `take` fills it with.
    pub(crate) fn take_d_x(
        &mut self,
        rows: usize,
        take: impl FnOnce(&mut [f32]) -> Result<(), StepError>,
    ) -> Result<(), StepError> {
        let n = rows * self.config.hidden_size;
        take(&mut self.scratch.d_x.exact[..n])?;
        self.scratch.d_x.round(&self.compute, n);
        Ok(())
    }

    /// Back from the last stream of `activations` to its first: [`Part::d_x`], and gradients of what `layers` hold. `is_fresh` says
    /// that nothing was computed since the forward pass of these layers and this micro-batch.
    pub(crate) fn backward(
        &mut self,
        layers: Range<usize>,
        batch: &MicroBatch<'_>,
        learn: Learn,
        way: Option<&dyn Comm>,
        activations: &mut Activations,
        is_fresh: bool,
    ) -> Result<(), StepError> {
        let Self { config, options, compute, rope, parameters, scratch, again, .. } = self;
        let filled = batch::filled_of_each(batch);
        let pass = Pass { way, ..pass(config, options, compute, rope, batch, &filled, Some(learn)) };
        let Parameters { rooms, weights, gradients, biases, .. } = parameters;
        let n = batch.tokens.len() * config.hidden_size;
        for (nth, layer) in layers.clone().enumerate().rev() {
            let held = rooms.layer(config, &weights[..], layer);
            let bias = bias_of(config, biases, layer);
            let (before, after) = activations.streams.split_at_mut(nth + 1);
            let (x, out) = (&before[nth][..n], &mut after[0][..n]);
            let kept = match again {
                Some(kept) => {
                    // What the last layer left is still there.
                    if !is_fresh || layer + 1 < layers.end {
                        pass.forward(&held, bias, x, kept, scratch, out)?;
                    }
                    kept
                }
                None => &mut activations.kept[nth],
            };
            let mut gradients = rooms.layer(config, &mut gradients[..], layer);
            pass.backward(&held, bias, x, kept, scratch, &mut gradients)?;
        }
        Ok(())
    }

    /// The embedding's gradient, from [`Part::d_x`].
    pub(crate) fn embed_backward(&mut self, tokens: &[u32], learn: Learn) {
        let Self { config, compute, parameters, scratch, .. } = self;
        let table = parameters.rooms.ends(&mut parameters.gradients[..]).embedding;
        if !learn.accumulate {
            table.fill(0.0);
        }
        let hidden = config.hidden_size;
        embedding_backward(compute, &scratch.d_x.exact[..tokens.len() * hidden], hidden, &batch::ids(tokens), table);
    }

    /// The first tensor with a weight that is not finite, and where it comes among those of all parts.
    pub(crate) fn find_not_finite_weight(&self) -> Option<(Place, StepError)> {
        let Parameters { table, weights, .. } = &self.parameters;
        let (index, error) = update::find_not_finite("weight", table, weights)?;
        Some(((table[index].layer, expert_of(&table[index].name), index), error))
    }

    /// Sum of the squares of all gradients that are owned and not frozen. One that is not finite is an error.
    pub(crate) fn gradient_squares(&self) -> Result<f64, StepError> {
        update::gradient_squares(&self.compute, &self.parameters)
    }

    /// AdamW on what is owned, the gradient of the whole model having this norm. Returns the sum of the squares of owned weights.
    pub(crate) fn update(&mut self, learning_rate: f64, gradient_norm: f64) -> f64 {
        let Self { options, compute, parameters, .. } = self;
        update::update(compute, &options.optimizer, parameters, learning_rate, gradient_norm)
    }

    /// Moves the biases by the loads, and says what the routers of these layers did over `tokens`.
    pub(crate) fn balance(&mut self, layers: &[Range<usize>], dials: &Dials, tokens: u64) -> Vec<RouterReport> {
        let Self { config, parameters, loads, entropies, .. } = self;
        let (experts, dense) = (config.n_routed_experts, config.first_k_dense_replace);
        let [first, end] = dials.balanced.map(|expert| expert.min(experts));
        let mixtures = layers.iter().cloned().flatten().filter_map(|layer| layer.checked_sub(dense));
        mixtures
            .map(|moe| {
                let loads = &loads[moe * experts..(moe + 1) * experts];
                let biases = &mut parameters.biases[moe * experts..(moe + 1) * experts];
                update::balance(biases, loads, first..end.max(first), dials.bias_rate);
                RouterReport {
                    layer: dense + moe,
                    loads: loads.to_vec(),
                    biases: biases.to_vec(),
                    entropy: entropies[moe] / tokens as f64,
                }
            })
            .collect()
    }
}

/// What all layers of a micro-batch share.
fn pass<'a>(
    config: &'a Config,
    options: &Options,
    compute: &'a Compute,
    rope: &'a RopeTable,
    batch: &MicroBatch<'a>,
    filled: &'a [u32],
    learn: Option<Learn>,
) -> Pass<'a> {
    Pass {
        config,
        compute,
        precision: options.precision,
        rope,
        sequence_tokens: batch.sequence_tokens,
        attend_from: batch.attend_from,
        filled,
        balance_scale: learn.map_or(0.0, |learn| {
            let rows = learn.totals.sequences as f64 * batch.sequence_tokens as f64;
            (learn.dials.sequence_loss / rows) as f32
        }),
        accumulate: learn.is_some_and(|learn| learn.accumulate),
        way: None,
    }
}

/// The balancing biases of a layer; none where it is dense.
fn bias_of<'a>(config: &Config, biases: &'a [f32], layer: usize) -> &'a [f32] {
    let experts = config.n_routed_experts;
    match layer.checked_sub(config.first_k_dense_replace) {
        Some(moe) => &biases[moe * experts..(moe + 1) * experts],
        None => &[],
    }
}
