//! The embedding: rows of a table.

use super::{
    BLOCK_ROWS,
    cut::{Cut, for_each},
};
use crate::compute::Compute;

/// Columns that one thread adds up at a time.
const COLS: usize = 64;

/// `out[row] = table[tokens[row]]`. `table: (vocab, width)`; `out: (rows, width)`.
pub fn embedding_forward(compute: &Compute, table: &[f32], width: usize, tokens: &[u32], out: &mut [f32]) {
    for_each(compute, Cut::new(out, BLOCK_ROWS * width), |index, out| {
        for (out, token) in out.chunks_exact_mut(width).zip(&tokens[index * BLOCK_ROWS..]) {
            out.copy_from_slice(&table[*token as usize * width..][..width]);
        }
    });
}

/// `d_table[tokens[row]] += d_out[row]`, rows in order: threads share the columns, since rows may share a token.
pub fn embedding_backward(compute: &Compute, d_out: &[f32], width: usize, tokens: &[u32], d_table: &mut [f32]) {
    let table = Columns { first: d_table.as_mut_ptr(), len: d_table.len() };
    compute.run(width.div_ceil(COLS), |index, _| {
        let cols = index * COLS..((index + 1) * COLS).min(width);
        for (d_out, token) in d_out.chunks_exact(width).zip(tokens) {
            // SAFETY: within the table, which the row checks; no other item has these columns.
            let row = unsafe { table.row(*token as usize * width, cols.clone()) };
            for (sum, d) in row.iter_mut().zip(&d_out[cols.clone()]) {
                *sum += d;
            }
        }
    });
}

/// A table that threads share by columns.
struct Columns {
    first: *mut f32,
    len: usize,
}

// SAFETY: `embedding_backward` gives no column to two threads.
unsafe impl Sync for Columns {}

impl Columns {
    /// # Safety
    /// Nobody else holds these columns.
    #[allow(clippy::mut_from_ref)]
    unsafe fn row(&self, start: usize, cols: std::ops::Range<usize>) -> &mut [f32] {
        assert!(start + cols.end <= self.len, "a token beyond the vocabulary");
        // SAFETY: within the table, as just seen.
        unsafe { std::slice::from_raw_parts_mut(self.first.add(start + cols.start), cols.len()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::check::numbers;

    #[test]
    fn each_row_of_the_gradient_is_the_sum_of_its_tokens() {
        let (vocab, width) = (5, COLS + 7);
        let compute = Compute::new(2, 0);
        let tokens = [3, 1, 3, 0, 3];
        let (table, d_out) = (numbers(vocab * width, 1), numbers(tokens.len() * width, 2));
        let mut out = vec![0.0; tokens.len() * width];
        embedding_forward(&compute, &table, width, &tokens, &mut out);
        let mut d_table = vec![0.0; vocab * width];
        embedding_backward(&compute, &d_out, width, &tokens, &mut d_table);
        for i in 0..width {
            for (row, token) in tokens.iter().enumerate() {
                assert_eq!(out[row * width + i], table[*token as usize * width + i]);
            }
            let d = |row: usize| d_out[row * width + i];
            assert_eq!(d_table[3 * width + i], d(0) + d(2) + d(4));
            assert_eq!((d_table[2 * width + i], d_table[4 * width + i]), (0.0, 0.0));
        }
    }
}
