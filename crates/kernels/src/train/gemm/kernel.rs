//! What multiplies packed numbers: a few rows of `a` by a panel of columns of `b`, sums in registers.

use super::{
    Precision,
    pack::{LANES, Line, ROW_LINES},
};
use crate::isa::Isa;

/// Which code packs and multiplies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kernel {
    isa: Isa,
    words: Words,
}

/// What a packed word of 32 bits holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Words {
    /// A number.
    F32,
    /// A number rounded to bf16.
    Rounded,
    /// Two numbers that follow each other along `k`, in bf16, the first one in the low half.
    Pairs,
}

/// A result, written by several threads at once.
#[derive(Debug, Clone, Copy)]
pub struct Out {
    pub start: *mut f32,
    /// Numbers from one row to the next.
    pub stride: usize,
}

// SAFETY: threads write through it to blocks that no other thread touches.
unsafe impl Send for Out {}
// SAFETY: as above.
unsafe impl Sync for Out {}

impl Out {
    /// The first `width` numbers of a row.
    ///
    /// # Safety
    /// They are there, and nobody else touches them for as long as the slice lives.
    #[inline(always)]
    pub unsafe fn row<'a>(self, row: usize, width: usize) -> &'a mut [f32] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(row * self.stride), width) }
    }
}

/// Rows of `a`.
#[derive(Debug, Clone, Copy)]
pub enum A<'a> {
    /// Row after row, each row's steps one after the other.
    Rows(Rows<'a>),
    /// [`LANES`] rows side by side, step after step; the first of them.
    Lanes(*const u32),
}

/// Where rows begin.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    /// A word, aligned to half of one where rows are not packed.
    pub start: *const u32,
    pub stride_bytes: usize,
    /// Which row from `start` each one is, where they are not in order.
    pub gather: Option<&'a [u32]>,
    /// The first of those that are meant.
    pub first: usize,
}

impl Rows<'_> {
    /// Packed rows, [`ROW_LINES`] apart.
    pub fn packed(start: *const u32) -> Self {
        Self { start, stride_bytes: ROW_LINES * size_of::<Line>(), gather: None, first: 0 }
    }

    /// Those from `row` on.
    #[inline(always)]
    pub fn from(self, row: usize) -> Self {
        Self { first: self.first + row, ..self }
    }

    #[inline(always)]
    pub fn row(&self, row: usize) -> *const u32 {
        let row = self.first + row;
        let row = self.gather.map_or(row, |rows| rows[row] as usize);
        self.start.wrapping_byte_add(row * self.stride_bytes)
    }
}

/// One call of a kernel.
#[derive(Debug, Clone, Copy)]
pub struct Tile<'a> {
    pub a: A<'a>,
    /// Units of [`LANES`] columns.
    pub b: *const Line,
    /// Lines from one unit to the next.
    pub unit_lines: usize,
    /// Steps along `k`.
    pub steps: usize,
    pub out: Out,
    pub cols: usize,
    /// Whether sums are added to what is there.
    pub add: bool,
}

impl Kernel {
    pub fn best(isa: Isa, precision: Precision) -> Self {
        let words = match precision {
            Precision::F32 => Words::F32,
            Precision::Bf16 if crate::dot::has_bf16(isa) => Words::Pairs,
            Precision::Bf16 => Words::Rounded,
        };
        Self { isa, words }
    }

    /// Every one that this machine runs.
    #[cfg(test)]
    pub fn available() -> Vec<Self> {
        let of = |isa| {
            let pairs = crate::dot::has_bf16(isa).then_some(Words::Pairs);
            [Words::F32, Words::Rounded].into_iter().chain(pairs).map(move |words| Self { isa, words })
        };
        Isa::available().into_iter().flat_map(of).collect()
    }

    #[cfg(test)]
    pub fn precision(self) -> Precision {
        if self.words == Words::F32 { Precision::F32 } else { Precision::Bf16 }
    }

    #[inline(always)]
    pub fn isa(self) -> Isa {
        self.isa
    }

    #[inline(always)]
    pub fn words(self) -> Words {
        self.words
    }

    /// Numbers along `k` in a step.
    #[inline(always)]
    pub fn step_numbers(self) -> usize {
        if self.words == Words::Pairs { 2 } else { 1 }
    }

    /// Most units of columns that a tile takes at once.
    #[inline(always)]
    pub fn units(self) -> usize {
        match self.isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => super::x86::UNITS,
            _ => 1,
        }
    }

    /// Most rows that a tile takes at once.
    #[inline(always)]
    pub fn rows(self) -> usize {
        match self.isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => super::x86::ROWS,
            _ => ROWS,
        }
    }

    /// `rows` rows of `tile`, at most [`Kernel::rows`] of them, by its `cols`, at most [`Kernel::units`] units.
    ///
    /// # Safety
    /// `a` and `b` hold `steps` steps of so many rows and columns, packed for this kernel; `out` has room for the result and nobody else
    /// touches that.
    pub unsafe fn multiply(self, rows: usize, tile: &Tile<'_>) {
        match (self.isa, self.words) {
            // SAFETY: `Pairs` is only chosen where the processor has AVX-512 BF16; the rest is the caller's promise.
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512, Words::Pairs) => unsafe { super::x86::multiply_pairs(rows, tile) },
            // SAFETY: an `Isa` other than Portable only comes from `Isa::available`, which asked the processor.
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512, _) => unsafe { super::x86::multiply_f32(rows, tile) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx2, _) => unsafe { multiply_avx2(rows, tile) },
            // SAFETY: the caller's promise.
            _ => unsafe { multiply_body::<false>(rows, tile) },
        }
    }
}

/// Most rows of a tile of one unit, where the compiler makes the instructions: with 16 registers of 8 numbers they hold its sums.
const ROWS: usize = 6;

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn multiply_avx2(rows: usize, tile: &Tile<'_>) {
    // SAFETY: the caller's promise.
    unsafe { multiply_body::<true>(rows, tile) };
}

#[inline(always)]
unsafe fn multiply_body<const FUSED: bool>(rows: usize, tile: &Tile<'_>) {
    // SAFETY: the caller's promise.
    unsafe {
        match rows {
            1 => rows_of::<1, FUSED>(tile),
            2 => rows_of::<2, FUSED>(tile),
            3 => rows_of::<3, FUSED>(tile),
            4 => rows_of::<4, FUSED>(tile),
            5 => rows_of::<5, FUSED>(tile),
            _ => rows_of::<ROWS, FUSED>(tile),
        }
    }
}

#[inline(always)]
unsafe fn rows_of<const R: usize, const FUSED: bool>(tile: &Tile<'_>) {
    let (a, step_words): ([*const u32; R], usize) = match tile.a {
        A::Rows(rows) => (std::array::from_fn(|r| rows.row(r)), 1),
        A::Lanes(a) => (std::array::from_fn(|r| a.wrapping_add(r)), LANES),
    };
    let mut sums = [[0f32; LANES]; R];
    for step in 0..tile.steps {
        // SAFETY: the caller's promise.
        let b = unsafe { &(*tile.b.add(step)).0 };
        for r in 0..R {
            // SAFETY: the caller's promise.
            let x = f32::from_bits(unsafe { *a[r].add(step * step_words) });
            for lane in 0..LANES {
                let y = f32::from_bits(b[lane]);
                // Without the instruction, `mul_add` is a slow call.
                sums[r][lane] = if FUSED { x.mul_add(y, sums[r][lane]) } else { sums[r][lane] + x * y };
            }
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        // SAFETY: the caller's promise.
        let out = unsafe { tile.out.row(r, tile.cols) };
        for (out, sum) in out.iter_mut().zip(sums) {
            *out = if tile.add { *out + sum } else { *sum };
        }
    }
}
