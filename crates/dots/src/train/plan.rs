//! `dots train --plan`: what a run takes, before anything is taken.

use std::{
    io::{self, Write},
    time::Instant,
};

use anyhow::bail;
use dots_kernels::{Compute, measure::peak_ops_per_second, train::Precision};
use dots_model::Config;
use dots_train::{
    cpu::{CpuStep, Options, Plan},
    flops,
    ranks::RankedStep,
    recipe::{Length, Recipe, Source, count},
    schedule::Schedule,
    step::{ALL_EXPERTS, Dials, MicroBatch, Step, StepError, Totals},
};

use crate::{
    memory::{self, Memory},
    table::Table,
    units,
};

/// The report's cost of 1 T tokens, in hours of an H800 (arXiv 2506.05767, section 4), and the length of its sequences.
const REPORT_HOURS_A_TRILLION: f64 = 130e3;
const REPORT_SEQUENCE_TOKENS: usize = 8192;
/// What of a GPU's peak that comes to, at 989 TFLOP/s; assumed of this machine where nothing was measured.
const REPORT_SHARE: f64 = 0.2;
/// The longest that measuring may take, in seconds, if it reaches that share.
const MOST_SECONDS: f64 = 8.0;
/// Activations are what these parts of a plan hold.
const ACTIVATIONS: [&str; 2] = ["residual stream before each layer", "activations kept for the backward pass"];

/// How fast it goes.
enum Speed {
    Tokens(f64),
    /// Operations a second, and where the number is from.
    Flops(f64, String),
}

impl Speed {
    fn seconds(&self, tokens: f64, flops: f64) -> f64 {
        match self {
            Self::Tokens(rate) => tokens / rate,
            Self::Flops(rate, _) => flops / rate,
        }
    }
}

/// What the command line says of the speed.
#[derive(Debug, Clone, Copy)]
pub struct Given {
    pub tokens_per_second: Option<f64>,
    pub gpu_tflops: Option<f64>,
}

/// Prints the plan. One that would be run on this machine and does not fit into its memory is an error, after it is printed.
pub fn print(recipe: &Recipe, options: &Options, given: Given) -> anyhow::Result<()> {
    let out = &mut io::stdout().lock();
    let config = &recipe.model.config;
    let parameters = config.parameters();
    writeln!(
        out,
        "{}: {} parameters, {} of them active",
        recipe.name,
        units::parameters(parameters.total),
        units::parameters(parameters.active),
    )?;
    let memory = memory::of_this_machine();
    let here = given.gpu_tflops.is_none();
    print_memory(out, recipe, options, here, memory)?;
    let fits = fits(recipe, options, memory);
    let speed = match given {
        Given { tokens_per_second: Some(rate), .. } => Speed::Tokens(rate),
        Given { gpu_tflops: Some(rate), .. } => Speed::Flops(rate * 1e12, format!("one GPU of {rate} TFLOP/s")),
        _ => measured(recipe, options, fits.is_ok() && !is_shared(recipe))?,
    };
    print_phases(out, recipe, &speed)?;
    // Elsewhere it is another machine's memory that counts.
    if here { fits } else { Ok(()) }
}

/// Whether the run is shared among ranks.
pub fn is_shared(recipe: &Recipe) -> bool {
    recipe.ranks.data > 1 || recipe.ranks.pipeline > 1
}

/// What the run takes of this machine, all of its ranks together.
pub fn of(recipe: &Recipe, options: &Options) -> anyhow::Result<Plan> {
    let config = &recipe.model.config;
    Ok(match is_shared(recipe) {
        true => RankedStep::plan(config, options, recipe.ranks)?,
        false => CpuStep::plan(config, options),
    })
}

/// Refuses a run that the machine has no memory for.
pub fn fits(recipe: &Recipe, options: &Options, memory: Option<Memory>) -> anyhow::Result<()> {
    let needed = of(recipe, options)?.total_bytes();
    let Some(memory) = memory.filter(|memory| needed > memory.available_bytes) else { return Ok(()) };
    let again = of(recipe, &Options { recompute: true, ..*options })?.total_bytes();
    let advice = match again <= memory.available_bytes {
        true => format!("arithmetic.recompute = true takes {}", units::bytes(again)),
        false => "a smaller arithmetic.micro_batch_tokens needs less, fewer layers or experts much less".to_owned(),
    };
    let (needed, available) = (units::bytes(needed), units::bytes(memory.available_bytes));
    bail!("memory: expected at most {available}, which are free, found a run of {needed}; {advice}")
}

/// `here`: the ranks are threads of this machine, which plans them together. Elsewhere there may be more than it could run.
fn print_memory(
    out: &mut dyn Write,
    recipe: &Recipe,
    options: &Options,
    here: bool,
    memory: Option<Memory>,
) -> anyhow::Result<()> {
    let plan = |recompute| {
        let options = Options { recompute, ..*options };
        if here { of(recipe, &options) } else { Ok(CpuStep::plan(&recipe.model.config, &options)) }
    };
    let (kept, again) = (plan(false)?, plan(true)?);
    let mut table = Table::new(["memory", "activations kept", "computed again"]);
    let mut row = |name: &str, of: &dyn Fn(&Plan) -> u64| {
        table.row([name.to_owned(), units::bytes(of(&kept)), units::bytes(of(&again))]);
    };
    for part in ["weights", "gradients", "moments"] {
        row(part, &|plan| sum(plan, |name| name == part));
    }
    row("activations", &|plan| sum(plan, |name| ACTIVATIONS.contains(&name)));
    row("scratch", &|plan| {
        sum(plan, |name| !ACTIVATIONS.contains(&name) && !["weights", "gradients", "moments"].contains(&name))
    });
    row("in all", &Plan::total_bytes);
    writeln!(out)?;
    table.write(out, "  ")?;
    let chosen = if options.recompute { "computed again" } else { "kept" };
    let tokens = options.micro_batch_tokens;
    write!(out, "  {tokens} tokens at once; arithmetic.recompute = {}: activations are {chosen}.", options.recompute)?;
    match memory {
        Some(memory) => {
            let (free, total) = (units::bytes(memory.available_bytes), units::bytes(memory.total_bytes));
            writeln!(out, " Free here: {free} of {total}.")?;
        }
        None => writeln!(out, " This system does not say how much memory is free.")?,
    }
    if is_shared(recipe) {
        let (data, pipeline) = (recipe.ranks.data, recipe.ranks.pipeline);
        let said = if here { "this is the sum" } else { "this is as if one held all" };
        writeln!(out, "  Shared among {data} x {pipeline} ranks, of which {said}.")?;
    }
    Ok(())
}

fn sum(plan: &Plan, is_meant: impl Fn(&str) -> bool) -> u64 {
    plan.parts.iter().filter(|(name, _)| is_meant(name)).fold(0, |sum, (_, bytes)| sum.saturating_add(*bytes))
}

fn print_phases(out: &mut dyn Write, recipe: &Recipe, speed: &Speed) -> anyhow::Result<()> {
    let config = &recipe.model.config;
    let schedule = Schedule::new(recipe, |_| 0);
    let report = report_flops_per_second();
    let hours = |flops: f64| flops / report / 3600.0;
    let mut table =
        Table::new(["phase", "steps", "tokens", "sequence", "GFLOP a token", "FLOPs", "time", "H800 hours"]);
    let (mut all_tokens, mut all_flops, mut all_seconds, mut open) = (0u64, 0.0, 0.0, false);
    for (index, phase) in recipe.phases.iter().enumerate() {
        let a_token = flops::of_token(config, phase.sequence_tokens);
        let (sequence, giga) = (count::shown(phase.sequence_tokens as u64), significant(a_token / 1e9));
        if let Length::Epochs(epochs) = phase.length {
            open = true;
            let cells =
                ["–".to_owned(), format!("{epochs} epochs"), sequence, giga, "–".into(), "–".into(), "–".into()];
            table.row([phase.name.clone()].into_iter().chain(cells));
            continue;
        }
        let (tokens, (_, steps)) = (schedule.tokens_of(index), schedule.steps_of(index));
        let flops = a_token * tokens as f64;
        let seconds = speed.seconds(tokens as f64, flops);
        table.row([
            phase.name.clone(),
            steps.to_string(),
            brief(tokens as f64),
            sequence,
            giga,
            brief(flops),
            duration(seconds),
            significant(hours(flops)),
        ]);
        all_tokens += tokens;
        all_flops += flops;
        all_seconds += seconds;
    }
    table.row([
        "in all".to_owned(),
        schedule.steps().to_string(),
        brief(all_tokens as f64),
        String::new(),
        String::new(),
        brief(all_flops),
        duration(all_seconds),
        significant(hours(all_flops)),
    ]);
    writeln!(out)?;
    table.write(out, "  ")?;
    let more = if open { " Phases in epochs are as long as their data, and count nothing here." } else { "" };
    let asks = recipe.sources.values().any(|source| matches!(source, Source::Problems(_)));
    let more = format!("{more}{}", if asks { " Nor does what the model takes to answer problems." } else { "" });
    writeln!(out, "  FLOPs: 6 for each active parameter, and attention as if each sequence were one document.{more}")?;
    match speed {
        Speed::Tokens(rate) => writeln!(out, "  Time: at {rate} tokens a second, as given.")?,
        Speed::Flops(rate, from) => {
            let tokens =
                recipe.phases.first().map_or(0.0, |phase| rate / flops::of_token(config, phase.sequence_tokens));
            writeln!(out, "  Time: {} tokens a second at {}FLOP/s, {from}.", significant(tokens), brief(*rate))?;
        }
    }
    let whole = REPORT_HOURS_A_TRILLION * all_tokens as f64 / 1e12;
    Ok(writeln!(
        out,
        "  H800 hours: at the {:.0} TFLOP/s a GPU that dots.llm1's report comes to (130 K hours for 1 T tokens). These are {} % of the {} hours \
         which dots.llm1 takes by it for as many tokens.",
        report / 1e12,
        significant(100.0 * hours(all_flops) / whole),
        significant(whole),
    )?)
}

/// What an H800 did of the report's run, in operations a second.
fn report_flops_per_second() -> f64 {
    flops::of_token(&Config::dots_llm1(), REPORT_SEQUENCE_TOKENS) * 1e12 / (REPORT_HOURS_A_TRILLION * 3600.0)
}

/// What this machine does: measured on a micro-batch and an update, where that is soon done, or else supposed.
fn measured(recipe: &Recipe, options: &Options, fits: bool) -> anyhow::Result<Speed> {
    let config = &recipe.model.config;
    let peak = peak_ops_per_second(&Compute::new(options.threads, 0), options.precision);
    let phase = &recipe.phases[0];
    let a_sequence = flops::of_token(config, phase.sequence_tokens) * phase.sequence_tokens as f64;
    // Two rounds of a micro-batch, and what memory costs when it is touched for the first time.
    let in_time = (MOST_SECONDS * REPORT_SHARE * peak / (3.0 * a_sequence)) as usize;
    let sequences = (options.micro_batch_tokens / phase.sequence_tokens).max(1).min(in_time);
    let tokens = sequences * phase.sequence_tokens;
    let a_batch = a_sequence * sequences as f64;
    let kind = match options.precision {
        Precision::F32 => "f32",
        Precision::Bf16 => "bf16",
    };
    let of_peak = |rate: f64| {
        format!("{:.0} % of the {}FLOP/s in {kind} that it reached at most", 100.0 * rate / peak, brief(peak))
    };
    if !fits || sequences == 0 {
        let rate = REPORT_SHARE * peak;
        return Ok(Speed::Flops(
            rate,
            format!("supposed of this machine: {}, as the report's GPUs did of theirs", of_peak(rate)),
        ));
    }
    let (batch, update) = seconds(config, options, phase.sequence_tokens, sequences)?;
    let batches = (phase.batch[0].tokens as f64 / tokens as f64).max(1.0);
    let rate = batches * a_batch / (batches * batch + update);
    Ok(Speed::Flops(rate, format!("measured here on {tokens} tokens and an update: {}", of_peak(rate))))
}

/// Seconds of a micro-batch, and of an update.
fn seconds(config: &Config, options: &Options, sequence_tokens: usize, sequences: usize) -> anyhow::Result<(f64, f64)> {
    let mut step = CpuStep::random(config, 1, 0.02, options)?;
    let n = sequences * sequence_tokens;
    let tokens: Vec<u32> = (0..n as u64).map(|i| (i * i % config.vocab_size as u64) as u32).collect();
    let targets: Vec<u32> = tokens[1..].iter().copied().chain([0]).collect();
    let batch = MicroBatch { sequence_tokens, tokens: &tokens, attend_from: &vec![0; n], targets: &targets };
    let dials = Dials { learning_rate: 1e-4, sequence_loss: 1e-4, bias_rate: 1e-3, balanced: ALL_EXPERTS };
    let mut round = || -> Result<(f64, f64), StepError> {
        let began = Instant::now();
        step.begin(Totals { targets: n as u64, sequences: sequences as u64 }, dials)?;
        step.forward_backward(&batch)?;
        let learnt = began.elapsed().as_secs_f64();
        step.update()?;
        Ok((learnt, began.elapsed().as_secs_f64() - learnt))
    };
    // The first one touches all memory for the first time.
    round()?;
    Ok(round()?)
}

/// `1.2 M`, `92.8 T`, `1.05e24`.
fn brief(number: f64) -> String {
    const UNITS: [(&str, f64); 5] = [("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("K", 1e3)];
    match UNITS.iter().find(|(_, unit)| number >= *unit) {
        _ if number >= 1e18 => format!("{number:.2e}"),
        Some((suffix, unit)) => format!("{} {suffix}", significant(number / unit)),
        None => significant(number),
    }
}

/// Three digits that count.
fn significant(number: f64) -> String {
    match number {
        100.0.. => format!("{number:.0}"),
        10.0.. => format!("{number:.1}"),
        1.0.. => format!("{number:.2}"),
        0.001.. => format!("{number:.3}"),
        _ if number == 0.0 => "0".to_owned(),
        _ => format!("{number:.1e}"),
    }
}

/// `12 min`, `3.4 h`, `5.6 days`, `7.8 years`.
fn duration(seconds: f64) -> String {
    match seconds {
        ..100.0 => format!("{} s", significant(seconds)),
        ..6000.0 => format!("{:.0} min", seconds / 60.0),
        ..172_800.0 => format!("{:.1} h", seconds / 3600.0),
        ..63_072_000.0 => format!("{:.1} days", seconds / 86_400.0),
        _ => format!("{} years", significant(seconds / 31_536_000.0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reports_rate_is_a_fifth_of_an_h800() {
        // 2,137 tokens a second a GPU, 20.1 % of 989 TFLOP/s with causal attention.
        let rate = report_flops_per_second();
        assert!((rate / 989e12 - 0.201).abs() < 0.001, "{rate}");
        let tokens = rate / flops::of_token(&Config::dots_llm1(), REPORT_SEQUENCE_TOKENS);
        assert!((tokens - 2137.0).abs() < 1.0, "{tokens}");
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!([brief(999.0), brief(1_234.0), brief(4e7), brief(1.05e24)], ["999", "1.23 K", "40.0 M", "1.05e24"]);
        assert_eq!(
            [duration(5.0), duration(600.0), duration(9e4), duration(1e9)],
            ["5.00 s", "10 min", "25.0 h", "31.7 years"]
        );
    }
}
