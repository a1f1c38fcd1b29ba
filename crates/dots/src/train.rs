//! `dots train`: a recipe's run, started or gone on with.

use std::{
    io::{self, IsTerminal, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::{anyhow, bail};
use clap::Args;
use dots_kernels::{Compute, Isa, measure::peak_ops_per_second};
use dots_model::{Checkpoint, checkpoint::TokenizerSource, tokenizer::Tokenizer};
use dots_train::{
    batches::Loader,
    checkpoint,
    cpu::{CpuStep, Options},
    order::Order,
    recipe::Recipe,
    run::{self, End, Event, Made, Parts},
    schedule::Schedule,
    shards::tokenizer_hash,
};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value, json};

use crate::{flags::threads, memory, signals, terminal::say, units};

pub const EXAMPLES: &str = "\
Examples:
  dots train small.toml -o runs/small
  dots train small.toml -o runs/hot --set phases.0.learning_rate.from=1e-3
  dots train runs/small                goes on where it was left

Ctrl-C ends the step under way, writes a checkpoint and leaves; a second one
leaves at once. Killed at any moment, a run goes on from its last checkpoint
to the same numbers. `dots watch RUN` shows it in the browser.";

/// Between two lines where there is no terminal.
const PAUSE: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub struct TrainArgs {
    /// A recipe to start a run of, or a run's folder to go on with
    #[arg(value_name = "RECIPE.toml|RUN")]
    pub what: PathBuf,
    /// Folder of the new run
    #[arg(short, long, value_name = "RUN")]
    pub out: Option<PathBuf>,
    /// Change a key of the recipe; may be given several times
    #[arg(long, value_name = "KEY=VALUE", requires = "out")]
    pub set: Vec<String>,
    /// Threads; every core where not given. They change no number
    #[arg(long, value_parser = threads)]
    pub threads: Option<usize>,
}

pub fn run(args: TrainArgs) -> anyhow::Result<()> {
    let (recipe, folder) = recipe(&args)?;
    let ranks = recipe.ranks;
    if (ranks.data, ranks.expert, ranks.pipeline) != (1, 1, 1) {
        bail!("{}: ranks: expected 1 of each, found more; runs are not shared among ranks yet", args.what.display());
    }
    let source = TokenizerSource::of_folder(&recipe.tokenizer)?;
    checkpoint::check_tokenizer(&recipe.tokenizer)?;
    let vocab_size = recipe.model.config.vocab_size;
    let tokens = Tokenizer::new(&source)?.vocab_size();
    if tokens > vocab_size {
        let path = recipe.tokenizer.display();
        bail!("{path}: expected a tokenizer of at most {vocab_size} ids, as model.vocab_size says, found {tokens}");
    }
    let schedule = Schedule::new(&recipe, |_| 0);
    let order = Order::new(&recipe, &schedule)?;
    let mut loader = Loader::new(&recipe, &order)?;
    let lineage = lineage(&order, &tokenizer_hash(&source))?;
    let options = options(&recipe, args.threads.unwrap_or(0));
    fits(&recipe, &options)?;
    let mut step = match &recipe.model.start {
        Some(start) => CpuStep::from_checkpoint(&Checkpoint::open(start)?, &options)?,
        None => CpuStep::random(&recipe.model.config, recipe.seed, recipe.model.initial_deviation, &options)?,
    };
    let peak = peak_ops_per_second(&Compute::new(options.threads, 0), options.precision);
    let stop = Arc::new(AtomicBool::new(false));
    listen(Arc::clone(&stop))?;
    let parts = Parts {
        recipe: &recipe,
        schedule: &schedule,
        step: &mut step,
        feed: &mut loader,
        lineage: &lineage,
        peak_flops_per_second: Some(peak),
        stop: &stop,
    };
    let mut shown = Shown::new(&recipe, schedule.steps(), peak);
    let end = run::run(&folder, parts, &mut |event| shown.tell(&event));
    shown.clear();
    match end? {
        End::Finished => say(&format!("All {} steps are made.", schedule.steps())),
        End::Stopped => say(&format!("Stopped. `dots train {}` goes on.", folder.display())),
    }
    Ok(())
}

/// The recipe and its run's folder.
fn recipe(args: &TrainArgs) -> anyhow::Result<(Recipe, PathBuf)> {
    if args.what.is_dir() {
        if args.out.is_some() {
            bail!("{}: expected a recipe beside --out, found a folder", args.what.display());
        }
        return Ok((Recipe::load(&args.what.join("recipe.toml"))?, args.what.clone()));
    }
    let mut recipe = Recipe::load(&args.what)?;
    for set in &args.set {
        let (key, value) = set.split_once('=').ok_or_else(|| anyhow!("--set {set}: expected KEY=VALUE"))?;
        recipe.set(key, value)?;
    }
    let folder =
        args.out.clone().ok_or_else(|| anyhow!("expected --out RUN, the folder of the new run, found none"))?;
    Ok((recipe, folder))
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

/// Prints the plan of the memory, and refuses what the machine does not have.
fn fits(recipe: &Recipe, options: &Options) -> anyhow::Result<()> {
    let parameters = recipe.model.config.parameters();
    let plan = CpuStep::plan(&recipe.model.config, options);
    let needed = plan.total_bytes();
    say(&format!(
        "{}: {} parameters, {} of them active; {} of memory",
        recipe.name,
        units::parameters(parameters.total),
        units::parameters(parameters.active),
        units::bytes(needed),
    ));
    if let Some(memory) = memory::of_this_machine()
        && needed > memory.available_bytes
    {
        let (needed, available) = (units::bytes(needed), units::bytes(memory.available_bytes));
        bail!(
            "memory: expected at most {available}, which are free, found a run of {needed}; arithmetic.recompute = true and a \
             smaller arithmetic.micro_batch_tokens need less, fewer layers or experts much less"
        );
    }
    Ok(())
}

/// What checkpoints say of where they come from. Shards of another tokenizer are refused.
fn lineage(order: &Order, tokenizer: &str) -> anyhow::Result<Map<String, Value>> {
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
    let lineage = json!({
        "made_by": concat!("dots ", env!("CARGO_PKG_VERSION")),
        "instruction_set": Isa::best().name(),
        "tokenizer_sha256": tokenizer,
        "data": data,
    });
    let Value::Object(lineage) = lineage else { unreachable!("it was written as an object") };
    Ok(lineage)
}

/// Sets `stop` at the first Ctrl-C or request to terminate, and leaves at the second.
fn listen(stop: Arc<AtomicBool>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| anyhow!("the async runtime does not start: {error}"))?;
    std::thread::spawn(move || {
        runtime.block_on(signals::twice(|| {
            stop.store(true, Relaxed);
            say("Stopping after this step, with a checkpoint. Once more leaves at once.");
        }));
        std::process::exit(130);
    });
    Ok(())
}

/// What is seen of a run while it runs.
struct Shown<'a> {
    recipe: &'a Recipe,
    bar: Option<ProgressBar>,
    steps: u64,
    /// The machine's, in operations a second.
    peak: f64,
    said: Instant,
}

impl<'a> Shown<'a> {
    fn new(recipe: &'a Recipe, steps: u64, peak: f64) -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{bar:20} {pos}/{len}  {msg}  {eta} left")
                .unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::new(steps).with_style(style)
        });
        Self { recipe, bar, steps, peak, said: Instant::now() }
    }

    fn tell(&mut self, event: &Event<'_>) {
        match event {
            Event::Resumed(path) => self.say(&format!("Going on from {}.", name(path))),
            Event::Broken(error) => self.say(&format!("passed over: {error}")),
            Event::Validated(source, loss) => self.say(&format!("validation on {source}: {loss:.4}")),
            Event::Checkpoint(path) => self.say(&format!("wrote {}", name(path))),
            Event::Step(made) => {
                let Made { step, at, report, .. } = made;
                let done = made.flops_per_second();
                let line = format!(
                    "{}  loss {:.4}  lr {:.2e}  norm {:.2}  {:.0} tokens/s  {:.0} GFLOP/s, {:.0} % of peak",
                    self.recipe.phases[at.phase].name,
                    report.loss,
                    at.dials.learning_rate,
                    report.gradient_norm,
                    made.tokens_per_second(),
                    done / 1e9,
                    100.0 * done / self.peak,
                );
                match &self.bar {
                    Some(bar) => {
                        bar.set_position(*step);
                        bar.set_message(line);
                    }
                    None if self.said.elapsed() >= PAUSE || *step == self.steps => {
                        self.said = Instant::now();
                        say(&format!("step {step}/{}  {line}", self.steps));
                    }
                    None => {}
                }
            }
        }
    }

    fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| say(line)),
            None => say(line),
        }
    }

    fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        // What was said last is seen before the program ends.
        let _ = io::stderr().flush();
    }
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}
