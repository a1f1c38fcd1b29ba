//! Arithmetic of dots.llm1 on plain slices.
//!
//! Nothing here knows of files, models or requests. Every kernel stands beside a plain reference that its tests hold it
//! to, and every result is the same whatever the batch it was computed in and however many threads shared the work: the
//! order of summation along `k` never depends on either.

pub mod weights;

pub use weights::{ShapeError, WeightType, Weights};
