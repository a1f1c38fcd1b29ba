//! Packing and multiplying in AVX-512.

use std::{arch::x86_64::*, ops::Range};

use super::{
    Data, View,
    kernel::{A, Tile},
    pack::{LANES, Line, ROW_LINES},
};
use crate::tile::avx512::transpose;

/// Most rows of a tile.
pub const ROWS: usize = 8;

/// Most units of columns of a tile: with so many rows its sums, a line of each unit and one number of `a` fit in 32 registers.
pub const UNITS: usize = 3;

/// The lanes below `count`, of 16.
#[inline(always)]
fn below(count: usize) -> __mmask16 {
    if count >= 16 { !0 } else { (1 << count) - 1 }
}

#[inline(always)]
fn bf16s(bits: __m512i) -> __m512bh {
    // SAFETY: both are 64 bytes of which every pattern is valid.
    unsafe { std::mem::transmute(bits) }
}

/// Makes a kernel of one instruction.
macro_rules! kernel {
    ($name:ident, $of:ident, $features:literal, |$sum:ident, $x:ident, $y:ident| $multiply:expr) => {
        /// # Safety
        /// As for `Kernel::multiply`; the processor has these instructions.
        #[target_feature(enable = $features)]
        pub unsafe fn $name(rows: usize, tile: &Tile<'_>) {
            macro_rules! pick {
                ($r:literal) => {
                    match (tile.cols.div_ceil(LANES), matches!(tile.a, A::Lanes(_))) {
                        (1, false) => $of::<$r, 1, false>(tile),
                        (2, false) => $of::<$r, 2, false>(tile),
                        (_, false) => $of::<$r, 3, false>(tile),
                        (1, true) => $of::<$r, 1, true>(tile),
                        (2, true) => $of::<$r, 2, true>(tile),
                        (_, true) => $of::<$r, 3, true>(tile),
                    }
                };
            }
            // SAFETY: the caller's promise.
            unsafe {
                match rows {
                    1 => pick!(1),
                    2 => pick!(2),
                    3 => pick!(3),
                    4 => pick!(4),
                    5 => pick!(5),
                    6 => pick!(6),
                    7 => pick!(7),
                    _ => pick!(8),
                }
            }
        }

        #[target_feature(enable = $features)]
        unsafe fn $of<const R: usize, const U: usize, const SIDE_BY_SIDE: bool>(tile: &Tile<'_>) {
            let mut starts = [std::ptr::null::<u32>(); R];
            for (r, start) in starts.iter_mut().enumerate() {
                *start = match tile.a {
                    A::Rows(rows) => rows.row(r),
                    A::Lanes(a) => a,
                };
            }
            let mut sums = [[_mm512_setzero_ps(); U]; R];
            let mut b = tile.b;
            for step in 0..tile.steps {
                let mut line = [_mm512_setzero_si512(); U];
                for u in 0..U {
                    // SAFETY: each unit has so many steps.
                    line[u] = unsafe { _mm512_load_si512(b.wrapping_add(u * tile.unit_lines).cast()) };
                }
                for r in 0..R {
                    let at = if SIDE_BY_SIDE { step * LANES + r } else { step };
                    // SAFETY: each row has so many steps; those that are not packed lie at any even address.
                    let $x = _mm512_set1_epi32(unsafe { starts[r].wrapping_add(at).read_unaligned() } as i32);
                    for u in 0..U {
                        let ($sum, $y) = (sums[r][u], line[u]);
                        sums[r][u] = $multiply;
                    }
                }
                b = b.wrapping_add(1);
            }
            for r in 0..R {
                for u in 0..U {
                    let mask = below(tile.cols - LANES * u);
                    let out = tile.out.start.wrapping_add(r * tile.out.stride + LANES * u);
                    // SAFETY: masked to the columns that the result has.
                    unsafe {
                        let old = if tile.add { _mm512_maskz_loadu_ps(mask, out) } else { _mm512_setzero_ps() };
                        _mm512_mask_storeu_ps(out, mask, _mm512_add_ps(old, sums[r][u]));
                    }
                }
            }
        }
    };
}

kernel!(multiply_pairs, pairs_of, "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16", |sum, x, y| _mm512_dpbf16_ps(
    sum,
    bf16s(x),
    bf16s(y)
));
kernel!(multiply_f32, f32_of, "avx512f,avx512bw,avx512dq,avx512vl,fma", |sum, x, y| _mm512_fmadd_ps(
    _mm512_castsi512_ps(x),
    _mm512_castsi512_ps(y),
    sum
));

/// A number in memory.
trait Number: Copy {
    /// Sixteen of them in f32, zeros where `mask` has none.
    ///
    /// # Safety
    /// Those in `mask` can be read.
    unsafe fn load(at: *const Self, mask: __mmask16) -> __m512;

    /// The first `count` of thirty-two, in bf16, zeros after them.
    ///
    /// # Safety
    /// These can be read.
    unsafe fn halves(at: *const Self, count: usize) -> __m512i;

    /// Sixteen of them, in bf16, each with its partner from `second`; zeros where a mask has none.
    ///
    /// # Safety
    /// Those in the masks can be read.
    unsafe fn interleaved(first: (*const Self, __mmask16), second: (*const Self, __mmask16)) -> __m512i;

    /// The same of thirty-two.
    ///
    /// # Safety
    /// All of them can be read.
    unsafe fn interleaved_twice(first: *const Self, second: *const Self) -> [__m512i; 2];
}

impl Number for f32 {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn load(at: *const Self, mask: __mmask16) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe { _mm512_maskz_loadu_ps(mask, at) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    unsafe fn halves(at: *const Self, count: usize) -> __m512i {
        // SAFETY: the caller's promise; what is masked is not read.
        unsafe {
            let low = Self::load(at, below(count));
            let high = Self::load(at.wrapping_add(16), below(count.saturating_sub(16)));
            std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low))
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    unsafe fn interleaved(first: (*const Self, __mmask16), second: (*const Self, __mmask16)) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe { interleave(Self::load(first.0, first.1), Self::load(second.0, second.1)) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    unsafe fn interleaved_twice(first: *const Self, second: *const Self) -> [__m512i; 2] {
        // SAFETY: the caller's promise.
        unsafe {
            [
                Self::interleaved((first, !0), (second, !0)),
                Self::interleaved((first.wrapping_add(16), !0), (second.wrapping_add(16), !0)),
            ]
        }
    }
}

impl Number for u16 {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn load(at: *const Self, mask: __mmask16) -> __m512 {
        // SAFETY: the caller's promise.
        let halves = unsafe { _mm256_maskz_loadu_epi16(mask, at.cast()) };
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(halves)))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    unsafe fn halves(at: *const Self, count: usize) -> __m512i {
        let mask = if count >= 32 { !0 } else { (1 << count) - 1 };
        // SAFETY: the caller's promise; what is masked is not read.
        unsafe { _mm512_maskz_loadu_epi16(mask, at.cast()) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    unsafe fn interleaved(first: (*const Self, __mmask16), second: (*const Self, __mmask16)) -> __m512i {
        // SAFETY: the caller's promise.
        let [low, high] = [first, second].map(|(at, mask)| unsafe { _mm256_maskz_loadu_epi16(mask, at.cast()) });
        _mm512_or_si512(_mm512_cvtepu16_epi32(low), _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(high)))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    unsafe fn interleaved_twice(first: *const Self, second: *const Self) -> [__m512i; 2] {
        /// Words `i` of both, one after the other, from word 16 · `half` on.
        const fn order(half: usize) -> [u16; 32] {
            let mut order = [0; 32];
            let mut i = 0;
            while i < 32 {
                order[i] = (16 * half + i / 2 + 32 * (i % 2)) as u16;
                i += 1;
            }
            order
        }
        const ORDERS: [[u16; 32]; 2] = [order(0), order(1)];
        // SAFETY: the caller's promise; an order is 64 bytes.
        unsafe {
            let (first, second) = (_mm512_loadu_si512(first.cast()), _mm512_loadu_si512(second.cast()));
            let [low, high] = &ORDERS;
            [
                _mm512_permutex2var_epi16(first, _mm512_loadu_si512(low.as_ptr().cast()), second),
                _mm512_permutex2var_epi16(first, _mm512_loadu_si512(high.as_ptr().cast()), second),
            ]
        }
    }
}

/// Sixteen numbers, each with its partner of the other sixteen, as pairs.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub fn interleave(low: __m512, high: __m512) -> __m512i {
    /// Word `i` of each half, one after the other.
    const ORDER: [u16; 32] = {
        let mut order = [0; 32];
        let mut i = 0;
        while i < 32 {
            order[i] = (i / 2 + 16 * (i % 2)) as u16;
            i += 1;
        }
        order
    };
    // SAFETY: both are 64 bytes of which every pattern is valid.
    unsafe {
        let halves = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low));
        _mm512_permutexvar_epi16(_mm512_loadu_si512(ORDER.as_ptr().cast()), halves)
    }
}

/// Calls `$name` for the type that a view's numbers have.
macro_rules! for_each_type {
    ($from:ident, $name:ident, $($arg:expr),*) => {
        match $from.data {
            Data::F32(data) => $name(data.as_ptr(), $($arg),*),
            Data::Bf16(data) => $name(data.as_ptr(), $($arg),*),
        }
    };
}

/// See `pack::pack_rows`.
///
/// # Safety
/// The processor has these instructions, `from` was checked, and `out` has room.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub unsafe fn pack_rows(from: View<'_>, rows: Range<usize>, depth: Range<usize>, out: &mut [Line]) {
    // SAFETY: the caller's promise.
    unsafe { for_each_type!(from, rows_of, from, rows, depth, out.as_mut_ptr()) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn rows_of<T: Number>(data: *const T, from: View<'_>, rows: Range<usize>, depth: Range<usize>, out: *mut Line) {
    for (i, row) in rows.enumerate() {
        let start = data.wrapping_add(from.start(row) + depth.start);
        for (line, at) in (0..depth.len()).step_by(2 * LANES).enumerate() {
            // SAFETY: the row has so many numbers, and `out` so many lines.
            unsafe {
                let words = T::halves(start.wrapping_add(at), depth.len() - at);
                _mm512_store_si512(out.add(i * ROW_LINES + line).cast(), words);
            }
        }
    }
}

/// See `pack::pack_lanes`.
///
/// # Safety
/// As above.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub unsafe fn pack_lanes(
    from: View<'_>,
    depth: Range<usize>,
    lanes: Range<usize>,
    unit_lines: usize,
    out: &mut [Line],
) {
    // SAFETY: the caller's promise.
    unsafe { for_each_type!(from, lanes_of, from, depth, lanes, unit_lines, out.as_mut_ptr()) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn lanes_of<T: Number>(
    data: *const T,
    from: View<'_>,
    depth: Range<usize>,
    lanes: Range<usize>,
    unit_lines: usize,
    out: *mut Line,
) {
    for step in 0..depth.len().div_ceil(2) {
        let row = depth.start + 2 * step;
        let first = data.wrapping_add(from.start(row) + lanes.start);
        let both = row + 1 < depth.end;
        let second = if both { data.wrapping_add(from.start(row + 1) + lanes.start) } else { first };
        let twos = if both { lanes.len() / (2 * LANES) } else { 0 };
        for two in 0..twos {
            let at = two * 2 * LANES;
            // SAFETY: both rows have so many numbers, and `out` so many lines.
            unsafe {
                let [low, high] = T::interleaved_twice(first.wrapping_add(at), second.wrapping_add(at));
                _mm512_store_si512(out.add(2 * two * unit_lines + step).cast(), low);
                _mm512_store_si512(out.add((2 * two + 1) * unit_lines + step).cast(), high);
            }
        }
        for (unit, at) in (0..lanes.len()).step_by(LANES).enumerate().skip(2 * twos) {
            let mask = below(lanes.len() - at);
            // SAFETY: as above.
            unsafe {
                let first = (first.wrapping_add(at), mask);
                let second = (second.wrapping_add(at), if both { mask } else { 0 });
                _mm512_store_si512(out.add(unit * unit_lines + step).cast(), T::interleaved(first, second));
            }
        }
    }
}

/// See `pack::pack_columns`, for pairs.
///
/// # Safety
/// As above.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub unsafe fn pack_columns_pairs(
    from: View<'_>,
    lanes: Range<usize>,
    depth: Range<usize>,
    unit_lines: usize,
    out: &mut [Line],
) {
    // SAFETY: the caller's promise.
    unsafe { for_each_type!(from, columns_pairs_of, from, lanes, depth, unit_lines, out.as_mut_ptr()) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn columns_pairs_of<T: Number>(
    data: *const T,
    from: View<'_>,
    lanes: Range<usize>,
    depth: Range<usize>,
    unit_lines: usize,
    out: *mut Line,
) {
    for (unit, first) in lanes.clone().step_by(LANES).enumerate() {
        let rows = LANES.min(lanes.end - first);
        for at in (0..depth.len()).step_by(2 * LANES) {
            let left = depth.len() - at;
            let mut block = [_mm512_setzero_si512(); LANES];
            for (row, block) in block.iter_mut().enumerate().take(rows) {
                let start = data.wrapping_add(from.start(first + row) + depth.start + at);
                // SAFETY: the row has so many numbers.
                *block = unsafe { T::halves(start, left) };
            }
            // SAFETY: as below.
            unsafe { store_columns(block, left.div_ceil(2), out.add(unit * unit_lines + at / 2)) };
        }
    }
}

/// See `pack::pack_columns`, for f32.
///
/// # Safety
/// As above.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub unsafe fn pack_columns_f32(
    from: View<'_>,
    lanes: Range<usize>,
    depth: Range<usize>,
    unit_lines: usize,
    out: &mut [Line],
) {
    // SAFETY: the caller's promise.
    unsafe { for_each_type!(from, columns_f32_of, from, lanes, depth, unit_lines, out.as_mut_ptr()) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn columns_f32_of<T: Number>(
    data: *const T,
    from: View<'_>,
    lanes: Range<usize>,
    depth: Range<usize>,
    unit_lines: usize,
    out: *mut Line,
) {
    for (unit, first) in lanes.clone().step_by(LANES).enumerate() {
        let rows = LANES.min(lanes.end - first);
        for at in (0..depth.len()).step_by(LANES) {
            let left = depth.len() - at;
            let mut block = [_mm512_setzero_si512(); LANES];
            for (row, block) in block.iter_mut().enumerate().take(rows) {
                let start = data.wrapping_add(from.start(first + row) + depth.start + at);
                // SAFETY: the row has so many numbers.
                *block = _mm512_castps_si512(unsafe { T::load(start, below(left)) });
            }
            // SAFETY: as below.
            unsafe { store_columns(block, left, out.add(unit * unit_lines + at)) };
        }
    }
}

/// Stores the first `steps` columns of sixteen rows of words, each in a line.
///
/// # Safety
/// The processor has these instructions; `out` has so many lines.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn store_columns(rows: [__m512i; LANES], steps: usize, out: *mut Line) {
    for (step, column) in transpose(rows).into_iter().enumerate().take(steps) {
        // SAFETY: the caller's promise.
        unsafe { _mm512_store_si512(out.add(step).cast(), column) };
    }
}
