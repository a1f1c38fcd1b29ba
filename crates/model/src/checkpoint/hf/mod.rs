//! Folders as `transformers` writes them: `config.json`, safetensors in one file or in shards, and what else a model brings.

mod config;
mod generation;
mod packed;
mod quantization;
mod safetensors;

use std::{
    collections::{BTreeSet, HashMap},
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_json::Value;

use self::{quantization::Scales, safetensors::Opened};
use super::{Checkpoint, Folder, Format, Tensor, TokenizerSource, experts, json, names};
use crate::Error;

const CONFIG: &str = "config.json";
const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const TOKENIZER: &str = "tokenizer.json";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";

/// Room for any real file of its kind, and little enough to read at once.
const JSON_LIMIT_BYTES: u64 = 64 << 20;
const TOKENIZER_LIMIT_BYTES: u64 = 256 << 20;
const TEMPLATE_LIMIT_BYTES: u64 = 4 << 20;

/// Whether `folder` holds safetensors under the names that a checkpoint has.
pub(super) fn is_checkpoint(folder: &Folder<'_>) -> bool {
    folder.holds(INDEX) || folder.holds(SINGLE)
}

/// Opens the checkpoint in `folder`.
pub(super) fn open(folder: &Folder<'_>) -> Result<Checkpoint, Error> {
    let config_path = folder.file(CONFIG);
    let Some(config_text) = folder.read_text(CONFIG, JSON_LIMIT_BYTES)? else {
        let expected = "config.json with safetensors, or one GGUF model";
        return Err(Error::invalid(folder.path(), "folder", expected, "neither"));
    };
    let config_json = json::parse(&config_path, &config_text)?;
    let config_object = json::Object::new(&config_path, &config_json)?;
    let config = config::from_json(&config_path, &config_object)?;
    quantization::check(&config_path, &config_object)?;

    let mut scales = Scales::default();
    let mut weights: Vec<(String, Tensor)> = Vec::new();
    let shards = read_shards(folder)?;
    let files = shards.iter().map(|shard| (&*shard.file, shard.opened.packed.as_ref()));
    let format = match packed::check(files, &config_path, &config_text)? {
        true => Format::Packed,
        false => Format::HuggingFace,
    };
    for Shard { file, opened } in shards {
        for entry in opened.entries {
            match entry.name.strip_suffix(quantization::SCALE_SUFFIX) {
                Some(weight) => scales.insert(weight.to_owned(), entry, &file)?,
                None if entry.name.ends_with(".rotary_emb.inv_freq") => (), // follows from `rope_theta`
                None => weights.push((entry.name.clone(), entry.into_tensor(&file)?)),
            }
        }
    }
    let mut tensors = HashMap::new();
    for (name, mut tensor) in weights {
        tensor.row_scales = scales.take(&name, &tensor)?;
        experts::insert(&mut tensors, &config, &name, tensor)?;
    }
    scales.finish()?;
    if config_object.optional_bool("tie_word_embeddings")? == Some(true)
        && !tensors.contains_key(names::HEAD)
        && let Some(embedding) = tensors.get(names::EMBEDDING).cloned()
    {
        tensors.insert(names::HEAD.to_owned(), embedding);
    }
    names::verify(folder.path(), &config, &tensors)?;

    let tokenizer_config = folder.read_json(TOKENIZER_CONFIG, JSON_LIMIT_BYTES)?;
    let chat_template = read_template(folder, tokenizer_config.as_ref())?;
    let tokenizer = tokenizer(folder, tokenizer_config)?;
    let generation = generation::read(folder, &config_object, config.vocab_size)?;
    Ok(Checkpoint { path: folder.path().to_owned(), format, config, tokenizer, chat_template, generation, tensors })
}

impl TokenizerSource {
    /// The tokenizer of a folder that may hold no weights: `tokenizer.json`, and `tokenizer_config.json` where there is one.
    pub fn of_folder(folder: &Path) -> Result<Self, Error> {
        let folder = Folder::on_disk(folder);
        let config = folder.read_json(TOKENIZER_CONFIG, JSON_LIMIT_BYTES)?;
        tokenizer(&folder, config)?
            .ok_or_else(|| Error::invalid(folder.file(TOKENIZER), "file", "a tokenizer", "no such file"))
    }
}

fn tokenizer(folder: &Folder<'_>, config: Option<serde_json::Value>) -> Result<Option<TokenizerSource>, Error> {
    let text = folder.read_text(TOKENIZER, TOKENIZER_LIMIT_BYTES)?;
    Ok(text.map(|tokenizer| TokenizerSource::HuggingFace { path: folder.file(TOKENIZER), tokenizer, config }))
}

/// One safetensors file, opened.
struct Shard {
    file: Arc<Path>,
    opened: Opened,
}

/// Opens every safetensors file of the checkpoint and holds it to the index, where there is one.
fn read_shards(folder: &Folder<'_>) -> Result<Vec<Shard>, Error> {
    let index_path = folder.file(INDEX);
    let Some(index) = folder.read_json(INDEX, JSON_LIMIT_BYTES)? else {
        let path = folder.file(SINGLE);
        if !folder.holds(SINGLE) {
            let expected = format!("{SINGLE} or {INDEX}");
            return Err(Error::invalid(folder.path(), "folder", expected, "neither"));
        }
        let opened = safetensors::parse(&path, &folder.map(SINGLE)?)?;
        return Ok(vec![Shard { file: path.into(), opened }]);
    };
    let weight_map = weight_map(&index_path, &index)?;
    let mut shards = Vec::new();
    let mut seen: HashMap<String, PathBuf> = HashMap::new();
    for shard in weight_map.values().copied().collect::<BTreeSet<&str>>() {
        let path = folder.file(shard);
        let opened = safetensors::parse(&path, &folder.map(shard)?)?;
        for entry in &opened.entries {
            if let Some(first) = seen.insert(entry.name.clone(), path.clone()) {
                return Err(experts::twice(&path, &entry.name, &first));
            }
        }
        shards.push(Shard { file: path.into(), opened });
    }
    for (name, shard) in &weight_map {
        let path = folder.file(shard);
        if seen.get(*name) != Some(&path) {
            let expected = format!("this tensor, which {INDEX} places here");
            return Err(Error::invalid(path, *name, expected, "nothing"));
        }
    }
    Ok(shards)
}

/// The shards that an index names, each once: what a download needs beside the small files.
pub(crate) fn shard_names(index_path: &Path) -> Result<BTreeSet<String>, Error> {
    let Some(index) = json::read(index_path, JSON_LIMIT_BYTES)? else {
        return Err(Error::invalid(index_path, "file", "an index of shards", "nothing"));
    };
    Ok(weight_map(index_path, &index)?.into_values().map(str::to_owned).collect())
}

/// Tensor names and their shards' names, which are plain names of files beside the index: a path could lead anywhere.
fn weight_map<'a>(path: &'a Path, index: &'a Value) -> Result<HashMap<&'a str, &'a str>, Error> {
    let object = json::Object::new(path, index)?;
    let map = object.get("weight_map").and_then(Value::as_object).filter(|map| !map.is_empty());
    let map = map.ok_or_else(|| object.wrong("weight_map", "tensor names and their files"))?;
    let mut names = HashMap::new();
    for (name, shard) in map {
        let field = || format!("weight_map.{name}");
        let Some(shard) = shard.as_str() else {
            return Err(Error::invalid(path, field(), "a file name", json::describe(shard)));
        };
        if shard.contains(['/', '\\', ':', '\0']) || !shard.ends_with(".safetensors") {
            let expected = "the plain name of a .safetensors file beside the index";
            return Err(Error::invalid(path, field(), expected, json::quote(shard)));
        }
        names.insert(name.as_str(), shard);
    }
    Ok(names)
}

/// The chat template in a tokenizer's folder; `None` where it has none.
pub fn chat_template(folder: &Path) -> Result<Option<String>, Error> {
    let folder = Folder::on_disk(folder);
    let config = folder.read_json(TOKENIZER_CONFIG, JSON_LIMIT_BYTES)?;
    read_template(&folder, config.as_ref())
}

/// The chat template: a file of its own, or a field of `tokenizer_config.json`, a string or a list of named ones.
fn read_template(folder: &Folder<'_>, config: Option<&Value>) -> Result<Option<String>, Error> {
    if let Some(text) = folder.read_text("chat_template.jinja", TEMPLATE_LIMIT_BYTES)? {
        return Ok(Some(text));
    }
    let Some(config) = config else { return Ok(None) };
    let config_path = &folder.file(TOKENIZER_CONFIG);
    let config = json::Object::new(config_path, config)?;
    match config.get("chat_template") {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(Value::Array(templates)) => {
            for template in templates {
                let template = json::Object::within(config_path, "chat_template.", template)?;
                let name = template.optional_str("name")?.ok_or_else(|| template.wrong("name", "a string"))?;
                let text = template.optional_str("template")?.ok_or_else(|| template.wrong("template", "a string"))?;
                if name == "default" {
                    return Ok(Some(text.to_owned()));
                }
            }
            Ok(None)
        }
        Some(_) => Err(config.wrong("chat_template", "a string, or a list of names and templates")),
    }
}
