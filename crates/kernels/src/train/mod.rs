//! What training needs beside the forward pass: each operation's forward and backward, side by side.
//!
//! Numbers that gradients flow through are f32 in memory; [`Precision`] says how matrix products multiply them. Every result is
//! the same bits whatever the number of threads: work is cut at fixed places, and no sum's order depends on who does it.

pub mod attention;
pub mod gemm;

pub use gemm::{Data, Precision, Product, View, products, round_to_bf16};
