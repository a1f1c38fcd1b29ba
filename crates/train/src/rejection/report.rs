//! What came of sampling, in numbers.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Done;
use crate::verify::Verdict;

/// How many answers were right, and of how many problems.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Problems.
    pub problems: usize,
    /// Answers to each.
    pub samples_of_each: usize,
    /// Answers accepted, of all.
    pub accepted: usize,
    /// The share of all answers that was accepted.
    pub accept_rate: f64,
    /// Problems with at least one accepted.
    pub solved: usize,
    /// Answers kept: accepted, each once, not too many of one problem.
    pub kept: usize,
    /// Tokens generated.
    pub tokens: usize,
    /// Answers by verdict.
    pub verdicts: BTreeMap<Verdict, usize>,
    /// Problems by how many of their answers were accepted: `histogram[k]` have k.
    pub histogram: Vec<usize>,
    /// The same for each problem by its line.
    pub accepted_by_line: Vec<(u64, usize)>,
}

impl Report {
    pub(super) fn new(samples: usize) -> Self {
        Self {
            problems: 0,
            samples_of_each: samples,
            accepted: 0,
            accept_rate: 0.0,
            solved: 0,
            kept: 0,
            tokens: 0,
            verdicts: BTreeMap::new(),
            histogram: vec![0; samples + 1],
            accepted_by_line: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, done: &Done, kept: usize) {
        let accepted = done.accepted();
        self.problems += 1;
        self.accepted += accepted;
        self.solved += usize::from(accepted > 0);
        self.kept += kept;
        self.histogram[accepted] += 1;
        self.accepted_by_line.push((done.line, accepted));
        for sample in &done.samples {
            self.tokens += sample.tokens;
            *self.verdicts.entry(sample.verdict).or_default() += 1;
        }
        self.accept_rate = self.accepted as f64 / (self.problems * self.samples_of_each) as f64;
    }
}
