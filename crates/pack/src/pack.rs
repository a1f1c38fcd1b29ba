//! A checkpoint, packed.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use dots_kernels::{Compute, WeightType};
use dots_model::{
    Checkpoint,
    aside::Lock,
    checkpoint::{container, expected_tensors, tensor_bytes},
};
use serde_json::{Map, json};

use crate::{
    Calibration, Error, Recipe,
    files::{self, Aside},
    identity::{self, Done, LOCK, State},
    progress::Progress,
    shard::{self, Common, Planned},
    stream, text,
};

const INDEX: &str = "model.safetensors.index.json";

/// How to pack.
#[derive(Debug)]
pub struct Options {
    /// What becomes of each tensor.
    pub recipe: Recipe,
    /// What errors count for; `None` takes all alike.
    pub calibration: Option<Calibration>,
    /// Threads; 0 takes every core.
    pub threads: usize,
}

/// What a packed checkpoint came to.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Summary {
    /// Tensors and bytes by type.
    pub types: BTreeMap<WeightType, (usize, u64)>,
    /// Bits of file a weight.
    pub bits_per_weight: f64,
    /// Weights in all.
    pub weights: u64,
    /// Files that an earlier run had finished.
    pub resumed: usize,
    /// Files of weights.
    pub files: usize,
    /// Matrices that stay in bf16 because the recipe's type does not fill their rows.
    pub odd: Vec<String>,
}

/// Packs `checkpoint` into the folder `out`, which must be new, empty, or hold the same work begun by an earlier run.
pub fn pack(
    checkpoint: &Checkpoint,
    out: &Path,
    options: &Options,
    progress: &mut dyn Progress,
) -> Result<Summary, Error> {
    refuse_own_source(checkpoint, out)?;
    let mut shards = plan(checkpoint, &options.recipe)?;
    let mut summary = summarise(&shards);
    let any_packed = summary.types.keys().any(|kind| kind.is_packed());
    let config = text::config(checkpoint, any_packed);
    let calibration = options.calibration.as_ref().map(Calibration::describe);
    let lineage = identity::lineage(checkpoint, &config, &options.recipe, calibration);
    let source_files = identity::source_files(checkpoint)?;
    // Once to refuse before anything is made, and again when nobody else may change it.
    identity::state(out, &lineage, &source_files)?;
    fs::create_dir_all(out).map_err(Error::write(out))?;
    // Keeps two runs from one folder.
    let lock = out.join(LOCK);
    let _lock = Lock::take(&lock)
        .map_err(Error::write(&lock))?
        .ok_or_else(|| Error::refused(out, "another run is packing into it"))?;
    let (earlier, finished) = match identity::state(out, &lineage, &source_files)? {
        State::New => (Vec::new(), false),
        State::Begun(done) => (done, false),
        State::Finished(done) => (done, true),
    };
    if !finished {
        identity::note(out, &lineage, &source_files, &earlier)?;
    }

    let common = Common {
        config: container::checksum(config.as_bytes()),
        pack: format!("{:08x}", container::checksum(format!("{lineage}{source_files}").as_bytes())),
    };
    let compute = Compute::new(options.threads, 0);
    let mut done: Vec<Done> = Vec::new();
    let mut weights_done = 0;
    let count = shards.len();
    // What an earlier run finished stays, when it is still what it was.
    for (index, (shard, earlier)) in shards.iter().zip(&earlier).enumerate() {
        let whole = files::hash(&out.join(&earlier.file))? == Some((earlier.bytes, earlier.crc32));
        if !whole || earlier.file != shard_name(index, count) {
            break;
        }
        weights_done += shard.iter().map(Planned::weights).sum::<u64>();
        done.push(earlier.clone());
    }
    summary.resumed = done.len();
    if finished && done.len() < count {
        let damaged = out.join(shard_name(done.len(), count));
        return Err(Error::refused(damaged, "it is not what was packed here; remove the folder and pack again"));
    }
    progress.start(summary.weights, weights_done);
    for (index, shard) in shards.iter_mut().enumerate().skip(done.len()) {
        let name = shard_name(index, count);
        progress.file(&name);
        let path = out.join(&name);
        let mut file = Aside::create(&path)?;
        file.write(&shard::header(shard, &common))?;
        if let Some(calibration) = &options.calibration {
            shard.iter_mut().for_each(|tensor| tensor.importance = calibration.importance(&tensor.name));
        }
        stream::write(&compute, shard::pieces(shard), &mut file, progress)?;
        shard.iter_mut().for_each(|tensor| tensor.importance = Vec::new());
        let bytes = file.bytes();
        let crc32 = file.finish()?;
        done.push(Done { file: name, bytes, crc32 });
        identity::note(out, &lineage, &source_files, &done)?;
    }
    let (config_path, index_path) = (out.join("config.json"), out.join(INDEX));
    if finished {
        // What was lost of it is made again, and what is there stays: a template may have been edited.
        for (path, text) in [(&config_path, &config), (&index_path, &index(&shards))] {
            if !path.exists() {
                files::write(path, text.as_bytes())?;
            }
        }
    } else {
        text::write(checkpoint, out)?;
        files::write(&config_path, config.as_bytes())?;
        identity::describe(out, &lineage, &source_files, &done, summary.bits_per_weight)?;
        // The index comes last: with it the folder is a checkpoint.
        files::write(&index_path, index(&shards).as_bytes())?;
        let note = out.join(identity::NOTE);
        fs::remove_file(&note).map_err(Error::write(&note))?;
    }
    progress.finish();
    Ok(summary)
}

/// Tensors by file: what is outside layers, then a file a layer. Each tensor is where the last one ends when they are read in
/// the order in which a forward pass needs them.
fn plan<'a>(checkpoint: &'a Checkpoint, recipe: &Recipe) -> Result<Vec<Vec<Planned<'a>>>, Error> {
    let layers = checkpoint.config.num_hidden_layers;
    let mut shards = vec![Vec::new(); 1 + layers];
    let mut unused: Vec<_> = recipe.exceptions().iter().map(|(pattern, _)| pattern).collect();
    for (name, shape) in expected_tensors(&checkpoint.config) {
        let Some(source) = checkpoint.tensor(&name) else { continue };
        unused.retain(|pattern| !pattern.matches(&name));
        let layer = name.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.')?.0.parse::<usize>().ok());
        let kind = recipe.of(layers, &name, &shape);
        shards[layer.map_or(0, |layer| 1 + layer)].push(Planned { name, kind, source, importance: Vec::new() });
    }
    match unused.first() {
        None => Ok(shards),
        Some(pattern) => Err(Error::Recipe(format!("{}: no tensor of this model has such a name", pattern.as_str()))),
    }
}

fn shard_name(index: usize, count: usize) -> String {
    format!("model-{:05}-of-{count:05}.safetensors", index + 1)
}

fn index(shards: &[Vec<Planned<'_>>]) -> String {
    let mut map = Map::new();
    for (index, shard) in shards.iter().enumerate() {
        for tensor in shard {
            map.insert(tensor.name.clone(), json!(shard_name(index, shards.len())));
        }
    }
    let total_size: u64 = shards.iter().flatten().map(|tensor| tensor.bytes() as u64).sum();
    let json = json!({ "metadata": { "total_size": total_size }, "weight_map": map });
    format!("{json:#}\n")
}

fn summarise(shards: &[Vec<Planned<'_>>]) -> Summary {
    let mut summary = Summary { files: shards.len(), ..Summary::default() };
    let mut bytes = 0;
    for tensor in shards.iter().flatten() {
        let share = summary.types.entry(tensor.kind).or_default();
        share.0 += 1;
        share.1 += tensor_bytes(tensor.kind, &tensor.source.shape);
        bytes += tensor.bytes() as u64;
        summary.weights += tensor.weights();
        let odd = tensor.source.shape.last().is_some_and(|cols| !cols.is_multiple_of(dots_kernels::packed::GROUP));
        if odd && tensor.kind == WeightType::BF16 {
            summary.odd.push(tensor.name.clone());
        }
    }
    summary.bits_per_weight = 8.0 * bytes as f64 / summary.weights.max(1) as f64;
    summary
}

/// Refuses to write into what is read, before anything costly is done.
pub fn refuse_own_source(checkpoint: &Checkpoint, out: &Path) -> Result<(), Error> {
    let source = fs::canonicalize(&checkpoint.path).unwrap_or_else(|_| checkpoint.path.clone());
    let target = settled(out);
    if target == source {
        return Err(Error::refused(out, "this is the checkpoint itself; give another folder"));
    }
    if target.starts_with(&source) {
        return Err(Error::refused(out, "this is inside the checkpoint itself; give another folder"));
    }
    Ok(())
}

/// `path` without links and dots, as far as it exists.
pub(crate) fn settled(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut rest = Vec::new();
    let mut there = absolute.as_path();
    loop {
        if let Ok(known) = fs::canonicalize(there) {
            return rest.iter().rev().fold(known, |path, name| path.join(name));
        }
        let (Some(parent), Some(name)) = (there.parent(), there.file_name()) else { return absolute };
        rest.push(name.to_owned());
        there = parent;
    }
}
