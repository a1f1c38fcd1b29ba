//! The small files of a folder: `config.json`, and what makes a model speak.

use std::{fs, path::Path};

use dots_model::{
    Checkpoint,
    checkpoint::{
        TokenizerSource,
        container::QUANT_METHOD,
        published::{COMPANIONS, config_json, shortest},
    },
    tokenizer::Vocabulary,
};
use serde_json::{Map, Value, json};

use crate::{Error, files};

/// `config.json` in the published form. `packed` says whether other readers must be told that they cannot read the weights.
pub fn config(checkpoint: &Checkpoint, packed: bool) -> String {
    let mut json = config_json(&checkpoint.config, &checkpoint.generation.eos_token_ids, "bfloat16");
    if packed {
        json["quantization_config"] = json!({ "quant_method": QUANT_METHOD });
    }
    format!("{json:#}\n")
}

/// Writes tokenizer, chat template and generation settings: copies of the source's files, or from a GGUF's metadata, files
/// that mean the same.
pub fn write(checkpoint: &Checkpoint, folder: &Path) -> Result<(), Error> {
    match &checkpoint.tokenizer {
        Some(TokenizerSource::Gguf { .. }) => from_gguf(checkpoint, folder),
        _ => copy(&checkpoint.path, folder),
    }
}

fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    for name in COMPANIONS {
        let path = from.join(name);
        if !path.is_file() {
            continue;
        }
        let bytes = fs::read(&path).map_err(|source| dots_model::Error::io(&path, source))?;
        files::write(&to.join(name), &bytes)?;
    }
    Ok(())
}

fn from_gguf(checkpoint: &Checkpoint, folder: &Path) -> Result<(), Error> {
    let Some(source) = &checkpoint.tokenizer else { return Ok(()) };
    let vocabulary = Vocabulary::new(source)?;
    let write = |name: &str, json: &Value| files::write(&folder.join(name), format!("{json:#}\n").as_bytes());
    files::write(&folder.join("tokenizer.json"), vocabulary.to_json().to_string().as_bytes())?;

    let mut config = Map::new();
    config.insert("tokenizer_class".into(), json!("PreTrainedTokenizerFast"));
    config.insert("add_bos_token".into(), json!(!vocabulary.prefix.is_empty()));
    // A token with a role is special to every reader, so one that is not must not be named.
    let special = |id: u32| vocabulary.is_special(id).then(|| vocabulary.tokens[id as usize].clone());
    let bos = vocabulary.prefix.first().and_then(|id| vocabulary.tokens.get(*id as usize).cloned());
    let eos = checkpoint.generation.eos_token_ids.first().and_then(|id| special(*id));
    config.insert("bos_token".into(), json!(bos));
    config.insert("eos_token".into(), json!(eos));
    config.insert("model_max_length".into(), json!(checkpoint.config.max_position_embeddings));
    write("tokenizer_config.json", &Value::Object(config))?;
    if let Some(template) = &checkpoint.chat_template {
        files::write(&folder.join("chat_template.jinja"), template.as_bytes())?;
    }
    let generation = &checkpoint.generation;
    let mut json = Map::new();
    json.insert("eos_token_id".into(), json!(generation.eos_token_ids));
    let numbers = [
        ("temperature", generation.temperature),
        ("top_p", generation.top_p),
        ("min_p", generation.min_p),
        ("repetition_penalty", generation.repetition_penalty),
    ];
    for (key, value) in numbers {
        if let Some(value) = value {
            json.insert(key.into(), json!(shortest(value)));
        }
    }
    if let Some(top_k) = generation.top_k {
        json.insert("top_k".into(), json!(top_k));
    }
    if let Some(do_sample) = generation.do_sample {
        json.insert("do_sample".into(), json!(do_sample));
    }
    write("generation_config.json", &Value::Object(json))
}
