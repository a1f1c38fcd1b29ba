//! The forward pass of one batch: prefill and decode are the same code.

use dots_kernels::{
    Activations, Compute, Job, QuantisedRows, RopeTable, Rows, SwigluJob,
    attention::AttentionSlice,
    decode::{Unpacked, decode_row},
    norm::{rms_norm, rms_norm_in_place},
    router::route,
};

use super::{
    buffers::Buffers,
    cache::Cache,
    layers::{FeedForward, Layer, Layers, Matrix, Mlp, Moe},
};
use crate::{
    Config,
    executor::{Arithmetic, BLOCK_TOKENS, Batch, LayerRouting},
    observer::{Input, Observer},
};

/// One row of a batch: where it stands in its sequence.
#[derive(Debug, Clone, Copy)]
pub struct RowPlace {
    /// Position in the sequence.
    pub position: usize,
    /// Cache block of that position.
    pub block: u32,
}

/// The rows that a layer goes on with: behind the last layer's keys and values, only those of which something is wanted.
enum Going {
    /// The first rows of the batch, all of them.
    All(usize),
    /// These, in order, which are then the first.
    Only(Vec<u32>),
}

impl Going {
    /// How many.
    fn count(&self) -> usize {
        match self {
            Self::All(count) => *count,
            Self::Only(rows) => rows.len(),
        }
    }

    /// As a product takes them.
    fn rows(&self) -> Rows<'_> {
        match self {
            Self::All(count) => Rows::From(0, *count),
            Self::Only(rows) => Rows::List(rows),
        }
    }

    /// Their indices in the batch, in order.
    fn indices(&self) -> Vec<usize> {
        match self {
            Self::All(count) => (0..*count).collect(),
            Self::Only(rows) => rows.iter().map(|&row| row as usize).collect(),
        }
    }
}

/// A forward pass over borrowed weights and memory.
pub struct Forward<'a> {
    /// The model's shape.
    pub config: &'a Config,
    /// Its weights.
    pub layers: &'a Layers,
    /// Threads.
    pub compute: &'a Compute,
    /// Rotations of every position.
    pub rope: &'a RopeTable,
    /// Which arithmetic.
    pub arithmetic: Arithmetic,
    /// Where activations go.
    pub buffers: &'a mut Buffers,
    /// Who sees them.
    pub observer: Option<&'a mut dyn Observer>,
}

impl Forward<'_> {
    /// Runs all layers and leaves the residual stream of the rows of which something is wanted, in order, in `buffers.hidden`.
    /// `routing` has one entry a row of the batch, with a list for each row that wants to know its experts.
    pub fn run(&mut self, batch: &Batch<'_>, cache: &mut Cache, routing: &mut [Option<Vec<LayerRouting>>]) {
        let rows: Vec<RowPlace> = batch
            .slices
            .iter()
            .flat_map(|slice| {
                (slice.start..slice.start + slice.tokens.len())
                    .map(|position| RowPlace { position, block: slice.block_table[position / BLOCK_TOKENS] })
            })
            .collect();
        self.embed(batch);
        let wanted = wanted_rows(batch);
        for (index, layer) in self.layers.layers.iter().enumerate() {
            // Who looks on sees every row.
            let is_last = index + 1 == self.layers.layers.len() && self.observer.is_none() && wanted.len() < rows.len();
            let going = if is_last { Going::Only(wanted.clone()) } else { Going::All(rows.len()) };
            self.attention(index, layer, batch, &rows, &going, cache);
            let n = going.count();
            self.keep(&going);
            if n == 0 {
                return;
            }
            self.add_projected(n);
            self.norm(n, &layer.post_attention_norm);
            match &layer.feed_forward {
                FeedForward::Dense(mlp) => {
                    self.dense(index, n, mlp);
                    self.add_projected(n);
                }
                FeedForward::Moe(moe) => self.mixture(index, moe, &going, routing),
            }
        }
        if self.observer.is_some() {
            self.norm(rows.len(), &self.layers.final_norm);
            let hidden = self.config.hidden_size;
            let x = &self.buffers.normed[..rows.len() * hidden];
            show(&mut self.observer, self.layers.layers.len(), Input::Head, x, hidden);
            self.keep(&Going::Only(wanted));
        }
    }

    /// Moves the residual stream of these rows to the front.
    fn keep(&mut self, going: &Going) {
        let Going::Only(rows) = going else { return };
        let hidden = self.config.hidden_size;
        for (to, &from) in rows.iter().enumerate() {
            let from = from as usize * hidden;
            self.buffers.hidden.copy_within(from..from + hidden, to * hidden);
        }
    }

    /// Final norm and head of up to `HEAD_ROWS` of the rows that [`Self::run`] left, given by index: the normed hidden states go to
    /// `buffers.head_in: (rows, hidden)`, and where somebody wants them the logits to `buffers.logits: (rows, vocab)`.
    pub fn head(&mut self, rows: &[usize], wants_logits: bool) {
        let (hidden, vocab) = (self.config.hidden_size, self.config.vocab_size);
        let b = &mut *self.buffers;
        let head_in = &mut b.head_in[..rows.len() * hidden];
        for (out, row) in head_in.chunks_mut(hidden).zip(rows) {
            let x = &b.hidden[row * hidden..(row + 1) * hidden];
            rms_norm(self.compute.isa(), x, &self.layers.final_norm, self.config.rms_norm_eps, out);
        }
        if !wants_logits {
            return;
        }
        let x = rounded(self.compute, self.arithmetic, head_in, hidden, &mut b.normed_q8);
        let out = &mut b.logits[..rows.len() * vocab];
        self.compute.products(&mut [job(x, &self.layers.head, rows.len(), out)]);
    }

    fn embed(&mut self, batch: &Batch<'_>) {
        let hidden = self.config.hidden_size;
        let tokens = batch.slices.iter().flat_map(|slice| slice.tokens);
        let isa = self.compute.isa();
        let mut rows: Vec<_> = self.buffers.hidden.chunks_mut(hidden).zip(tokens).collect();
        self.compute.for_each(&mut rows, |_, (row, token)| {
            decode_row(isa, self.layers.embedding.view(), **token as usize, &mut Unpacked::default(), row);
        });
    }

    /// `projected = o(attention(norm(hidden)))` of the rows of `going`; keys and values of all `rows` go into the cache.
    fn attention(
        &mut self,
        index: usize,
        layer: &Layer,
        batch: &Batch<'_>,
        rows: &[RowPlace],
        going: &Going,
        cache: &mut Cache,
    ) {
        let config = self.config;
        let (hidden, q_width, kv_width) = (config.hidden_size, config.attention_size(), config.kv_size());
        let (n, m) = (rows.len(), going.count());
        self.norm(n, &layer.input_norm);
        let b = &mut *self.buffers;
        show(&mut self.observer, index, Input::Attention, &b.normed[..n * hidden], hidden);
        let x = rounded(self.compute, self.arithmetic, &b.normed[..n * hidden], hidden, &mut b.normed_q8);
        let (q, k, v) = (&mut b.q[..m * q_width], &mut b.k[..n * kv_width], &mut b.v[..n * kv_width]);
        let mut jobs = vec![job(x, &layer.k, n, k), job(x, &layer.v, n, v)];
        if m > 0 {
            jobs.push(Job { x, weights: layer.q.view(), rows: going.rows(), out: q });
        }
        self.compute.products(&mut jobs);

        let going_on = going.indices();
        let queries = q.chunks_mut(q_width).zip(&going_on).map(|(q, &row)| (q, &layer.q_norm, rows[row].position));
        let keys = k.chunks_mut(kv_width).zip(rows).map(|(k, row)| (k, &layer.k_norm, row.position));
        let mut heads: Vec<_> = queries.chain(keys).collect();
        self.compute.for_each(&mut heads, |_, (part, weight, position)| {
            for head in part.chunks_mut(config.head_dim) {
                rms_norm_in_place(self.compute.isa(), head, weight, config.rms_norm_eps);
                self.rope.rotate(*position, head);
            }
        });
        // Keys and values take the cache's type before anyone attends to them, their own chunk included: a row's numbers
        // are then the same whether its context came in this step or long before.
        let places: Vec<(u32, usize)> = rows.iter().map(|row| (row.block, row.position % BLOCK_TOKENS)).collect();
        let (layer_bytes, shape) = cache.layer_mut(index);
        self.compute.store(layer_bytes, shape, &places, k, v);

        if m == 0 {
            return;
        }
        let slices = attention_slices(batch, &going_on);
        let out = &mut b.attention[..m * q_width];
        self.compute.attention(q, config.num_attention_heads, cache.layer(index), &slices, out);
        show(&mut self.observer, index, Input::Output, out, q_width);
        let x = rounded(self.compute, self.arithmetic, out, q_width, &mut b.normed_q8);
        self.compute.products(&mut [job(x, &layer.o, m, &mut b.projected[..m * hidden])]);
    }

    /// `projected = mlp(normed)`.
    fn dense(&mut self, index: usize, n: usize, mlp: &Mlp) {
        let hidden = self.config.hidden_size;
        let width = mlp.gate.view().rows();
        let b = &mut *self.buffers;
        show(&mut self.observer, index, Input::Mlp, &b.normed[..n * hidden], hidden);
        let x = rounded(self.compute, self.arithmetic, &b.normed[..n * hidden], hidden, &mut b.normed_q8);
        let middle = &mut b.mlp[..n * width];
        self.compute.swiglu_products(&mut [swiglu(x, mlp, Rows::From(0, n), middle)]);
        show(&mut self.observer, index, Input::Down, middle, width);
        let x = rounded(self.compute, self.arithmetic, middle, width, &mut b.mlp_q8);
        self.compute.products(&mut [job(x, &mlp.down, n, &mut b.projected[..n * hidden])]);
    }

    /// `hidden += Σ weight · expert(normed) + shared(normed)`.
    fn mixture(&mut self, index: usize, moe: &Moe, going: &Going, routing: &mut [Option<Vec<LayerRouting>>]) {
        let config = self.config;
        let (hidden, width, top_k) = (config.hidden_size, config.moe_intermediate_size, config.num_experts_per_tok);
        let n = going.count();
        let chosen = self.choose(moe, n);
        for (row, experts) in going.indices().into_iter().zip(&chosen) {
            if let Some(layers) = &mut routing[row] {
                layers.push(LayerRouting { layer: index, experts: experts.clone() });
            }
        }
        let groups = Groups::new(&chosen, config.n_routed_experts);

        let b = &mut *self.buffers;
        show(&mut self.observer, index, Input::Mlp, &b.normed[..n * hidden], hidden);
        let x = rounded(self.compute, self.arithmetic, &b.normed[..n * hidden], hidden, &mut b.normed_q8);
        let middle = &mut b.expert_mlp[..n * top_k * width];
        let shared_width = config.shared_intermediate_size();
        let shared_middle = &mut b.mlp[..n * shared_width];
        let mut jobs = Vec::with_capacity(config.n_routed_experts + 1);
        if let Some(shared) = &moe.shared {
            jobs.push(swiglu(x, shared, Rows::From(0, n), &mut *shared_middle));
        }
        for (expert, rows, out) in groups.split(middle, width) {
            jobs.push(swiglu(x, &moe.experts[expert], Rows::List(rows), out));
        }
        self.compute.swiglu_products(&mut jobs);
        if let Some(observer) = &mut self.observer {
            for (expert, rows, middle) in groups.split(middle, width) {
                for (row, middle) in rows.iter().zip(middle.chunks(width)) {
                    observer.row(index, Input::Expert(expert), &b.normed[*row as usize * hidden..][..hidden]);
                    observer.row(index, Input::ExpertDown(expert), middle);
                }
            }
            if moe.shared.is_some() {
                show(&mut self.observer, index, Input::Down, shared_middle, shared_width);
            }
        }

        let x = rounded(self.compute, self.arithmetic, middle, width, &mut b.expert_q8);
        let expert_out = &mut b.expert_out[..n * top_k * hidden];
        let mut jobs = Vec::with_capacity(config.n_routed_experts + 1);
        if let Some(shared) = &moe.shared {
            let x = rounded(self.compute, self.arithmetic, shared_middle, shared_width, &mut b.mlp_q8);
            jobs.push(job(x, &shared.down, n, &mut b.projected[..n * hidden]));
        }
        let mut first = 0;
        for (expert, rows, out) in groups.split(expert_out, hidden) {
            let weights = moe.experts[expert].down.view();
            jobs.push(Job { x, weights, rows: Rows::From(first, rows.len()), out });
            first += rows.len();
        }
        self.compute.products(&mut jobs);

        let (expert_out, projected) = (&*expert_out, &b.projected);
        let has_shared = moe.shared.is_some();
        let mut rows: Vec<_> = b.hidden[..n * hidden].chunks_mut(hidden).zip(&chosen).collect();
        self.compute.for_each(&mut rows, |row, (out, experts)| {
            let parts: Vec<(f32, &[f32])> = experts
                .iter()
                .zip(groups.slots(row))
                .map(|((_, weight), &slot)| (*weight, &expert_out[slot as usize * hidden..][..hidden]))
                .collect();
            let shared = &projected[row * hidden..(row + 1) * hidden];
            // A few numbers of every part at a time, so that their sums stay in registers.
            for (block, out) in out.chunks_mut(SUMMED).enumerate() {
                let range = block * SUMMED..block * SUMMED + out.len();
                let mut sums = [0.0; SUMMED];
                for (weight, part) in &parts {
                    sums.iter_mut().zip(&part[range.clone()]).for_each(|(sum, x)| *sum += weight * x);
                }
                if has_shared {
                    sums.iter_mut().zip(&shared[range]).for_each(|(sum, x)| *sum += x);
                }
                out.iter_mut().zip(sums).for_each(|(out, sum)| *out += sum);
            }
        });
    }

    /// The experts and weights of each row of `normed`, in the order in which their outputs are added. In f32, whatever
    /// the weights' type and the arithmetic.
    fn choose(&mut self, moe: &Moe, n: usize) -> Vec<Vec<(u32, f32)>> {
        let config = self.config;
        let (hidden, experts) = (config.hidden_size, config.n_routed_experts);
        let b = &mut *self.buffers;
        let scores = &mut b.router[..n * experts];
        let x = Activations::exact(&b.normed[..n * hidden], hidden);
        self.compute.products(&mut [job(x, &moe.router, n, scores)]);
        let mut chosen = vec![Vec::with_capacity(config.num_experts_per_tok); n];
        let mut rows: Vec<_> = scores.chunks_mut(experts).zip(&mut chosen).collect();
        self.compute.for_each(&mut rows, |_, (scores, chosen)| {
            let (normalise, scale) = (config.norm_topk_prob, config.routed_scaling_factor);
            route(scores, &moe.router_bias, config.num_experts_per_tok, normalise, scale, chosen);
        });
        chosen
    }

    /// `normed = norm(hidden)`.
    fn norm(&mut self, n: usize, weight: &[f32]) {
        let (hidden, eps, isa) = (self.config.hidden_size, self.config.rms_norm_eps, self.compute.isa());
        let b = &mut *self.buffers;
        let mut rows: Vec<_> = b.normed.chunks_mut(hidden).zip(b.hidden.chunks(hidden)).take(n).collect();
        self.compute.for_each(&mut rows, |_, (out, x)| rms_norm(isa, x, weight, eps, out));
    }

    /// `hidden += projected`.
    fn add_projected(&mut self, n: usize) {
        let len = n * self.config.hidden_size;
        for (x, y) in self.buffers.hidden[..len].iter_mut().zip(&self.buffers.projected[..len]) {
            *x += y;
        }
    }
}

/// Numbers of a row whose sums over experts are taken together.
const SUMMED: usize = 32;

/// The rows of a batch of which something is wanted, in order.
fn wanted_rows(batch: &Batch<'_>) -> Vec<u32> {
    let mut wanted = Vec::new();
    let mut first = 0;
    for slice in &batch.slices {
        wanted.extend(slice.wants.iter().map(|want| (first + want.row) as u32));
        first += slice.tokens.len();
    }
    wanted.dedup();
    wanted
}

/// Who attends to what, of the rows `going` of a batch: a slice for each run of rows that lie side by side.
fn attention_slices<'a>(batch: &Batch<'a>, going: &[usize]) -> Vec<AttentionSlice<'a>> {
    let mut slices: Vec<AttentionSlice<'a>> = Vec::new();
    let (mut first, mut done) = (0, 0);
    for slice in &batch.slices {
        let end = first + slice.tokens.len();
        let mut next = None;
        while let Some(&row) = going.get(done).filter(|&&row| row < end) {
            match slices.last_mut() {
                Some(run) if next == Some(row) => run.rows += 1,
                _ => slices.push(AttentionSlice {
                    first_row: done,
                    rows: 1,
                    start: slice.start + row - first,
                    block_table: slice.block_table,
                }),
            }
            next = Some(row + 1);
            done += 1;
        }
        first = end;
    }
    slices
}

/// Rows sorted by expert: expert `e` has slots `starts[e]..starts[e + 1]`.
struct Groups {
    starts: Vec<usize>,
    /// Row of each slot.
    rows: Vec<u32>,
    /// `(rows, top_k)`: slot of each choice.
    slots: Vec<u32>,
    top_k: usize,
}

impl Groups {
    fn new(chosen: &[Vec<(u32, f32)>], experts: usize) -> Self {
        let top_k = chosen.first().map_or(0, Vec::len);
        let mut starts = vec![0; experts + 1];
        for (expert, _) in chosen.iter().flatten() {
            starts[*expert as usize + 1] += 1;
        }
        for expert in 0..experts {
            starts[expert + 1] += starts[expert];
        }
        let mut next = starts.clone();
        let mut rows = vec![0; chosen.len() * top_k];
        let mut slots = Vec::with_capacity(rows.len());
        for (row, experts) in chosen.iter().enumerate() {
            for (expert, _) in experts {
                let slot = &mut next[*expert as usize];
                rows[*slot] = row as u32;
                slots.push(*slot as u32);
                *slot += 1;
            }
        }
        Self { starts, rows, slots, top_k }
    }

    fn slots(&self, row: usize) -> &[u32] {
        &self.slots[row * self.top_k..(row + 1) * self.top_k]
    }

    /// Each expert that has rows, with its rows and its part of `out: (slots, width)`.
    fn split<'a>(
        &'a self,
        out: &'a mut [f32],
        width: usize,
    ) -> impl Iterator<Item = (usize, &'a [u32], &'a mut [f32])> {
        let mut rest = out;
        self.starts.windows(2).enumerate().filter(|(_, ends)| ends[0] < ends[1]).map(move |(expert, ends)| {
            let (part, tail) = std::mem::take(&mut rest).split_at_mut((ends[1] - ends[0]) * width);
            rest = tail;
            (expert, &self.rows[ends[0]..ends[1]], part)
        })
    }
}

/// Shows `x: (rows, cols)` to whoever looks.
fn show(observer: &mut Option<&mut dyn Observer>, layer: usize, input: Input, x: &[f32], cols: usize) {
    if let Some(observer) = observer {
        x.chunks(cols).for_each(|row| observer.row(layer, input, row));
    }
}

/// `x: (rows, cols)` as the arithmetic's products read it.
fn rounded<'a>(
    compute: &Compute,
    arithmetic: Arithmetic,
    x: &'a [f32],
    cols: usize,
    q8: &'a mut QuantisedRows,
) -> Activations<'a> {
    if arithmetic == Arithmetic::Exact {
        return Activations::exact(x, cols);
    }
    compute.quantise(x, cols, q8);
    Activations { f32: x, cols, quantised: Some(q8) }
}

fn job<'a>(x: Activations<'a>, weights: &'a Matrix, rows: usize, out: &'a mut [f32]) -> Job<'a> {
    Job { x, weights: weights.view(), rows: Rows::From(0, rows), out }
}

fn swiglu<'a>(x: Activations<'a>, mlp: &'a Mlp, rows: Rows<'a>, out: &'a mut [f32]) -> SwigluJob<'a> {
    SwigluJob { x, gate: mlp.gate.view(), up: mlp.up.view(), rows, out }
}
