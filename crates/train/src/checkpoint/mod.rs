//! Checkpoints of a run: each a released model in the published layout, with the state that a run goes on from beside it.
//!
//! ```text
//! step-000120-tokens-0031M/
//!   config.json, generation_config.json, tokenizer.json, …    as dots.llm1 was published
//!   model.safetensors                                         bf16; or model-00001-of-00002.safetensors, … and their index
//!   dots.json                                                 lineage; size and CRC-32 of each file above
//!   state/state.safetensors, state/state.json                 f32 weights and moments; their size and CRC-32
//! ```
//!
//! A checkpoint is written in a folder whose name ends in `.part`, put on the disk, and renamed: what bears a checkpoint's name is
//! whole, unless a disk or a person broke it later, which [`newest`] finds out before it believes it.

mod error;
mod file;
mod name;
mod publish;
mod release;
mod tensors;
mod weights;

#[cfg(test)]
mod tests;

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use dots_model::{Config, hex};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

pub use error::CheckpointError;
pub use name::Name;
pub use publish::{Published, publish};
pub use release::Companions;

use crate::step::{StateKind, Step};
use tensors::{Kept, Planned, Reader};
use weights::{SHARD_BYTES, Weights};

/// Largest `dots.json` and `state.json`.
const MAX_NOTE_BYTES: u64 = 1 << 26;

const NOTE: &str = "dots.json";
const STATE: &str = "state";
const STATE_NOTE: &str = "state.json";
const STATE_TENSORS: &str = "state.safetensors";
/// Key of the state's header: updates made.
const UPDATES: &str = "updates";

/// What a checkpoint says beside its weights.
#[derive(Debug, Clone, Copy)]
pub struct About<'a> {
    /// Where it is taken.
    pub name: Name,
    /// The model's shape.
    pub config: &'a Config,
    /// The tokenizer's files.
    pub companions: &'a Companions,
    /// Whatever else should be known of it: recipe, data, code, loss, parent. Goes into `dots.json` as it is.
    pub lineage: &'a Map<String, Value>,
}

/// A checkpoint with a state, looked through.
#[derive(Debug, Clone, PartialEq)]
pub struct Whole {
    /// Its folder.
    pub path: PathBuf,
    /// Where it was taken.
    pub name: Name,
    /// Its `dots.json`.
    pub note: Value,
}

/// A checkpoint that is not whole.
#[derive(Debug)]
pub struct Broken {
    /// Its folder.
    pub path: PathBuf,
    /// What is wrong with it.
    pub why: CheckpointError,
}

/// What [`newest`] found.
#[derive(Debug)]
pub struct Found {
    /// The newest one that is whole.
    pub whole: Option<Whole>,
    /// Newer ones that are not, and why.
    pub broken: Vec<Broken>,
    /// Checkpoints in all, with a state or without.
    pub count: usize,
}

/// Takes a damaged checkpoint out of the way: nothing is written over, whoever looks finds it, and it counts as none.
pub fn set_aside(path: &Path) -> Result<(), CheckpointError> {
    if !path.exists() {
        return Ok(());
    }
    let mut aside = path.as_os_str().to_owned();
    aside.push(".damaged");
    remove(Path::new(&aside))?;
    fs::rename(path, &aside).map_err(CheckpointError::io(path))
}

/// Writes a checkpoint of `step` into the folder `checkpoints`. Fails without a trace: the others are as they were.
pub fn write(checkpoints: &Path, step: &mut dyn Step, about: &About<'_>) -> Result<PathBuf, CheckpointError> {
    let path = checkpoints.join(about.name.to_string());
    let part = checkpoints.join(format!("{}.part", about.name));
    fs::create_dir_all(checkpoints).map_err(CheckpointError::io(checkpoints))?;
    remove(&part)?;
    let written = write_part(&part, step, about, SHARD_BYTES).and_then(|()| {
        set_aside(&path)?;
        file::rename(&part, &path)
    });
    if let Err(error) = written {
        // The disk may be full: what was half written goes, and the reason is the one to tell.
        let _ = fs::remove_dir_all(&part);
        return Err(error);
    }
    Ok(path)
}

fn write_part(part: &Path, step: &mut dyn Step, about: &About<'_>, shard_bytes: usize) -> Result<(), CheckpointError> {
    fs::create_dir(part).map_err(CheckpointError::io(part))?;
    let state_folder = part.join(STATE);
    fs::create_dir(&state_folder).map_err(CheckpointError::io(&state_folder))?;

    let (mut released, mut state) = (Vec::new(), Vec::new());
    let planned = step.export(&mut |tensor| {
        if tensor.kind == StateKind::Weight {
            released.push(weights::planned(tensor.name, tensor.shape));
        }
        let name = state_name(tensor.name, tensor.kind);
        state.push(Planned { name, shape: tensor.shape.to_vec(), kept: Kept::F32 });
        Ok(())
    });
    planned.map_err(CheckpointError::io(part))?;

    // Within what the checksum covers.
    let updates = Some((UPDATES, step.updates()));
    let mut state_file = tensors::begin(&state_folder.join(STATE_TENSORS), &state, updates)?;
    let mut weights = Weights::begin(part, released, shard_bytes)?;
    let mut failed = None;
    let written = step.export(&mut |tensor| {
        let put = tensors::append(&mut state_file, Kept::F32, tensor.numbers).and_then(|()| match tensor.kind {
            StateKind::Weight => weights.append(tensor.numbers),
            _ => Ok(()),
        });
        put.map_err(|error| {
            failed = Some(error);
            io::Error::other("the checkpoint was not written")
        })
    });
    if let Some(error) = failed {
        return Err(error);
    }
    written.map_err(CheckpointError::io(part))?;
    let mut files = weights.finish()?;
    release::write(part, about.config, about.companions, &mut files)?;

    let state_note = state_file.finish()?;
    file::write(&state_folder.join(STATE_NOTE), format!("{state_note:#}\n").as_bytes())?;
    let mut note = about.lineage.clone();
    note.insert("step".to_owned(), about.name.step.into());
    note.insert("tokens".to_owned(), about.name.tokens.into());
    note.insert("files".to_owned(), files.into());
    file::write(&part.join(NOTE), format!("{:#}\n", Value::Object(note)).as_bytes())?;
    file::sync_folder(&state_folder)?;
    file::sync_folder(part)
}

/// The newest checkpoint in the folder `checkpoints` that a run can go on from. Each file of one is held to its size and CRC-32, newest
/// first, until one is whole; those whose state was let go are passed over. A folder that is not there has none.
pub fn newest(checkpoints: &Path) -> Result<Found, CheckpointError> {
    let steps = steps(checkpoints)?;
    let mut found = Found { whole: None, broken: Vec::new(), count: steps.len() };
    for (_, path) in steps.into_iter().rev() {
        if !has_state(&path) {
            continue;
        }
        match open(&path) {
            Ok(whole) => {
                found.whole = Some(whole);
                break;
            }
            Err(why) => found.broken.push(Broken { path, why }),
        }
    }
    Ok(found)
}

/// Whether a checkpoint's state was not let go.
pub fn has_state(path: &Path) -> bool {
    path.join(STATE).join(STATE_NOTE).exists()
}

/// What tells a checkpoint from all others, in hexadecimal: SHA-256 of its notes, which hold the checksums of all of its files.
pub fn hash(path: &Path) -> Result<String, CheckpointError> {
    let mut hasher = Sha256::new();
    for note in [path.join(NOTE), path.join(STATE).join(STATE_NOTE)] {
        hasher.update(fs::read(&note).map_err(CheckpointError::io(&note))?);
    }
    Ok(hex(&hasher.finalize()))
}

/// Puts a checkpoint into another run's folder `checkpoints`, where it is not there yet: by links where both lie on one disk that has
/// them, which is as good as a copy, since no file of a checkpoint is ever written again.
pub fn link(whole: &Whole, checkpoints: &Path) -> Result<(), CheckpointError> {
    let path = checkpoints.join(whole.name.to_string());
    if path.exists() && hash(&path).ok() == Some(hash(&whole.path)?) {
        return Ok(());
    }
    set_aside(&path)?;
    let part = checkpoints.join(format!("{}.part", whole.name));
    fs::create_dir_all(checkpoints).map_err(CheckpointError::io(checkpoints))?;
    remove(&part)?;
    let state = part.join(STATE);
    fs::create_dir_all(&state).map_err(CheckpointError::io(&state))?;
    let files = whole.note["files"].as_object().into_iter().flat_map(Map::keys).map(PathBuf::from);
    let rest = [PathBuf::from(NOTE), Path::new(STATE).join(STATE_NOTE), Path::new(STATE).join(STATE_TENSORS)];
    for name in files.chain(rest) {
        let (from, to) = (whole.path.join(&name), part.join(&name));
        if fs::hard_link(&from, &to).is_err() {
            let copied = fs::copy(&from, &to).and_then(|_| fs::File::open(&to)?.sync_all());
            copied.map_err(CheckpointError::io(&to))?;
        }
    }
    file::sync_folder(&state)?;
    file::sync_folder(&part)?;
    file::rename(&part, &path)
}

/// Gives a checkpoint's state to `step`, whose model must be of its shape.
pub fn load(whole: &Whole, step: &mut dyn Step) -> Result<(), CheckpointError> {
    let path = whole.path.join(STATE).join(STATE_TENSORS);
    let mut reader = Reader::open(&path)?;
    let updates = reader.number(UPDATES)?;
    let mut taken = 0;
    step.import(updates, &mut |name, kind, shape, numbers| {
        taken += 1;
        reader.read(&state_name(name, kind), shape, numbers)
    })
    .map_err(CheckpointError::io(&path))?;
    if taken != reader.tensors() {
        let (expected, found) = (format!("{taken}, all of the model's"), reader.tensors().to_string());
        return Err(CheckpointError::wrong(path, "tensors", expected, found));
    }
    Ok(())
}

/// Lets go of all states up to step `newest` but the last `keep` of them; released weights stay. Damaged ones are set
/// aside by then, or they would be counted; later ones are left. What a killed run left half written goes too.
pub fn prune(checkpoints: &Path, newest: u64, keep: usize) -> Result<(), CheckpointError> {
    let steps = steps(checkpoints)?.into_iter().filter(|(step, _)| *step <= newest);
    let states: Vec<PathBuf> = steps.map(|(_, path)| path.join(STATE)).filter(|state| state.exists()).collect();
    for state in states.iter().rev().skip(keep) {
        // Without its note a state is none, so one that is half removed is not believed.
        let note = state.join(STATE_NOTE);
        match fs::remove_file(&note) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(CheckpointError::io(note)(error)),
            _ => remove(state)?,
        }
    }
    for entry in fs::read_dir(checkpoints).map_err(CheckpointError::io(checkpoints))? {
        let entry = entry.map_err(CheckpointError::io(checkpoints))?;
        let name = entry.file_name();
        if name.to_str().and_then(|name| name.strip_suffix(".part")).and_then(Name::step_of).is_some() {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

/// Steps and folders of all checkpoints in the folder `checkpoints`, oldest first.
pub fn steps(checkpoints: &Path) -> Result<Vec<(u64, PathBuf)>, CheckpointError> {
    let entries = match fs::read_dir(checkpoints) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(CheckpointError::io(checkpoints)(error)),
    };
    let mut steps = Vec::new();
    for entry in entries {
        let entry = entry.map_err(CheckpointError::io(checkpoints))?;
        if let Some(step) = entry.file_name().to_str().and_then(Name::step_of) {
            steps.push((step, entry.path()));
        }
    }
    steps.sort();
    Ok(steps)
}

/// The checkpoint in the folder `path`, each of whose files is held to its size and CRC-32.
pub fn open(path: &Path) -> Result<Whole, CheckpointError> {
    let note_path = path.join(NOTE);
    let note_value = note(&note_path)?;
    let files = note_value["files"]
        .as_object()
        .ok_or_else(|| CheckpointError::wrong(&note_path, "files", "an object", note_value["files"].to_string()))?;
    for (name, noted) in files {
        // A note may come from anywhere, and says only what lies beside it.
        if name.contains(['/', '\\']) || name == ".." {
            return Err(CheckpointError::wrong(&note_path, "files", "names of files beside it", name));
        }
        file::check(&path.join(name), noted)?;
    }
    let state = path.join(STATE);
    file::check(&state.join(STATE_TENSORS), &note(&state.join(STATE_NOTE))?)?;
    let number = |key| whole_number(&note_path, &note_value, key);
    let name = Name { step: number("step")?, tokens: number("tokens")? };
    if path.file_name().and_then(|name| name.to_str()) != Some(name.to_string().as_str()) {
        return Err(CheckpointError::wrong(
            &note_path,
            "step and tokens",
            "those of the folder's name",
            name.to_string(),
        ));
    }
    Ok(Whole { path: path.to_owned(), name, note: note_value })
}

fn note(path: &Path) -> Result<Value, CheckpointError> {
    let mut text = String::new();
    let file = fs::File::open(path).map_err(CheckpointError::io(path))?;
    file.take(MAX_NOTE_BYTES).read_to_string(&mut text).map_err(CheckpointError::io(path))?;
    serde_json::from_str(&text).map_err(|error| CheckpointError::wrong(path, "text", "JSON", error.to_string()))
}

fn whole_number(path: &Path, note: &Value, key: &str) -> Result<u64, CheckpointError> {
    note[key].as_u64().ok_or_else(|| CheckpointError::wrong(path, key, "a whole number", note[key].to_string()))
}

fn state_name(name: &str, kind: StateKind) -> String {
    match kind {
        StateKind::Weight => name.to_owned(),
        StateKind::FirstMoment => format!("{name}:first_moment"),
        StateKind::SecondMoment => format!("{name}:second_moment"),
    }
}

fn remove(folder: &Path) -> Result<(), CheckpointError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(CheckpointError::io(folder)(error)),
        _ => Ok(()),
    }
}
