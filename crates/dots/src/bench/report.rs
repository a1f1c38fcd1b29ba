//! What was measured, for people and for programs.

use std::io::{self, Write};

use dots_kernels::measure::Machine;
use dots_model::{
    checkpoint::WeightBytes,
    config::Parameters,
    executor::{Arithmetic, CacheType, Plan},
};
use serde_json::{Value, json};

use super::{
    extrapolate::Extrapolation,
    run::{Case, Measured, Phase},
};
use crate::{memory::Memory, plan, table::Table, terminal::clean, units};

/// A model and what it took.
#[derive(Debug, Clone)]
pub struct Subject {
    pub name: String,
    pub layers: usize,
    pub parameters: Parameters,
    pub plan: Plan,
    pub instruction_set: &'static str,
    pub threads: usize,
    pub products: Products,
    pub lines: Vec<Measured>,
}

/// What most weights are multiplied as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Products {
    Int8,
    Bf16,
    F32,
}

impl Products {
    /// As the kernels choose it: integers for quantised weights; for BF16 and FP8 what [`Machine::bf16_ops_per_second`] measures, which
    /// is f32 where a processor has no products of bf16.
    pub fn of(weights: &WeightBytes, arithmetic: Arithmetic) -> Self {
        let others = weights.of_token - weights.quantised - weights.bf16;
        match arithmetic {
            Arithmetic::Fast if weights.quantised > weights.bf16.max(others) => Self::Int8,
            Arithmetic::Fast if weights.bf16 > others => Self::Bf16,
            _ => Self::F32,
        }
    }
}

/// Everything that is shown.
pub struct Report {
    pub machine: Machine,
    pub arithmetic: Arithmetic,
    pub cache_type: CacheType,
    pub repeat: usize,
    pub subject: Subject,
    pub extrapolated: Option<Extrapolation>,
    pub memory: Option<Memory>,
}

/// The middle of some numbers, or of the two middle ones; of none, 0.
pub fn median(numbers: &[f64]) -> f64 {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[middle],
        _ => (sorted[middle - 1] + sorted[middle]) / 2.0,
    }
}

/// What one run comes to.
struct Speed {
    tokens_per_second: f64,
    /// Operations or bytes a second.
    rate: f64,
    /// Of what the machine reached.
    share: f64,
}

impl Report {
    /// The name of the limit of a phase, for people and for programs, and what the machine reached of it.
    fn limit(&self, phase: Phase) -> (&'static str, &'static str, f64) {
        match phase {
            Phase::Decode => ("reading", "read_bandwidth", self.machine.read_bytes_per_second),
            Phase::Prefill => match self.subject.products {
                Products::Int8 => ("int8", "int8_dot_products", self.machine.int8_ops_per_second),
                Products::Bf16 => ("bf16", "bf16_dot_products", self.machine.bf16_ops_per_second),
                Products::F32 => ("f32", "f32_multiply_adds", self.machine.f32_ops_per_second),
            },
        }
    }

    fn speed(&self, case: Case, seconds: f64, work: f64) -> Speed {
        let rate = work / seconds;
        Speed {
            tokens_per_second: (case.tokens * case.batch) as f64 / seconds,
            rate,
            share: rate / self.limit(case.phase).2,
        }
    }

    /// The cells of one line of a table.
    fn cells(&self, case: Case, seconds: f64, work: f64, spread: Option<f64>) -> Vec<String> {
        let speed = self.speed(case, seconds, work);
        let (work, unit) = match case.phase {
            Phase::Prefill => (operations(work), "OP/s"),
            Phase::Decode => (format!("{:.2} GB a step", work / case.tokens as f64 / 1e9), "B/s"),
        };
        let mut cells =
            vec![case.name(), case.depth.to_string(), case.batch.to_string(), significant(speed.tokens_per_second)];
        cells.extend(spread.map(|spread| format!("{:.1} %", 100.0 * spread)));
        let of = format!("{:.0} % of {}", 100.0 * speed.share, self.limit(case.phase).0);
        cells.extend([work, format!("{:.1} G{unit}", speed.rate / 1e9), of]);
        cells
    }

    /// Prints it all.
    pub fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        let Self { machine, subject, .. } = self;
        writeln!(
            out,
            "{}: {} layers, {} parameters, {} of weights",
            clean(&subject.name),
            subject.layers,
            units::parameters(subject.parameters.total),
            units::bytes(subject.plan.weights_bytes)
        )?;
        let arithmetic = plan::arithmetic_name(self.arithmetic);
        let cache = self.cache_type.name();
        writeln!(
            out,
            "{} threads, {}, {arithmetic} arithmetic, cache in {cache}",
            subject.threads, subject.instruction_set
        )?;
        writeln!(
            out,
            "this machine: reads {:.1} GB/s, int8 dot products {}/s, bf16 dot products {}/s, f32 multiply-adds {}/s\n",
            machine.read_bytes_per_second / 1e9,
            operations(machine.int8_ops_per_second),
            operations(machine.bf16_ops_per_second),
            operations(machine.f32_ops_per_second)
        )?;
        let mut table =
            Table::new(["run", "depth", "sequences", "tokens/s", "spread", "work", "rate", "of the machine"]);
        for Measured { case, seconds, work } in &subject.lines {
            table.row(self.cells(*case, median(seconds), *work as f64, Some(spread(seconds))));
        }
        table.write(out, "")?;
        let runs = if self.repeat == 1 { "One run".to_owned() } else { format!("Medians of {} runs", self.repeat) };
        writeln!(
            out,
            "\n{runs}; the spread is from the fastest to the slowest. Depth is filled with copies of one block of keys and\n\
             values, not by reading a prompt. Bytes are the weights that a step needs (experts by measured routing) and the\n\
             keys and values attended to; operations are two for each multiply and add, the\n\
             head's and most of the last layer's for the last token only."
        )?;
        match &self.extrapolated {
            Some(extrapolated) => self.print_extrapolated(out, extrapolated),
            None => Ok(()),
        }
    }

    fn print_extrapolated(&self, out: &mut dyn Write, extrapolated: &Extrapolation) -> io::Result<()> {
        let Extrapolation { layers, from: (few, more), weights_bytes, lines } = extrapolated;
        writeln!(
            out,
            "\n{layers} layers, extrapolated from {few} and {more} by time = a + b · layers, not measured:\n"
        )?;
        let mut table = Table::new(["run", "depth", "sequences", "tokens/s", "work", "rate", "of the machine"]);
        for (line, measured) in lines.iter().zip(&self.subject.lines) {
            match line {
                Some(line) => table.row(self.cells(line.case, line.seconds, line.work, None)),
                None => {
                    let case = measured.case;
                    let unknown = ["unknown", "", "", ""].map(str::to_owned);
                    let names = [case.name(), case.depth.to_string(), case.batch.to_string()];
                    table.row(names.into_iter().chain(unknown));
                }
            }
        }
        table.write(out, "")?;
        if lines.iter().any(Option::is_none) {
            writeln!(out, "\nUnknown: {more} layers were no slower than {few}; repeat it on a quieter machine.")?;
        }
        writeln!(out, "\nIts weights are {}.", units::bytes(*weights_bytes))?;
        match self.memory {
            Some(memory) if *weights_bytes > memory.total_bytes => writeln!(
                out,
                "This machine has {}: it would read them from disk again and again, and be slower than this.",
                units::bytes(memory.total_bytes)
            ),
            _ => Ok(()),
        }
    }

    /// The same for programs.
    pub fn to_json(&self) -> Value {
        let Self { machine, subject, .. } = self;
        let lines: Vec<Value> = subject
            .lines
            .iter()
            .map(|line| {
                let mut value = self.line_json(line.case, median(&line.seconds), line.work as f64);
                let speeds = |seconds: f64| (line.case.tokens * line.case.batch) as f64 / seconds;
                value["tokens_per_second_of_runs"] = line.seconds.iter().map(|&seconds| speeds(seconds)).collect();
                value["spread"] = spread(&line.seconds).into();
                value
            })
            .collect();
        let extrapolated = self.extrapolated.as_ref().map(|extrapolated| {
            let lines: Vec<Value> = extrapolated
                .lines
                .iter()
                .map(|line| line.map_or(Value::Null, |line| self.line_json(line.case, line.seconds, line.work)))
                .collect();
            json!({
                "layers": extrapolated.layers,
                "from_layers": [extrapolated.from.0, extrapolated.from.1],
                "weights_bytes": extrapolated.weights_bytes,
                "lines": lines,
            })
        });
        json!({
            "model": subject.name,
            "layers": subject.layers,
            "parameters": { "total": subject.parameters.total, "active": subject.parameters.active },
            "weights_bytes": subject.plan.weights_bytes,
            "cache_bytes": subject.plan.cache_bytes,
            "cache_type": self.cache_type.name(),
            "buffers_bytes": subject.plan.buffers_bytes,
            "max_batch_tokens": subject.plan.max_batch_tokens,
            "arithmetic": plan::arithmetic_name(self.arithmetic),
            "threads": subject.threads,
            "instruction_set": subject.instruction_set,
            "repeat": self.repeat,
            "machine": {
                "read_bytes_per_second": machine.read_bytes_per_second,
                "int8_ops_per_second": machine.int8_ops_per_second,
                "bf16_ops_per_second": machine.bf16_ops_per_second,
                "f32_ops_per_second": machine.f32_ops_per_second,
                "buffer_bytes": machine.buffer_bytes,
            },
            "lines": lines,
            "extrapolated": extrapolated,
        })
    }

    fn line_json(&self, case: Case, seconds: f64, work: f64) -> Value {
        let speed = self.speed(case, seconds, work);
        let (phase, work_name, rate_name) = match case.phase {
            Phase::Prefill => ("prefill", "operations", "operations_per_second"),
            Phase::Decode => ("decode", "bytes", "bytes_per_second"),
        };
        json!({
            "phase": phase,
            "tokens": case.tokens,
            "depth": case.depth,
            "batch": case.batch,
            "seconds": seconds,
            "tokens_per_second": speed.tokens_per_second,
            work_name: work,
            rate_name: speed.rate,
            "limit": self.limit(case.phase).1,
            "share_of_limit": speed.share,
        })
    }
}

/// From the fastest to the slowest run, as a share of the median.
fn spread(seconds: &[f64]) -> f64 {
    let (least, most) = seconds.iter().fold((f64::INFINITY, 0f64), |(a, b), &s| (a.min(s), b.max(s)));
    if seconds.is_empty() { 0.0 } else { (most - least) / median(seconds) }
}

/// `1.05 TOP`.
fn operations(count: f64) -> String {
    if count >= 1e12 { format!("{:.2} TOP", count / 1e12) } else { format!("{:.2} GOP", count / 1e9) }
}

/// As many digits as mean something.
fn significant(number: f64) -> String {
    match number {
        100.0.. => format!("{number:.0}"),
        10.0.. => format!("{number:.1}"),
        _ => format!("{number:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_spreads() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(spread(&[1.0, 2.0, 4.0]), 1.5);
        assert_eq!(spread(&[2.0]), 0.0);
    }

    #[test]
    fn a_prompt_is_held_against_the_peak_of_its_own_products() {
        let weights = |quantised, bf16| WeightBytes { always: 0, expert: vec![], of_token: 100, quantised, bf16 };
        let fast = |quantised, bf16| Products::of(&weights(quantised, bf16), Arithmetic::Fast);
        assert_eq!(fast(60, 30), Products::Int8);
        assert_eq!(fast(30, 60), Products::Bf16);
        assert_eq!(fast(20, 20), Products::F32);
        assert_eq!(Products::of(&weights(90, 0), Arithmetic::Exact), Products::F32);
    }

    #[test]
    fn numbers_have_the_digits_that_mean_something() {
        assert_eq!([123.4, 12.34, 1.234].map(significant), ["123", "12.3", "1.23"]);
        assert_eq!(operations(1.05e12), "1.05 TOP");
        assert_eq!(operations(20e9), "20.00 GOP");
    }
}
