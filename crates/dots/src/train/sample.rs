//! `dots train sample`: answers of a model to problems, of which those that the verifiers accept are kept to learn from.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use anyhow::bail;
use clap::Args;
use dots_engine::Request;
use dots_model::{
    Config,
    executor::{Arithmetic, CacheType},
    hex,
};
use dots_sandbox::Python;
use dots_train::{
    rejection::{self, End, EngineModel, Problems, Progress, Report, Settings, Work},
    verify::{Verdict, Verifier, code},
};
use serde_json::json;

use crate::{
    flags::{count, engine::EngineArgs, sampling::SamplingArgs},
    load::{self, Users},
    progress::Meter,
    signals,
    terminal::say,
    units,
    version::made_by,
};

pub const EXAMPLES: &str = "\
Examples:
  dots train sample runs/small/checkpoints/step-001000-tokens-0004M sums.jsonl -o kept.jsonl
  dots train sample MODEL programs.jsonl -o kept.jsonl --samples 16 --temperature 0.8 --max-tokens 1024

A problem is a line {\"messages\": [...], \"answer\": \"42\"} or {\"messages\": [...],
\"tests\": [...]}, with tests in Python (\"assert f(1) == 2\") or as runs
({\"input\": \"1\\n\", \"output\": \"2\\n\"}). Programs run in a sandbox: without network,
in bounded time and memory. kept.jsonl has a chat a line, as fine-tuning reads it;
beside it lie kept.samples.jsonl, every answer with its verdict, and
kept.report.json. Stopped or killed, the same command goes on.";

#[derive(Debug, Args)]
pub struct SampleArgs {
    /// Folder, GGUF file or hub name
    pub model: String,
    /// Problems, a line of JSON each
    #[arg(value_name = "PROBLEMS.jsonl")]
    pub problems: PathBuf,
    /// The chats that are kept
    #[arg(short, long, value_name = "OUT.jsonl")]
    pub out: PathBuf,
    /// Answers to each problem
    #[arg(long, value_name = "N", default_value = "8", value_parser = samples)]
    pub samples: usize,
    /// Most answers to a problem that are kept
    #[arg(long, value_name = "N", default_value = "4", value_parser = count)]
    pub keep: usize,
    /// Answers sampled at once
    #[arg(long, value_name = "N", default_value = "32", value_parser = samples)]
    pub concurrency: usize,
    /// The Python that runs programs [default: python3]
    #[arg(long, value_name = "FILE")]
    pub python: Option<PathBuf>,
    /// What one run of a program may take
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = count)]
    pub test_seconds: usize,
    #[command(flatten)]
    pub sampling: SamplingArgs,
    #[command(flatten)]
    pub engine: EngineArgs,
}

/// As many as an engine may hold at once.
fn samples(text: &str) -> Result<usize, String> {
    count(text).ok().filter(|&number| number <= 1024).ok_or_else(|| "expected a whole number from 1 to 1024".to_owned())
}

pub fn run(args: SampleArgs) -> anyhow::Result<()> {
    // Before the model is loaded, which takes longer than to find a line mistyped.
    let problems = Problems::read(&args.problems)?;
    let verifier = verifier(&problems, args.python.as_deref(), args.test_seconds as u64)?;
    let stop = Arc::new(AtomicBool::new(false));
    signals::listen(Arc::clone(&stop), "Stopping after the problems under way. Once more leaves at once.")?;
    let asked = Asked {
        model: &args.model,
        config: None,
        sampling: &args.sampling,
        engine: &args.engine,
        samples: args.samples,
        keep: args.keep,
        concurrency: args.concurrency,
        test_seconds: args.test_seconds as u64,
        out: &args.out,
    };
    if let Some(progress) = answers(&problems, &verifier, asked, &stop)? {
        let (done, all) = (progress.problems, problems.list.len());
        say(&format!("Stopped at {done} of {all} problems. The same command goes on."));
    }
    Ok(())
}

/// What judges answers to these problems. A sandbox that cannot be is an error, where programs are to be run.
pub fn verifier(problems: &Problems, python: Option<&Path>, test_seconds: u64) -> anyhow::Result<Verifier> {
    Ok(Verifier {
        python: problems.have_tests().then(|| Python::new(python, None)).transpose()?,
        limits: code::limits(Duration::from_secs(test_seconds)),
    })
}

/// What is asked of which model.
pub struct Asked<'a> {
    pub model: &'a str,
    /// What it computes with, of its own shape; none where the model says it.
    pub config: Option<&'a Config>,
    pub sampling: &'a SamplingArgs,
    pub engine: &'a EngineArgs,
    pub samples: usize,
    pub keep: usize,
    pub concurrency: usize,
    pub test_seconds: u64,
    pub out: &'a Path,
}

/// Samples, verifies, keeps, and shows what came of it; how far it was where it was stopped.
pub fn answers(
    problems: &Problems,
    verifier: &Verifier,
    asked: Asked<'_>,
    stop: &AtomicBool,
) -> anyhow::Result<Option<Progress>> {
    let mut checkpoint = load::open(Some(asked.model))?;
    if let Some(config) = asked.config {
        checkpoint.config = config.clone();
    }
    let mut sampling = asked.sampling.over(&checkpoint.generation);
    if sampling.temperature == 0.0 && asked.samples > 1 {
        bail!("--temperature: expected above 0, for {} answers that are not one, found 0", asked.samples);
    }
    sampling.seed = None;
    let arithmetic = Arithmetic::from(asked.engine.arithmetic);
    let cache_type = asked.engine.kv_cache_type.map_or(arithmetic.cache_type(), CacheType::from);
    let key = checkpoint.cache_key(&made_by(), arithmetic, cache_type, dots_kernels::Isa::best().name());
    // Before the breakers, which are known by their flags.
    let sampled = format!("{sampling:?}");
    let template = load::template(&checkpoint)?;
    let running = load::start(checkpoint, asked.engine, Users::batch(asked.concurrency))?;
    let identity = json!({
        "model": hex(&key),
        "sampling": sampled,
        "breakers": asked.sampling.dry_sequence_breaker,
        "max_tokens": asked.sampling.max_tokens,
        "stop": asked.sampling.stop,
        "context": running.max_model_len,
        "test_seconds": asked.test_seconds,
    });
    sampling.dry.breakers = asked.sampling.breakers(&running.tokenizer);
    let model = EngineModel {
        engine: running.engine,
        tokenizer: running.tokenizer,
        template,
        context: running.max_model_len,
        request: Request { sampling, stop: asked.sampling.stop.clone(), ..Request::default() },
        max_tokens: asked.sampling.max_tokens.unwrap_or(usize::MAX),
    };
    let settings = Settings {
        samples: asked.samples,
        keep: asked.keep,
        seed: asked.sampling.seed.unwrap_or(0),
        // One more than fill the engine, which works on while answers are judged.
        workers: asked.concurrency.div_ceil(asked.samples) + 1,
    };
    let mut shown = Shown::new(problems.list.len());
    let work = Work { problems, model: &model, verifier, settings, identity: &identity };
    let end = rejection::sample(work, asked.out, stop, &mut |progress| shown.tell(progress));
    shown.end();
    match end? {
        End::Finished(report) => {
            print(&report, asked.out)?;
            Ok(None)
        }
        End::Stopped(progress) => Ok(Some(progress)),
    }
}

/// What came of it, for people: the rates, and problems by how many of their answers were right.
fn print(report: &Report, out: &Path) -> io::Result<()> {
    const WIDTH: usize = 40;
    let mut stderr = io::stderr().lock();
    let all = report.problems * report.samples_of_each;
    writeln!(
        stderr,
        "{} of {all} answers accepted ({:.1} %), {} of {} problems solved, {} answers kept in {}",
        report.accepted,
        100.0 * report.accept_rate,
        report.solved,
        report.problems,
        report.kept,
        out.display()
    )?;
    let verdicts = Verdict::ALL.iter().filter_map(|verdict| Some((verdict, report.verdicts.get(verdict)?)));
    let verdicts: Vec<String> = verdicts.map(|(verdict, count)| format!("{} {count}", verdict.name())).collect();
    writeln!(stderr, "{}", verdicts.join(", "))?;
    writeln!(stderr, "Problems by answers accepted:")?;
    // At most so many lines: several counts share one where there are more.
    let step = report.histogram.len().div_ceil(17);
    let bins: Vec<usize> = report.histogram.chunks(step).map(|chunk| chunk.iter().sum()).collect();
    let most = bins.iter().copied().max().unwrap_or(0).max(1);
    for (nth, &count) in bins.iter().enumerate() {
        let (first, last) = (nth * step, ((nth + 1) * step - 1).min(report.samples_of_each));
        let name = if first == last { first.to_string() } else { format!("{first}-{last}") };
        writeln!(stderr, "{name:>9}  {:WIDTH$}  {count}", "#".repeat((count * WIDTH).div_ceil(most)))?;
    }
    Ok(())
}

/// What is seen of it while it runs.
struct Shown {
    meter: Meter,
    total: usize,
    before: Option<Progress>,
    start: Instant,
}

impl Shown {
    fn new(total: usize) -> Self {
        let template = "{bar:20} {human_pos} of {human_len} problems  {msg}  {eta} left";
        Self { meter: Meter::new(template, Some(total as u64)), total, before: None, start: Instant::now() }
    }

    fn tell(&mut self, progress: Progress) {
        let before = *self.before.get_or_insert(progress);
        let share = 100.0 * progress.accepted as f64 / progress.samples.max(1) as f64;
        let line = format!("{share:.1} % accepted");
        self.meter.tell(progress.problems as u64, |_| {
            let rate = (progress.problems - before.problems) as f64 / self.start.elapsed().as_secs_f64().max(1e-3);
            format!("{} of {} problems  {line}  {rate:.1} problems/s", progress.problems, self.total)
        });
        self.meter.bar.set_message(line);
    }

    fn end(self) {
        drop(self.meter);
        say(&format!("sampling took {}", units::seconds(self.start.elapsed())));
    }
}
