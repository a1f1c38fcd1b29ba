//! What one worker needs to attend.

use super::{BLOCK, ITEM, MAX_HEAD_DIM, ROWS};
use crate::train::gemm::pack::{LANES, Line, ROW_LINES};

/// Packed blocks and rows of scores.
#[derive(Debug, Default)]
pub struct Scratch {
    /// Blocks of keys and values, and of queries and their gradients, as operands along the head or along positions.
    pub(super) keys: Vec<Line>,
    pub(super) values: Vec<Line>,
    pub(super) keys_along: Vec<Line>,
    pub(super) queries_along: Vec<Line>,
    pub(super) d_out_along: Vec<Line>,
    /// Weights and gradients of scores along queries: a unit of 16 keys after the other.
    pub(super) weights: Vec<Line>,
    pub(super) d_scores_along: Vec<Line>,
    /// Rows of a left operand: of queries, of gradients, of weights.
    pub(super) rows: Vec<Line>,
    pub(super) d_rows: Vec<Line>,
    pub(super) weight_rows: Vec<Line>,
    /// `(ROWS, BLOCK)`.
    pub(super) scores: Vec<Line>,
    pub(super) d_scores: Vec<Line>,
    /// Of an item's rows for one head: largest score and sum of weights so far.
    pub(super) tops: Vec<f32>,
    pub(super) sums: Vec<f32>,
}

/// Lines of a block as an operand, whichever way it lies.
const BLOCK_LINES: usize = BLOCK * MAX_HEAD_DIM / LANES;
/// Lines of weights along queries.
const WEIGHT_LINES: usize = BLOCK * BLOCK / LANES;
const ROWS_LINES: usize = ROWS * ROW_LINES;
const SCORE_LINES: usize = ROWS * BLOCK / LANES;

impl Scratch {
    /// What one takes.
    pub const BYTES: usize = (5 * BLOCK_LINES + 2 * WEIGHT_LINES + 3 * ROWS_LINES + 2 * SCORE_LINES)
        * size_of::<Line>()
        + 2 * ITEM * size_of::<f32>();

    /// All that any attention needs.
    pub fn new() -> Self {
        let mut scratch = Self::default();
        scratch.reserve();
        scratch
    }

    /// Nothing after the first time.
    pub fn reserve(&mut self) {
        let Self { keys, values, keys_along, queries_along, d_out_along, .. } = self;
        for block in [keys, values, keys_along, queries_along, d_out_along] {
            block.resize(BLOCK_LINES, Line::default());
        }
        for weights in [&mut self.weights, &mut self.d_scores_along] {
            weights.resize(WEIGHT_LINES, Line::default());
        }
        for rows in [&mut self.rows, &mut self.d_rows, &mut self.weight_rows] {
            rows.resize(ROWS_LINES, Line::default());
        }
        for scores in [&mut self.scores, &mut self.d_scores] {
            scores.resize(SCORE_LINES, Line::default());
        }
        self.tops.resize(ITEM, 0.0);
        self.sums.resize(ITEM, 0.0);
    }
}
