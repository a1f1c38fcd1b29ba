//! One step after another on the executor.

use std::time::{Duration, Instant};

use dots_model::{
    Error,
    executor::{Batch, Executor, Want},
};

use crate::{
    request::Failure,
    scheduler::Scheduler,
    sequence::Sequence,
    speculate::Cost,
    spill::Spill,
    stats::{STEP_TOKENS, Stats},
};

pub(crate) struct Stepper {
    executor: Box<dyn Executor>,
    pub scheduler: Scheduler,
    cost: Cost,
    counts: Counts,
}

#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    steps: u64,
    computed_tokens: u64,
    sampled_tokens: u64,
    drafted_tokens: u64,
    accepted_tokens: u64,
    steps_by_tokens: [u64; STEP_TOKENS.len() + 1],
}

/// A sequence and how many of its tokens the step computes.
type Work<'a> = (&'a mut Sequence, usize);

impl Stepper {
    pub fn new(
        executor: Box<dyn Executor>,
        max_batch_tokens: usize,
        max_sequences: usize,
        spill: Option<Spill>,
    ) -> Self {
        let plan = executor.plan();
        let max_batch_tokens = max_batch_tokens.min(plan.max_batch_tokens);
        let scheduler = Scheduler::new(plan.cache_blocks, max_batch_tokens, max_sequences, spill);
        Self { scheduler, executor, cost: Cost::default(), counts: Counts::default() }
    }

    /// What has been done and what waits.
    pub fn stats(&self) -> Stats {
        let mut stats = Stats {
            steps: self.counts.steps,
            computed_tokens: self.counts.computed_tokens,
            generated_tokens: self.counts.sampled_tokens,
            drafted_tokens: self.counts.drafted_tokens,
            accepted_tokens: self.counts.accepted_tokens,
            steps_by_tokens: self.counts.steps_by_tokens,
            ..Stats::default()
        };
        self.scheduler.report(&mut stats);
        stats
    }

    /// Schedules, computes and tells. A step that fails is tried again one sequence at a time, so that it ends those that
    /// made it fail and no others.
    pub fn step(&mut self) {
        let started = Instant::now();
        let drafted = self.scheduler.draft(&self.cost);
        let chunks = self.scheduler.schedule();
        self.scheduler.restore(&mut *self.executor);
        let mut work: Vec<Work<'_>> =
            self.scheduler.running.iter_mut().zip(chunks).filter(|&(_, chunk)| chunk > 0).collect();
        if work.is_empty() {
            self.scheduler.note_computed();
            return;
        }
        let slices = work.len();
        let tokens: usize = work.iter().map(|(_, chunk)| chunk).sum();
        let only_decodes = work.iter().all(|(sequence, _)| sequence.is_decoding());
        let mut computing = Duration::ZERO;
        let sampled = match compute(&mut *self.executor, &mut work, &mut computing) {
            Ok(sampled) => sampled,
            Err(error) => {
                tracing::warn!(%error, slices, "a step failed: its sequences are tried one by one");
                work.iter_mut().map(|one| compute_alone(&mut *self.executor, one, &mut computing)).sum()
            }
        };
        if only_decodes {
            self.cost.learn(tokens, drafted, computing);
            self.counts.drafted_tokens += (tokens - slices) as u64;
            self.counts.accepted_tokens += sampled.saturating_sub(slices) as u64;
        }
        self.counts.steps += 1;
        self.counts.steps_by_tokens[STEP_TOKENS.partition_point(|&bound| bound < tokens as u64)] += 1;
        self.counts.computed_tokens += tokens as u64;
        self.counts.sampled_tokens += sampled as u64;
        self.scheduler.note_computed();
        self.scheduler.spill(&*self.executor);
        self.scheduler.remove_done();

        let overhead_us = (started.elapsed() - computing).as_micros() as u64;
        let computing_us = computing.as_micros() as u64;
        tracing::debug!(slices, tokens, sampled, drafted, overhead_us, computing_us, "step");
    }

    /// Does what can be done while nobody asks for anything; whether there is more.
    pub fn idle(&mut self) -> bool {
        self.scheduler.spill(&*self.executor)
    }

    /// Brings to disk what belongs there.
    pub fn end(&mut self) {
        self.scheduler.end(&*self.executor);
    }
}

fn compute_alone(executor: &mut dyn Executor, work: &mut Work<'_>, computing: &mut Duration) -> usize {
    match compute(executor, std::slice::from_mut(work), computing) {
        Ok(sampled) => sampled,
        Err(error) => {
            work.0.fail(Failure::Step(error.to_string()));
            0
        }
    }
}

/// Computes `work` and tells what came of it: how many tokens were sampled. What the executor takes goes on top of `computing`.
fn compute(executor: &mut dyn Executor, work: &mut [Work<'_>], computing: &mut Duration) -> Result<usize, Error> {
    let started;
    let (ticket, rows) = {
        let wants: Vec<Vec<Want<'_>>> = work.iter().map(|(sequence, chunk)| sequence.wants(*chunk)).collect();
        let slices = work.iter().zip(&wants).map(|((sequence, chunk), wants)| sequence.slice(*chunk, wants));
        let batch = Batch { slices: slices.collect() };
        started = Instant::now();
        let ticket = executor.submit(&batch)?;
        let rows = |wants: &Vec<Want<'_>>| wants.iter().map(|want| want.row).collect();
        (ticket, wants.iter().map(rows).collect::<Vec<Vec<usize>>>())
    };
    let mut outputs = executor.collect(ticket).rows.as_slice();
    *computing += started.elapsed();
    let mut sampled = 0;
    for ((sequence, chunk), rows) in work.iter_mut().zip(&rows) {
        match outputs.split_at_checked(rows.len()) {
            Some((own, rest)) => {
                outputs = rest;
                sampled += sequence.take(*chunk, rows, own);
            }
            None => sequence.fail(Failure::Step("the executor gave fewer rows than it was asked for".to_owned())),
        }
    }
    Ok(sampled)
}
