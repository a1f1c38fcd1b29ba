//! Arithmetic of dots.llm1 on plain slices.
//!
//! Nothing here knows of files, models or requests. Every kernel stands beside a plain reference that its tests hold it
//! to, and every result is the same whatever the batch it was computed in and however many threads shared the work: the
//! order of summation along `k` never depends on either.

pub mod activations;
pub mod attention;
pub mod compute;
pub mod decode;
pub mod dot;
pub mod float;
pub mod isa;
pub mod measure;
pub mod norm;
pub mod packed;
pub mod pool;
mod prefetch;
pub mod product;
pub mod rope;
pub mod round;
pub mod router;
pub mod tile;
pub mod train;
pub mod unpack;
pub mod weights;

pub use activations::{Activations, QuantisedRows, Rounding};
pub use compute::Compute;
pub use isa::Isa;
pub use product::{Job, Rows, SwigluJob};
pub use rope::RopeTable;
pub use weights::{ShapeError, WeightType, Weights};
