//! Who runs in the next step.

use std::collections::VecDeque;

use crate::{blocks::BlockPool, engine::Stats, sequence::Sequence};

/// First come, first served. A sequence is admitted when the cache has all the blocks that it may ever need, so that none
/// that runs has to stop for another; until then it and all behind it wait.
pub(crate) struct Scheduler {
    waiting: VecDeque<Sequence>,
    /// In the order in which they came.
    pub running: Vec<Sequence>,
    pool: BlockPool,
    max_batch_tokens: usize,
    max_sequences: usize,
}

impl Scheduler {
    pub fn new(cache_blocks: usize, max_batch_tokens: usize, max_sequences: usize) -> Self {
        let max_batch_tokens = max_batch_tokens.max(1);
        Self {
            waiting: VecDeque::new(),
            running: Vec::new(),
            pool: BlockPool::new(cache_blocks),
            max_batch_tokens,
            // Each running sequence has one token in every step.
            max_sequences: max_sequences.clamp(1, max_batch_tokens),
        }
    }

    pub fn add(&mut self, sequence: Sequence) {
        self.waiting.push_back(sequence);
    }

    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    pub fn stats(&self) -> Stats {
        Stats {
            running: self.running.len(),
            waiting: self.waiting.len(),
            free_blocks: self.pool.free(),
            total_blocks: self.pool.total(),
        }
    }

    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    /// How many tokens of each running sequence the next step computes: one for each that decodes, then prompts' chunks
    /// as far as the budget goes.
    pub fn schedule(&mut self) -> Vec<usize> {
        self.admit();
        let mut budget = self.max_batch_tokens;
        let mut chunks = vec![0; self.running.len()];
        for is_decode in [true, false] {
            for (chunk, sequence) in chunks.iter_mut().zip(&self.running) {
                if (sequence.pending_tokens() == 1) == is_decode {
                    *chunk = sequence.pending_tokens().min(budget);
                    budget -= *chunk;
                }
            }
        }
        chunks
    }

    fn admit(&mut self) {
        while self.running.len() < self.max_sequences
            && let Some(next) = self.waiting.front()
            && let Some(blocks) = self.pool.take(next.blocks_needed())
            && let Some(mut sequence) = self.waiting.pop_front()
        {
            sequence.block_table = blocks;
            self.running.push(sequence);
        }
    }

    /// Drops the sequences for which nobody waits any more, and frees their blocks.
    pub fn remove_done(&mut self) {
        self.waiting.retain(|sequence| !sequence.is_done());
        for sequence in self.running.extract_if(.., |sequence| sequence.is_done()) {
            self.pool.give_back(sequence.block_table);
        }
    }

    pub fn check_integrity(&self) -> Result<(), String> {
        self.pool.check_integrity(self.running.iter().map(|sequence| &sequence.block_table[..]))
    }
}
