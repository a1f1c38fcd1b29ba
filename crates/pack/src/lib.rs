//! Checkpoints turned into others: into packed ones, in the types and the layout that dots' kernels read as they lie, and
//! into GGUF files for everybody else's.
//!
//! [`pack`](pack::pack) rounds; [`recipe`] says what to, tensor by tensor, and is the one place to tune. Both directions
//! stream: a few tens of megabytes are in memory at a time, whatever the model. Files are written under names that end in
//! `.part`, synced and renamed, so that what bears its final name is whole.

pub mod calibrate;
pub mod error;
mod files;
pub mod gguf;
pub mod glob;
pub mod identity;
pub mod pack;
pub mod progress;
pub mod recipe;
mod shard;
mod stream;
mod text;

pub use calibrate::Calibration;
pub use error::Error;
pub use pack::{Options, Summary, pack};
pub use progress::Progress;
pub use recipe::Recipe;
