//! A run: its steps one after the other, what is told of them, and its checkpoints; gone on with where it was left.
//!
//! Everything that a step depends on is the recipe and the state in the newest whole checkpoint, so a run that was killed at any
//! moment makes the steps since then again, to the same bits, and what was told of them is cut off first.

mod lock;
mod metrics;
mod spike;

#[cfg(test)]
mod tests;

use std::{
    error::Error,
    fs, io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::{Instant, SystemTime},
};

use serde_json::{Map, Value, json};

use self::{lock::Lock, metrics::Metrics, spike::Losses};
use crate::{
    checkpoint::{self, About, CheckpointError, Name},
    flops,
    recipe::Recipe,
    schedule::{Position, Schedule},
    step::{MicroBatch, Step, StepError, StepReport, Totals},
};

/// Where a step's sequences come from. The same step always has the same ones.
pub trait Feed {
    /// The sequences of a step, cut into micro-batches, and what they are in all.
    fn step(&mut self, step: u64, at: &Position) -> Result<(Totals, Vec<Sequences>), Box<dyn Error + Send + Sync>>;

    /// The validation sequences of a source, in the shape of the phase at `at`; always the same ones.
    fn validation(&mut self, source: &str, at: &Position) -> Result<Vec<Sequences>, Box<dyn Error + Send + Sync>>;
}

/// A [`MicroBatch`] that owns its numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sequences {
    /// Positions of a sequence.
    pub sequence_tokens: usize,
    /// As [`MicroBatch::tokens`].
    pub tokens: Vec<u32>,
    /// As [`MicroBatch::attend_from`].
    pub attend_from: Vec<u32>,
    /// As [`MicroBatch::targets`].
    pub targets: Vec<u32>,
}

impl Sequences {
    /// What a step takes.
    pub fn batch(&self) -> MicroBatch<'_> {
        let Self { sequence_tokens, tokens, attend_from, targets } = self;
        MicroBatch { sequence_tokens: *sequence_tokens, tokens, attend_from, targets }
    }
}

/// What a run is made of.
pub struct Parts<'a> {
    /// What to do.
    pub recipe: &'a Recipe,
    /// Its steps.
    pub schedule: &'a Schedule,
    /// The arithmetic, at the run's start; a checkpoint's state replaces it.
    pub step: &'a mut dyn Step,
    /// The data.
    pub feed: &'a mut dyn Feed,
    /// What checkpoints say of where they come from.
    pub lineage: &'a Map<String, Value>,
    /// The most operations a second that the machine does, where that is known: what a step's are told beside.
    pub peak_flops_per_second: Option<f64>,
    /// Set from outside to stop after the step under way, with a checkpoint.
    pub stop: &'a AtomicBool,
}

/// What happens while a run runs.
#[derive(Debug)]
pub enum Event<'a> {
    /// It goes on after this checkpoint.
    Resumed(&'a Path),
    /// A newer checkpoint is not whole, and is passed over.
    Broken(&'a CheckpointError),
    /// A step was made.
    Step(&'a Made<'a>),
    /// Mean loss on a source that is not learnt from.
    Validated(&'a str, f64),
    /// A checkpoint was written.
    Checkpoint(&'a Path),
}

/// A step that was made.
#[derive(Debug, Clone, Copy)]
pub struct Made<'a> {
    /// How many there are now.
    pub step: u64,
    /// Which one it was.
    pub at: &'a Position,
    /// What it did.
    pub report: &'a StepReport,
    /// How long it took, its data and its update included.
    pub seconds: f64,
    /// The operations that it took: see [`flops`].
    pub flops: f64,
}

impl Made<'_> {
    /// Tokens a second.
    pub fn tokens_per_second(&self) -> f64 {
        self.at.batch_tokens as f64 / self.seconds.max(1e-9)
    }

    /// Operations a second.
    pub fn flops_per_second(&self) -> f64 {
        self.flops / self.seconds.max(1e-9)
    }
}

/// How a run ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// All steps are made.
    Finished,
    /// It was asked to stop, and can go on.
    Stopped,
}

/// Why a run ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The operating system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another program works on the folder.
    #[error("{}: another program is training here; wait for it, or choose another folder", .0.display())]
    Busy(PathBuf),
    /// The folder holds another run.
    #[error("{}: recipe: expected {expected}, found {found}; a changed recipe is another run: start it in a folder of its own", path.display())]
    OtherRun {
        /// The run's recipe.
        path: PathBuf,
        /// Its hash.
        expected: String,
        /// The given recipe's.
        found: String,
    },
    /// There are checkpoints, and none to go on from.
    #[error("{}: expected a checkpoint to go on from, found none that is whole ({why}); move the folder away to start anew", checkpoints.display())]
    NoneWhole {
        /// The folder of checkpoints.
        checkpoints: PathBuf,
        /// What the newest lacks.
        why: String,
    },
    /// A checkpoint was not written or cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Data could not be had.
    #[error("step {step}: data: {source}")]
    Data {
        /// The step that wanted it, from 1.
        step: u64,
        /// Why not.
        source: Box<dyn Error + Send + Sync>,
    },
    /// A step failed, and updated nothing.
    #[error("step {step}: {source}; the last checkpoint is kept")]
    Step {
        /// Which, from 1.
        step: u64,
        /// Why.
        source: StepError,
    },
    /// The loss leapt.
    #[error(
        "step {step}: loss {loss:.4} is above {limit:.4}, the mean of the last {} steps and {} deviations or {} nats more, whichever is \
         larger; the last checkpoint is kept",
        spike::WINDOW,
        spike::DEVIATIONS,
        spike::LEAST_NATS
    )]
    Spike {
        /// Which, from 1.
        step: u64,
        /// Its loss.
        loss: f64,
        /// The most that was believed.
        limit: f64,
    },
}

/// Starts a run in `folder`, or goes on with the one that is there, until it ends.
pub fn run(folder: &Path, parts: Parts<'_>, tell: &mut dyn FnMut(Event<'_>)) -> Result<End, RunError> {
    fs::create_dir_all(folder).map_err(|source| RunError::Io { path: folder.to_owned(), source })?;
    let _lock = Lock::take(folder)?;
    keep_recipe(folder, parts.recipe)?;
    let checkpoints = folder.join("checkpoints");
    let found = checkpoint::newest(&checkpoints)?;
    found.broken.iter().for_each(|error| tell(Event::Broken(error)));
    let made = match &found.whole {
        Some(whole) => {
            checkpoint::load(whole, parts.step)?;
            tell(Event::Resumed(&whole.path));
            whole.name.step
        }
        // What was released may be all that is left of a long run: nothing begins anew beside it.
        None if found.count > 0 => {
            let why = found.broken.first().map_or("none has a state".to_owned(), ToString::to_string);
            return Err(RunError::NoneWhole { checkpoints, why });
        }
        None => 0,
    };
    let (mut metrics, kept) = Metrics::open(&folder.join("metrics.jsonl"), made)?;
    if let Some(whole) = found.whole.filter(|whole| kept.checkpoint != Some(whole.name.step)) {
        // The program was killed between the two.
        metrics.line(&json!({ "step": made, "checkpoint": whole.name.to_string() }))?;
    }
    let losses = kept.losses;
    Running { parts, checkpoints, metrics, losses, tell }.go_on(made)
}

/// A run's recipe is what it was started with: writes it, or holds the given one to it.
fn keep_recipe(folder: &Path, recipe: &Recipe) -> Result<(), RunError> {
    let path = folder.join("recipe.toml");
    let io = |source| RunError::Io { path: path.clone(), source };
    let text = recipe.canonical();
    match fs::read_to_string(&path) {
        Ok(kept) if kept == text => Ok(()),
        Ok(kept) => {
            let expected =
                Recipe::parse(&kept, &path).map_or("the recipe in the folder".to_owned(), |kept| kept.hash());
            Err(RunError::OtherRun { path, expected, found: recipe.hash() })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let part = folder.join("recipe.toml.part");
            let written = fs::File::create(&part).and_then(|mut file| {
                io::Write::write_all(&mut file, text.as_bytes())?;
                file.sync_all()?;
                fs::rename(&part, &path)
            });
            written.map_err(io)
        }
        Err(error) => Err(io(error)),
    }
}

struct Running<'a, 'b> {
    parts: Parts<'a>,
    checkpoints: PathBuf,
    metrics: Metrics,
    losses: Losses,
    tell: &'b mut dyn FnMut(Event<'_>),
}

impl Running<'_, '_> {
    fn go_on(mut self, mut made: u64) -> Result<End, RunError> {
        while let Some(at) = self.parts.schedule.at(made) {
            let step = made + 1;
            if let Err(error) = self.step(step, &at) {
                // What went wrong stands where the next reader looks; the error itself is what the caller gets.
                let _ = self.metrics.line(&json!({ "step": step, "error": error.to_string() }));
                return Err(error);
            }
            made = step;
            let tokens = at.tokens + at.batch_tokens;
            let next = self.parts.schedule.at(made);
            let crosses = |every: u64| tokens / every.max(1) > at.tokens / every.max(1);
            let phase_ends = next.is_none_or(|next| next.phase != at.phase);
            let validates =
                self.parts.recipe.validation.as_ref().is_some_and(|it| crosses(it.every_tokens) || phase_ends);
            if validates {
                self.validate(made, &at)?;
            }
            let stops = self.parts.stop.load(Relaxed);
            if crosses(self.parts.recipe.checkpoints.every_tokens) || phase_ends || stops {
                self.checkpoint(Name { step: made, tokens }, &at)?;
            }
            if stops && next.is_some() {
                return Ok(End::Stopped);
            }
        }
        Ok(End::Finished)
    }

    fn step(&mut self, step: u64, at: &Position) -> Result<(), RunError> {
        let began = Instant::now();
        let (totals, batches) = self.parts.feed.step(step - 1, at).map_err(|source| RunError::Data { step, source })?;
        let failed = |source| RunError::Step { step, source };
        self.parts.step.begin(totals, at.dials).map_err(failed)?;
        for batch in &batches {
            self.parts.step.forward_backward(&batch.batch()).map_err(failed)?;
        }
        let report = self.parts.step.update().map_err(failed)?;
        let limit = self.losses.limit();
        if report.loss > limit {
            return Err(RunError::Spike { step, loss: report.loss, limit });
        }
        self.losses.add(report.loss);
        let phase = &self.parts.recipe.phases[at.phase];
        let made = Made {
            step,
            at,
            report: &report,
            seconds: began.elapsed().as_secs_f64(),
            flops: self.flops(&batches),
        };
        let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64());
        self.metrics.line(&metrics::of_step(&made, phase, self.parts.peak_flops_per_second, time))?;
        (self.tell)(Event::Step(&made));
        Ok(())
    }

    /// The operations of a step over these sequences.
    fn flops(&self, batches: &[Sequences]) -> f64 {
        let config = &self.parts.recipe.model.config;
        let tokens: usize = batches.iter().map(|batch| batch.tokens.len()).sum();
        let attended: u64 =
            batches.iter().map(|batch| flops::count_attended(&batch.attend_from, batch.sequence_tokens)).sum();
        flops::of_weights(config) * tokens as f64 + flops::of_attended(config) * attended as f64
    }

    fn validate(&mut self, made: u64, at: &Position) -> Result<(), RunError> {
        let Some(validation) = &self.parts.recipe.validation else { return Ok(()) };
        let mut found = Map::new();
        for source in &validation.sources {
            let batches =
                (self.parts.feed.validation(source, at)).map_err(|source| RunError::Data { step: made, source })?;
            let (mut sum, mut targets) = (0.0, 0);
            for batch in &batches {
                let (loss, count) = (self.parts.step.evaluate(&batch.batch()))
                    .map_err(|source| RunError::Step { step: made, source })?;
                sum += loss;
                targets += count;
            }
            let loss = sum / targets.max(1) as f64;
            found.insert(source.clone(), json!({ "loss": loss, "targets": targets }));
            (self.tell)(Event::Validated(source, loss));
        }
        let tokens = at.tokens + at.batch_tokens;
        self.metrics.line(&json!({ "step": made, "tokens": tokens, "validation": found }))
    }

    fn checkpoint(&mut self, name: Name, at: &Position) -> Result<(), RunError> {
        self.metrics.sync()?;
        let mut lineage = self.parts.lineage.clone();
        let phase = &self.parts.recipe.phases[at.phase];
        lineage.insert("recipe_sha256".to_owned(), self.parts.recipe.hash().into());
        lineage.insert("phase".to_owned(), phase.name.clone().into());
        lineage.insert("step_in_phase".to_owned(), (at.step_in_phase + 1).into());
        lineage.insert("learning_rate".to_owned(), at.dials.learning_rate.into());
        let about = About {
            name,
            config: &self.parts.recipe.model.config,
            tokenizer: &self.parts.recipe.tokenizer,
            lineage: &lineage,
        };
        let path = checkpoint::write(&self.checkpoints, self.parts.step, &about)?;
        checkpoint::prune(&self.checkpoints, name.step, self.parts.recipe.checkpoints.keep_states.max(1))?;
        self.metrics.line(&json!({ "step": name.step, "checkpoint": name.to_string() }))?;
        (self.tell)(Event::Checkpoint(&path));
        Ok(())
    }
}
