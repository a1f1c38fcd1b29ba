//! Matrix products of training: `out (m, n) = a (m, k) · b (k, n)`, either operand transposed or its rows gathered.
//!
//! An item of work is a block of one product's result. Its rows of `a` are packed for [`DEPTH_STEPS`] steps along `k` into the second cache;
//! then a panel of columns of `b` at a time is packed into the first cache and met by all of these rows, a few at a time,
//! with sums in registers. Each sum runs along `k` in order, and is set down and added every so many steps whatever the
//! block, so how a product is cut, and with which others it is computed, changes no bit.

pub(super) mod kernel;
pub(super) mod pack;
mod plan;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
pub(super) mod x86;

pub use self::pack::Scratch;
use self::{
    kernel::{Kernel, Out},
    plan::Plan,
};
use crate::{
    compute::Compute,
    float::{bf16_to_f32, f32_to_bf16},
    isa::for_each_isa,
};

/// Steps along `k` (a number in f32, a pair in bf16) after which sums are set down: a panel of `b` of so many fills three
/// quarters of a first cache of 32 KiB.
pub(super) const DEPTH_STEPS: usize = 128;

/// How products multiply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// f32 throughout.
    F32,
    /// Operands rounded to bf16, sums in f32.
    Bf16,
}

/// The numbers of a matrix.
#[derive(Debug, Clone, Copy)]
pub enum Data<'a> {
    /// f32.
    F32(&'a [f32]),
    /// bf16, as its bits.
    Bf16(&'a [u16]),
}

impl Data<'_> {
    /// How many there are.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        match self {
            Self::F32(data) => data.len(),
            Self::Bf16(data) => data.len(),
        }
    }

    /// Those of `range`.
    pub fn slice(self, range: std::ops::Range<usize>) -> Self {
        match self {
            Self::F32(data) => Self::F32(&data[range]),
            Self::Bf16(data) => Self::Bf16(&data[range]),
        }
    }
}

/// A matrix as it lies in memory, and as it is meant.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    data: Data<'a>,
    /// Rows in memory that are meant, before transposition.
    rows: usize,
    cols: usize,
    /// Numbers from one row to the next in memory.
    stride: usize,
    /// Which row of memory each row is, where they are not the first ones in order.
    gather: Option<&'a [u32]>,
    transposed: bool,
}

impl<'a> View<'a> {
    /// `(rows, cols)`, row after row.
    pub fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Self { data: Data::F32(data), rows, cols, stride: cols, gather: None, transposed: false }
    }

    /// The same over numbers in either type.
    pub fn of(data: Data<'a>, rows: usize, cols: usize) -> Self {
        Self { data, rows, cols, stride: cols, gather: None, transposed: false }
    }

    /// Rows lie `stride` numbers apart.
    pub fn stride(self, stride: usize) -> Self {
        Self { stride, ..self }
    }

    /// Row `i` is row `rows[i]` in memory.
    pub fn gather(self, rows: &'a [u32]) -> Self {
        Self { gather: Some(rows), rows: rows.len(), ..self }
    }

    /// `(cols, rows)`.
    pub fn t(self) -> Self {
        Self { transposed: !self.transposed, ..self }
    }

    /// `(rows, cols)` as it is meant.
    pub fn shape(&self) -> (usize, usize) {
        if self.transposed { (self.cols, self.rows) } else { (self.rows, self.cols) }
    }

    fn at(&self, row: usize, col: usize) -> f32 {
        let (row, col) = if self.transposed { (col, row) } else { (row, col) };
        match self.data {
            Data::F32(data) => data[self.start(row) + col],
            Data::Bf16(data) => bf16_to_f32(data[self.start(row) + col]),
        }
    }

    /// Where a row begins in memory, before transposition.
    #[inline(always)]
    fn start(&self, row: usize) -> usize {
        self.gather.map_or(row, |rows| rows[row] as usize) * self.stride
    }

    /// Panics unless every number that is meant is there.
    fn check(&self) {
        let last = match self.gather {
            Some(rows) => rows.iter().max().map(|&row| row as usize),
            None => self.rows.checked_sub(1),
        };
        let Some(last) = last.filter(|_| self.cols > 0) else { return };
        let numbers = self.data.len();
        let end = last.checked_mul(self.stride).and_then(|start| start.checked_add(self.cols));
        assert!(end.is_some_and(|end| end <= numbers), "a matrix of {numbers} numbers ends before its row {last}");
    }
}

/// One product: `out = a · b`, or `out += a · b`.
#[derive(Debug)]
pub struct Product<'a> {
    /// `(m, k)`
    pub a: View<'a>,
    /// `(k, n)`
    pub b: View<'a>,
    /// `(m, n)`, rows `out_stride` apart.
    pub out: &'a mut [f32],
    /// Numbers from one row of `out` to the next.
    pub out_stride: usize,
    /// Whether the product is added to what is in `out`.
    pub accumulate: bool,
}

/// Computes all of `jobs` in one loop over the threads: a layer's experts, say.
pub fn products(compute: &Compute, precision: Precision, jobs: &mut [Product<'_>]) {
    products_with(compute, Kernel::best(compute.isa(), precision), jobs);
}

fn products_with(compute: &Compute, kernel: Kernel, jobs: &mut [Product<'_>]) {
    let plan = Plan::new(kernel, compute.threads(), jobs);
    let outs: Vec<Out> = jobs.iter_mut().map(|job| job.checked_out()).collect();
    let jobs = &*jobs;
    compute.run(plan.items(), |item, scratch| {
        let block = plan.block(item);
        let Product { a, b, accumulate, .. } = jobs[block.job];
        // SAFETY: `checked_out` looked at every length, and a block is of no other item.
        unsafe { scratch.gemm.multiply(kernel, a, b, &block, outs[block.job], accumulate) };
    });
}

impl Product<'_> {
    /// Where the product goes. Panics unless its operands fit each other and all lengths are right.
    fn checked_out(&mut self) -> Out {
        let ((m, k), (b_rows, n)) = (self.a.shape(), self.b.shape());
        assert_eq!(k, b_rows, "operands of a product do not fit");
        self.a.check();
        self.b.check();
        if m > 0 && n > 0 {
            let end = (m - 1).checked_mul(self.out_stride).and_then(|start| start.checked_add(n));
            assert!(n <= self.out_stride || m == 1, "rows of a product's result overlap");
            assert!(end.is_some_and(|end| end <= self.out.len()), "a product's result of {m} by {n} does not fit");
        }
        Out { start: self.out.as_mut_ptr(), stride: self.out_stride }
    }
}

/// Rounds `x` to bf16, to the nearest and ties to even: for numbers that several products take.
pub fn round_to_bf16(compute: &Compute, x: &[f32], out: &mut [u16]) {
    /// Numbers that a thread takes at a time.
    const PART: usize = 1 << 14;
    assert_eq!(x.len(), out.len());
    let mut parts: Vec<_> = x.chunks(PART).zip(out.chunks_mut(PART)).collect();
    compute.for_each(&mut parts, |_, (x, out)| round(compute.isa(), x, out));
}

for_each_isa! {
    /// [`round_to_bf16`] on one thread.
    pub(super) fn round(x: &[f32], out: &mut [u16]) = round_body
}

#[inline(always)]
fn round_body(x: &[f32], out: &mut [u16]) {
    for (x, out) in x.iter().zip(out) {
        *out = f32_to_bf16(*x);
    }
}

/// The reference: one sum at a time, along `k` in order.
pub fn plain(precision: Precision, job: &mut Product<'_>) {
    let ((m, k), (b_rows, n)) = (job.a.shape(), job.b.shape());
    assert_eq!(k, b_rows, "operands of a product do not fit");
    let rounded = |x: f32| match precision {
        Precision::F32 => x,
        Precision::Bf16 => bf16_to_f32(f32_to_bf16(x)),
    };
    for row in 0..m {
        for col in 0..n {
            let sum: f32 = (0..k).map(|i| rounded(job.a.at(row, i)) * rounded(job.b.at(i, col))).sum();
            let out = &mut job.out[row * job.out_stride + col];
            *out = if job.accumulate { *out + sum } else { sum };
        }
    }
}
