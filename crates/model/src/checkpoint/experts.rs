//! Tensors that hold all experts of a layer, cut into one an expert.

use std::{collections::HashMap, path::Path};

use super::Tensor;
use crate::{Config, Error};

/// Adds `tensor` under its published name, or as one tensor an expert where it holds them all. Nothing is copied.
pub(super) fn insert(
    tensors: &mut HashMap<String, Tensor>,
    config: &Config,
    name: &str,
    tensor: Tensor,
) -> Result<(), Error> {
    let Some((at, projections)) = fused(name) else { return insert_one(tensors, name.to_owned(), tensor) };
    let Config { n_routed_experts, hidden_size, moe_intermediate_size, .. } = *config;
    let [rows, cols] = match projections {
        ["down_proj"] => [hidden_size, moe_intermediate_size],
        _ => [moe_intermediate_size, hidden_size],
    };
    let shape = [n_routed_experts, projections.len() * rows, cols];
    if tensor.shape != shape {
        let found = format!("{:?}", tensor.shape);
        return Err(Error::invalid(&*tensor.file, name, format!("shape {shape:?}"), found));
    }
    if !tensor.row_scales.is_empty() || tensor.kind == dots_kernels::WeightType::F8_E4M3 {
        return Err(Error::invalid(&*tensor.file, name, "FP8 as one tensor an expert", "all experts in one"));
    }
    // One row of zero bytes or of a broken block was refused when the tensor's own size was checked.
    let matrix_bytes = tensor.data.len() / (n_routed_experts * projections.len());
    let mut start = 0;
    for expert in 0..n_routed_experts {
        for projection in projections {
            let data = tensor.data.slice(start..start + matrix_bytes);
            start += matrix_bytes;
            let matrix = Tensor { shape: vec![rows, cols], data, ..tensor.clone() };
            insert_one(tensors, format!("{at}.{expert}.{projection}.weight"), matrix)?;
        }
    }
    Ok(())
}

/// `(model.layers.N.mlp.experts, projections in order)` of a name that means all experts.
fn fused(name: &str) -> Option<(&str, &'static [&'static str])> {
    let (at, projection) = name.rsplit_once('.')?;
    if !at.ends_with(".mlp.experts") {
        return None;
    }
    match projection {
        "gate_up_proj" => Some((at, &["gate_proj", "up_proj"])),
        "gate_proj" => Some((at, &["gate_proj"])),
        "up_proj" => Some((at, &["up_proj"])),
        "down_proj" => Some((at, &["down_proj"])),
        _ => None,
    }
}

fn insert_one(tensors: &mut HashMap<String, Tensor>, name: String, tensor: Tensor) -> Result<(), Error> {
    let file = tensor.file.clone();
    match tensors.insert(name.clone(), tensor) {
        None => Ok(()),
        Some(first) => Err(twice(&file, &name, &first.file)),
    }
}

/// The error for a tensor that `path` has although `first` had it already.
pub(super) fn twice(path: &Path, name: &str, first: &Path) -> Error {
    Error::invalid(path, name, "one tensor of this name", format!("a second one, after that in {}", first.display()))
}
