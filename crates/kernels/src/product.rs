//! Matrix products, many at once: `out = x · Wᵀ` for a list of jobs whose work all threads share.
//!
//! A job is one weight matrix with the rows of activations that want it, so a mixture's experts are as many jobs, and the
//! three projections of attention are three. Work is cut by rows of weights only: a sum along `k` is never split, and its
//! order does not depend on how many rows of activations came along.

use std::ops::Range;

use crate::{
    WeightType, Weights,
    activations::{Activations, BLOCK, QuantisedGroup, QuantisedRows, quantise_row, round_row_to_bf16},
    compute::{Compute, Scratch},
    decode::decode_row_unscaled,
    dot::{dot_bf16, dot_f32},
    float::{f32_to_bf16, silu},
    isa::{Isa, array, for_each_isa},
    prefetch::{Again, Ask, Once, prefetch_first, prefetch_to_write},
    tile::{self, Tile, Unpacked},
};

/// Panels whose sums are taken side by side, so that activations are read once for all of them; what a thread takes at a time.
const PANELS: usize = 4;

/// Rows of weights that a thread takes at a time.
const ITEM_ROWS: usize = PANELS * tile::ROWS;

/// Most rows of activations whose sums are held at once; where there are more, weights are unpacked again.
const CHUNK: usize = 256;

/// Up to so many rows of activations, weights are multiplied where they lie, where there is a kernel for that.
const FEW: usize = 2;

/// Rows of activations that are multiplied with two panels at once, where that is the faster way.
const PAIR_WIDTH: usize = tile::WIDTH / 2;

/// What a thread multiplies quantised weights with.
#[derive(Debug)]
pub struct Panels {
    tiles: Box<[Tile; PANELS]>,
    unpacked: Box<Unpacked>,
    /// `(PANELS, CHUNK, ROWS)`.
    sums: Vec<[f32; tile::ROWS]>,
}

impl Default for Panels {
    fn default() -> Self {
        Self { tiles: Box::default(), unpacked: Box::default(), sums: vec![[0.0; tile::ROWS]; PANELS * CHUNK] }
    }
}

impl Panels {
    /// What one takes.
    pub const BYTES: usize =
        PANELS * size_of::<Tile>() + size_of::<Unpacked>() + PANELS * CHUNK * size_of::<[f32; tile::ROWS]>();
}

/// Which rows of the activations a job is for.
#[derive(Clone, Copy, Debug)]
pub enum Rows<'a> {
    /// Consecutive rows from the first on.
    From(usize, usize),
    /// These rows, in this order.
    List(&'a [u32]),
}

impl Rows<'_> {
    fn len(&self) -> usize {
        match self {
            Self::From(_, count) => *count,
            Self::List(rows) => rows.len(),
        }
    }

    fn get(&self, index: usize) -> usize {
        match self {
            Self::From(first, _) => first + index,
            Self::List(rows) => rows[index] as usize,
        }
    }
}

/// One product: `out: (rows, weights.rows)`.
pub struct Job<'a> {
    /// `(any, k)`.
    pub x: Activations<'a>,
    /// `(out, k)`.
    pub weights: Weights<'a>,
    /// Rows of the activations, in the order of `out`.
    pub rows: Rows<'a>,
    /// Where the results go.
    pub out: &'a mut [f32],
}

/// One gated product: `out: (rows, gate.rows) = silu(x · gateᵀ) · (x · upᵀ)`.
pub struct SwigluJob<'a> {
    /// `(any, k)`.
    pub x: Activations<'a>,
    /// `(out, k)`.
    pub gate: Weights<'a>,
    /// `(out, k)`.
    pub up: Weights<'a>,
    /// Rows of the activations, in the order of `out`.
    pub rows: Rows<'a>,
    /// Where the results go.
    pub out: &'a mut [f32],
}

/// A job's output, written by several threads at once.
#[derive(Clone, Copy)]
struct Out {
    start: *mut f32,
    rows: usize,
    cols: usize,
}

// SAFETY: threads write through it to columns that no other thread writes (see `Target::new`).
unsafe impl Send for Out {}
// SAFETY: as above.
unsafe impl Sync for Out {}

impl Out {
    fn new(out: &mut [f32], rows: usize, cols: usize) -> Self {
        assert_eq!(Some(out.len()), rows.checked_mul(cols), "a job's output holds its rows");
        Self { start: out.as_mut_ptr(), rows, cols }
    }
}

/// What becomes of a product.
#[derive(Clone, Copy)]
enum Store {
    /// It is the output.
    Set,
    /// The output, a gate until then, becomes `silu(output) · product`.
    Gate,
}

/// Some columns of a job's output, and what is done with the products for them.
struct Target {
    out: Out,
    cols: Range<usize>,
    store: Store,
    isa: Isa,
}

impl Target {
    /// # Safety
    /// While this lives, the memory that `out` was made of must live, and nobody else may touch these columns of it.
    unsafe fn new(out: Out, cols: Range<usize>, store: Store, isa: Isa) -> Self {
        assert!(cols.start <= cols.end && cols.end <= out.cols);
        Self { out, cols, store, isa }
    }

    /// Where column `col` of row `row` lies.
    fn at(&self, row: usize, col: usize) -> *mut f32 {
        self.out.start.wrapping_add(row * self.out.cols + col)
    }

    /// Asks for the line that [`Target::emit`] will write to soon.
    fn soon(&self, row: usize, col: usize) {
        prefetch_to_write(self.at(row, col).cast());
    }

    /// Takes products of row `row` of the activations with rows `col..` of the weights.
    fn emit(&mut self, row: usize, col: usize, values: &[f32]) {
        let Range { start, end } = self.cols;
        assert!(row < self.out.rows && start <= col && col <= end && values.len() <= end - col);
        // SAFETY: inside the output, in columns that are nobody else's, as the caller of `new` promised.
        let out = unsafe { std::slice::from_raw_parts_mut(self.at(row, col), values.len()) };
        match (self.store, out.as_mut_array::<{ tile::ROWS }>(), values.as_array()) {
            // Nearly always as many as a panel has rows, which need no call.
            (Store::Set, Some(out), Some(values)) => *out = *values,
            (Store::Set, ..) => out.copy_from_slice(values),
            (Store::Gate, ..) => gate_values(self.isa, out, values),
        }
    }

    /// Takes the products of panels, `panel` and those behind it, with rows of the activations, `row` and those behind it.
    fn emit_panels<const P: usize, const M: usize>(
        &mut self,
        row: usize,
        panel: usize,
        products: impl FnOnce() -> [[[f32; tile::ROWS]; M]; P],
    ) {
        let Range { start, end } = self.cols;
        let col = |p: usize| start + (panel + p) * tile::ROWS;
        // Lines that nobody has written for long: storing would wait for memory.
        (0..P).for_each(|p| (0..M).for_each(|m| self.soon(row + m, col(p))));
        for (p, products) in products().iter().enumerate() {
            let count = tile::ROWS.min(end - col(p));
            for (m, products) in products.iter().enumerate() {
                self.emit(row + m, col(p), &products[..count]);
            }
        }
    }
}

impl Compute {
    /// Runs every job.
    pub fn products(&self, jobs: &mut [Job<'_>]) {
        let outs: Vec<Out> = jobs.iter_mut().map(|job| Out::new(job.out, job.rows.len(), job.weights.rows())).collect();
        self.run_items(jobs.iter().map(|job| job.weights.rows()), |index, cols, scratch| {
            let job = &jobs[index];
            // SAFETY: the jobs, and with them their outputs, are borrowed meanwhile; each column goes to one item.
            let mut target = unsafe { Target::new(outs[index], cols, Store::Set, self.isa()) };
            multiply(scratch, job.weights, job.x, job.rows, &mut target);
        });
    }

    /// Runs every gated job.
    pub fn swiglu_products(&self, jobs: &mut [SwigluJob<'_>]) {
        let outs: Vec<Out> = jobs.iter_mut().map(|job| Out::new(job.out, job.rows.len(), job.gate.rows())).collect();
        assert!(jobs.iter().all(|job| job.gate.rows() == job.up.rows()));
        self.run_items(jobs.iter().map(|job| job.gate.rows()), |index, cols, scratch| {
            let job = &jobs[index];
            // SAFETY: as above.
            let mut target = unsafe { Target::new(outs[index], cols, Store::Set, self.isa()) };
            multiply(scratch, job.gate, job.x, job.rows, &mut target);
            target.store = Store::Gate;
            multiply(scratch, job.up, job.x, job.rows, &mut target);
        });
    }

    /// Rounds every row of `x: (rows, cols)` into `out`.
    pub fn quantise(&self, x: &[f32], cols: usize, out: &mut QuantisedRows) {
        let isa = self.isa();
        let mut parts: Vec<_> = x.chunks(cols).zip(out.shape(isa, x.len() / cols, cols)).collect();
        self.for_each(&mut parts, |_, (x, (groups, bf16))| {
            if !groups.is_empty() {
                quantise_row(isa, x, groups);
            }
            if !bf16.is_empty() {
                round_row_to_bf16(isa, x, bf16);
            }
        });
    }

    /// Cuts matrices of `heights` rows into items and shares them: `work(matrix, rows, scratch)`. Each pair of matrix and
    /// row goes to exactly one call.
    fn run_items(&self, heights: impl Iterator<Item = usize>, work: impl Fn(usize, Range<usize>, &mut Scratch) + Sync) {
        let heights: Vec<usize> = heights.collect();
        let mut ends = Vec::with_capacity(heights.len());
        let mut items = 0;
        for height in &heights {
            items += height.div_ceil(ITEM_ROWS);
            ends.push(items);
        }
        self.run(items, |item, scratch| {
            let matrix = ends.partition_point(|&end| end <= item);
            let before = if matrix == 0 { 0 } else { ends[matrix - 1] };
            let first = (item - before) * ITEM_ROWS;
            work(matrix, first..(first + ITEM_ROWS).min(heights[matrix]), scratch);
        });
    }
}

for_each_isa! {
    /// `gate = silu(gate) · up`.
    fn gate_values(gate: &mut [f32], up: &[f32]) = gate_values_body
}

#[inline(always)]
fn gate_values_body(gate: &mut [f32], up: &[f32]) {
    for (gate, up) in gate.iter_mut().zip(up) {
        *gate = silu(*gate) * up;
    }
}

/// Products of those rows of `weights` that are columns of `target` with the listed rows of `x`.
fn multiply(scratch: &mut Scratch, weights: Weights<'_>, x: Activations<'_>, rows: Rows<'_>, target: &mut Target) {
    let range = target.cols.clone();
    assert_eq!(weights.cols(), x.cols, "weights and activations share k");
    if let Some(x) = x.quantised.filter(|_| weights.kind().is_quantised()) {
        if weights.kind().is_packed() && tile::has_direct(target.isa) {
            return multiply_packed(weights, x, rows, target);
        }
        let done = match rows.len() {
            1 => multiply_few::<1>(weights, range.clone(), x, rows, target),
            2 => multiply_few::<2>(weights, range.clone(), x, rows, target),
            _ => 0,
        };
        let range = range.start + done..range.end;
        // With few rows of activations there is nothing to share between panels, and one after the other they are read in the
        // order of the file.
        let step = if rows.len() <= FEW { tile::ROWS } else { ITEM_ROWS };
        for first in range.clone().step_by(step) {
            let part = first..(first + step).min(range.end);
            for chunk in (0..rows.len()).step_by(CHUNK) {
                let chunk = chunk..(chunk + CHUNK).min(rows.len());
                multiply_tiles(&mut scratch.panels, weights, part.clone(), x, rows, chunk, target);
            }
        }
        return;
    }
    if let (WeightType::BF16 | WeightType::F8_E4M3, Some(x)) = (weights.kind(), x.quantised)
        && x.bf16_row(0).is_some()
    {
        // What has to be decoded first fills the cache twice.
        let step = if weights.kind() == WeightType::BF16 { ITEM_ROWS } else { tile::ROWS };
        for first in range.clone().step_by(step) {
            let part = first..(first + step).min(range.end);
            multiply_bf16(scratch, weights, part, x, rows, target);
        }
        return;
    }
    // A few rows of activations in f32: decoded weights stay in the first cache.
    let step = if rows.len() <= 4 { 4 } else { tile::ROWS };
    for first in range.clone().step_by(step) {
        multiply_f32(scratch, weights, first, step.min(range.end - first), x, rows, target);
    }
}

/// Products of packed weights where they lie.
fn multiply_packed(weights: Weights<'_>, x: &QuantisedRows, rows: Rows<'_>, target: &mut Target) {
    let (isa, range) = (target.isa, target.cols.clone());
    // Looked up once: what is written piece by piece and at once copied in larger ones has to wait for the writing.
    let count = range.len().div_ceil(tile::ROWS);
    let panels: [_; PANELS] = array(|p| weights.panel(range.start / tile::ROWS + p.min(count - 1)));
    let panels = &panels[..count];
    // Eight rows or fewer wait for memory, which is read faster in one stream.
    let pairs = tile::prefers_pairs(isa) && rows.len() > tile::WIDTH;
    // While pairs of panels meet the first rows of activations, the pair that comes next is asked for. From then on all of these lie
    // in the second cache, and the panels of the next item are asked for, a part in each pass.
    let blocks = weights.cols().div_ceil(BLOCK);
    let later_passes = rows.len().saturating_sub(1) / PAIR_WIDTH;
    let ahead = weights.ahead(range.clone());
    let mut later = Ask::new(ahead.as_ptr(), ahead.len(), later_passes * count.div_ceil(2) * blocks);
    let (mut again, mut once) = (Again::new(), Once);
    let mut at = 0;
    while at < rows.len() {
        macro_rules! width {
            ($m:expr, $ahead:expr) => {{
                let x: [_; $m] = array(|i| x.row(rows.get(at + i)));
                for (p, panel) in panels.as_chunks::<1>().0.iter().enumerate() {
                    target.emit_panels(at, p, || tile::multiply_panels(isa, panel, &x, &mut $ahead));
                }
                at += $m;
            }};
        }
        macro_rules! width_in_pairs {
            ($m:expr) => {{
                let x: [_; $m] = array(|i| x.row(rows.get(at + i)));
                let (pairs, rest) = panels.as_chunks::<2>();
                for (pair, panels) in pairs.iter().enumerate() {
                    let codes = panels[0].codes();
                    let next = codes.as_ptr().wrapping_add(2 * weights.panel_bytes());
                    let mut first = Ask::new(next, 2 * codes.len(), blocks);
                    let ahead = if at == 0 { &mut first } else { &mut later };
                    target.emit_panels(at, 2 * pair, || tile::multiply_panels(isa, panels, &x, ahead));
                }
                for panel in rest.as_chunks::<1>().0 {
                    let products = || tile::multiply_panels(isa, panel, &x, &mut again);
                    target.emit_panels(at, 2 * pairs.len(), products);
                }
                at += $m;
            }};
        }
        let left = rows.len() - at;
        if pairs {
            match pair_width(left) {
                4 => width_in_pairs!(4),
                3 => width_in_pairs!(3),
                2 => width!(2, again),
                _ => width!(1, again),
            }
            continue;
        }
        match left {
            // Many rows seldom wait.
            tile::WIDTH.. if rows.len() > tile::WIDTH => width!(tile::WIDTH, once),
            tile::WIDTH.. => width!(tile::WIDTH, again),
            7 => width!(7, again),
            6 => width!(6, again),
            5 => width!(5, again),
            4 => width!(4, again),
            3 => width!(3, again),
            2 => width!(2, again),
            _ => width!(1, again),
        }
    }
}

/// How many of `left` rows of activations meet a pair of panels next: four, or three where that leaves no one or two to come last, for which
/// panels would be unpacked nearly in vain.
fn pair_width(left: usize) -> usize {
    match left {
        ..=3 => left,
        5 | 6 | 9 => 3,
        _ => PAIR_WIDTH,
    }
}

/// Products of whole panels of weights where they lie with `M` rows of activations. The rows of weights that are done.
fn multiply_few<const M: usize>(
    weights: Weights<'_>,
    range: Range<usize>,
    x: &QuantisedRows,
    rows: Rows<'_>,
    target: &mut Target,
) -> usize {
    let x: [_; M] = std::array::from_fn(|i| x.row(rows.get(i)));
    for first in range.clone().step_by(tile::ROWS) {
        let Some(sums) = tile::multiply_rows(target.isa, weights, first, x) else { return first - range.start };
        for (i, sums) in sums.iter().enumerate() {
            target.emit(i, first, sums);
        }
    }
    range.len()
}

/// Products of up to [`ITEM_ROWS`] rows of weights with rows `chunk` (at most [`CHUNK`]) of `rows`, by way of tiles.
#[allow(clippy::too_many_arguments, reason = "the inner half of `multiply`")]
fn multiply_tiles(
    scratch: &mut Panels,
    weights: Weights<'_>,
    range: Range<usize>,
    x: &QuantisedRows,
    rows: Rows<'_>,
    chunk: Range<usize>,
    target: &mut Target,
) {
    let Panels { tiles, unpacked, sums } = scratch;
    let panels = range.len().div_ceil(tile::ROWS);
    let isa = target.isa;
    let pairs = tile::prefers_pairs(isa);
    for sums in sums.chunks_mut(CHUNK).take(panels) {
        sums[..chunk.len()].fill([0.0; tile::ROWS]);
    }
    // The rows that come next in the file, a part with each tile that is filled and each pass over the tiles.
    let ahead = weights.ahead(range.clone());
    let passes = chunk.len().div_ceil(if pairs { PAIR_WIDTH } else { tile::WIDTH });
    let mut ask = Ask::new(ahead.as_ptr(), ahead.len(), weights.cols().div_ceil(tile::COLS) * (panels + passes));
    for start in (0..weights.cols()).step_by(tile::COLS) {
        let cols = start..(start + tile::COLS).min(weights.cols());
        let row = |index: usize| &x.row(rows.get(chunk.start + index))[start / 32..];
        for (tile, first) in tiles.iter_mut().zip(range.clone().step_by(tile::ROWS)) {
            ask.ask();
            tile.fill(isa, weights, first, cols.clone(), unpacked);
        }
        let mut at = 0;
        while at < chunk.len() {
            macro_rules! width {
                ($m:expr, $pairs:expr) => {{
                    let x = array(|i| row(at + i));
                    // Too few lines of each row for the processor to see them coming.
                    for next in at + $m..(at + 2 * $m).min(chunk.len()) {
                        prefetch_first(row(next).as_ptr().cast(), 2 * cols.len());
                    }
                    ask.ask();
                    add_tiles::<{ $m }, $pairs>(isa, &tiles[..panels], x, at, sums);
                    at += $m;
                }};
            }
            let left = chunk.len() - at;
            match left {
                _ if pairs => match pair_width(left) {
                    4 => width!(4, true),
                    3 => width!(3, true),
                    2 => width!(2, true),
                    _ => width!(1, true),
                },
                tile::WIDTH.. => width!(tile::WIDTH, false),
                4.. => width!(4, false),
                2.. => width!(2, false),
                _ => width!(1, false),
            }
        }
    }
    for (sums, first) in sums.chunks_mut(CHUNK).zip(range.clone().step_by(tile::ROWS)) {
        let count = tile::ROWS.min(range.end - first);
        let row_scales = weights.kind().is_packed().then(|| weights.panel(first / tile::ROWS).row_scales());
        for (index, sums) in chunk.clone().zip(sums) {
            if let Some(row_scales) = row_scales {
                sums.iter_mut().zip(row_scales).for_each(|(sum, scale)| *sum *= scale);
            }
            target.emit(index, first, &sums[..count]);
        }
    }
}

/// Adds the products of `tiles`, two at a time where `PAIRS`, with rows `at..at + M` of activations to `sums: (tiles, CHUNK, ROWS)`.
fn add_tiles<const M: usize, const PAIRS: bool>(
    isa: Isa,
    tiles: &[Tile],
    x: [&[QuantisedGroup]; M],
    at: usize,
    sums: &mut [[f32; tile::ROWS]],
) {
    let (pairs, rest) = if PAIRS { tiles.as_chunks::<2>() } else { (&[][..], tiles) };
    let mut sums = sums.chunks_mut(CHUNK);
    let mut next = || sums.next().and_then(|sums| sums[at..].first_chunk_mut()).expect("as many as tiles");
    for [first, second] in pairs {
        tile::multiply_add(isa, [first, second], x, [next(), next()]);
    }
    for tile in rest {
        tile::multiply_add(isa, [tile], x, [next()]);
    }
}

/// Products of up to [`ITEM_ROWS`] rows of weights in bf16, or in what bf16 holds without loss.
fn multiply_bf16(
    scratch: &mut Scratch,
    weights: Weights<'_>,
    range: Range<usize>,
    x: &QuantisedRows,
    rows: Rows<'_>,
    target: &mut Target,
) {
    let (isa, cols) = (target.isa, weights.cols());
    let Scratch { f32, bf16, unpacked, .. } = scratch;
    let mut lines: [&[u8]; ITEM_ROWS] = [&[]; ITEM_ROWS];
    let lines = &mut lines[..range.len()];
    if weights.kind() == WeightType::BF16 {
        lines.iter_mut().zip(range.clone()).for_each(|(line, row)| *line = weights.row(row));
    } else {
        f32.resize(cols, 0.0);
        bf16.clear();
        for row in range.clone() {
            decode_row_unscaled(isa, weights, row, unpacked, f32);
            bf16.extend(f32.iter().flat_map(|&x| f32_to_bf16(x).to_le_bytes()));
        }
        lines.iter_mut().zip(bf16.chunks(2 * cols)).for_each(|(line, bytes)| *line = bytes);
    }
    let x = |index: usize| x.bf16_row(rows.get(index)).expect("every row is rounded as the first");
    let mut at = 0;
    while at < rows.len() {
        macro_rules! width {
            ($m:expr) => {{
                let x: [_; $m] = std::array::from_fn(|i| x(at + i));
                let mut values = [[0.0; ITEM_ROWS]; $m];
                let (quads, rest) = lines.as_chunks::<4>();
                let quads = quads.iter().enumerate().flat_map(|(quad, lines)| {
                    dot_bf16(isa, *lines, x).into_iter().enumerate().map(move |(r, sums)| (4 * quad + r, sums))
                });
                let first = lines.len() - rest.len();
                let rest = rest.iter().enumerate().map(|(r, line)| (first + r, dot_bf16(isa, [*line], x)[0]));
                for (r, sums) in quads.chain(rest) {
                    let scale = weights.row_scale(range.start + r);
                    values.iter_mut().zip(sums).for_each(|(values, sum)| values[r] = sum * scale);
                }
                for (i, values) in values.iter().enumerate() {
                    target.emit(at + i, range.start, &values[..range.len()]);
                }
                at += $m;
            }};
        }
        match rows.len() - at {
            6.. => width!(6),
            3.. => width!(3),
            2 => width!(2),
            _ => width!(1),
        }
    }
}

#[allow(clippy::too_many_arguments, reason = "the inner half of `multiply`")]
fn multiply_f32(
    scratch: &mut Scratch,
    weights: Weights<'_>,
    first: usize,
    count: usize,
    x: Activations<'_>,
    rows: Rows<'_>,
    target: &mut Target,
) {
    let (isa, cols) = (target.isa, weights.cols());
    scratch.f32.resize(count * cols, 0.0);
    for (row, out) in scratch.f32.chunks_mut(cols).enumerate() {
        decode_row_unscaled(isa, weights, first + row, &mut scratch.unpacked, out);
    }
    let decoded = scratch.f32.as_slice();
    tiles::<3, &[f32]>(
        count,
        rows.len(),
        |index| x.row(rows.get(index)),
        |r, x| dot_f32::<4, 3>(isa, decoded, r, cols, x),
        |r, x| dot_f32::<4, 1>(isa, decoded, r, cols, [x]).map(|[v]| v),
        |r, x| dot_f32::<1, 1>(isa, decoded, r, cols, [x])[0][0],
        |index, r, value| target.emit(index, first + r, &[value * weights.row_scale(first + r)]),
    );
}

/// Covers `height` rows of weights by `width` rows of activations with tiles of 4 by `M`, then 4 by 1, then single ones.
fn tiles<const M: usize, X: Copy>(
    height: usize,
    width: usize,
    x: impl Fn(usize) -> X,
    block: impl Fn(usize, [X; M]) -> [[f32; M]; 4],
    column: impl Fn(usize, X) -> [f32; 4],
    single: impl Fn(usize, X) -> f32,
    mut emit: impl FnMut(usize, usize, f32),
) {
    let mut index = 0;
    while index < width {
        let wide = index + M <= width;
        let count = if wide { M } else { 1 };
        let mut r = 0;
        while r < height {
            if r + 4 > height {
                for i in index..index + count {
                    emit(i, r, single(r, x(i)));
                }
                r += 1;
            } else if wide {
                let values = block(r, std::array::from_fn(|i| x(index + i)));
                for (dr, row) in values.iter().enumerate() {
                    for (i, value) in row.iter().enumerate() {
                        emit(index + i, r + dr, *value);
                    }
                }
                r += 4;
            } else {
                for (dr, value) in column(r, x(index)).into_iter().enumerate() {
                    emit(index, r + dr, value);
                }
                r += 4;
            }
        }
        index += count;
    }
}
