//! Causal attention over a paged cache.
//!
//! A sequence's keys and values are cut into spans of [`SPAN`] positions, counted from the sequence's start. Each span
//! is folded into the row's running result (largest score, sum of weights, weighted values) in order. Spans depend on
//! positions alone, and within a span every sum of a row runs over positions or dimensions in their order, one lane each, so a
//! row's numbers are the same however the batch, the chunk or the threads were cut, and however many rows share the pass.
//!
//! An item of work is one head of some rows of one sequence. A span's keys and values pass from memory into the second cache
//! once for all rows of an item.

#[cfg(target_arch = "x86_64")]
mod bf16;
mod cache;
#[cfg(target_arch = "x86_64")]
mod integer;
mod plain;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
pub(crate) mod vector;

pub use self::cache::{BLOCK_TOKENS, CacheMemory, CacheShape, CacheType, LayerCache};
use self::cache::{LayerWriter, Part, store};
use crate::{compute::Compute, isa::Isa};

/// Positions in a span.
pub const SPAN: usize = 256;

/// Most rows of an item.
const ITEM_ROWS: usize = 64;

/// Most rows that any kernel holds scores of at once.
const TILE_ROWS: usize = 8;

/// One sequence's part of the attention of a step.
#[derive(Clone, Copy)]
pub struct AttentionSlice<'a> {
    /// First of its rows in the queries.
    pub first_row: usize,
    /// How many rows.
    pub rows: usize,
    /// Position of the first row: it attends to positions up to and including its own.
    pub start: usize,
    /// The sequence's blocks in order.
    pub block_table: &'a [u32],
}

/// Which code attends. Only what the machine runs can be had, from [`Kernel::best`] and [`Kernel::available`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kernel(Kind);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// In f32, whatever the cache holds.
    Plain(Isa),
    /// Over a bf16 cache, with AVX512-BF16.
    #[cfg(target_arch = "x86_64")]
    Bf16,
    /// Over a q8 or q4 cache, with AVX512-VNNI.
    #[cfg(target_arch = "x86_64")]
    Integer,
}

impl Kernel {
    /// The best one for a cache of this type, of those that `isa` allows.
    pub fn best(isa: Isa, cache: CacheType) -> Self {
        match (isa, cache) {
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512, CacheType::Bf16) if std::arch::is_x86_feature_detected!("avx512bf16") => Self(Kind::Bf16),
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512, CacheType::Q8 | CacheType::Q4) => Self(Kind::Integer),
            _ => Self(Kind::Plain(isa)),
        }
    }

    /// Every one that this machine runs for a cache of this type, best first.
    pub fn available(cache: CacheType) -> Vec<Self> {
        let plain = Isa::available().into_iter().map(|isa| Self(Kind::Plain(isa)));
        let mut found: Vec<Self> = [Self::best(Isa::best(), cache)].into_iter().chain(plain).collect();
        found.dedup();
        found
    }
}

/// One head of some rows of one sequence.
struct Item<'a> {
    /// `(rows, width)`.
    q: &'a [f32],
    width: usize,
    /// Where the head begins in a row.
    offset: usize,
    rows: usize,
    /// Position of the first row.
    start: usize,
    block_table: &'a [u32],
    cache: LayerCache<'a>,
    kv_head: usize,
}

impl<'a> Item<'a> {
    /// `(head_dim)`.
    #[inline(always)]
    fn query(&self, row: usize) -> &'a [f32] {
        &self.q[row * self.width + self.offset..][..self.cache.shape.head_dim]
    }

    /// Positions that its last row attends to.
    #[inline(always)]
    fn end(&self) -> usize {
        self.start + self.rows
    }

    /// Positions of the span that begins at `at` that `row` attends to.
    #[inline(always)]
    fn valid(&self, row: usize, at: usize) -> usize {
        (self.start + row + 1).saturating_sub(at).min(SPAN)
    }

    /// Blocks of the span that begins at `at`; none behind the last.
    #[inline(always)]
    fn blocks(&self, at: usize) -> &'a [u32] {
        let end = self.end().min(at + SPAN).div_ceil(BLOCK_TOKENS);
        self.block_table.get(at / BLOCK_TOKENS..end).unwrap_or(&[])
    }
}

/// What one worker needs to attend.
#[derive(Debug, Default)]
pub struct Scratch {
    /// An item's queries as its kernel multiplies them.
    queries: Vec<u32>,
    /// Sums over them, where codes are no signed numbers.
    query_sums: Vec<[i32; 2]>,
    /// What a query's codes stand for.
    query_scales: Vec<f32>,
    /// A span's keys and values in f32, for the plain kernel.
    keys: Vec<f32>,
    values: Vec<f32>,
    work: Work,
}

/// Scores and results of rows.
#[derive(Debug, Default)]
struct Work {
    /// `(TILE_ROWS, SPAN)`.
    scores: Vec<f32>,
    /// `(TILE_ROWS, SPAN)`: weights under the scales of values.
    scaled: Vec<f32>,
    /// The same, rounded: one or two numbers to a word.
    weights: Vec<u32>,
    /// `(ITEM_ROWS, padded_dim)`: weighted values so far.
    out: Vec<f32>,
    /// Largest score so far, by row.
    tops: Vec<f32>,
    /// Sum of weights so far, by row.
    sums: Vec<f32>,
}

impl Scratch {
    /// Scratch for heads of up to `head_dim` numbers; 0 for none.
    pub fn new(head_dim: usize) -> Self {
        if head_dim == 0 {
            return Self::default();
        }
        let dim = head_dim.next_multiple_of(cache::COLUMNS);
        Self {
            queries: vec![0; ITEM_ROWS * dim / 2],
            query_sums: vec![[0; 2]; ITEM_ROWS * dim / cache::COLUMNS],
            query_scales: vec![0.0; ITEM_ROWS],
            keys: vec![0.0; SPAN * dim],
            values: vec![0.0; SPAN * dim],
            work: Work {
                scores: vec![0.0; TILE_ROWS * SPAN],
                scaled: vec![0.0; TILE_ROWS * SPAN],
                weights: vec![0; TILE_ROWS * SPAN / 2],
                out: vec![0.0; ITEM_ROWS * dim],
                tops: vec![0.0; ITEM_ROWS],
                sums: vec![0.0; ITEM_ROWS],
            },
        }
    }

    /// Bytes that [`Scratch::new`] takes.
    pub fn bytes(head_dim: usize) -> usize {
        if head_dim == 0 {
            return 0;
        }
        let dim = head_dim.next_multiple_of(cache::COLUMNS);
        let item = dim / 2 + 2 * dim / cache::COLUMNS + 1 + dim + 2;
        4 * (ITEM_ROWS * item + 2 * SPAN * dim + TILE_ROWS * SPAN * 5 / 2)
    }
}

impl Compute {
    /// `out = softmax(q · kᵀ / √head_dim) · v` for every slice. `q` and `out` are `(rows, heads, head_dim)`; the heads
    /// share the cache's heads in equal groups. Keys and values of the rows themselves are in the cache already.
    pub fn attention(
        &self,
        q: &[f32],
        heads: usize,
        cache: LayerCache<'_>,
        slices: &[AttentionSlice<'_>],
        out: &mut [f32],
    ) {
        let kernel = Kernel::best(self.isa(), cache.shape.kind);
        attend_slices(self, kernel, q, heads, cache, slices, out);
    }

    /// Writes the keys and values of some rows into a layer of the cache. `bytes` are the layer's, `k` and `v` are
    /// `(rows, kv_heads, head_dim)`, `places` the block and slot of each row.
    pub fn store(&self, bytes: &mut [u8], shape: CacheShape, places: &[(u32, usize)], k: &[f32], v: &[f32]) {
        let CacheShape { kv_heads, head_dim, .. } = shape;
        assert!(k.len() == places.len() * kv_heads * head_dim && k.len() == v.len());
        let layer = LayerWriter::new(bytes, shape);
        self.run(kv_heads, |head, _| {
            for (row, &(block, slot)) in places.iter().enumerate() {
                for (part, rows) in [(Part::Keys, k), (Part::Values, v)] {
                    let row = &rows[(row * kv_heads + head) * head_dim..][..head_dim];
                    // SAFETY: this item alone has this head, and it holds one part at a time.
                    let bytes = unsafe { layer.part(block as usize, head, part) };
                    store(self.isa(), shape, part, slot, row, bytes);
                }
            }
        });
    }
}

fn attend_slices(
    compute: &Compute,
    kernel: Kernel,
    q: &[f32],
    heads: usize,
    cache: LayerCache<'_>,
    slices: &[AttentionSlice<'_>],
    out: &mut [f32],
) {
    let CacheShape { kv_heads, head_dim, .. } = cache.shape;
    let width = heads * head_dim;
    assert_eq!(q.len(), out.len());
    assert!(heads.is_multiple_of(kv_heads));
    let mut parts = Vec::new();
    let mut rest = out;
    let mut at = 0;
    for slice in slices {
        // Fewer blocks would leave positions out and give wrong numbers in silence.
        let positions = slice.start + slice.rows;
        assert!(
            slice.block_table.len().saturating_mul(BLOCK_TOKENS) >= positions,
            "the block table holds all positions"
        );
        let (_, tail) = rest.split_at_mut((slice.first_row - at) * width);
        let (rows, tail) = tail.split_at_mut(slice.rows * width);
        rest = tail;
        at = slice.first_row + slice.rows;
        parts.extend(rows.chunks_mut(ITEM_ROWS * width).enumerate().map(|(i, rows)| (slice, i * ITEM_ROWS, rows)));
    }
    let outs: Vec<_> = parts.iter_mut().map(|(slice, row, out)| (*slice, *row, SharedRows::new(out, width))).collect();
    // Heads of one block of rows are separate items, so that one sequence fills all threads.
    compute.run(outs.len() * heads, |item, scratch| {
        // Later rows have longer contexts: begin with them.
        let (slice, first, out) = &outs[outs.len() - 1 - item / heads];
        let head = item % heads;
        let item = Item {
            q: &q[(slice.first_row + first) * width..],
            width,
            offset: head * head_dim,
            rows: out.rows,
            start: slice.start + first,
            block_table: slice.block_table,
            cache,
            kv_head: head / (heads / kv_heads),
        };
        let scratch = &mut scratch.attention;
        attend(kernel, &item, scratch);
        let padded_dim = cache.shape.padded_dim();
        for row in 0..item.rows {
            let inverse = 1.0 / scratch.work.sums[row];
            // SAFETY: this item alone has this head of these rows.
            let out = unsafe { out.head(row, head, head_dim) };
            out.iter_mut().zip(&scratch.work.out[row * padded_dim..]).for_each(|(to, x)| *to = x * inverse);
        }
    });
}

/// Leaves weighted values and sums of weights of all rows of `item` in `scratch.work`.
fn attend(kernel: Kernel, item: &Item<'_>, scratch: &mut Scratch) {
    scratch.work.out[..item.rows * item.cache.shape.padded_dim()].fill(0.0);
    scratch.work.tops.fill(f32::NEG_INFINITY);
    scratch.work.sums.fill(0.0);
    match kernel.0 {
        Kind::Plain(isa) => plain::attend(isa, item, scratch),
        // SAFETY: `Kernel::best` asked the processor.
        #[cfg(target_arch = "x86_64")]
        Kind::Bf16 => unsafe { bf16::attend(item, scratch) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Kind::Integer => unsafe { integer::attend(item, scratch) },
    }
}

/// Some rows of the output, written by head from several threads.
struct SharedRows {
    start: *mut f32,
    rows: usize,
    width: usize,
}

// SAFETY: threads write to heads that no other thread writes (see `attend_slices`).
unsafe impl Sync for SharedRows {}
// SAFETY: as above.
unsafe impl Send for SharedRows {}

impl SharedRows {
    fn new(rows: &mut [f32], width: usize) -> Self {
        Self { start: rows.as_mut_ptr(), rows: rows.len() / width, width }
    }

    /// # Safety
    /// No other thread may hold this head of this row.
    #[allow(clippy::mut_from_ref, reason = "the exclusive access is the caller's promise")]
    unsafe fn head(&self, row: usize, head: usize, head_dim: usize) -> &mut [f32] {
        let end = head.checked_add(1).and_then(|heads| heads.checked_mul(head_dim));
        assert!(row < self.rows && end.is_some_and(|end| end <= self.width));
        // SAFETY: inside the slice that `new` took, whose borrow outlives the loop.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(row * self.width + head * head_dim), head_dim) }
    }
}
