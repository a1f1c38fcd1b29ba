//! Experts added to a trained model, and a dense model made into one of experts.
//!
//! Both make a checkpoint that a run starts from (`[model] start`); neither trains anything.

mod add;
mod domain;
mod gate;
mod probe;
mod upcycle;

#[cfg(test)]
mod tests;

use dots_kernels::{
    Isa,
    decode::{Unpacked, decode_row},
};
use dots_model::{Checkpoint, Error};
use serde_json::{Value, json};

pub use add::{Add, Added, From, add};
pub use domain::Domain;
pub use upcycle::{Upcycle, upcycle};

use crate::checkpoint::CheckpointError;

/// Why no model was made.
#[derive(Debug, thiserror::Error)]
pub enum ExpertsError {
    /// The checkpoint to start from cannot be read or run.
    #[error(transparent)]
    Model(#[from] Error),
    /// The new one was not written.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// What is asked for makes no sense for this model.
    #[error("{what}: expected {expected}, found {found}")]
    Wrong {
        /// The setting.
        what: &'static str,
        /// What would be right.
        expected: String,
        /// What is there.
        found: String,
    },
}

fn wrong<T>(what: &'static str, expected: impl Into<String>, found: impl Into<String>) -> Result<T, ExpertsError> {
    Err(ExpertsError::Wrong { what, expected: expected.into(), found: found.into() })
}

/// All numbers of the tensor `name`, row after row; zeros where it is a router's bias that the files leave out.
fn numbers(checkpoint: &Checkpoint, name: &str, shape: &[usize]) -> Result<Vec<f32>, ExpertsError> {
    let Some(tensor) = checkpoint.tensor(name) else { return Ok(vec![0.0; shape.iter().product()]) };
    if tensor.shape.len() == 1 {
        return Ok(tensor.to_f32_vec()?);
    }
    let matrix = tensor.weights()?;
    let mut numbers = vec![0.0; matrix.rows() * matrix.cols()];
    for (row, out) in numbers.chunks_mut(matrix.cols()).enumerate() {
        decode_row(Isa::best(), matrix, row, &mut Unpacked::default(), out);
    }
    Ok(numbers)
}

/// Root of the mean square.
fn size(numbers: &[f32]) -> f64 {
    (numbers.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / numbers.len().max(1) as f64).sqrt()
}

/// The number of the expert that the tensor `name` belongs to, and the name with another one in its place.
fn expert_of(name: &str) -> Option<(usize, impl Fn(usize) -> String)> {
    const EXPERTS: &str = ".experts.";
    let (before, rest) = name.split_once(EXPERTS)?;
    let (expert, after) = rest.split_once('.')?;
    Some((expert.parse().ok()?, move |other| format!("{before}{EXPERTS}{other}.{after}")))
}

/// The number of the layer that the tensor `name` belongs to.
fn layer_of(name: &str) -> Option<usize> {
    name.strip_prefix("model.layers.")?.split_once('.')?.0.parse().ok()
}

/// What a lineage says of the model that another was made from.
fn parent(checkpoint: &Checkpoint) -> Value {
    let note = std::fs::read(checkpoint.path.join("dots.json")).unwrap_or_default();
    let known: Value = serde_json::from_slice(&note).unwrap_or_default();
    json!({
        "path": checkpoint.path.display().to_string(),
        "step": known["step"],
        "tokens": known["tokens"],
        "recipe_sha256": known["recipe_sha256"],
        "files": known["files"],
    })
}
