//! Matrix products of training: `out (m, n) = a (m, k) · b (k, n)`, either operand transposed or its rows gathered.

use crate::{compute::Compute, float::bf16_to_f32};

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
        let row = self.gather.map_or(row, |rows| rows[row] as usize);
        match self.data {
            Data::F32(data) => data[row * self.stride + col],
            Data::Bf16(data) => bf16_to_f32(data[row * self.stride + col]),
        }
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
    compute.for_each(jobs, |_, job| plain(precision, job));
}

/// The reference: one sum at a time, along `k` in order.
pub fn plain(precision: Precision, job: &mut Product<'_>) {
    let ((m, k), (b_rows, n)) = (job.a.shape(), job.b.shape());
    assert_eq!(k, b_rows, "operands of a product do not fit");
    let rounded = |x: f32| match precision {
        Precision::F32 => x,
        Precision::Bf16 => bf16_to_f32(crate::float::f32_to_bf16(x)),
    };
    for row in 0..m {
        for col in 0..n {
            let sum: f32 = (0..k).map(|i| rounded(job.a.at(row, i)) * rounded(job.b.at(i, col))).sum();
            let out = &mut job.out[row * job.out_stride + col];
            *out = if job.accumulate { *out + sum } else { sum };
        }
    }
}
