//! Branches: runs that go on from a checkpoint of another one, with or without changes.
//!
//! A branch's folder gets its parent's checkpoint (by a link where the disk has them) and is from then on a run like any other: it
//! needs its parent no more, and a branch without changes makes the parent's own next steps, to the bit.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use dots_model::aside::Aside;
use serde_json::{Map, Value, json};

use super::{
    Origin, RECIPE, RunError, keep_recipe,
    lineage::{self, Lineage, continued},
    lock::Lock,
};
use crate::{
    checkpoint::{self, Whole},
    recipe::{Change, Kind, Phase, Recipe, SHAPES},
    rejection::round::Sampled,
    schedule::Schedule,
    shards::hash_file,
};

/// A checkpoint that a run branches from.
#[derive(Debug)]
pub struct Parent {
    from: String,
    whole: Whole,
    recipe: Recipe,
}

/// What a branch does otherwise than its parent.
#[derive(Debug)]
pub struct Branched {
    /// The step that it goes on after.
    pub step: u64,
    /// Its changes.
    pub changes: Vec<Change>,
    /// What whoever compares the two should know.
    pub notes: Vec<String>,
}

impl Parent {
    /// Finds `RUN@step`, a checkpoint's folder, or the newest checkpoint of a run's folder, and looks it through.
    pub fn find(from: &str) -> Result<Self, RunError> {
        let wrong = |what: &str, expected: String, found: String| RunError::Branch {
            from: from.to_owned(),
            what: what.to_owned(),
            expected,
            found,
        };
        let (run, step) = match from.rsplit_once('@') {
            Some((run, step)) if step.bytes().all(|byte| byte.is_ascii_digit()) && !step.is_empty() => {
                (Path::new(run), step.parse::<u64>().ok())
            }
            _ => (Path::new(from), None),
        };
        let checkpoints = run.join("checkpoints");
        let path =
            if step.is_none() && !checkpoints.is_dir() { run.to_owned() } else { of_step(&checkpoints, step, &wrong)? };
        if !path.is_dir() {
            return Err(wrong("path", "the folder of a run or of a checkpoint".to_owned(), "none".to_owned()));
        }
        if !checkpoint::has_state(&path) {
            return Err(wrong(
                "state",
                "a checkpoint with its state".to_owned(),
                format!(
                    "{}, whose state is not there: checkpoints.keep_states keeps those of the newest ones; model.start begins a run \
                     from weights alone",
                    path.display()
                ),
            ));
        }
        let whole = checkpoint::open(&path)?;
        let note = &whole.note;
        let Some(text) = note["recipe"].as_str() else {
            return Err(wrong("recipe", "a checkpoint whose dots.json holds its recipe".to_owned(), "none".to_owned()));
        };
        let recipe = Recipe::parse(text, &path.join("dots.json"))?;
        Ok(Self { from: from.to_owned(), whole, recipe })
    }

    /// What the parent had sampled for the phases that it had begun: a branch learns from the same.
    pub fn sampled(&self) -> Sampled {
        let begun = self.whole.note["phase"].as_str();
        let begun = self.recipe.phases.iter().position(|phase| Some(phase.name.as_str()) == begun);
        // In `RUN/checkpoints/NAME`.
        let run = self.whole.path.parent().and_then(Path::parent);
        match (run, begun) {
            (Some(run), Some(last)) => Sampled::of_first(run, last + 1),
            _ => Sampled::default(),
        }
    }

    /// What the parent did, and the branch does where nothing is set.
    pub fn recipe(&self) -> &Recipe {
        &self.recipe
    }

    /// Makes `folder` a run of `recipe` that goes on from here. What alters shapes, or the steps that were made, is refused by its key;
    /// a folder that holds a run, or what a run there would take for its own, is left as it is. Killed at any moment, it may be called
    /// again.
    pub fn branch(
        &self,
        folder: &Path,
        recipe: &Recipe,
        schedule: &Schedule,
        origin: &Origin,
    ) -> Result<Branched, RunError> {
        let changes = self.recipe.changes(recipe);
        self.check(&changes, schedule)?;
        self.check_tokenizer(origin)?;
        fs::create_dir_all(folder).map_err(|source| RunError::Io { path: folder.to_owned(), source })?;
        let _lock = Lock::take(folder)?;
        if folder.join(RECIPE).exists() {
            let (expected, found) = ("a new folder".to_owned(), "a run".to_owned());
            return Err(self.wrong(&format!("--out {}", folder.display()), expected, found));
        }
        self.check_is_free(folder, recipe)?;
        checkpoint::link(&self.whole, &folder.join("checkpoints"))?;
        self.keep_sampled(folder, recipe)?;
        Lineage::begin(folder, recipe, origin, self.lineage(&changes, origin)?)?;
        // Last: a folder with a recipe is a run.
        keep_recipe(folder, recipe)?;
        let notes = self.notes(&changes, origin);
        Ok(Branched { step: self.whole.name.step, changes, notes })
    }

    /// Refuses a folder in which lies what a run there would go on from, or write over. What a first attempt at this branch left is the
    /// branch's own.
    fn check_is_free(&self, folder: &Path, recipe: &Recipe) -> Result<(), RunError> {
        let name = self.whole.name.to_string();
        let mut checkpoints = checkpoint::steps(&folder.join("checkpoints"))?.into_iter().map(|(_, path)| path);
        let other = checkpoints.find(|path| path.file_name() != Some(name.as_ref()));
        // An attempt ends before the first step, which tells of itself in these.
        let told =
            ["metrics.jsonl", "tensorboard"].map(|name| folder.join(name)).into_iter().find(|path| path.exists());
        let lineage = folder.join(lineage::FILE);
        let lineage = (lineage.exists() && !self.is_parent_in(&lineage)?).then_some(lineage);
        match other.or(told).or(lineage).or(self.other_sample(folder, recipe)?) {
            Some(path) => Err(RunError::InTheWay { path }),
            None => Ok(()),
        }
    }

    /// Whether the `run.json` at `path` is of a branch of this checkpoint.
    fn is_parent_in(&self, path: &Path) -> Result<bool, RunError> {
        let hash = checkpoint::hash(&self.whole.path)?;
        // What cannot be read is somebody else's.
        Ok(lineage::read(path).ok().flatten().is_some_and(|kept| kept["parent"]["sha256"] == hash))
    }

    /// A file among a run's samples that is no copy of the parent's.
    fn other_sample(&self, folder: &Path, recipe: &Recipe) -> Result<Option<PathBuf>, RunError> {
        let samples = folder.join("samples");
        let io = |source| RunError::Io { path: samples.clone(), source };
        let entries = match fs::read_dir(&samples) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            entries => entries.map_err(io)?,
        };
        let own = self.sampled().files(recipe);
        let is_own = |path: &Path| {
            // Half a copy has no name that anybody reads, and is written over.
            let is_part = path.extension().is_some_and(|extension| extension == "part");
            is_part || own.iter().any(|(from, place)| folder.join(place) == path && is_copy(from, path))
        };
        for entry in entries {
            let path = entry.map_err(io)?.path();
            if !is_own(&path) {
                return Ok(Some(path));
            }
        }
        Ok(None)
    }

    /// Its own copy of what was sampled.
    fn keep_sampled(&self, folder: &Path, recipe: &Recipe) -> Result<(), RunError> {
        for (from, place) in self.sampled().files(recipe) {
            copy(&from, &folder.join(place))?;
        }
        Ok(())
    }

    fn wrong(&self, what: &str, expected: String, found: String) -> RunError {
        RunError::Branch { from: self.from.clone(), what: what.to_owned(), expected, found }
    }

    fn check(&self, changes: &[Change], schedule: &Schedule) -> Result<(), RunError> {
        // The first of them is the one that was set; the shape's ratios may have changed others after it.
        let of = |dial: &str| changes.iter().find(|change| change.key.strip_prefix("model.") == Some(dial));
        if let Some(Change { key, before, after }) = SHAPES.iter().find_map(|(dial, _)| of(dial)) {
            let expected = format!("{before}, as the weights and moments of the parent have it");
            return Err(self.wrong(key, expected, after.clone()));
        }
        let (note, step) = (&self.whole.note, self.whole.name.step);
        // The last step must have been what it was: what a branch changes begins after it.
        let last = step.checked_sub(1).and_then(|last| schedule.at(last));
        let same = last.is_some_and(|last| {
            note["phase"] == *schedule.phase_name(last.phase)
                && note["step_in_phase"] == last.step_in_phase + 1
                && note["tokens_in_phase"] == last.tokens_in_phase + last.batch_tokens
                && self.whole.name.tokens == last.tokens + last.batch_tokens
        });
        if !same {
            let length = |change: &&Change| {
                ["tokens", "epochs", "batch_tokens", "sequence_tokens", "name", "kind"]
                    .iter()
                    .any(|of| change.key.split('.').any(|part| part == *of))
            };
            let change = changes.iter().find(length).or(changes.first());
            let key = change.map_or("phases", |change| change.key.as_str());
            let found = change.map_or("another schedule".to_owned(), |change| change.after.clone());
            let expected = format!(
                "the steps up to {step} as the parent made them ({} tokens); a batch of another size from here on is a stage of its own, \
                 {{ from = {}, tokens = … }}",
                self.whole.name.tokens, note["tokens_in_phase"]
            );
            return Err(self.wrong(key, expected, found));
        }
        if schedule.at(step).is_none() && schedule.unsampled().is_none() {
            let expected = format!("more than {step} steps; set more tokens of the last phase");
            return Err(self.wrong("phases", expected, format!("{} in all", schedule.steps())));
        }
        Ok(())
    }

    /// An id stands for another text where the tokenizer is another, and the parent's weights know nothing of that.
    fn check_tokenizer(&self, origin: &Origin) -> Result<(), RunError> {
        const KEY: &str = "tokenizer_sha256";
        match self.whole.note[KEY].as_str() {
            Some(expected) if expected != origin.tokenizer_sha256 => {
                let expected = format!("{expected}, the parent's, whose ids its weights know");
                let found = format!("{}; model.start begins a run from weights alone", origin.tokenizer_sha256);
                Err(self.wrong(KEY, expected, found))
            }
            _ => Ok(()),
        }
    }

    fn lineage(&self, changes: &[Change], origin: &Origin) -> Result<Map<String, Value>, RunError> {
        let note = &self.whole.note;
        let mut builds = note["builds"].as_array().cloned().unwrap_or_default();
        // A branch is another run already.
        let _ = continued(&mut builds, origin.build(self.whole.name.step), true);
        let parent = json!({
            "run": note["name"],
            "checkpoint": self.whole.name.to_string(),
            "step": self.whole.name.step,
            "tokens": self.whole.name.tokens,
            "sha256": checkpoint::hash(&self.whole.path)?,
            "recipe_sha256": note["recipe_sha256"],
        });
        let mut ancestors = note["ancestors"].as_array().cloned().unwrap_or_default();
        ancestors.extend(note.get("parent").cloned());
        let changes =
            changes.iter().map(|change| (change.key.clone(), json!({ "from": change.before, "to": change.after })));
        Ok(Map::from_iter([
            ("builds".to_owned(), builds.into()),
            ("parent".to_owned(), parent),
            ("ancestors".to_owned(), ancestors.into()),
            ("changes".to_owned(), Value::Object(changes.collect())),
        ]))
    }

    fn notes(&self, changes: &[Change], origin: &Origin) -> Vec<String> {
        let mut notes = Vec::new();
        let begun = self.whole.note["phase"].as_str().and_then(|name| {
            self.recipe.phases.iter().position(|phase| phase.name == name).map(|last| &self.recipe.phases[..=last])
        });
        let begun = begun.unwrap_or(&[]);
        let reorders = |key: &str| {
            let of_phase = |phase: &Phase| {
                let rest = key.strip_prefix(&format!("phases.{}.", phase.name)).and_then(|rest| rest.split('.').next());
                match rest {
                    Some("mixture" | "sequence_tokens" | "attention" | "utk" | "kind") => true,
                    // A row's sequences are spread over all of the phase, as far apart as its largest batch asks; packed chats are not.
                    Some("tokens" | "batch_tokens") => phase.kind == Kind::Pretrain,
                    _ => false,
                }
            };
            key == "seed" || key.starts_with("sources.") || begun.iter().any(of_phase)
        };
        if let Some(change) = changes.iter().find(|change| reorders(&change.key)) {
            notes.push(format!(
                "{}: the data come in another order from here on; within an epoch, what the parent saw may come again, and some may not come",
                change.key
            ));
        }
        for (source, found) in &origin.data {
            let kept = &self.whole.note["data"][source];
            let is_changed = changes.iter().any(|change| change.key.starts_with(&format!("sources.{source}.")));
            if !kept.is_null() && !is_changed && !lineage::is_same_data(kept, found) {
                notes.push(format!(
                    "sources.{source}: what its files hold, or become as ids, is not what the parent learnt from: the steps from here on see \
                     other data"
                ));
            }
        }
        let build = self.whole.note["builds"].as_array().and_then(|builds| builds.last()).cloned().unwrap_or_default();
        if build["made_by"] != origin.made_by || build["instruction_set"] != origin.instruction_set {
            let word = |key: &str| build[key].as_str().unwrap_or("?").to_owned();
            notes.push(format!(
                "the parent was made by {} on {}: its own next steps would differ in rounding",
                word("made_by"),
                word("instruction_set")
            ));
        }
        notes
    }
}

/// Copies a file, with who may read it, into a folder that is made where there is none.
fn copy(from: &Path, to: &Path) -> Result<(), RunError> {
    let wrong = |path: &Path, source| RunError::Io { path: path.to_owned(), source };
    // The copy's own errors do not say which of the two files they are about: what cannot be read is found out first.
    File::open(from).map_err(|source| wrong(from, source))?;
    let folder = to.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(|source| wrong(folder, source))?;
    let copied = Aside::create(to).and_then(|file| {
        // By name, so that the system may share the bytes where it can.
        fs::copy(from, file.part())?;
        file.finish()
    });
    copied.map_err(|source| wrong(to, source))
}

/// Whether both files can be read and hold the same bytes.
fn is_copy(one: &Path, other: &Path) -> bool {
    matches!((hash_file(one), hash_file(other)), (Ok(one), Ok(other)) if one == other)
}

/// The checkpoint of this step, or the newest one with a state.
fn of_step(
    checkpoints: &Path,
    step: Option<u64>,
    wrong: &dyn Fn(&str, String, String) -> RunError,
) -> Result<PathBuf, RunError> {
    let all = checkpoint::steps(checkpoints)?;
    let found = match step {
        Some(step) => all.iter().find(|(of, _)| *of == step),
        None => all.iter().rev().find(|(_, path)| checkpoint::has_state(path)),
    };
    if let Some((_, path)) = found {
        return Ok(path.clone());
    }
    // Those of a long run are many.
    let with_state: Vec<String> =
        all.iter().filter(|(_, path)| checkpoint::has_state(path)).map(|(step, _)| step.to_string()).collect();
    let there = if with_state.is_empty() { "none".to_owned() } else { with_state.join(", ") };
    let asked = step.map_or("none in the run's folder".to_owned(), |step| step.to_string());
    Err(wrong("step", format!("a step with a checkpoint and its state ({there})"), asked))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_names_the_file_that_is_wrong() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from.jsonl"), folder.path().join("samples/to.jsonl"));
        let error = copy(&from, &to).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{}: ", from.display())), "{error}");
        fs::write(&from, "{}\n").unwrap();
        fs::create_dir_all(&to).unwrap();
        let error = copy(&from, &to).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{}: ", to.display())), "{error}");
        assert_eq!(fs::read_dir(folder.path().join("samples")).unwrap().count(), 1, "no part is left");
    }

    #[cfg(unix)]
    #[test]
    fn a_copy_is_as_private_as_what_it_is_of() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from.jsonl"), folder.path().join("samples/to.jsonl"));
        fs::write(&from, "{}\n").unwrap();
        fs::set_permissions(&from, fs::Permissions::from_mode(0o600)).unwrap();
        copy(&from, &to).unwrap();
        assert_eq!(fs::read(&to).unwrap(), b"{}\n");
        assert_eq!(fs::metadata(&to).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
