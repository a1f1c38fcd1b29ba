//! Times of many requests in a few numbers.
//!
//! Definitions are those of vLLM's `vllm bench serve` (`calculate_metrics` in `vllm/benchmarks/serve.py`, formerly
//! `benchmark_serving.py`) and NVIDIA's GenAI-Perf, where `bench/README.md` does not say otherwise.

use std::collections::BTreeMap;

use super::{
    record::{FailureKind, Outcome, Record},
    slo::Slo,
};

/// Shares, in percent, that are shown.
pub const PERCENTILES: [f64; 4] = [50.0, 90.0, 95.0, 99.0];

/// Some numbers, in seconds.
#[derive(Debug, Clone, Default)]
pub struct Distribution {
    sorted: Vec<f64>,
}

impl Distribution {
    /// Of these numbers.
    pub fn of(numbers: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = numbers.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        Self { sorted }
    }

    pub fn count(&self) -> usize {
        self.sorted.len()
    }

    /// `None` where there are no numbers, as in all that follows.
    pub fn mean(&self) -> Option<f64> {
        (!self.sorted.is_empty()).then(|| self.sorted.iter().sum::<f64>() / self.sorted.len() as f64)
    }

    /// Of the numbers themselves, not of a population that they were drawn from (NumPy's `std`).
    pub fn standard_deviation(&self) -> Option<f64> {
        let mean = self.mean()?;
        let squares: f64 = self.sorted.iter().map(|number| (number - mean).powi(2)).sum();
        Some((squares / self.sorted.len() as f64).sqrt())
    }

    /// Below which `percent` of the numbers lie, by a line between the two nearest (NumPy's default).
    pub fn percentile(&self, percent: f64) -> Option<f64> {
        let last = self.sorted.len().checked_sub(1)?;
        let position = last as f64 * percent / 100.0;
        let below = position.floor() as usize;
        let (low, high) = (self.sorted[below], self.sorted[(below + 1).min(last)]);
        Some(low + (high - low) * (position - below as f64))
    }

    pub fn least(&self) -> Option<f64> {
        self.sorted.first().copied()
    }

    pub fn most(&self) -> Option<f64> {
        self.sorted.last().copied()
    }
}

/// Failures of one kind.
#[derive(Debug, Clone)]
pub struct Failures {
    pub kind: FailureKind,
    pub count: usize,
    /// The first message.
    pub example: String,
}

/// All that is said of a run.
#[derive(Debug, Clone)]
pub struct Summary {
    /// From the first request to the end of the last.
    pub seconds: f64,
    pub answered: usize,
    pub failed: usize,
    /// Running when the run was stopped.
    pub stopped: usize,
    /// Of answered requests, as are all tokens and times below.
    pub input_tokens: usize,
    pub output_tokens: usize,
    /// Of the input, what the server says that it had computed before; `None` where it says nothing.
    pub cached_tokens: Option<usize>,
    /// Answers that the server did not count: their output is counted in chunks, their input as it was asked for.
    pub uncounted: usize,
    pub ttft: Distribution,
    pub itl: Distribution,
    pub tpot: Distribution,
    pub e2e: Distribution,
    /// Most requests that ran at once.
    pub peak_running: usize,
    /// Answered requests that kept the limits, where there are some.
    pub good: Option<usize>,
    /// Most frequent first.
    pub failures: Vec<Failures>,
}

impl Summary {
    /// Of these requests.
    pub fn of(records: &[Record], slo: Option<&Slo>) -> Self {
        let answered: Vec<&Record> = records.iter().filter(|record| record.outcome == Outcome::Answered).collect();
        let begun = records.iter().map(|record| record.start).min_by(f64::total_cmp).unwrap_or(0.0);
        let ended = records.iter().map(Record::end).max_by(f64::total_cmp).unwrap_or(0.0);
        let failures = failures(records);
        Self {
            seconds: ended - begun,
            answered: answered.len(),
            failed: failures.iter().map(|failures| failures.count).sum(),
            stopped: records.iter().filter(|record| record.outcome == Outcome::Stopped).count(),
            input_tokens: answered
                .iter()
                .map(|record| record.prompt_tokens.unwrap_or(record.asked.prompt_tokens))
                .sum(),
            output_tokens: answered.iter().map(|record| record.tokens()).sum(),
            cached_tokens: answered.iter().filter_map(|record| record.cached_tokens).reduce(|a, b| a + b),
            uncounted: answered.iter().filter(|record| record.output_tokens.is_none()).count(),
            ttft: Distribution::of(answered.iter().filter_map(|record| record.ttft())),
            itl: Distribution::of(answered.iter().flat_map(|record| record.gaps())),
            tpot: Distribution::of(answered.iter().filter_map(|record| record.tpot())),
            e2e: Distribution::of(answered.iter().map(|record| record.e2e)),
            peak_running: peak_running(records),
            good: slo.map(|slo| answered.iter().filter(|record| slo.is_kept_by(record)).count()),
            failures,
        }
    }

    /// `count` a second of the run.
    pub fn per_second(&self, count: usize) -> f64 {
        if self.seconds > 0.0 { count as f64 / self.seconds } else { 0.0 }
    }

    /// The times with their names, for people and for programs.
    pub fn times(&self) -> [(&'static str, &'static str, &Distribution); 4] {
        [
            ("TTFT", "ttft", &self.ttft),
            ("ITL", "itl", &self.itl),
            ("TPOT", "tpot", &self.tpot),
            ("end to end", "e2e", &self.e2e),
        ]
    }
}

fn failures(records: &[Record]) -> Vec<Failures> {
    let mut kinds: BTreeMap<FailureKind, Failures> = BTreeMap::new();
    for record in records {
        if let Outcome::Failed(failure) = &record.outcome {
            let kind = failure.kind;
            let first = || Failures { kind, count: 0, example: failure.message.clone() };
            kinds.entry(kind).or_insert_with(first).count += 1;
        }
    }
    let mut failures: Vec<Failures> = kinds.into_values().collect();
    failures.sort_by_key(|failures| std::cmp::Reverse(failures.count));
    failures
}

fn peak_running(records: &[Record]) -> usize {
    let mut changes: Vec<(f64, i64)> =
        records.iter().flat_map(|record| [(record.start, 1), (record.end(), -1)]).collect();
    // One that ends when another begins does not run beside it.
    changes.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let (mut running, mut peak) = (0i64, 0);
    for (_, change) in changes {
        running += change;
        peak = peak.max(running);
    }
    usize::try_from(peak).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::{super::record::Failure, *};

    #[test]
    fn percentiles_are_those_of_numpy() {
        // numpy.percentile([1, 2, 4, 8, 16], [50, 90, 95, 99]), by hand: positions 2, 3.6, 3.8 and 3.96.
        let numbers = Distribution::of([16.0, 1.0, 8.0, 2.0, 4.0]);
        let found = PERCENTILES.map(|percent| numbers.percentile(percent).unwrap());
        for (found, expected) in found.into_iter().zip([4.0, 12.8, 14.4, 15.68]) {
            assert!((found - expected).abs() < 1e-9, "{found} {expected}");
        }
        assert_eq!((numbers.mean(), numbers.least(), numbers.most()), (Some(6.2), Some(1.0), Some(16.0)));
        let variance = (27.04 + 17.64 + 4.84 + 3.24 + 96.04) / 5.0;
        assert!((numbers.standard_deviation().unwrap() - f64::sqrt(variance)).abs() < 1e-9);
    }

    #[test]
    fn one_number_is_every_percentile_and_none_has_none() {
        let one = Distribution::of([3.0]);
        assert_eq!(PERCENTILES.map(|percent| one.percentile(percent)), [Some(3.0); 4]);
        let none = Distribution::default();
        assert_eq!((none.percentile(50.0), none.mean(), none.most()), (None, None, None));
    }

    fn record(start: f64, text_at: &[f64], tokens: Option<usize>) -> Record {
        let e2e = text_at.last().copied().unwrap_or(1.0);
        Record {
            start,
            text_at: text_at.to_vec(),
            e2e,
            output_tokens: tokens,
            prompt_tokens: Some(10),
            ..Record::default()
        }
    }

    fn failed(kind: FailureKind, message: &str) -> Record {
        Record { e2e: 1.0, outcome: Outcome::Failed(Failure::new(kind, message)), ..Record::default() }
    }

    #[test]
    fn a_run_is_summed_up_as_by_hand() {
        let records = [
            record(0.0, &[1.0, 1.5, 2.0], Some(5)),
            record(1.0, &[0.5, 1.5], None),
            failed(FailureKind::Status(429), "full"),
            failed(FailureKind::Connect, "refused"),
            failed(FailureKind::Status(429), "still full"),
            Record { start: 3.0, e2e: 1.0, outcome: Outcome::Stopped, ..Record::default() },
        ];
        let slo: Slo = "ttft=700".parse().unwrap();
        let summary = Summary::of(&records, Some(&slo));
        assert_eq!((summary.seconds, summary.answered, summary.failed, summary.stopped), (4.0, 2, 3, 1));
        assert_eq!((summary.input_tokens, summary.output_tokens, summary.uncounted), (20, 7, 1));
        assert_eq!(summary.per_second(summary.output_tokens), 1.75);
        assert_eq!(summary.ttft.mean(), Some(0.75));
        assert_eq!(summary.itl.sorted, [0.5, 0.5, 1.0]);
        assert_eq!(summary.tpot.sorted, [0.25, 1.0]);
        assert_eq!(summary.e2e.sorted, [1.5, 2.0]);
        assert_eq!(summary.good, Some(1));
        let failures: Vec<(String, usize, &str)> =
            summary.failures.iter().map(|found| (found.kind.name(), found.count, found.example.as_str())).collect();
        assert_eq!(failures, [("HTTP 429".to_owned(), 2, "full"), ("no connection".to_owned(), 1, "refused")]);
    }

    #[test]
    fn requests_that_follow_each_other_do_not_run_together() {
        let records = [record(0.0, &[1.0], None), record(1.0, &[1.0], None), record(1.5, &[1.0], None)];
        assert_eq!(Summary::of(&records, None).peak_running, 2);
    }
}
