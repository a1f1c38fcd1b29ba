//! Operands, packed as kernels read them, and the loop over a block.

use std::ops::Range;

use super::{
    DEPTH_STEPS, Data, View,
    kernel::{A, Kernel, Out, Rows, Tile, Words},
    plan::Block,
};
use crate::{
    float::{bf16_to_f32, f32_to_bf16},
    isa::{Isa, for_each_isa},
};

/// Rows or columns that lie side by side, one to a lane.
pub const LANES: usize = 16;

/// Most rows of `a` of a block: packed, they take a quarter of a second cache of 1 MiB.
pub const MAX_ROWS: usize = 512;

/// Most units of columns of a panel of `b`.
const MAX_UNITS: usize = 4;

/// Lines of a packed row of `a`: one more than it fills, since rows an odd number of lines apart do not crowd into the same sets of the
/// first cache.
pub const ROW_LINES: usize = DEPTH_STEPS / LANES + 1;

/// Lines from one packed unit of [`LANES`] rows or columns to the next: an odd number, for the same reason.
const UNIT_LINES: usize = DEPTH_STEPS + 1;

/// A cache line of packed words.
#[derive(Debug, Clone, Copy, Default)]
#[repr(align(64))]
pub struct Line(pub [u32; LANES]);

/// The words of lines, one after the other.
#[inline(always)]
pub fn words(lines: &mut [Line]) -> &mut [u32] {
    // SAFETY: a line is sixteen words without a gap.
    unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), lines.len() * LANES) }
}

/// Packed operands of one worker.
#[derive(Debug, Default)]
pub struct Scratch {
    /// Rows, [`ROW_LINES`] apart, or units of [`LANES`] rows, [`UNIT_LINES`] apart.
    a: Vec<Line>,
    /// Units of columns, [`UNIT_LINES`] apart.
    b: Vec<Line>,
}

impl Scratch {
    const A_LINES: usize = {
        let (rows, units) = (MAX_ROWS * ROW_LINES, MAX_ROWS / LANES * UNIT_LINES);
        if rows > units { rows } else { units }
    };
    const B_LINES: usize = MAX_UNITS * UNIT_LINES;

    /// What one takes.
    pub const BYTES: usize = (Self::A_LINES + Self::B_LINES) * size_of::<Line>();

    /// All that any product needs.
    pub fn new() -> Self {
        let mut scratch = Self::default();
        scratch.reserve();
        scratch
    }

    fn reserve(&mut self) {
        self.a.resize(Self::A_LINES, Line::default());
        self.b.resize(Self::B_LINES, Line::default());
    }

    /// Computes `block` of `a · b`.
    ///
    /// # Safety
    /// Views have been checked, the block lies inside them, `out` has room for the whole product, and nobody else touches the block.
    pub unsafe fn multiply(
        &mut self,
        kernel: Kernel,
        a: View<'_>,
        b: View<'_>,
        block: &Block,
        out: Out,
        accumulate: bool,
    ) {
        self.reserve();
        let k = a.shape().1;
        let depth = kernel.step_numbers() * DEPTH_STEPS;
        let (rows, cols) = (block.rows.clone(), block.cols.clone());
        let units = cols.len().div_ceil(LANES);
        let panels = units.div_ceil(kernel.units());
        let mut at = 0;
        // A depth of 0 still makes zeros.
        while at < k || at == 0 {
            let range = at..(at + depth).min(k);
            let steps = range.len().div_ceil(kernel.step_numbers());
            let rows_of_a = if a.transposed {
                pack_lanes(kernel, a, range.clone(), rows.clone(), UNIT_LINES, &mut self.a);
                A::Lanes(self.a.as_ptr().cast())
            } else {
                A::Rows(rows_of(kernel, a, rows.clone(), range.clone(), &mut self.a))
            };
            for panel in 0..panels {
                let first = cols.start + LANES * (units * panel / panels);
                let end = (cols.start + LANES * (units * (panel + 1) / panels)).min(cols.end);
                if b.transposed {
                    pack_columns(kernel, b, first..end, range.clone(), UNIT_LINES, &mut self.b);
                } else {
                    pack_lanes(kernel, b, range.clone(), first..end, UNIT_LINES, &mut self.b);
                }
                // SAFETY: `out` has room for all of the block.
                let corner = unsafe { out.start.add(rows.start * out.stride + first) };
                let tile = Tile {
                    a: rows_of_a,
                    b: self.b.as_ptr(),
                    unit_lines: UNIT_LINES,
                    steps,
                    out: Out { start: corner, ..out },
                    cols: end - first,
                    add: accumulate || at > 0,
                };
                // SAFETY: both operands lie as the kernel reads them, and the block is the caller's alone.
                unsafe { multiply_rows(kernel, rows.len(), tile) };
            }
            at += depth;
        }
    }
}

/// Numbers `depth` of memory's rows `rows`: where they lie if a kernel reads them so, which it does with whole pairs of bf16, or else
/// packed into `packed`.
pub fn rows_of<'a>(
    kernel: Kernel,
    from: View<'a>,
    rows: Range<usize>,
    depth: Range<usize>,
    packed: &mut [Line],
) -> Rows<'a> {
    match from.data {
        Data::Bf16(data) if kernel.words() == Words::Pairs && depth.len().is_multiple_of(2) => Rows {
            start: data.as_ptr().wrapping_add(depth.start).cast(),
            stride_bytes: from.stride * size_of::<u16>(),
            gather: from.gather,
            first: rows.start,
        },
        _ => {
            pack_rows(kernel, from, rows, depth, packed);
            Rows::packed(packed.as_ptr().cast())
        }
    }
}

/// All of `rows` rows by a packed panel, a few rows at a time in even shares.
///
/// # Safety
/// As for [`Kernel::multiply`], for all of these rows; where they lie side by side, a unit of them is [`UNIT_LINES`].
unsafe fn multiply_rows(kernel: Kernel, rows: usize, tile: Tile<'_>) {
    // Where rows lie side by side, no tile takes rows of two units.
    let unit = if matches!(tile.a, A::Lanes(_)) { LANES } else { rows.max(1) };
    for start in (0..rows).step_by(unit) {
        let a = match tile.a {
            A::Lanes(a) => A::Lanes(a.wrapping_add(start * UNIT_LINES)),
            a => a,
        };
        // SAFETY: inside the block's result.
        let out = Out { start: unsafe { tile.out.start.add(start * tile.out.stride) }, ..tile.out };
        // SAFETY: the caller's promise.
        unsafe { multiply_unit(kernel, unit.min(rows - start), Tile { a, out, ..tile }) };
    }
}

/// `rows` rows, of one unit where they lie side by side, by any number of columns.
///
/// # Safety
/// As for [`Kernel::multiply`], for all of these.
#[inline(always)]
pub unsafe fn multiply_unit(kernel: Kernel, rows: usize, tile: Tile<'_>) {
    let units = tile.cols.div_ceil(LANES);
    let panels = units.div_ceil(kernel.units());
    let shares = rows.div_ceil(kernel.rows());
    for panel in 0..panels {
        let (unit, end) = (units * panel / panels, units * (panel + 1) / panels);
        for share in 0..shares {
            let (first, last) = (rows * share / shares, rows * (share + 1) / shares);
            let a = match tile.a {
                A::Lanes(a) => A::Lanes(a.wrapping_add(first)),
                A::Rows(rows) => A::Rows(rows.from(first)),
            };
            let tile = Tile {
                a,
                b: tile.b.wrapping_add(unit * tile.unit_lines),
                // SAFETY: inside the result.
                out: Out { start: unsafe { tile.out.start.add(first * tile.out.stride + unit * LANES) }, ..tile.out },
                cols: tile.cols.min(end * LANES) - unit * LANES,
                ..tile
            };
            // SAFETY: the caller's promise.
            unsafe { kernel.multiply(last - first, &tile) };
        }
    }
}

/// Packs numbers `depth` of memory's rows `rows`, each row's steps in a row of `out`.
fn pack_rows(kernel: Kernel, from: View<'_>, rows: Range<usize>, depth: Range<usize>, out: &mut [Line]) {
    assert!(out.len() >= rows.len() * ROW_LINES && depth.len() <= DEPTH_STEPS * kernel.step_numbers());
    match kernel.words() {
        // SAFETY: `Pairs` is only chosen where the processor has AVX-512 BF16; views have been checked and `out` has room.
        #[cfg(target_arch = "x86_64")]
        Words::Pairs => unsafe { super::x86::pack_rows(from, rows, depth, out) },
        words => rows_scalar(kernel.isa(), words == Words::Rounded, from, rows, depth, out),
    }
}

/// Packs memory's rows `depth`, of each the columns `lanes`: units of 16 columns, each step a line.
pub fn pack_lanes(
    kernel: Kernel,
    from: View<'_>,
    depth: Range<usize>,
    lanes: Range<usize>,
    unit_lines: usize,
    out: &mut [Line],
) {
    assert!(out.len() >= lanes.len().div_ceil(LANES) * unit_lines && depth.len() <= unit_lines * kernel.step_numbers());
    match kernel.words() {
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Words::Pairs => unsafe { super::x86::pack_lanes(from, depth, lanes, unit_lines, out) },
        words => lanes_scalar(kernel.isa(), words == Words::Rounded, from, depth, lanes, unit_lines, out),
    }
}

/// Packs numbers `depth` of memory's rows `lanes`: units of 16 rows, each step a line.
pub fn pack_columns(
    kernel: Kernel,
    from: View<'_>,
    lanes: Range<usize>,
    depth: Range<usize>,
    unit_lines: usize,
    out: &mut [Line],
) {
    assert!(out.len() >= lanes.len().div_ceil(LANES) * unit_lines && depth.len() <= unit_lines * kernel.step_numbers());
    match (kernel.isa(), kernel.words()) {
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        (_, Words::Pairs) => unsafe { super::x86::pack_columns_pairs(from, lanes, depth, unit_lines, out) },
        // SAFETY: an `Isa` other than Portable only comes from `Isa::available`, which asked the processor.
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512, Words::F32) => unsafe { super::x86::pack_columns_f32(from, lanes, depth, unit_lines, out) },
        (isa, words) => columns_scalar(isa, words == Words::Rounded, from, lanes, depth, unit_lines, out),
    }
}

for_each_isa! {
    fn rows_scalar(rounded: bool, from: View<'_>, rows: Range<usize>, depth: Range<usize>, out: &mut [Line]) = rows_body
}

#[inline(always)]
fn rows_body(rounded: bool, from: View<'_>, rows: Range<usize>, depth: Range<usize>, out: &mut [Line]) {
    for (row, out) in rows.zip(out.chunks_exact_mut(ROW_LINES)) {
        let start = from.start(row);
        copy(rounded, from.data, start + depth.start..start + depth.end, words(out));
    }
}

for_each_isa! {
    fn lanes_scalar(rounded: bool, from: View<'_>, depth: Range<usize>, lanes: Range<usize>, unit_lines: usize, out: &mut [Line]) = lanes_body
}

#[inline(always)]
fn lanes_body(
    rounded: bool,
    from: View<'_>,
    depth: Range<usize>,
    lanes: Range<usize>,
    unit_lines: usize,
    out: &mut [Line],
) {
    for (step, row) in depth.enumerate() {
        let start = from.start(row);
        for (unit, first) in lanes.clone().step_by(LANES).enumerate() {
            let line = &mut out[unit * unit_lines + step].0;
            let end = (first + LANES).min(lanes.end);
            copy(rounded, from.data, start + first..start + end, line);
            line[end - first..].fill(0);
        }
    }
}

for_each_isa! {
    fn columns_scalar(rounded: bool, from: View<'_>, lanes: Range<usize>, depth: Range<usize>, unit_lines: usize, out: &mut [Line]) = columns_body
}

#[inline(always)]
fn columns_body(
    rounded: bool,
    from: View<'_>,
    lanes: Range<usize>,
    depth: Range<usize>,
    unit_lines: usize,
    out: &mut [Line],
) {
    for (unit, first) in lanes.clone().step_by(LANES).enumerate() {
        let lines = &mut out[unit * unit_lines..][..depth.len()];
        for lane in 0..LANES {
            if first + lane >= lanes.end {
                lines.iter_mut().for_each(|line| line.0[lane] = 0);
                continue;
            }
            let start = from.start(first + lane);
            let mut row = [0; DEPTH_STEPS];
            copy(rounded, from.data, start + depth.start..start + depth.end, &mut row);
            for (line, word) in lines.iter_mut().zip(row) {
                line.0[lane] = word;
            }
        }
    }
}

#[inline(always)]
fn copy(rounded: bool, from: Data<'_>, range: Range<usize>, words: &mut [u32]) {
    match from {
        Data::F32(from) if rounded => {
            for (word, x) in words.iter_mut().zip(&from[range]) {
                *word = u32::from(f32_to_bf16(*x)) << 16;
            }
        }
        Data::F32(from) => {
            for (word, x) in words.iter_mut().zip(&from[range]) {
                *word = x.to_bits();
            }
        }
        Data::Bf16(from) => {
            for (word, x) in words.iter_mut().zip(&from[range]) {
                *word = bf16_to_f32(*x).to_bits();
            }
        }
    }
}
