//! Causal attention over packed sequences, forward and backward.
//!
//! As in FlashAttention-2 (Dao, 2023) scores never exist but for a few rows and a block of keys: the forward pass folds block
//! after block into a row's running result, the backward pass makes them again. An item of work of the forward pass is some
//! positions of one sequence for all heads that share keys; one of the backward pass is all positions of these, since
//! whoever has them all makes scores once for all three gradients. Blocks are cut at fixed positions and taken in order, so
//! nothing depends on the number of threads. Blocks, and sixteens of keys in a block, that none of the rows in hand sees are
//! passed over.

mod backward;
mod forward;
pub mod plain;
mod scratch;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use self::scratch::Scratch;
use crate::{
    compute::Compute,
    train::{
        BLOCK_ROWS, Data, Precision, View,
        cut::{Cut, for_each},
        gemm::{
            kernel::{Kernel, Out},
            round,
        },
    },
};

/// Positions of a block of keys, and of one of queries.
const BLOCK: usize = 128;

/// Positions of an item of the forward pass, which packs the keys that they see once for all of them.
const ITEM: usize = 2 * BLOCK;

/// Rows of scores that are made at once.
const ROWS: usize = 8;

/// Sequences of one length, all heads of all positions.
#[derive(Debug, Clone, Copy)]
pub struct Shape<'a> {
    /// Positions of a sequence.
    pub sequence_tokens: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of a head: at most [`MAX_HEAD_DIM`].
    pub head_dim: usize,
    /// `(sequences, sequence_tokens)`: the first position of its sequence that each position sees; it sees all from there to
    /// itself. Never falls along a sequence. With 0 throughout a sequence is one document.
    pub attend_from: &'a [u32],
}

/// Widest head.
pub const MAX_HEAD_DIM: usize = 128;

impl Shape<'_> {
    /// Positions of all sequences.
    pub fn tokens(&self) -> usize {
        self.attend_from.len()
    }

    /// Sequences.
    pub fn sequences(&self) -> usize {
        self.tokens() / self.sequence_tokens.max(1)
    }

    fn check(&self) {
        assert!((1..=MAX_HEAD_DIM).contains(&self.head_dim), "heads of {} numbers", self.head_dim);
        assert!(self.kv_heads > 0 && self.heads.is_multiple_of(self.kv_heads), "heads share keys in equal groups");
        assert!(self.sequence_tokens > 0 && self.tokens().is_multiple_of(self.sequence_tokens), "sequences are whole");
        for sequence in self.attend_from.chunks(self.sequence_tokens) {
            let rising = sequence.is_sorted();
            assert!(
                rising && sequence.iter().zip(0..).all(|(&from, at)| from <= at),
                "`attend_from` falls, or lies ahead"
            );
        }
    }
}

/// `out = softmax(q·kᵀ / √head_dim) · v`.
///
/// `q, out: (tokens, heads, head_dim)`; `k, v: (tokens, kv_heads, head_dim)`; `lse: (tokens, heads)`, the logarithm of each
/// row's sum of exponentials, which the backward pass takes.
pub fn forward(
    compute: &Compute,
    precision: Precision,
    shape: &Shape<'_>,
    operands: [Data<'_>; 3],
    out: &mut [f32],
    lse: &mut [f32],
) {
    let kernel = Kernel::best(compute.isa(), precision);
    forward_with(compute, kernel, shape, operands, out, lse);
}

fn forward_with(
    compute: &Compute,
    kernel: Kernel,
    shape: &Shape<'_>,
    [q, k, v]: [Data<'_>; 3],
    out: &mut [f32],
    lse: &mut [f32],
) {
    shape.check();
    let (rows, keys) = (shape.tokens() * shape.heads, shape.tokens() * shape.kv_heads);
    assert!(q.len() == rows * shape.head_dim && out.len() == q.len() && lse.len() == rows);
    assert!(k.len() == keys * shape.head_dim && v.len() == k.len());
    let (out, lse) = (shared(out, shape.heads * shape.head_dim), shared(lse, shape.heads));
    let blocks = shape.sequence_tokens.div_ceil(ITEM);
    compute.run(shape.sequences() * shape.kv_heads * blocks, |item, scratch| {
        let (item, block) = (item / blocks, item % blocks);
        let head = Heads { shape, sequence: item / shape.kv_heads, kv_head: item % shape.kv_heads };
        // SAFETY: lengths are checked above, and these rows of these heads are of no other item.
        unsafe { forward::block(kernel, &head, block, [q, k, v], out, lse, &mut scratch.training) };
    });
}

/// `means: (tokens, heads)`, which [`backward`] takes: `Σ d_out · out` of each row. In the same pass over memory `d_out` is rounded to bf16,
/// unless `rounded` is empty.
pub fn means(compute: &Compute, head_dim: usize, out: &[f32], d_out: &[f32], means: &mut [f32], rounded: &mut [u16]) {
    assert!(out.len() == means.len() * head_dim && d_out.len() == out.len());
    // Rows of heads here, of which `means` has one number each.
    let block = BLOCK_ROWS * head_dim;
    let parts = (Cut::new(means, BLOCK_ROWS), Cut::of(rounded, block, d_out.len()));
    for_each(compute, parts, |index, (means, rounded)| {
        let at = index * block..index * block + means.len() * head_dim;
        let rows = out[at.clone()].chunks_exact(head_dim).zip(d_out[at.clone()].chunks_exact(head_dim));
        for ((out, d_out), mean) in rows.zip(means) {
            *mean = backward::mean(compute.isa(), out, d_out);
        }
        round(compute.isa(), &d_out[at], rounded);
    });
}

/// The gradients of [`forward`]: of `q`, `k` and `v`, written over, in their shapes. `operands` are `q`, `k`, `v` and the gradient of `out`;
/// `lse` is what [`forward`] left, and `means` what [`means`] did.
pub fn backward(
    compute: &Compute,
    precision: Precision,
    shape: &Shape<'_>,
    operands: [Data<'_>; 4],
    lse: &[f32],
    means: &[f32],
    gradients: [&mut [f32]; 3],
) {
    let kernel = Kernel::best(compute.isa(), precision);
    backward_with(compute, kernel, shape, operands, [lse, means], gradients);
}

fn backward_with(
    compute: &Compute,
    kernel: Kernel,
    shape: &Shape<'_>,
    [q, k, v, d_out]: [Data<'_>; 4],
    [lse, means]: [&[f32]; 2],
    [dq, dk, dv]: [&mut [f32]; 3],
) {
    shape.check();
    let (rows, keys) = (shape.tokens() * shape.heads, shape.tokens() * shape.kv_heads);
    assert!([q.len(), d_out.len(), dq.len()].iter().all(|len| *len == rows * shape.head_dim));
    assert!([k.len(), v.len(), dk.len(), dv.len()].iter().all(|len| *len == keys * shape.head_dim));
    assert!(lse.len() == rows && means.len() == rows);
    let dq = shared(dq, shape.heads * shape.head_dim);
    let [dk, dv] = [dk, dv].map(|d| shared(d, shape.kv_heads * shape.head_dim));
    compute.run(shape.sequences() * shape.kv_heads, |item, scratch| {
        let head = Heads { shape, sequence: item / shape.kv_heads, kv_head: item % shape.kv_heads };
        // SAFETY: lengths are checked above, and these heads of this sequence are of no other item.
        unsafe { backward::heads(kernel, &head, [q, k, v, d_out], [lse, means], [dq, dk, dv], &mut scratch.training) };
    });
}

fn shared(out: &mut [f32], stride: usize) -> Out {
    Out { start: out.as_mut_ptr(), stride }
}

/// The heads of one sequence that share keys and values.
struct Heads<'a> {
    shape: &'a Shape<'a>,
    sequence: usize,
    kv_head: usize,
}

impl<'a> Heads<'a> {
    /// The first of its tokens.
    fn start(&self) -> usize {
        self.sequence * self.shape.sequence_tokens
    }

    /// Its query heads.
    fn heads(&self) -> std::ops::Range<usize> {
        let group = self.shape.heads / self.shape.kv_heads;
        self.kv_head * group..(self.kv_head + 1) * group
    }

    /// `(sequence_tokens)`: the first position that each position sees.
    fn attend_from(&self) -> &'a [u32] {
        &self.shape.attend_from[self.start()..][..self.shape.sequence_tokens]
    }

    /// `(sequence_tokens, head_dim)` of head `head` of `heads`.
    fn view<'x>(&self, x: Data<'x>, heads: usize, head: usize) -> View<'x> {
        let Shape { head_dim, sequence_tokens, .. } = *self.shape;
        let x = x.slice((self.start() * heads + head) * head_dim..x.len());
        View::of(x, sequence_tokens, head_dim).stride(heads * head_dim)
    }

    /// The same of what is written.
    fn out(&self, out: Out, head: usize) -> Out {
        Out { start: out.start.wrapping_add(self.start() * out.stride + head * self.shape.head_dim), ..out }
    }
}

/// What the rows in hand, of positions `first..end`, see of the keys `keys`: sixteens of them, counted from the block's start.
/// Empty where they see none.
fn seen(attend_from: &[u32], first: usize, end: usize, keys: &std::ops::Range<usize>) -> std::ops::Range<usize> {
    let from = (attend_from[first] as usize).max(keys.start) - keys.start;
    let to = end.min(keys.end).saturating_sub(keys.start);
    if from >= to { 0..0 } else { from / 16 * 16..to.next_multiple_of(16) }
}
