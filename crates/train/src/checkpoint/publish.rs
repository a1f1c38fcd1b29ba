//! A model that no step made, in the published layout.

use std::{ffi::OsString, fs, path::Path};

use dots_model::{Config, checkpoint::expected_tensors};
use serde_json::{Map, Value};

use super::{
    CheckpointError, Companions, NOTE, file, release,
    weights::{SHARD_BYTES, Weights, planned},
};

/// What a published model says beside its weights.
#[derive(Debug, Clone, Copy)]
pub struct Published<'a> {
    /// The model's shape.
    pub config: &'a Config,
    /// Folder of the tokenizer's files, which are copied.
    pub tokenizer: &'a Path,
    /// Where it comes from: goes into `dots.json` as it is.
    pub lineage: &'a Map<String, Value>,
}

/// Gives a tensor's numbers by its published name and shape.
pub type Numbers<'a, E> = dyn FnMut(&str, &[usize]) -> Result<Vec<f32>, E> + 'a;

/// Writes a model into the new folder `out`. `numbers` is asked for each of its tensors by name and shape, in the order of
/// [`expected_tensors`]. There is no state: a run can start from it ([`crate::recipe::Model::start`]), and none goes on from it. Fails
/// without a trace.
pub fn publish<E: From<CheckpointError>>(
    out: &Path,
    about: &Published<'_>,
    numbers: &mut Numbers<'_, E>,
) -> Result<(), E> {
    if out.exists() {
        return Err(
            CheckpointError::wrong(out, "folder", "none of that name yet", "one; nothing is written over").into()
        );
    }
    // Before anything is written.
    Companions::read(about.tokenizer)?;
    let mut part = OsString::from(out);
    part.push(".part");
    let part = Path::new(&part);
    if let Some(parent) = out.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        fs::create_dir_all(parent).map_err(CheckpointError::io(parent))?;
    }
    // One that is there may be another program's, or what a killed one left: whoever knows may remove it.
    fs::create_dir(part).map_err(CheckpointError::io(part))?;
    let written = write(part, about, numbers).and_then(|()| Ok(file::rename(part, out)?));
    if written.is_err() {
        // The reason is the one to tell.
        let _ = fs::remove_dir_all(part);
    }
    written
}

fn write<E: From<CheckpointError>>(part: &Path, about: &Published<'_>, numbers: &mut Numbers<'_, E>) -> Result<(), E> {
    let tensors = expected_tensors(about.config).map(|(name, shape)| planned(&name, &shape)).collect();
    let mut weights = Weights::begin(part, tensors, SHARD_BYTES)?;
    for (name, shape) in expected_tensors(about.config) {
        weights.append(&numbers(&name, &shape)?)?;
    }
    let mut files = weights.finish()?;
    release::write(part, about.config, &Companions::read(about.tokenizer)?, &mut files)?;
    let mut note = about.lineage.clone();
    note.insert("files".to_owned(), files.into());
    file::write(&part.join(NOTE), format!("{:#}\n", Value::Object(note)).as_bytes())?;
    Ok(file::sync_folder(part)?)
}
