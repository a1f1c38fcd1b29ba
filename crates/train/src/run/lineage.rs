//! `run.json`: what a run is made of beside its recipe, so that nobody has to guess what a curve is of.
//!
//! ```text
//! name, recipe_sha256, seed    of the recipe
//! builds                       which program on which instruction set made the steps from `from_step` on
//! tokenizer_sha256, data       hashes of what it learns from, by source and shard, of chats of their ids too; of what phases sampled
//!                              as `phase/source`
//! parent, ancestors, changes   of a branch: the checkpoint that it goes on from, its own parents, what its recipe changes
//! started                      when, where, on how many threads
//! ```
//!
//! All but the last stand in each checkpoint's `dots.json` too.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
    time::SystemTime,
};

use dots_model::aside;
use serde_json::{Map, Value, json};

use super::{RunError, host};
use crate::{recipe::Recipe, rejection::round::is_sampled};

pub(super) const FILE: &str = "run.json";
/// Largest file that is read: thousands of shards take less.
const MAX_BYTES: u64 = 1 << 26;
/// What a checkpoint has no use for.
const STARTED: &str = "started";
const BUILDS: &str = "builds";
/// Of a file of chats: hash of the ids that they became.
const IDS: &str = "ids_sha256";

/// What makes a run's steps, and from what.
#[derive(Debug, Clone, PartialEq)]
pub struct Origin {
    /// The program and its build.
    pub made_by: String,
    /// The instructions that its kernels use.
    pub instruction_set: String,
    /// Threads: told, though they change no number.
    pub threads: usize,
    /// Hash of the tokenizer.
    pub tokenizer_sha256: String,
    /// By source its shards or files, each with its hash; of a file of chats as `ids_sha256` that of what they became, too.
    pub data: Map<String, Value>,
    /// Whether to go on with what another build began.
    pub allow_other_build: bool,
}

impl Origin {
    /// What a list of builds has of it.
    pub(super) fn build(&self, from_step: u64) -> Value {
        json!({ "from_step": from_step, "made_by": self.made_by, "instruction_set": self.instruction_set })
    }
}

/// A run's `run.json`, an object.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Lineage(Value);

impl Lineage {
    /// Of a run that begins; `branch` is what a branch has more, or otherwise.
    pub(super) fn begin(
        folder: &Path,
        recipe: &Recipe,
        origin: &Origin,
        branch: Map<String, Value>,
    ) -> Result<Self, RunError> {
        let mut lineage = json!({
            "name": recipe.name,
            "recipe_sha256": recipe.hash(),
            "seed": recipe.seed,
            BUILDS: [origin.build(0)],
            "tokenizer_sha256": origin.tokenizer_sha256,
            "data": origin.data,
        });
        branch.into_iter().for_each(|(key, value)| lineage[key] = value);
        lineage[STARTED] = json!({ "time": now(), "host": host(), "threads": origin.threads });
        Self(lineage).keep(folder)
    }

    /// Of the run in `folder`, which goes on after `step` steps. Another tokenizer or other data is another run, and so is another
    /// build unless that is allowed: the steps from here on would not be those that the first one would have made.
    pub(super) fn open(folder: &Path, recipe: &Recipe, origin: &Origin, step: u64) -> Result<Self, RunError> {
        let path = folder.join(FILE);
        let Some(mut lineage) = read(&path)? else { return Self::begin(folder, recipe, origin, Map::new()) };
        let expect = |what: &str, expected: &Value, found: &Value| match expected == found {
            true => Ok(()),
            false => Err(RunError::Differs {
                path: path.clone(),
                what: what.to_owned(),
                expected: expected.to_string(),
                found: found.to_string(),
            }),
        };
        expect("tokenizer_sha256", &lineage["tokenizer_sha256"], &origin.tokenizer_sha256.as_str().into())?;
        for (source, found) in &origin.data {
            // What a phase sampled was not there before.
            if is_sampled(source) && lineage["data"][source].is_null() {
                lineage["data"][source] = found.clone();
            }
            if let Some(kept) = lineage["data"].get_mut(source) {
                take_over_ids(kept, found);
            }
            let kept = &lineage["data"][source];
            if let Some(nth) = other_ids(kept, found) {
                return Err(RunError::Differs {
                    path,
                    what: format!("data.{source}.{nth}.{IDS}"),
                    expected: kept[nth][IDS].to_string(),
                    found: format!("{}, by another chat template of the tokenizer", found[nth][IDS]),
                });
            }
            expect(&format!("data.{source}"), kept, found)?;
        }
        let mut builds = lineage[BUILDS].as_array().cloned().unwrap_or_default();
        // Steps that are made again are not those of the build that made them first.
        builds.retain(|build| build["from_step"].as_u64().is_some_and(|from| from <= step));
        if let Err(last) = continued(&mut builds, origin.build(step), origin.allow_other_build) {
            let words = |made_by: &str, instruction_set: &str| format!("{made_by} on {instruction_set}");
            let word = |key: &str| last[key].as_str().unwrap_or("?").to_owned();
            return Err(RunError::OtherBuild {
                path,
                expected: words(&word("made_by"), &word("instruction_set")),
                found: words(&origin.made_by, &origin.instruction_set),
            });
        }
        lineage[BUILDS] = builds.into();
        Self(lineage).keep(folder)
    }

    /// Whatever of it belongs to a checkpoint.
    pub(super) fn of_checkpoint(&self) -> Map<String, Value> {
        let all = self.0.as_object().into_iter().flatten();
        all.filter(|(key, _)| *key != STARTED).map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    fn keep(self, folder: &Path) -> Result<Self, RunError> {
        let path = folder.join(FILE);
        let text = format!("{:#}\n", self.0);
        aside::write(&path, text.as_bytes()).map_err(|source| RunError::Io { path, source })?;
        Ok(self)
    }
}

/// Whether a source is what it was, as far as that is known.
pub(super) fn is_same_data(kept: &Value, found: &Value) -> bool {
    let mut kept = kept.clone();
    take_over_ids(&mut kept, found);
    kept == *found
}

/// Notes of each file of chats what ids they are, where an earlier version that began the run did not: what is not known cannot be
/// held to, and from here on it is.
fn take_over_ids(kept: &mut Value, found: &Value) {
    for (kept, found) in kept.as_array_mut().into_iter().flatten().zip(found.as_array().into_iter().flatten()) {
        // What another file becomes says nothing of it.
        let is_same_file = kept["sha256"] == found["sha256"];
        if let (Some(kept), Some(ids), true) = (kept.as_object_mut(), found.get(IDS), is_same_file) {
            kept.entry(IDS).or_insert_with(|| ids.clone());
        }
    }
}

/// The first file whose bytes are what they were and whose chats are other ids.
fn other_ids(kept: &Value, found: &Value) -> Option<usize> {
    let (kept, found) = (kept.as_array()?, found.as_array()?);
    kept.iter().zip(found).position(|(kept, found)| kept["sha256"] == found["sha256"] && kept[IDS] != found[IDS])
}

/// Adds the build that goes on to those that made the steps before it; the last of these where it is another one and that is
/// not allowed.
pub(super) fn continued(builds: &mut Vec<Value>, next: Value, allow_other: bool) -> Result<(), Value> {
    let same = |one: &Value| one["made_by"] == next["made_by"] && one["instruction_set"] == next["instruction_set"];
    let Some(last) = builds.last().filter(|last| !same(last)) else {
        if builds.is_empty() {
            builds.push(next);
        }
        return Ok(());
    };
    // Where nothing is left of what the last one did, there is nothing to differ from.
    if last["from_step"] == next["from_step"] {
        builds.pop();
        if !builds.last().is_some_and(same) {
            builds.push(next);
        }
        return Ok(());
    }
    if !allow_other {
        return Err(last.clone());
    }
    builds.push(next);
    Ok(())
}

/// `None` where there is none.
pub(super) fn read(path: &Path) -> Result<Option<Value>, RunError> {
    let mut text = String::new();
    match File::open(path).and_then(|file| file.take(MAX_BYTES).read_to_string(&mut text)) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(RunError::Io { path: path.to_owned(), source }),
    }
    let wrong = |found: String| RunError::Differs {
        path: path.to_owned(),
        what: "text".to_owned(),
        expected: "a JSON object".to_owned(),
        found,
    };
    match serde_json::from_str::<Value>(&text) {
        Ok(value) if value.is_object() => Ok(Some(value)),
        Ok(other) => Err(wrong(other.to_string().chars().take(60).collect())),
        Err(error) => Err(wrong(error.to_string())),
    }
}

/// Seconds since 1970.
pub(super) fn now() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}
