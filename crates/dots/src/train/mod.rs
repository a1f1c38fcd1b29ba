//! `dots train`: a recipe's run, started or gone on with.

mod order_shown;
mod plan;
mod round;
mod sample;
mod shown;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use anyhow::{anyhow, bail};
use clap::{Args, Subcommand};
use dots_kernels::{Compute, Isa, measure::peak_ops_per_second, pool::Pool};
use dots_model::{Checkpoint, checkpoint::TokenizerSource, tokenizer::Tokenizer};
use dots_train::{
    batches::Loader,
    checkpoint::Companions,
    cpu::{CpuStep, Options},
    order::{self, Order},
    ranks::RankedStep,
    recipe::Recipe,
    rejection::round::Sampled,
    run::{self, End, Origin, Parent, Parts},
    schedule::Schedule,
    shards::{Input, tokenizer_hash},
    step::Step,
};
use serde_json::{Map, Value, json};

use self::{plan::Given, shown::Shown};
use crate::{flags::threads, memory, signals, terminal::say, units, version::made_by};

pub const EXAMPLES: &str = "\
Examples:
  dots train small.toml -o runs/small
  dots train small.toml -o runs/hot --set phases.0.learning_rate.from=1e-3
  dots train runs/small                goes on where it was left
  dots train runs/small --set ranks.data=2     goes on, shared between two
  dots train runs/full.toml --plan     what it would take
  dots train sample MODEL problems.jsonl -o kept.jsonl
  dots train --from runs/small@1200 -o runs/cool --set optimizer.clip=0.5

Ctrl-C ends the step under way, writes a checkpoint and leaves; a second one
leaves at once. Killed at any moment, a run goes on from its last checkpoint
to the same numbers. `dots watch RUN` shows it in the browser.";

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct TrainArgs {
    #[command(subcommand)]
    pub command: Option<TrainCommand>,
    /// A recipe to start a run of, or a run's folder to go on with
    #[arg(value_name = "RECIPE.toml|RUN", required_unless_present = "from", conflicts_with = "from")]
    pub what: Option<PathBuf>,
    /// Folder of the new run
    #[arg(short, long, value_name = "RUN")]
    pub out: Option<PathBuf>,
    /// Branch: a new run that goes on from another one's checkpoint, with its recipe and what --set changes
    #[arg(long, value_name = "RUN[@STEP]|CHECKPOINT", requires = "out")]
    pub from: Option<String>,
    /// Change a key of the recipe; may be given several times. Of a run that is gone on with only the ranks change: they say how it
    /// learns, and not what
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Threads; every core where not given. They change no number
    #[arg(long, value_parser = threads)]
    pub threads: Option<usize>,
    /// Print memory, operations and time of a recipe, and end
    #[arg(long, conflicts_with_all = ["out", "from"])]
    pub plan: bool,
    /// Speed to plan with, where it is known; else it is measured here
    #[arg(long, value_name = "N", value_parser = positive, requires = "plan", conflicts_with = "gpu_tflops")]
    pub tokens_per_second: Option<f64>,
    /// Plan for a GPU that does so many TFLOP/s of training (an H800 did 198 for dots.llm1): time is GPU hours
    #[arg(long, value_name = "N", value_parser = positive, requires = "plan")]
    pub gpu_tflops: Option<f64>,
    /// Go on with a run whose last steps another build of dots made, or another instruction set
    #[arg(long)]
    pub allow_other_build: bool,
}

fn positive(text: &str) -> Result<f64, String> {
    let number: Option<f64> = text.parse().ok().filter(|number: &f64| number.is_finite() && *number > 0.0);
    number.ok_or_else(|| "expected a number above 0".to_owned())
}

#[derive(Debug, Subcommand)]
pub enum TrainCommand {
    /// Show which documents or chats a step of a recipe or a run sees, or which steps see one
    #[command(after_help = order_shown::EXAMPLES)]
    Order(order_shown::OrderArgs),
    /// Sample a model's answers to problems and keep those that are right, to learn from
    #[command(after_help = sample::EXAMPLES)]
    Sample(Box<sample::SampleArgs>),
}

pub fn run(mut args: TrainArgs) -> anyhow::Result<()> {
    match args.command.take() {
        Some(TrainCommand::Order(args)) => return order_shown::run(&args),
        Some(TrainCommand::Sample(args)) => return sample::run(*args),
        None => {}
    }
    if args.plan {
        return plan(&args);
    }
    let Begun { recipe, folder, parent } = begin(&args)?;
    let source = TokenizerSource::of_folder(&recipe.tokenizer)?;
    let companions = Companions::read(&recipe.tokenizer)?;
    let vocab_size = recipe.model.config.vocab_size;
    let tokens = Tokenizer::new(&source)?.vocab_size();
    if tokens > vocab_size {
        let path = recipe.tokenizer.display();
        bail!("{path}: expected a tokenizer of at most {vocab_size} ids, as model.vocab_size says, found {tokens}");
    }
    let sampled = parent.as_ref().map_or_else(|| Sampled::of_run(&folder), Parent::sampled);
    round::check(&recipe, &sampled)?;
    let options = options(&recipe, args.threads.unwrap_or(0));
    let stop = Arc::new(AtomicBool::new(false));
    let mut run = Legs {
        recipe: &recipe,
        folder: &folder,
        options: &options,
        companions: &companions,
        allow_other_build: args.allow_other_build,
        stop: &stop,
        peak: None,
    };
    let (mut schedule, mut end) = run.leg(&sampled, parent)?;
    // Where a phase learns from what the model itself answers, the steps up to there are made first.
    while let (End::Finished, Some(phase)) = (end, schedule.unsampled()) {
        let model = run::at(&folder, &recipe, schedule.steps())?;
        if stop.load(Relaxed) || !round::sample(&recipe, phase, &model, &folder, &options, &stop)? {
            end = End::Stopped;
            break;
        }
        (schedule, end) = run.leg(&Sampled::of_run(&folder), None)?;
    }
    match end {
        End::Finished => say(&format!("All {} steps are made.", schedule.steps())),
        End::Stopped => say(&format!("Stopped. `dots train {}` goes on.", folder.display())),
    }
    Ok(())
}

/// A run, leg by leg: each has the steps that are known before the next phase's answers are sampled.
struct Legs<'a> {
    recipe: &'a Recipe,
    folder: &'a Path,
    options: &'a Options,
    companions: &'a Companions,
    allow_other_build: bool,
    stop: &'a Arc<AtomicBool>,
    /// The machine's, once it is measured.
    peak: Option<f64>,
}

impl Legs<'_> {
    /// Goes on to the end of what is known; begins a branch of `parent` first, where there is one.
    fn leg(&mut self, sampled: &Sampled, parent: Option<Parent>) -> anyhow::Result<(Schedule, End)> {
        let Self { recipe, folder, options, .. } = *self;
        let (schedule, order) = order::open(recipe, sampled, options.threads)?;
        for (phase, source, chats, cut, left_out) in order.shortened().filter(|(.., cut, left_out)| cut + left_out > 0)
        {
            say(&format!(
                "{phase}: of the {chats} chats of {source}, {cut} are cut to a sequence, {left_out} left out"
            ));
        }
        let mut loader = Loader::new(recipe, &order)?;
        // Chats were just read with the one that lies there now.
        let tokenizer = tokenizer_hash(&TokenizerSource::of_folder(&recipe.tokenizer)?);
        let origin = Origin {
            made_by: made_by(),
            instruction_set: Isa::best().name().to_owned(),
            threads: Pool::workers(options.threads),
            data: data(&order, &tokenizer)?,
            tokenizer_sha256: tokenizer,
            allow_other_build: self.allow_other_build,
        };
        // Before anything is written, and the same for every leg.
        if self.peak.is_none() {
            say_size(recipe, options)?;
            plan::fits(recipe, options, memory::of_this_machine())?;
        }
        if let Some(parent) = parent {
            let branched = parent.branch(folder, recipe, &schedule, &origin)?;
            say(&format!("Branched after step {}.", branched.step));
            branched
                .changes
                .iter()
                .for_each(|change| say(&format!("  {}: {} → {}", change.key, change.before, change.after)));
            branched.notes.iter().for_each(|note| say(&format!("note: {note}")));
        }
        let mut step = step(recipe, options, run::is_begun(folder)?)?;
        let peak = match self.peak {
            Some(peak) => peak,
            None => {
                signals::listen(
                    Arc::clone(self.stop),
                    "Stopping, with all that is done kept. Once more leaves at once.",
                )?;
                *self.peak.insert(peak_ops_per_second(&Compute::new(options.threads, 0), options.precision))
            }
        };
        let parts = Parts {
            recipe,
            schedule: &schedule,
            step: step.as_mut(),
            feed: &mut loader,
            origin: &origin,
            companions: self.companions,
            peak_flops_per_second: Some(peak),
            stop: self.stop,
        };
        let mut shown = Shown::new(recipe, schedule.steps(), peak);
        let end = run::run(folder, parts, &mut |event| shown.tell(&event));
        drop(shown);
        Ok((schedule, end?))
    }
}

/// What was asked for.
struct Begun {
    recipe: Recipe,
    folder: PathBuf,
    /// Of a branch.
    parent: Option<Parent>,
}

fn begin(args: &TrainArgs) -> anyhow::Result<Begun> {
    let out = || args.out.clone().ok_or_else(|| anyhow!("expected --out RUN, the folder of the new run, found none"));
    if let Some(from) = &args.from {
        let folder = out()?;
        let parent = Parent::find(from)?;
        let mut recipe = parent.recipe().clone();
        set(&mut recipe, &args.set)?;
        return Ok(Begun { recipe, folder, parent: Some(parent) });
    }
    let what = args.what.as_deref().unwrap_or(Path::new(""));
    if what.is_dir() {
        if args.out.is_some() {
            bail!("{}: expected a recipe beside --out, found a folder; --from branches from a run", what.display());
        }
        if let Some(other) = args.set.iter().find(|set| !set.starts_with("ranks.")) {
            let what = what.display();
            bail!(
                "{what}: --set {other}: expected keys of ranks, since what a run learns is settled; --from branches from it"
            );
        }
        let mut recipe = Recipe::load(&what.join("recipe.toml"))?;
        set(&mut recipe, &args.set)?;
        return Ok(Begun { recipe, folder: what.to_owned(), parent: None });
    }
    let mut recipe = Recipe::load(what)?;
    set(&mut recipe, &args.set)?;
    Ok(Begun { recipe, folder: out()?, parent: None })
}

fn set(recipe: &mut Recipe, changes: &[String]) -> anyhow::Result<()> {
    for set in changes {
        let (key, value) = set.split_once('=').ok_or_else(|| anyhow!("--set {set}: expected KEY=VALUE"))?;
        recipe.set(key, value)?;
    }
    Ok(())
}

/// The run's step at its start, of one rank or of several. One that has begun takes its weights from a checkpoint of its own.
fn step(recipe: &Recipe, options: &Options, is_begun: bool) -> anyhow::Result<Box<dyn Step>> {
    let (ranks, seed, model) = (recipe.ranks, recipe.seed, &recipe.model);
    let start = model.start.as_deref().filter(|_| !is_begun).map(Checkpoint::open).transpose()?;
    if plan::is_shared(recipe) {
        let mut step = match start {
            Some(start) => RankedStep::from_checkpoint(&start, &model.config, options, ranks)?,
            None => RankedStep::random(&model.config, seed, model.initial_deviation, options, ranks)?,
        };
        step.freeze(|parameter| model.frozen_rows(&parameter.name, parameter.shape[0]));
        return Ok(Box::new(step));
    }
    let mut step = match start {
        Some(start) => CpuStep::from_checkpoint(&start, &model.config, options)?,
        None => CpuStep::random(&model.config, seed, model.initial_deviation, options)?,
    };
    step.freeze(|parameter| model.frozen_rows(&parameter.name, parameter.shape[0]));
    Ok(Box::new(step))
}

fn plan(args: &TrainArgs) -> anyhow::Result<()> {
    let what = args.what.as_deref().unwrap_or(Path::new(""));
    let path = if what.is_dir() { what.join("recipe.toml") } else { what.to_owned() };
    let mut recipe = Recipe::load(&path)?;
    set(&mut recipe, &args.set)?;
    let given = Given { tokens_per_second: args.tokens_per_second, gpu_tflops: args.gpu_tflops };
    plan::print(&recipe, &options(&recipe, args.threads.unwrap_or(0)), given)
}

fn options(recipe: &Recipe, threads: usize) -> Options {
    let sequence_tokens = recipe.phases.iter().map(|phase| phase.sequence_tokens).max().unwrap_or(1);
    Options {
        precision: recipe.arithmetic.precision,
        recompute: recipe.arithmetic.recompute,
        micro_batch_tokens: sequence_tokens.max(recipe.arithmetic.micro_batch_tokens as usize),
        sequence_tokens,
        threads,
        optimizer: recipe.optimizer,
    }
}

fn say_size(recipe: &Recipe, options: &Options) -> anyhow::Result<()> {
    let parameters = recipe.model.config.parameters();
    say(&format!(
        "{}: {} parameters, {} of them active; {} of memory",
        recipe.name,
        units::parameters(parameters.total),
        units::parameters(parameters.active),
        units::bytes(plan::of(recipe, options)?.total_bytes()),
    ));
    Ok(())
}

/// By source its shards or files of chats, each with its hash, and of chats that of the ids that they became. Shards of another
/// tokenizer are refused.
fn data(order: &Order, tokenizer: &str) -> anyhow::Result<Map<String, Value>> {
    let mut data = Map::new();
    for source in order.sources() {
        let mut shards = Vec::new();
        for shard in source.shards() {
            let prefix = shard.prefix().display();
            if let Some(manifest) = shard.manifest()
                && manifest.tokenizer_sha256 != tokenizer
            {
                let found = &manifest.tokenizer_sha256;
                bail!("{prefix}.json: tokenizer_sha256: expected {tokenizer}, the recipe's tokenizer, found {found}");
            }
            shards.push(json!({ "prefix": prefix.to_string(), "tokens": shard.tokens(), "sha256": shard.hash()? }));
        }
        data.insert(source.name().to_owned(), shards.into());
    }
    for chats in order.chats() {
        let of_file = |(nth, file): (usize, &Input)| json!({ "path": file.path, "sha256": file.sha256, "ids_sha256": chats.ids_hash(nth) });
        data.insert(chats.name().to_owned(), chats.files().iter().enumerate().map(of_file).collect());
    }
    Ok(data)
}
