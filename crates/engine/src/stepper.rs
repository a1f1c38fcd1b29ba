//! One step after another on the executor.

use std::time::Instant;

use dots_model::executor::{Batch, Executor, Want};

use crate::scheduler::Scheduler;

pub(crate) struct Stepper {
    executor: Box<dyn Executor>,
    pub scheduler: Scheduler,
}

impl Stepper {
    pub fn new(executor: Box<dyn Executor>, max_batch_tokens: usize, max_sequences: usize) -> Self {
        let plan = executor.plan();
        let max_batch_tokens = max_batch_tokens.min(plan.max_batch_tokens);
        Self { scheduler: Scheduler::new(plan.cache_blocks, max_batch_tokens, max_sequences), executor }
    }

    /// Schedules, computes and tells. A step that fails ends the sequences in it and no others.
    pub fn step(&mut self) {
        let started = Instant::now();
        let chunks = self.scheduler.schedule();
        let running = &mut self.scheduler.running;

        let scheduled = || running.iter().zip(&chunks).filter(|&(_, &chunk)| chunk > 0);
        let wants: Vec<Option<Want<'_>>> = scheduled().map(|(sequence, &chunk)| sequence.want(chunk)).collect();
        let slices = scheduled().zip(&wants).map(|((sequence, &chunk), want)| sequence.slice(chunk, want.as_slice()));
        let batch = Batch { slices: slices.collect() };
        let (slices, rows) = (batch.slices.len(), wants.iter().flatten().count());

        match self.executor.submit(&batch) {
            Ok(ticket) => {
                let mut outputs = self.executor.collect(ticket).rows.iter();
                for (sequence, &chunk) in running.iter_mut().zip(&chunks) {
                    if sequence.advance(chunk) {
                        match outputs.next() {
                            Some(output) => sequence.accept(output),
                            None => sequence.fail("the executor sampled no token"),
                        }
                    }
                }
            }
            Err(error) => {
                tracing::error!(%error, slices, "step failed");
                for (sequence, _) in running.iter_mut().zip(&chunks).filter(|&(_, &chunk)| chunk > 0) {
                    sequence.fail(&error.to_string());
                }
            }
        }
        self.scheduler.remove_done();

        let tokens: usize = chunks.iter().sum();
        let (waiting, elapsed_us) = (self.scheduler.waiting(), started.elapsed().as_micros() as u64);
        tracing::debug!(slices, tokens, rows, waiting, elapsed_us, "step");
    }
}
