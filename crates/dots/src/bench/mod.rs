//! `dots bench`: how fast a model runs here, beside what this machine can do at most. `dots bench serve` is a room of its own.

mod cost;
mod extrapolate;
mod report;
mod run;
pub mod serve;
mod shape;

use std::io::{self, Write};

use anyhow::{anyhow, bail};
use dots_kernels::measure::Machine;
use dots_model::{
    Checkpoint, Config,
    checkpoint::{Types, WeightBytes},
    cpu::{CpuExecutor, CpuOptions},
    executor::{Arithmetic, BLOCK_TOKENS, CacheType, Plan},
};

use self::{
    extrapolate::Extrapolation,
    report::{Products, Report, Subject},
    run::{Case, Measured, Phase, Runner},
};
use crate::{
    cli::{BenchArgs, BenchCommand},
    load,
    memory::{self, Memory},
    plan::{self, Lengths, WeightsPlace},
    progress::Meter,
    units,
};
pub use shape::Shape;

/// What is read to measure the machine, where a quarter of its free memory is no less: far more than caches hold.
const READ_BYTES: u64 = 1 << 30;
/// Seed of random weights.
const SEED: u64 = 1;
/// Layers of the smaller of the two models that an extrapolation needs: one dense, one mixture.
const FEW_LAYERS: usize = 2;

pub fn run(args: BenchArgs) -> anyhow::Result<()> {
    if let Some(BenchCommand::Serve(args)) = args.command {
        return serve::run(*args);
    }
    let cases = cases(&args)?;
    let models = models(&args)?;
    let memory = memory::of_this_machine();
    let options = options(&args, &cases);
    let mut plans = Vec::with_capacity(models.len());
    for model in &models {
        check_lengths(&cases, model.config())?;
        let plan = model.plan(&options);
        fits(&plan, matches!(model, Model::Random { .. }), options.cache_tokens, memory)?;
        plans.push(plan);
    }
    // A closed stderr is no reason not to run.
    if let (Some(model), Some(plan)) = (models.last(), plans.last()) {
        let lengths = Lengths { max_model_len: extent(&cases).0, cache_tokens: options.cache_tokens, note: None };
        let (out, weights) = (&mut io::stderr().lock(), model.place(args.no_mmap));
        let _ = plan::print(out, *plan, weights, &lengths, options.cache_type, memory);
    }

    let runs = (models.len() * cases.len() * (args.repeat + 1) + models.len() + 1) as u64;
    let mut meter = Meter::new("{msg:40!}  {bar:30} {pos}/{len} runs  {elapsed}", Some(runs)).ticking();
    meter.bar.set_message("measuring this machine");
    let read_bytes = memory.map_or(READ_BYTES, |memory| READ_BYTES.min(memory.available_bytes / 4));
    let machine = Machine::measure(options.threads, usize::try_from(read_bytes)?)
        .ok_or_else(|| anyhow!("no {} are free to measure this machine with", units::bytes(read_bytes)))?;
    one_more(&mut meter);

    let mut subjects = Vec::with_capacity(models.len());
    for (model, plan) in models.into_iter().zip(&plans) {
        meter.bar.set_message("loading");
        let mut checkpoint = model.load()?;
        let taken_bytes = plan.cache_bytes.saturating_add(plan.buffers_bytes);
        load::settle(&mut checkpoint, args.no_mmap, args.mlock, taken_bytes)?;
        subjects.push(measure(&checkpoint, &cases, &options, args.repeat, &mut meter)?);
    }
    drop(meter);
    let Some(subject) = subjects.pop() else { return Ok(()) };
    let extrapolated = match (subjects.pop(), args.extrapolate, args.random) {
        (Some(few), Some(layers), Some(shape)) => {
            let weights_bytes = args.types.bytes(&shape.with_layers(layers).config());
            Some(Extrapolation::new(&few, &subject, layers, weights_bytes))
        }
        _ => None,
    };
    let (arithmetic, cache_type, repeat) = (options.arithmetic, options.cache_type, args.repeat);
    let report = Report { machine, arithmetic, cache_type, repeat, subject, extrapolated, memory };
    let out = &mut io::stdout().lock();
    if args.json {
        writeln!(out, "{:#}", report.to_json())?
    } else {
        report.print(out)?
    }
    Ok(())
}

/// What is measured, before it is loaded.
enum Model {
    File(Box<Checkpoint>),
    Random { shape: Shape, config: Box<Config>, types: Types },
}

impl Model {
    fn config(&self) -> &Config {
        match self {
            Self::File(checkpoint) => &checkpoint.config,
            Self::Random { config, .. } => config,
        }
    }

    fn plan(&self, options: &CpuOptions) -> Plan {
        match self {
            Self::File(checkpoint) => options.plan(checkpoint),
            Self::Random { config, types, .. } => options.plan_for(config, types.bytes(config)),
        }
    }

    fn place(&self, no_mmap: bool) -> WeightsPlace {
        match self {
            Self::File(checkpoint) => WeightsPlace::of(checkpoint, no_mmap),
            Self::Random { .. } => WeightsPlace::Made,
        }
    }

    fn load(self) -> anyhow::Result<Checkpoint> {
        Ok(match self {
            Self::File(checkpoint) => *checkpoint,
            Self::Random { shape, config, types } => {
                Checkpoint::random(&format!("{shape} in {}", types.name()), *config, types, SEED)?
            }
        })
    }
}

/// The models to measure: one, or the smaller of two first where a line is to be drawn through them.
fn models(args: &BenchArgs) -> anyhow::Result<Vec<Model>> {
    let Some(shape) = args.random else {
        return Ok(vec![Model::File(Box::new(load::open(args.model.as_deref())?))]);
    };
    let random = |shape: Shape| Model::Random { shape, config: Box::new(shape.config()), types: args.types };
    let Some(layers) = args.extrapolate else { return Ok(vec![random(shape)]) };
    if shape.layers <= FEW_LAYERS || layers <= shape.layers {
        bail!(
            "--extrapolate: expected more than the {} layers of --random, and those more than {FEW_LAYERS}, found {layers}",
            shape.layers
        );
    }
    Ok(vec![random(shape.with_layers(FEW_LAYERS)), random(shape)])
}

/// Every length at every depth in every batch, prefills first. A length of 0 asks for none.
fn cases(args: &BenchArgs) -> anyhow::Result<Vec<Case>> {
    if let Some(batch) = args.batch.iter().find(|&&batch| batch > args.max_batch_tokens) {
        bail!("--batch: expected at most {}, as --max-batch-tokens says, found {batch}", args.max_batch_tokens);
    }
    let mut cases = Vec::new();
    for (phase, lengths) in [(Phase::Prefill, &args.prefill), (Phase::Decode, &args.decode)] {
        for &tokens in lengths.iter().filter(|&&tokens| tokens > 0) {
            for &depth in &args.depth {
                cases.extend(args.batch.iter().map(|&batch| Case { phase, tokens, depth, batch }));
            }
        }
    }
    if cases.is_empty() {
        bail!("--prefill and --decode: expected a length above 0, found none");
    }
    Ok(cases)
}

/// No sequence may be longer than the model was trained for.
fn check_lengths(cases: &[Case], config: &Config) -> anyhow::Result<()> {
    let longest = config.max_position_embeddings;
    if let Some(case) = cases.iter().find(|case| case.positions() > longest) {
        let flag = if case.phase == Phase::Prefill { "--prefill" } else { "--decode" };
        bail!(
            "{flag}: expected at most {longest} tokens with --depth, the model's own context, found {} + {}",
            case.depth,
            case.tokens
        );
    }
    Ok(())
}

/// Tokens of the longest sequence, and of the largest batch.
fn extent(cases: &[Case]) -> (usize, usize) {
    let positions = cases.iter().map(Case::positions).max().unwrap_or(1);
    (positions, cases.iter().map(|case| case.batch).max().unwrap_or(1))
}

fn options(args: &BenchArgs, cases: &[Case]) -> CpuOptions {
    let (positions, batch) = extent(cases);
    let arithmetic = Arithmetic::from(args.arithmetic);
    CpuOptions {
        arithmetic,
        cache_type: args.kv_cache_type.map_or(arithmetic.cache_type(), CacheType::from),
        threads: args.threads.unwrap_or(0),
        cache_tokens: positions.next_multiple_of(BLOCK_TOKENS).saturating_mul(batch),
        max_batch_tokens: args.max_batch_tokens,
    }
}

/// Refuses what the machine cannot hold. A file's weights are mapped, so they need not fit; random ones must.
fn fits(plan: &Plan, weights_in_memory: bool, cache_tokens: usize, memory: Option<Memory>) -> anyhow::Result<()> {
    let Some(memory) = memory else { return Ok(()) };
    let weights = if weights_in_memory { plan.weights_bytes } else { 0 };
    let needed = plan.cache_bytes.saturating_add(plan.buffers_bytes).saturating_add(weights);
    if needed <= memory.available_bytes {
        return Ok(());
    }
    let (what, advice) = if weights_in_memory {
        (format!("{} of random weights, ", units::bytes(weights)), "fewer layers, a smaller --type, ")
    } else {
        (String::new(), "")
    };
    bail!(
        "{what}{} of cache for {cache_tokens} tokens and {} of buffers take {}, {} more than the {} that this machine has \
         free: ask for {advice}less --depth or --batch",
        units::bytes(plan.cache_bytes),
        units::bytes(plan.buffers_bytes),
        units::bytes(needed),
        units::bytes(needed - memory.available_bytes),
        units::bytes(memory.available_bytes)
    )
}

/// Runs every case on `checkpoint`.
fn measure(
    checkpoint: &Checkpoint,
    cases: &[Case],
    options: &CpuOptions,
    repeat: usize,
    meter: &mut Meter,
) -> anyhow::Result<Subject> {
    let weights = WeightBytes::of(checkpoint);
    let products = Products::of(&weights, options.arithmetic);
    let mut executor = CpuExecutor::new(checkpoint, options)?;
    let (instruction_set, threads) = (executor.instruction_set(), executor.threads());
    let (positions, batch) = extent(cases);
    let plan = options.plan(checkpoint);
    let mut runner = Runner::new(&mut executor, weights, batch, positions)?;
    one_more(meter);
    let layers = checkpoint.config.num_hidden_layers;
    let lines: Vec<Measured> = cases
        .iter()
        .map(|&case| {
            meter.bar.set_message(format!("{layers} layers, {} at {} in {}", case.name(), case.depth, case.batch));
            runner.measure(case, repeat, || one_more(meter))
        })
        .collect::<Result<_, _>>()?;
    Ok(Subject {
        name: checkpoint.path.display().to_string(),
        layers,
        parameters: checkpoint.config.parameters(),
        plan,
        instruction_set,
        threads,
        products,
        lines,
    })
}

/// One run more is made.
fn one_more(meter: &mut Meter) {
    meter.advance(1, |bar| {
        format!("{}: {} of {} runs", bar.message(), bar.position(), bar.length().unwrap_or_default())
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMORY: Option<Memory> = Some(Memory { total_bytes: 4 << 30, available_bytes: 2 << 30 });

    fn plan() -> Plan {
        Plan { weights_bytes: 3 << 30, cache_bytes: 1 << 30, buffers_bytes: 1 << 29, ..Plan::default() }
    }

    #[test]
    fn mapped_weights_need_not_fit_and_random_ones_must() {
        fits(&plan(), false, 1000, MEMORY).unwrap();
        let error = fits(&plan(), true, 1000, MEMORY).unwrap_err().to_string();
        for words in ["3.0 GiB of random weights", "1000 tokens", "2.5 GiB more than the 2.0 GiB", "fewer layers"] {
            assert!(error.contains(words), "{error}");
        }
        let error = fits(&Plan { cache_bytes: 2 << 30, ..plan() }, false, 9, MEMORY).unwrap_err().to_string();
        assert!(error.contains("512.0 MiB more than the 2.0 GiB") && !error.contains("layers"), "{error}");
    }

    #[test]
    fn sequences_beyond_the_context_are_refused() {
        let case = Case { phase: Phase::Decode, tokens: 64, depth: 32_705, batch: 1 };
        let error = check_lengths(&[case], &Config::dots_llm1()).unwrap_err().to_string();
        assert!(error.contains("--decode") && error.contains("32768") && error.contains("32705 + 64"), "{error}");
        check_lengths(&[Case { depth: 32_704, ..case }], &Config::dots_llm1()).unwrap();
    }
}
