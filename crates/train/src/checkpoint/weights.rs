//! The released weights of a checkpoint: files of a bounded size, and their index where there are several.

use std::{collections::VecDeque, path::Path};

use serde_json::{Map, Value, json};

use super::{
    CheckpointError, file,
    file::Hashed,
    tensors::{self, Kept, Planned},
};

/// Largest file of weights: that of the published checkpoint.
pub(super) const SHARD_BYTES: usize = 5_000_000_000;

/// How the tensor `name` is released.
pub(super) fn planned(name: &str, shape: &[usize]) -> Planned {
    // Biases are published in f32.
    let kept = if name.ends_with("e_score_correction_bias") { Kept::F32 } else { Kept::Bf16 };
    Planned { name: name.to_owned(), shape: shape.to_vec(), kept }
}

/// Weights while they are written.
pub(super) struct Weights<'a> {
    folder: &'a Path,
    /// What the index will say, where there is one.
    map: Map<String, Value>,
    total_bytes: usize,
    /// Files to come.
    shards: VecDeque<(String, Vec<Planned>)>,
    /// The file being written, its name, and how its tensors still to come are kept.
    open: Option<(String, Hashed, VecDeque<Kept>)>,
    files: Map<String, Value>,
}

impl<'a> Weights<'a> {
    /// Begins files in `folder` of these tensors, whose numbers follow in their order.
    pub(super) fn begin(folder: &'a Path, tensors: Vec<Planned>, shard_bytes: usize) -> Result<Self, CheckpointError> {
        let total_bytes = tensors.iter().map(Planned::bytes).sum();
        let (mut shards, mut shard_size) = (vec![Vec::new()], 0);
        for tensor in tensors {
            if shard_size > 0 && shard_size + tensor.bytes() > shard_bytes {
                shards.push(Vec::new());
                shard_size = 0;
            }
            shard_size += tensor.bytes();
            shards.last_mut().expect("there is one from the start").push(tensor);
        }
        let count = shards.len();
        let name = |index: usize| match count {
            1 => "model.safetensors".to_owned(),
            _ => format!("model-{:05}-of-{count:05}.safetensors", index + 1),
        };
        let shards: VecDeque<_> = shards.into_iter().enumerate().map(|(index, shard)| (name(index), shard)).collect();
        let map = if count == 1 {
            Map::new()
        } else {
            let entries = shards.iter().flat_map(|(file, shard)| shard.iter().map(move |tensor| (tensor, file)));
            entries.map(|(tensor, file)| (tensor.name.clone(), file.clone().into())).collect()
        };
        let mut weights = Self { folder, map, total_bytes, shards, open: None, files: Map::new() };
        weights.next_file()?;
        Ok(weights)
    }

    fn next_file(&mut self) -> Result<(), CheckpointError> {
        if let Some((name, file, _)) = self.open.take() {
            self.files.insert(name, file.finish()?);
        }
        if let Some((name, shard)) = self.shards.pop_front() {
            let file = tensors::begin(&self.folder.join(&name), &shard, None)?;
            self.open = Some((name, file, shard.iter().map(|tensor| tensor.kept).collect()));
        }
        Ok(())
    }

    /// Appends the next tensor's numbers.
    pub(super) fn append(&mut self, numbers: &[f32]) -> Result<(), CheckpointError> {
        if self.open.as_ref().is_some_and(|(_, _, kept)| kept.is_empty()) {
            self.next_file()?;
        }
        match &mut self.open {
            Some((_, file, kept)) => tensors::append(file, kept.pop_front().unwrap_or(Kept::Bf16), numbers),
            None => Ok(()),
        }
    }

    /// Puts all on the disk. Returns size and checksum of each file.
    pub(super) fn finish(mut self) -> Result<Map<String, Value>, CheckpointError> {
        self.next_file()?;
        let Self { folder, map, total_bytes, mut files, .. } = self;
        if !map.is_empty() {
            let index = format!("{:#}\n", json!({ "metadata": { "total_size": total_bytes }, "weight_map": map }));
            let name = "model.safetensors.index.json";
            files.insert(name.to_owned(), file::write(&folder.join(name), index.as_bytes())?);
        }
        Ok(files)
    }
}
