//! What was measured, for people at a terminal and for programs.

use std::{
    io::{self, Write},
    time::{SystemTime, UNIX_EPOCH},
};

use serde_json::{Map, Value, json};

use super::{
    lengths::Lengths,
    record::{Outcome, Record},
    schedule::{Load, Rate},
    slo::Slo,
    statistics::{Distribution, PERCENTILES, Summary},
    words::Counted,
    work::Endpoint,
};
use crate::{table::Table, terminal::clean};

/// Everything that is shown.
pub struct Report {
    pub url: String,
    pub model: String,
    pub endpoint: Endpoint,
    pub lengths: Lengths,
    pub load: Load,
    /// How many were to be sent.
    pub requests: usize,
    pub shared_prefix_tokens: usize,
    pub counted: Counted,
    pub seed: u64,
    pub temperature: Option<f64>,
    pub ignore_eos: bool,
    pub warmup: usize,
    pub timeout_seconds: f64,
    pub slo: Option<Slo>,
    pub started: SystemTime,
    /// Somebody stopped the run.
    pub interrupted: bool,
    pub summary: Summary,
    pub records: Vec<Record>,
}

/// Seconds as milliseconds, with the digits that mean something.
pub fn milliseconds(seconds: f64) -> String {
    let ms = 1e3 * seconds;
    match ms {
        100.0.. => format!("{ms:.0}"),
        10.0.. => format!("{ms:.1}"),
        _ => format!("{ms:.2}"),
    }
}

/// A rate, with the digits that mean something.
pub fn rate(number: f64) -> String {
    match number {
        1000.0.. => format!("{number:.0}"),
        10.0.. => format!("{number:.1}"),
        _ => format!("{number:.2}"),
    }
}

/// `1 request`, `2 requests`.
pub fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

impl Report {
    /// What was asked for, in a line.
    pub fn settings(&self) -> String {
        let mut words = format!("{}, {}, {}", self.endpoint.path(), self.lengths, self.load);
        if self.shared_prefix_tokens > 0 {
            words += &format!(", {} shared", counted(self.shared_prefix_tokens, "token"));
        }
        if self.ignore_eos {
            words += ", EOS ignored";
        }
        if let Some(temperature) = self.temperature {
            words += &format!(", temperature {temperature}");
        }
        words + &format!(", seed {}", self.seed)
    }

    /// How many ended how, in a line.
    pub fn outcome(&self) -> String {
        let Summary { seconds, answered, failed, stopped, .. } = self.summary;
        let mut words = format!("{answered} answered, {failed} failed");
        if self.interrupted {
            let unsent = self.requests - self.records.len();
            words += &format!(", {stopped} stopped, {unsent} not sent");
        }
        format!("{} in {seconds:.2} s: {words}", counted(self.records.len(), "request"))
    }

    /// Prompts as they were asked for and as they were, where the server counted.
    pub fn prompt_tokens(&self) -> Option<(f64, f64)> {
        let counted: Vec<(usize, usize)> = self
            .records
            .iter()
            .filter(|record| record.outcome == Outcome::Answered)
            .filter_map(|record| record.prompt_tokens.map(|tokens| (record.asked.prompt_tokens, tokens)))
            .collect();
        let count = counted.len() as f64;
        let (asked, found) = counted.iter().fold((0, 0), |(asked, found), pair| (asked + pair.0, found + pair.1));
        (!counted.is_empty()).then(|| (asked as f64 / count, found as f64 / count))
    }

    /// Prints it all.
    pub fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        let summary = &self.summary;
        writeln!(out, "{}, {}", clean(&self.url), clean(&self.model))?;
        writeln!(out, "{}\n", self.settings())?;
        writeln!(out, "{}\n", self.outcome())?;
        self.throughput().write(out, "")?;
        writeln!(out)?;
        self.times().write(out, "")?;
        if let (Some(slo), Some(good)) = (&self.slo, summary.good) {
            let share = 100.0 * good as f64 / (summary.answered + summary.failed).max(1) as f64;
            let goodput = rate(summary.per_second(good));
            writeln!(out, "\ngoodput {goodput} requests/s: {good} ({share:.1} %) kept {slo} (ms)")?;
        }
        if !summary.failures.is_empty() {
            writeln!(out)?;
            let mut table = Table::new(["errors", "", ""]);
            for failures in &summary.failures {
                table.row([failures.kind.name(), failures.count.to_string(), clean(&failures.example).into_owned()]);
            }
            table.write(out, "")?;
        }
        for note in self.notes() {
            writeln!(out, "\n{note}")?;
        }
        Ok(())
    }

    fn throughput(&self) -> Table {
        let summary = &self.summary;
        let mut table = Table::new(["", "in all", "per second"]);
        for (name, count) in [
            ("requests", summary.answered),
            ("input tokens", summary.input_tokens),
            ("output tokens", summary.output_tokens),
            ("all tokens", summary.input_tokens + summary.output_tokens),
        ] {
            table.row([name.to_owned(), count.to_string(), rate(summary.per_second(count))]);
        }
        table.row(["most at once".to_owned(), summary.peak_running.to_string(), String::new()]);
        table
    }

    fn times(&self) -> Table {
        let mut table = Table::new(["ms", "mean", "p50", "p90", "p95", "p99", "most"]);
        for (name, _, times) in self.summary.times() {
            let cells = [times.mean()].into_iter().chain(PERCENTILES.map(|percent| times.percentile(percent)));
            let cells = cells.chain([times.most()]).map(|time| time.map_or_else(|| "-".to_owned(), milliseconds));
            table.row([name.to_owned()].into_iter().chain(cells));
        }
        table
    }

    /// What a reader must know to trust the numbers.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if let Some((asked, found)) = self.prompt_tokens() {
            let how = self.counted.name();
            notes.push(format!(
                "Prompts had {found:.1} tokens on average by the server's count, {asked:.1} were asked for ({how})."
            ));
        }
        if let Some(cached) = self.summary.cached_tokens.filter(|&cached| cached > 0) {
            let share = 100.0 * cached as f64 / self.summary.input_tokens.max(1) as f64;
            notes.push(format!("{share:.1} % of the input tokens came from the server's cache, it says."));
        }
        if self.summary.uncounted > 0 {
            notes.push(format!(
                "{} came without usage: their output tokens are counted in chunks, and their input as it was asked for.",
                counted(self.summary.uncounted, "answer")
            ));
        }
        notes
    }

    /// The same for programs, with every request. Times are in seconds. A line a request: all of them at once, as one value, would
    /// take many times the memory of the run.
    pub fn write_json(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{{")?;
        for (key, value) in self.to_json() {
            writeln!(out, "{}: {value},", Value::from(key))?;
        }
        write!(out, "\"requests\": [")?;
        for (line, record) in self.records.iter().enumerate() {
            let comma = if line == 0 { "" } else { "," };
            write!(out, "{comma}\n{}", request(record))?;
        }
        writeln!(out, "\n]}}")
    }

    /// All but the requests.
    fn to_json(&self) -> Map<String, Value> {
        let summary = &self.summary;
        let load = match self.load {
            Load::Closed { concurrency } => json!({ "kind": "closed", "concurrency": concurrency }),
            // JSON has no infinity.
            Load::Open { requests_per_second: Rate(rate) } => {
                json!({ "kind": "poisson", "requests_per_second": if rate.is_finite() { json!(rate) } else { json!("inf") } })
            }
        };
        let limit = |ms: Option<f64>| ms.map_or(Value::Null, Value::from);
        let slo = self.slo.map(|slo| {
            json!({
                "ttft_ms": limit(slo.ttft_ms),
                "itl_ms": limit(slo.itl_ms),
                "tpot_ms": limit(slo.tpot_ms),
                "e2e_ms": limit(slo.e2e_ms),
            })
        });
        let times: Map<String, Value> = summary
            .times()
            .into_iter()
            .map(|(_, key, times)| (format!("{key}_seconds"), distribution(times)))
            .collect();
        let errors: Vec<Value> = summary
            .failures
            .iter()
            .map(
                |failures| json!({ "kind": failures.kind.key(), "count": failures.count, "example": failures.example }),
            )
            .collect();
        let all = json!({
            "url": self.url,
            "model": self.model,
            "endpoint": self.endpoint.path(),
            "started_unix_seconds": self.started.duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64()),
            "load": load,
            "lengths": self.lengths.to_string(),
            "shared_prefix_tokens": self.shared_prefix_tokens,
            "seed": self.seed,
            "temperature": self.temperature,
            "ignore_eos": self.ignore_eos,
            "warmup": self.warmup,
            "timeout_seconds": self.timeout_seconds,
            "slo": slo,
            "requested": self.requests,
            "interrupted": self.interrupted,
            "duration_seconds": summary.seconds,
            "answered": summary.answered,
            "failed": summary.failed,
            "stopped": summary.stopped,
            "peak_running": summary.peak_running,
            "input_tokens": summary.input_tokens,
            "output_tokens": summary.output_tokens,
            "cached_tokens": summary.cached_tokens,
            "answers_without_usage": summary.uncounted,
            "requests_per_second": summary.per_second(summary.answered),
            "input_tokens_per_second": summary.per_second(summary.input_tokens),
            "output_tokens_per_second": summary.per_second(summary.output_tokens),
            "good": summary.good,
            "goodput_requests_per_second": summary.good.map(|good| summary.per_second(good)),
            "times": times,
            "errors": errors,
        });
        match all {
            Value::Object(all) => all,
            _ => Map::new(),
        }
    }
}

fn distribution(times: &Distribution) -> Value {
    let mut value = json!({
        "count": times.count(),
        "mean": times.mean(),
        "std": times.standard_deviation(),
        "min": times.least(),
    });
    for percent in PERCENTILES {
        value[format!("p{percent}")] = times.percentile(percent).into();
    }
    value["max"] = times.most().into();
    value
}

/// Seconds to the microsecond, which is finer than any of these clocks.
fn seconds(seconds: f64) -> f64 {
    (1e6 * seconds).round() / 1e6
}

fn request(record: &Record) -> Value {
    let (outcome, error) = match &record.outcome {
        Outcome::Answered => ("answered", Value::Null),
        Outcome::Failed(failure) => ("failed", json!({ "kind": failure.kind.key(), "message": failure.message })),
        Outcome::Stopped => ("stopped", Value::Null),
    };
    json!({
        "index": record.index,
        "outcome": outcome,
        "error": error,
        "start": seconds(record.start),
        "ttft": record.ttft().map(seconds),
        "itl": record.gaps().map(seconds).collect::<Vec<_>>(),
        "tpot": record.tpot().map(seconds),
        "e2e": seconds(record.e2e),
        "prompt_tokens_asked": record.asked.prompt_tokens,
        "prompt_tokens": record.prompt_tokens,
        "cached_tokens": record.cached_tokens,
        "output_tokens_asked": record.asked.output_tokens,
        "output_tokens": record.output_tokens,
        "finish_reason": record.finish_reason,
    })
}
