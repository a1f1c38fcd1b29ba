//! How products are cut into blocks.

use std::ops::Range;

use super::{
    Data, Product,
    kernel::{Kernel, Words},
    pack::{LANES, MAX_ROWS},
};

/// Blocks for each thread that are aimed at: so many that the last one to finish is not waited for long.
const BLOCKS_A_THREAD: usize = 6;

/// Multiply-adds below which a product is not cut: some ten microseconds.
const LEAST_WORK: usize = 1 << 20;

/// Rows and columns that a block keeps where there is another for each thread: packing them takes a tenth of its time.
const LEAST_SIDE: usize = 128;

/// The same where columns of `b` have to be rounded to bf16 as they are packed, which takes longer than to interleave them.
const LEAST_SIDE_ROUNDED: usize = 256;

/// All products of a loop, cut.
#[derive(Debug)]
pub struct Plan {
    cuts: Vec<Cut>,
    items: usize,
}

/// One product's blocks.
#[derive(Debug)]
struct Cut {
    /// Items up to this product's last one.
    end: usize,
    rows: usize,
    cols: usize,
    row_blocks: usize,
    col_blocks: usize,
    /// Columns are cut at multiples of this.
    panel: usize,
}

/// A block of a product's result.
#[derive(Debug)]
pub struct Block {
    pub job: usize,
    pub rows: Range<usize>,
    pub cols: Range<usize>,
}

impl Plan {
    pub fn new(kernel: Kernel, threads: usize, jobs: &[Product<'_>]) -> Self {
        let work = |job: &Product<'_>| {
            let ((m, k), (_, n)) = (job.a.shape(), job.b.shape());
            m.saturating_mul(n).saturating_mul(k.max(1))
        };
        let total = jobs.iter().map(work).fold(0, usize::saturating_add);
        let least = (total / (threads * BLOCKS_A_THREAD)).max(LEAST_WORK);
        let mut items = 0;
        let cuts = jobs
            .iter()
            .map(|job| {
                let (rows, cols) = (job.a.shape().0, job.b.shape().1);
                let panel = LANES * kernel.units();
                let (mut row_blocks, mut col_blocks) = (rows.div_ceil(MAX_ROWS), usize::from(cols > 0));
                let rounded = kernel.words() == Words::Pairs && matches!(job.b.data, Data::F32(_));
                let least_side = if rounded { LEAST_SIDE_ROUNDED } else { LEAST_SIDE };
                let wanted = work(job).div_ceil(least);
                // What every thread needs to have a share at all.
                let needed = wanted.min(work(job).saturating_mul(threads).div_ceil(total.max(1)));
                while threads > 1 && row_blocks * col_blocks < wanted {
                    // The longer side is halved: what of the other is packed twice is then the least.
                    let (height, width) = (rows / row_blocks, cols / col_blocks);
                    let side = if row_blocks * col_blocks < needed { LANES } else { least_side };
                    if height >= width && height >= 2 * side {
                        row_blocks *= 2;
                    } else if width >= 2 * side.max(panel) {
                        col_blocks *= 2;
                    } else if height >= 2 * side {
                        row_blocks *= 2;
                    } else {
                        break;
                    }
                }
                items += row_blocks * col_blocks;
                Cut { end: items, rows, cols, row_blocks, col_blocks, panel }
            })
            .collect();
        Self { cuts, items }
    }

    pub fn items(&self) -> usize {
        self.items
    }

    /// Blocks of the same columns follow each other.
    pub fn block(&self, item: usize) -> Block {
        let job = self.cuts.partition_point(|cut| cut.end <= item);
        let cut = &self.cuts[job];
        let item = item + cut.row_blocks * cut.col_blocks - cut.end;
        let (row, col) = (item % cut.row_blocks, item / cut.row_blocks);
        Block {
            job,
            rows: part(cut.rows, LANES, row, cut.row_blocks),
            cols: part(cut.cols, cut.panel, col, cut.col_blocks),
        }
    }
}

/// The `index`-th of `parts` parts of `0..len`, cut at multiples of `step`, as even as that allows.
fn part(len: usize, step: usize, index: usize, parts: usize) -> Range<usize> {
    let steps = len.div_ceil(step);
    (steps * index / parts * step).min(len)..(steps * (index + 1) / parts * step).min(len)
}
