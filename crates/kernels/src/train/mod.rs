//! What training needs beside the forward pass: each operation's forward and backward, side by side.
//!
//! Numbers that gradients flow through are f32 in memory; [`Precision`] says how matrix products multiply them. Every result is
//! the same bits whatever the number of threads: work is cut at fixed places, and no sum's order depends on who does it.

pub mod adamw;
pub mod attention;
#[cfg(test)]
mod check;
mod cut;
pub mod embedding;
pub mod experts;
pub mod gemm;
pub mod heads;
pub mod loss;
pub mod norm;
mod number;
pub mod router;
mod sum;
pub mod swiglu;

pub use gemm::{Data, Precision, Product, View, products, round_to_bf16};
pub use number::DataMut;

/// Rows that one thread takes at a time. Sums over rows are taken over each such block and then over the blocks, so it also
/// says how large the scratch for a gradient that is summed over rows must be.
pub const BLOCK_ROWS: usize = 32;
