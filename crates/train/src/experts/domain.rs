//! What a model's routers do with the text of a domain.

use dots_kernels::{
    Compute,
    train::{Precision, Product, View, products},
};
use dots_model::{
    Checkpoint, Error,
    cpu::observe::{SEQUENCE_TOKENS, observe},
    observer::{Input, Observer},
};

/// Rows of each layer that are kept as they are.
const SAMPLE: usize = 2048;

/// A text as the routers see it.
#[derive(Debug)]
pub struct Domain {
    /// How long it is.
    pub tokens: usize,
    /// One a MoE layer.
    pub(super) layers: Vec<Seen>,
    hidden: usize,
    first_layer: usize,
}

/// What a layer's router saw and did.
#[derive(Debug)]
pub(super) struct Seen {
    /// `(experts)`: tokens routed to each.
    pub(super) loads: Vec<u64>,
    /// `(hidden)`: sum of the router's inputs.
    pub(super) sum: Vec<f64>,
    /// `(hidden, hidden)`: sum of their outer products with themselves.
    pub(super) gram: Vec<f32>,
    /// `(about SAMPLE, hidden)`: some of them, evenly over the text.
    pub(super) sample: Vec<f32>,
    /// `(rows, hidden)`: those of the step under way.
    rows: Vec<f32>,
    count: usize,
}

impl Observer for Domain {
    fn row(&mut self, layer: usize, input: Input, x: &[f32]) {
        let Some(seen) = layer.checked_sub(self.first_layer).and_then(|moe| self.layers.get_mut(moe)) else { return };
        match input {
            Input::Mlp => seen.rows.extend_from_slice(x),
            Input::Expert(expert) => seen.loads[expert] += 1,
            _ => {}
        }
    }
}

impl Domain {
    /// Runs `checkpoint` over `tokens`, whose ids it must have, in f32; `tell` hears how many tokens each step read. Takes
    /// `hidden² + 2,048 · hidden` numbers a MoE layer beside the model.
    pub fn look(
        checkpoint: &Checkpoint,
        tokens: &[u32],
        threads: usize,
        tell: &mut dyn FnMut(u64),
    ) -> Result<Self, Error> {
        let config = &checkpoint.config;
        let (hidden, first_layer) = (config.hidden_size, config.first_k_dense_replace);
        let seen = || Seen {
            loads: vec![0; config.n_routed_experts],
            sum: vec![0.0; hidden],
            gram: vec![0.0; hidden * hidden],
            sample: Vec::new(),
            count: 0,
            rows: Vec::with_capacity(SEQUENCE_TOKENS * hidden),
        };
        let layers = (first_layer..config.num_hidden_layers).map(|_| seen()).collect();
        let mut domain = Self { tokens: tokens.len(), layers, hidden, first_layer };
        let compute = Compute::new(threads, 0).with_training();
        observe(checkpoint, tokens, threads, &mut domain, |domain, read| {
            domain.add_up(&compute);
            tell(read as u64);
        })?;
        Ok(domain)
    }

    fn add_up(&mut self, compute: &Compute) {
        let (hidden, every) = (self.hidden, self.tokens.div_ceil(SAMPLE).max(1));
        for seen in &mut self.layers {
            for row in seen.rows.chunks(hidden) {
                seen.sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x));
                if seen.count.is_multiple_of(every) {
                    seen.sample.extend_from_slice(row);
                }
                seen.count += 1;
            }
            let rows = View::new(&seen.rows, seen.rows.len() / hidden, hidden);
            let product = Product { a: rows.t(), b: rows, out: &mut seen.gram, out_stride: hidden, accumulate: true };
            products(compute, Precision::F32, &mut [product]);
            seen.rows.clear();
        }
    }

    /// What the router of a MoE layer saw, and of how many tokens.
    pub(super) fn at(&self, moe_layer: usize) -> (&Seen, usize) {
        (&self.layers[moe_layer], self.tokens)
    }

    /// The experts of a MoE layer, counted from the first of them, those that most tokens choose first, each with the share of the tokens
    /// that do.
    pub fn experts(&self, moe_layer: usize) -> Vec<(usize, f64)> {
        let loads = &self.layers[moe_layer].loads;
        let mut experts: Vec<usize> = (0..loads.len()).collect();
        experts.sort_by_key(|expert| std::cmp::Reverse(loads[*expert]));
        experts.into_iter().map(|expert| (expert, self.share(moe_layer, expert))).collect()
    }

    /// The share of the tokens that choose an expert of a MoE layer, counted from the first of them.
    pub fn share(&self, moe_layer: usize, expert: usize) -> f64 {
        self.layers[moe_layer].loads[expert] as f64 / self.tokens.max(1) as f64
    }
}
