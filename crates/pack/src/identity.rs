//! What a folder of a packed checkpoint is, and how far it is: `dots.json`, and `pack.json.part` until all is there.

use std::{fs, path::Path, time::UNIX_EPOCH};

use dots_kernels::packed::LAYOUT;
use dots_model::{
    Checkpoint,
    aside::part_of,
    checkpoint::{Format, container},
};
use serde_json::{Map, Value, json};

use crate::{Error, Recipe, files};

/// The description of a finished checkpoint.
pub(crate) const DESCRIPTION: &str = "dots.json";

/// What is noted until then.
pub(crate) const NOTE: &str = "pack.json.part";

/// A finished shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Done {
    /// Name of the file.
    pub file: String,
    /// Its length.
    pub bytes: u64,
    /// Its CRC-32.
    pub crc32: u32,
}

/// Where the weights come from and what is done to them: what makes one packed checkpoint the same as another. `config` is the text of
/// its `config.json`, which each of its files is bound to.
pub(crate) fn lineage(checkpoint: &Checkpoint, config: &str, recipe: &Recipe, calibration: Option<Value>) -> Value {
    let name = checkpoint.path.file_name().map(|name| name.to_string_lossy().into_owned());
    let mut types: Map<String, Value> = Map::new();
    let mut kinds: Vec<_> = checkpoint.tensors().map(|(_, tensor)| tensor.kind).collect();
    kinds.sort_unstable();
    for kind in kinds {
        let count = types.entry(kind.name()).or_insert(json!(0));
        *count = json!(count.as_u64().unwrap_or(0) + 1);
    }
    let exceptions: Vec<Value> =
        recipe.exceptions().iter().map(|(pattern, kind)| json!([pattern.as_str(), kind.name()])).collect();
    json!({
        "dots": env!("CARGO_PKG_VERSION"),
        "container": container::VERSION,
        "layout": LAYOUT,
        "source": { "name": name, "format": format_name(checkpoint.format), "tensors": types },
        "config": format!("{:08x}", container::checksum(config.as_bytes())),
        "recipe": { "name": recipe.name(), "exceptions": exceptions },
        "calibration": calibration,
    })
}

fn format_name(format: Format) -> &'static str {
    match format {
        Format::HuggingFace => "Hugging Face",
        Format::Packed => "packed",
        Format::Gguf => "GGUF",
        Format::Random => "random",
    }
}

/// Names, sizes and times of the source's files, so that work on one source is never taken up with another, nor the finished work of one
/// taken for another's: checkpoints of a run bear the same names as those of the next.
pub(crate) fn source_files(checkpoint: &Checkpoint) -> Result<Value, Error> {
    let mut paths: Vec<&Path> = checkpoint.tensors().map(|(_, tensor)| &*tensor.file).collect();
    paths.sort_unstable();
    paths.dedup();
    let mut files = Vec::new();
    for path in paths.into_iter().filter(|_| checkpoint.format != Format::Random) {
        let metadata = fs::metadata(path).map_err(|source| dots_model::Error::io(path, source))?;
        let modified = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        files.push(json!([name, metadata.len(), modified.map(|time| time.as_nanos().to_string())]));
    }
    Ok(Value::Array(files))
}

/// Where a packed checkpoint comes from, as its `dots.json` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Name of the folder or file that was packed.
    pub source: String,
    /// Name of the recipe.
    pub recipe: String,
    /// Patterns of names that are excepted from it.
    pub exceptions: usize,
    /// Whether a text told what counts.
    pub calibrated: bool,
}

impl Origin {
    /// What `folder` says of itself; `None` where it says nothing that is understood.
    pub fn of(folder: &Path) -> Option<Self> {
        let path = folder.join(DESCRIPTION);
        // Nothing depends on it, so a file of a size that none has is not read at all.
        let small = fs::metadata(&path).is_ok_and(|metadata| metadata.is_file() && metadata.len() < 16 << 20);
        let text = if small { fs::read_to_string(path).ok()? } else { return None };
        let value: Value = serde_json::from_str(&text).ok()?;
        let lineage = &value["lineage"];
        Some(Self {
            source: lineage["source"]["name"].as_str().unwrap_or("weights without a name").to_owned(),
            recipe: lineage["recipe"]["name"].as_str()?.to_owned(),
            exceptions: lineage["recipe"]["exceptions"].as_array().map_or(0, Vec::len),
            calibrated: !lineage["calibration"].is_null(),
        })
    }
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} as {}", self.source, self.recipe)?;
        if self.exceptions > 0 {
            write!(f, " with {} exceptions", self.exceptions)?;
        }
        f.write_str(if self.calibrated { ", calibrated" } else { "" })
    }
}

/// How far a folder is.
pub(crate) enum State {
    /// Nothing is there.
    New,
    /// The same work, stopped after these shards.
    Begun(Vec<Done>),
    /// The same work, finished.
    Finished(Vec<Done>),
}

/// What `folder` holds. Refuses one with anything else than the same work in it.
pub(crate) fn state(folder: &Path, lineage: &Value, source_files: &Value) -> Result<State, Error> {
    let io = |source| Error::Source(dots_model::Error::io(folder, source));
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(State::New),
        Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => {
            return Err(Error::refused(folder, "this is a file; the packed checkpoint is a folder"));
        }
        Err(error) => return Err(io(error)),
    };
    let names: Vec<_> =
        entries.map(|entry| entry.map(|entry| entry.file_name())).collect::<Result<_, _>>().map_err(io)?;
    let finished = folder.join(DESCRIPTION);
    let begun = folder.join(NOTE);
    // What a run that was killed at its very beginning leaves.
    let first_note = part_of(&begun);
    if names.iter().all(|name| *name == LOCK || Some(name.as_os_str()) == first_note.file_name()) {
        return Ok(State::New);
    }
    for (path, is_finished) in [(begun, false), (finished, true)] {
        let Ok(text) = fs::read_to_string(&path) else { continue };
        let value: Value = serde_json::from_str(&text).unwrap_or_default();
        if value["lineage"] != *lineage || value["source_files"] != *source_files {
            let reason = "it holds a checkpoint that was packed from another source (or from this one as it was before), by \
                          another recipe or by another version of dots; give a new folder, or remove this one";
            return Err(Error::refused(folder, reason));
        }
        let shards = value["shards"].as_array().map(Vec::as_slice).unwrap_or_default();
        let done = shards.iter().map_while(|shard| {
            Some(Done {
                file: shard["file"].as_str()?.to_owned(),
                bytes: shard["bytes"].as_u64()?,
                crc32: u32::from_str_radix(shard["crc32"].as_str()?, 16).ok()?,
            })
        });
        let done = done.collect();
        return Ok(if is_finished { State::Finished(done) } else { State::Begun(done) });
    }
    Err(Error::refused(folder, "it holds something else; give a new folder"))
}

/// Name of the file that is locked while a folder is worked on.
pub(crate) const LOCK: &str = "lock.part";

/// Notes that the work has begun and what is finished of it.
pub(crate) fn note(folder: &Path, lineage: &Value, source_files: &Value, shards: &[Done]) -> Result<(), Error> {
    let value = json!({ "lineage": lineage, "source_files": source_files, "shards": to_json(shards) });
    files::write(&folder.join(NOTE), format!("{value:#}\n").as_bytes())
}

/// Describes the finished checkpoint.
pub(crate) fn describe(
    folder: &Path,
    lineage: &Value,
    source_files: &Value,
    shards: &[Done],
    bits_per_weight: f64,
) -> Result<(), Error> {
    let bits_per_weight = (bits_per_weight * 1000.0).round() / 1000.0;
    let value = json!({
        "lineage": lineage,
        "source_files": source_files,
        "bits_per_weight": bits_per_weight,
        "shards": to_json(shards),
    });
    files::write(&folder.join(DESCRIPTION), format!("{value:#}\n").as_bytes())
}

fn to_json(shards: &[Done]) -> Vec<Value> {
    let shard = |done: &Done| json!({ "file": done.file, "bytes": done.bytes, "crc32": format!("{:08x}", done.crc32) });
    shards.iter().map(shard).collect()
}
