//! compressed-tensors FP8: one E4M3 number a weight and one scale a row.

use std::{collections::HashMap, path::Path, sync::Arc};

use dots_kernels::WeightType;
use serde_json::Value;

use super::{
    super::{Tensor, container::QUANT_METHOD, experts, json::Object},
    safetensors::Entry,
};
use crate::Error;

/// What a weight's scales are called after the weight's own name without `.weight`.
pub(super) const SCALE_SUFFIX: &str = ".weight_scale";

/// Refuses every `quantization_config` but the one that is decoded here. How activations were rounded in another engine
/// changes no weight, so dynamic rounding of them is no concern; scales measured beforehand would be tensors that nothing
/// here reads.
pub(super) fn check(path: &Path, config: &Object<'_>) -> Result<(), Error> {
    let Some(value) = config.get("quantization_config") else { return Ok(()) };
    let config = Object::within(path, "quantization_config.", value)?;
    if config.optional_str("quant_method")? == Some(QUANT_METHOD) {
        return Ok(()); // the files say more
    }
    require(&config, "quant_method", "compressed-tensors")?;
    require(&config, "format", "float-quantized")?;
    if config.get("quantization_status").is_some() {
        require(&config, "quantization_status", "compressed")?;
    }
    if config.get("kv_cache_scheme").is_some() {
        return Err(config.wrong("kv_cache_scheme", "null"));
    }
    let groups = config.get("config_groups").and_then(Value::as_object);
    let groups = groups.ok_or_else(|| config.wrong("config_groups", "groups of weights"))?;
    for (name, group) in groups {
        let prefix = format!("quantization_config.config_groups.{name}.");
        let group = Object::within(path, &prefix, group)?;
        let prefix = format!("{prefix}weights.");
        let weights = Object::within(path, &prefix, group.get("weights").unwrap_or(&Value::Null))?;
        require(&weights, "type", "float")?;
        if weights.usize("num_bits")? != 8 {
            return Err(weights.wrong("num_bits", "8"));
        }
        if !weights.bool("symmetric")? {
            return Err(weights.wrong("symmetric", "true"));
        }
        if !matches!(weights.optional_str("strategy")?, Some("channel" | "tensor")) {
            return Err(weights.wrong("strategy", "\"channel\" or \"tensor\""));
        }
    }
    Ok(())
}

fn require(object: &Object<'_>, key: &str, expected: &str) -> Result<(), Error> {
    if object.optional_str(key)? == Some(expected) {
        return Ok(());
    }
    Err(object.wrong(key, &format!("{expected:?}")))
}

/// Scales by the name of their weight without `.weight`, until that is met.
#[derive(Default)]
pub(super) struct Scales(HashMap<String, Tensor>);

impl Scales {
    /// Keeps the scales of `weight`.
    pub(super) fn insert(&mut self, weight: String, entry: Entry, file: &Arc<Path>) -> Result<(), Error> {
        let name = entry.name.clone();
        match self.0.insert(weight, entry.into_tensor(file)?) {
            None => Ok(()),
            Some(first) => Err(experts::twice(file, &name, &first.file)),
        }
    }

    /// The scales of `tensor`: one a row for FP8, none for any other type.
    pub(super) fn take(&mut self, name: &str, tensor: &Tensor) -> Result<Arc<[f32]>, Error> {
        let scales = name.strip_suffix(".weight").and_then(|weight| self.0.remove_entry(weight));
        match (tensor.kind, scales) {
            (WeightType::F8_E4M3, Some((weight, scales))) => {
                expand(&format!("{weight}{SCALE_SUFFIX}"), &scales, tensor)
            }
            (WeightType::F8_E4M3, None) => {
                let weight = name.strip_suffix(".weight").unwrap_or(name);
                Err(Error::invalid(&*tensor.file, format!("{weight}{SCALE_SUFFIX}"), "scales for FP8", "nothing"))
            }
            (_, None) => Ok(Arc::default()),
            (kind, Some(_)) => Err(Error::invalid(&*tensor.file, name, "F8_E4M3, as it has scales", kind.name())),
        }
    }

    /// Refuses scales whose weight never came.
    pub(super) fn finish(self) -> Result<(), Error> {
        match self.0.into_iter().min_by(|a, b| a.0.cmp(&b.0)) {
            None => Ok(()),
            Some((weight, scales)) => {
                Err(Error::invalid(&*scales.file, format!("{weight}.weight"), "the weight of the scales", "nothing"))
            }
        }
    }
}

/// One factor a row, from `[rows, 1]`, `[rows]` or a single number for all.
fn expand(name: &str, scales: &Tensor, weight: &Tensor) -> Result<Arc<[f32]>, Error> {
    let rows = weight.shape.first().copied().unwrap_or(0);
    let invalid = |expected: String, found: String| Error::invalid(&*scales.file, name, expected, found);
    let values: Arc<[f32]> = match scales.shape[..] {
        [len] | [len, 1] if len == rows => scales.to_f32_vec()?.into(),
        [] | [1] | [1, 1] => vec![scales.to_f32_vec()?[0]; rows].into(),
        _ => return Err(invalid(format!("shape [{rows}, 1], [{rows}] or []"), format!("{:?}", scales.shape))),
    };
    match values.iter().find(|scale| !scale.is_finite()) {
        None => Ok(values),
        Some(scale) => Err(invalid("finite numbers".to_owned(), scale.to_string())),
    }
}
