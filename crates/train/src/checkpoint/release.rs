//! The small files that make weights a published checkpoint.

use std::{fs, path::Path};

use dots_model::{
    Config,
    checkpoint::published::{COMPANIONS, config_json},
};
use serde_json::{Map, Value, json};

use super::{CheckpointError, file};

/// Largest file that is copied: the published tokenizer has 7 MB.
const MAX_TEXT_BYTES: u64 = 1 << 28;

/// Writes `config.json`, `generation_config.json` and copies of the tokenizer's files into `folder`, and notes each in `files`.
pub(super) fn write(
    folder: &Path,
    config: &Config,
    tokenizer: &Path,
    files: &mut Map<String, Value>,
) -> Result<(), CheckpointError> {
    let mut eos_token_ids = Vec::new();
    for name in COMPANIONS {
        let path = tokenizer.join(name);
        let Ok(metadata) = fs::metadata(&path) else { continue };
        if metadata.len() > MAX_TEXT_BYTES {
            let expected = format!("at most {MAX_TEXT_BYTES} bytes");
            return Err(CheckpointError::wrong(path, "length", expected, metadata.len().to_string()));
        }
        let bytes = fs::read(&path).map_err(CheckpointError::io(&path))?;
        if name == "generation_config.json" {
            let json: Value = serde_json::from_slice(&bytes)
                .map_err(|error| CheckpointError::wrong(&path, "text", "JSON", error.to_string()))?;
            let one = |id: &Value| id.as_u64().and_then(|id| u32::try_from(id).ok());
            let eos = &json["eos_token_id"];
            eos_token_ids = eos
                .as_array()
                .map_or_else(|| one(eos).into_iter().collect(), |ids| ids.iter().filter_map(one).collect());
        }
        files.insert(name.to_owned(), file::write(&folder.join(name), &bytes)?);
    }
    if !files.contains_key("generation_config.json") {
        let text = format!("{:#}\n", json!({ "eos_token_id": null }));
        let name = "generation_config.json";
        files.insert(name.to_owned(), file::write(&folder.join(name), text.as_bytes())?);
    }
    let (name, text) = ("config.json", format!("{:#}\n", config_json(config, &eos_token_ids, "bfloat16")));
    files.insert(name.to_owned(), file::write(&folder.join(name), text.as_bytes())?);
    Ok(())
}
