//! A run: its steps one after the other, what is told of them, and its checkpoints; gone on with where it was left.
//!
//! Everything that a step depends on is the recipe and the state in the newest whole checkpoint, so a run that was killed at any
//! moment makes the steps since then again, to the same bits, and what was told of them is cut off first.

mod branch;
mod error;
mod events;
mod lineage;
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
    time::Instant,
};

use dots_model::aside;
use serde_json::{Map, Value, json};

pub use self::{
    branch::{Branched, Parent},
    error::RunError,
    lineage::Origin,
};
use self::{
    events::Events,
    lineage::{Lineage, now},
    lock::{Lock, host},
    metrics::Metrics,
    spike::Losses,
};
use crate::{
    checkpoint::{self, About, CheckpointError, Companions, Name},
    flops,
    recipe::{Ranks, Recipe, Spike},
    schedule::{Position, Schedule},
    step::{MicroBatch, StateKind, StateTensor, Step, StepError, StepReport, Totals},
};

/// A run's own copy of its recipe: a folder that has one is a run.
const RECIPE: &str = "recipe.toml";

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
    /// What makes its steps.
    pub origin: &'a Origin,
    /// What its checkpoints hold of the tokenizer whose hash `origin` has.
    pub companions: &'a Companions,
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

/// Starts a run in `folder`, or goes on with the one that is there, until it ends.
pub fn run(folder: &Path, parts: Parts<'_>, tell: &mut dyn FnMut(Event<'_>)) -> Result<End, RunError> {
    fs::create_dir_all(folder).map_err(|source| RunError::Io { path: folder.to_owned(), source })?;
    let _lock = Lock::take(folder)?;
    check_is_ours(folder)?;
    keep_recipe(folder, parts.recipe)?;
    let checkpoints = folder.join("checkpoints");
    let found = checkpoint::newest(&checkpoints)?;
    found.broken.iter().for_each(|broken| tell(Event::Broken(&broken.why)));
    let made = match &found.whole {
        Some(whole) => {
            checkpoint::load(whole, parts.step)?;
            // They must not take the places of whole ones among the states that are kept.
            found.broken.iter().try_for_each(|broken| checkpoint::set_aside(&broken.path))?;
            tell(Event::Resumed(&whole.path));
            whole.name.step
        }
        // What was released may be all that is left of a long run: nothing begins anew beside it.
        None if found.count > 0 => {
            let why = found.broken.first().map_or("none has a state".to_owned(), |broken| broken.why.to_string());
            return Err(RunError::NoneWhole { checkpoints, why });
        }
        None => 0,
    };
    let lineage = Lineage::open(folder, parts.recipe, parts.origin, made)?.of_checkpoint();
    let events = Events::open(&folder.join("tensorboard"), made, now())?;
    let (metrics, kept) = Metrics::open(&folder.join("metrics.jsonl"), made, parts.recipe.spike.window)?;
    let mut running = Running { parts, checkpoints, lineage, metrics, events, losses: kept.losses, tell };
    if let Some(whole) = found.whole {
        if kept.step == Some(made) && kept.checkpoint != Some(made) {
            // The program was killed between the two.
            running.line(&json!({ "step": made, "checkpoint": whole.name.to_string() }))?;
        }
        let threads = running.parts.origin.threads;
        // Other ranks round otherwise: whoever wonders at a digit finds out when they changed.
        let Ranks { data, expert, pipeline, interleave } = running.parts.recipe.ranks;
        let ranks = json!({ "data": data, "expert": expert, "pipeline": pipeline, "interleave": interleave });
        running.line(
            &json!({ "step": made, "resumed": { "time": now(), "host": host(), "threads": threads, "ranks": ranks } }),
        )?;
    }
    running.go_on(made)
}

/// Whether the run in `folder` has checkpoints: then it needs no weights to start from.
pub fn is_begun(folder: &Path) -> Result<bool, RunError> {
    Ok(!checkpoint::steps(&folder.join("checkpoints"))?.is_empty())
}

/// The model that the run in `folder` has after `step` steps, or begins with where that is none.
pub fn at(folder: &Path, recipe: &Recipe, step: u64) -> Result<PathBuf, RunError> {
    let checkpoints = folder.join("checkpoints");
    let start = recipe.model.start.clone().filter(|_| step == 0);
    let found = checkpoint::steps(&checkpoints)?.into_iter().find(|(of, _)| *of == step);
    found
        .map(|(_, path)| path)
        .or(start)
        .ok_or_else(|| RunError::NoneWhole { checkpoints, why: format!("there is none of step {step}") })
}

/// Refuses a folder that is no run and holds what a run would write over.
fn check_is_ours(folder: &Path) -> Result<(), RunError> {
    let found = ["checkpoints", "metrics.jsonl", "run.json", "samples", "tensorboard"].map(|name| folder.join(name));
    match found.into_iter().find(|path| path.exists()).filter(|_| !folder.join(RECIPE).exists()) {
        Some(path) => Err(RunError::InTheWay { path }),
        None => Ok(()),
    }
}

/// A run's recipe is what it was started with: writes it, or holds the given one to it. Ranks are how and not what: those that are given
/// replace those that were.
fn keep_recipe(folder: &Path, recipe: &Recipe) -> Result<(), RunError> {
    let path = folder.join(RECIPE);
    let io = |source| RunError::Io { path: path.clone(), source };
    let text = recipe.canonical();
    match fs::read_to_string(&path) {
        Ok(kept) if kept == text => return Ok(()),
        Ok(kept) => {
            // One that an earlier version wrote may say less, and mean the same.
            let (expected, found) = (Recipe::parse(&kept, &path)?.hash(), recipe.hash());
            if expected != found {
                return Err(RunError::OtherRun { path, expected, found });
            }
            // A person's own, with comments maybe, in a folder where nothing ran yet.
            if !["run.json", "metrics.jsonl"].iter().any(|name| folder.join(name).exists()) {
                return Err(RunError::InTheWay { path });
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(io(error)),
    }
    aside::write(&path, text.as_bytes()).map_err(io)
}

struct Running<'a, 'b> {
    parts: Parts<'a>,
    checkpoints: PathBuf,
    /// What each checkpoint says of where it comes from.
    lineage: Map<String, Value>,
    metrics: Metrics,
    events: Events,
    losses: Losses,
    tell: &'b mut dyn FnMut(Event<'_>),
}

impl Running<'_, '_> {
    fn go_on(mut self, mut made: u64) -> Result<End, RunError> {
        while let Some(at) = self.parts.schedule.at(made) {
            made += 1;
            match self.one(made, &at) {
                Ok(true) => {}
                Ok(false) => return Ok(End::Stopped),
                Err(error) => {
                    // What went wrong stands where the next reader looks; the error itself is what the caller gets.
                    let _ = self.metrics.line(&json!({ "step": made, "error": error.to_string() }));
                    return Err(error);
                }
            }
        }
        Ok(End::Finished)
    }

    /// Makes the step at `at`, the `made`th, and what is due after it; whether the run goes on.
    fn one(&mut self, made: u64, at: &Position) -> Result<bool, RunError> {
        let loss = self.step(made, at)?;
        let tokens = at.tokens + at.batch_tokens;
        let next = self.parts.schedule.at(made);
        let crosses = |every: u64| tokens / every.max(1) > at.tokens / every.max(1);
        let phase_ends = next.is_none_or(|next| next.phase != at.phase);
        if self.parts.recipe.validation.as_ref().is_some_and(|it| crosses(it.every_tokens) || phase_ends) {
            self.validate(made, at)?;
        }
        let stops = self.parts.stop.load(Relaxed);
        if crosses(self.parts.recipe.checkpoints.every_tokens) || phase_ends || stops {
            self.checkpoint(Name { step: made, tokens }, at, loss)?;
        }
        Ok(!stops || next.is_none())
    }

    fn step(&mut self, step: u64, at: &Position) -> Result<f64, RunError> {
        let began = Instant::now();
        let (totals, batches) = self.parts.feed.step(step - 1, at).map_err(|source| RunError::Data { step, source })?;
        let failed = |source| RunError::Step { step, source };
        self.parts.step.begin(totals, at.dials).map_err(failed)?;
        for batch in &batches {
            self.parts.step.forward_backward(&batch.batch()).map_err(failed)?;
        }
        let report = self.parts.step.update().map_err(failed)?;
        if !report.weight_norm.is_finite() {
            return Err(failed(find_not_finite(self.parts.step, report.weight_norm)));
        }
        let spike = &self.parts.recipe.spike;
        let limit = self.losses.limit(spike);
        if report.loss > limit {
            let Spike { window, deviations, nats, .. } = *spike;
            let largest = match self.parts.step.steepest() {
                Some((tensor, norm)) => {
                    format!("; of a gradient of norm {:.3}, {norm:.3} are of {tensor}", report.gradient_norm)
                }
                None => String::new(),
            };
            return Err(RunError::Spike { step, loss: report.loss, limit, window, deviations, nats, largest });
        }
        self.losses.add(report.loss);
        let phase = &self.parts.recipe.phases[at.phase];
        let made =
            Made { step, at, report: &report, seconds: began.elapsed().as_secs_f64(), flops: self.flops(&batches) };
        let line = metrics::of_step(&made, phase, self.parts.peak_flops_per_second, now());
        self.line(&line)?;
        (self.tell)(Event::Step(&made));
        Ok(report.loss)
    }

    /// Tells everybody who reads of it.
    fn line(&mut self, line: &Value) -> Result<(), RunError> {
        self.metrics.line(line)?;
        self.events.line(line)
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
            if targets == 0 {
                let source = format!("validation on {source}: expected tokens to predict, found none").into();
                return Err(RunError::Data { step: made, source });
            }
            let loss = sum / targets as f64;
            found.insert(source.clone(), json!({ "loss": loss, "targets": targets }));
            (self.tell)(Event::Validated(source, loss));
        }
        let tokens = at.tokens + at.batch_tokens;
        self.line(&json!({ "step": made, "tokens": tokens, "time": now(), "validation": found }))
    }

    fn checkpoint(&mut self, name: Name, at: &Position, loss: f64) -> Result<(), RunError> {
        self.metrics.sync()?;
        self.events.sync()?;
        let mut lineage = self.lineage.clone();
        let position: [(&str, Value); 6] = [
            ("loss", loss.into()),
            ("phase", self.parts.recipe.phases[at.phase].name.as_str().into()),
            ("step_in_phase", (at.step_in_phase + 1).into()),
            ("tokens_in_phase", (at.tokens_in_phase + at.batch_tokens).into()),
            ("learning_rate", at.dials.learning_rate.into()),
            // All that it takes to make these steps again, or others from here on.
            ("recipe", self.parts.recipe.canonical().into()),
        ];
        lineage.extend(position.map(|(key, value)| (key.to_owned(), value)));
        let about = About {
            name,
            config: &self.parts.recipe.model.config,
            companions: self.parts.companions,
            lineage: &lineage,
        };
        let path = checkpoint::write(&self.checkpoints, self.parts.step, &about)?;
        checkpoint::prune(&self.checkpoints, name.step, self.parts.recipe.checkpoints.keep_states.max(1))?;
        self.line(&json!({ "step": name.step, "checkpoint": name.to_string() }))?;
        (self.tell)(Event::Checkpoint(&path));
        Ok(())
    }
}

/// The first weight that is no number, where the `norm` of all is none.
fn find_not_finite(step: &mut dyn Step, norm: f64) -> StepError {
    let mut found = None;
    // Nothing here refuses a tensor.
    let _ = step.export(&mut |StateTensor { name, kind, numbers, .. }| {
        let broken = numbers.iter().find(|x| !x.is_finite()).filter(|_| kind == StateKind::Weight && found.is_none());
        if let Some(x) = broken {
            found = Some(StepError::NotFinite { what: "weight", tensor: name.to_owned(), value: f64::from(*x) });
        }
        Ok(())
    });
    found.unwrap_or_else(|| StepError::NotFinite { what: "norm", tensor: "all weights".to_owned(), value: norm })
}
