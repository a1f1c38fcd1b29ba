//! Who runs in the next step.

use std::time::Instant;

use dots_model::executor::{BLOCK_TOKENS, BlockId, Executor};

use crate::{
    blocks::{BlockPool, Content, blocks_for},
    queue::Queue,
    sequence::Sequence,
    speculate::Cost,
    spill::Spill,
    stats::Stats,
    turn::Turn,
};

/// Sequences in the queue that may be passed over in one step, since another computes what they can share: a bound on the time
/// that many who ask the same take of each step.
const MOST_PASSED_OVER: usize = 64;

/// Sequences are admitted in the [`Queue`]'s order while the cache has room for what they hold already; blocks for what they
/// generate are taken as they grow. Where none is left, the sequence whose turn is last gives all of its own up and waits
/// again: what it had generated stays, and is computed anew when it begins again. The one whose turn is first is never stopped
/// for another, so the engine always gets on.
pub(crate) struct Scheduler {
    queue: Queue,
    /// In the order of their turns.
    pub running: Vec<Sequence>,
    pool: BlockPool,
    spill: Option<Spill>,
    max_batch_tokens: usize,
    max_sequences: usize,
    pub counts: Counts,
}

/// What happened since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub preemptions: u64,
    pub prefix_queried_tokens: u64,
    pub prefix_hit_tokens: u64,
}

/// Whether a sequence may begin.
enum Admission {
    Now(Vec<BlockId>),
    /// Another sequence is computing what this one can share.
    Shortly,
    NoRoom,
}

impl Scheduler {
    pub fn new(cache_blocks: usize, max_batch_tokens: usize, max_sequences: usize, spill: Option<Spill>) -> Self {
        let max_batch_tokens = max_batch_tokens.max(1);
        Self {
            queue: Queue::default(),
            running: Vec::new(),
            pool: BlockPool::new(cache_blocks),
            spill,
            max_batch_tokens,
            // Each running sequence has one token in every step.
            max_sequences: max_sequences.clamp(1, max_batch_tokens),
            counts: Counts::default(),
        }
    }

    pub fn add(&mut self, sequence: Sequence) {
        self.queue.push(sequence);
    }

    /// Into `stats`, what the scheduler knows of it.
    pub fn report(&self, stats: &mut Stats) {
        stats.running = self.running.len();
        stats.waiting = self.queue.len();
        stats.free_blocks = self.pool.free();
        stats.cached_blocks = self.pool.idle();
        stats.total_blocks = self.pool.total();
        stats.preemptions = self.counts.preemptions;
        stats.prefix_queried_tokens = self.counts.prefix_queried_tokens;
        stats.prefix_hit_tokens = self.counts.prefix_hit_tokens;
    }

    pub fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.running.is_empty()
    }

    /// Lets those that decode draft, in a step that does nothing else; how many tokens.
    pub fn draft(&mut self, cost: &Cost) -> usize {
        let decoding = self.running.iter().filter(|sequence| sequence.is_decoding()).count();
        // A draft shall not take the block that another sequence needs.
        if decoding < self.running.len() || self.pool.free() <= self.running.len() {
            self.running.iter_mut().for_each(Sequence::discard_draft);
            return 0;
        }
        let mut rows = decoding;
        for sequence in &mut self.running {
            rows += sequence.draft(cost, rows);
        }
        rows - decoding
    }

    /// How many tokens of each running sequence the next step computes: those that decode first, with what they draft, then
    /// prompts' chunks as far as the budget goes. Each has the blocks that it needs.
    pub fn schedule(&mut self) -> Vec<usize> {
        self.admit();
        let chunks = self.cut();
        self.grow(chunks)
    }

    fn cut(&self) -> Vec<usize> {
        let mut budget = self.max_batch_tokens;
        let mut chunks = vec![0; self.running.len()];
        let mut give = |chunk: &mut usize, tokens: usize| {
            let given = tokens.min(budget);
            budget -= given;
            *chunk += given;
        };
        let decoding = |sequence: &Sequence| sequence.is_decoding();
        for (chunk, _) in chunks.iter_mut().zip(&self.running).filter(|(_, sequence)| decoding(sequence)) {
            give(chunk, 1);
        }
        // What is being read from disk need not be computed.
        let computing = self.running.iter().zip(&mut chunks).filter(|(sequence, _)| sequence.restorable_blocks == 0);
        for (sequence, chunk) in computing {
            give(chunk, sequence.pending_tokens() - *chunk);
        }
        chunks
    }

    /// Takes the blocks that `chunks` need, from the sequence whose turn is last where none is free.
    fn grow(&mut self, mut chunks: Vec<usize>) -> Vec<usize> {
        let mut index = 0;
        while index < self.running.len() {
            let missing = self.running[index].missing_blocks(chunks[index]);
            for _ in 0..missing {
                let block = loop {
                    match self.pool.take() {
                        Some(block) => break Some(block),
                        None if self.running.len() - 1 > index => self.preempt_last(&mut chunks),
                        None => break None,
                    }
                };
                match block {
                    Some(block) => self.running[index].block_table.push(block),
                    None => {
                        self.preempt_last(&mut chunks);
                        break;
                    }
                }
            }
            index += 1;
        }
        chunks
    }

    fn preempt_last(&mut self, chunks: &mut Vec<usize>) {
        chunks.pop();
        if let Some(mut last) = self.running.pop() {
            self.pool.release(&last.preempt());
            self.counts.preemptions += 1;
            self.queue.put_back(last);
        }
    }

    fn admit(&mut self) {
        let mut after: Option<Turn> = None;
        let mut passed_over = 0;
        while self.running.len() < self.max_sequences
            && passed_over < MOST_PASSED_OVER
            && let Some((turn, next)) = self.queue.next(after)
        {
            match self.admission(next) {
                Admission::NoRoom => break,
                Admission::Shortly => {
                    after = Some(turn);
                    passed_over += 1;
                }
                Admission::Now(blocks) => {
                    let Some(sequence) = self.queue.take(turn) else { break };
                    self.begin(sequence, blocks);
                }
            }
        }
    }

    /// Shares what the cache has of `sequence`, if there is room for the rest of what it is now.
    fn admission(&self, sequence: &Sequence) -> Admission {
        let mut shared = Vec::new();
        for name in sequence.shareable_names() {
            match self.pool.find(name) {
                Content::Computed(block) => shared.push(block),
                Content::Announced => return Admission::Shortly,
                Content::Absent => break,
            }
        }
        let needed = blocks_for(sequence.committed_tokens().len() + 1) - shared.len();
        let idle_shared = shared.iter().filter(|&&block| self.pool.is_idle(block)).count();
        // Those who run shall not have to stop for one who begins: each has a block to grow into.
        let kept = self.running.len() + idle_shared;
        if self.pool.free() < needed + kept && !self.running.is_empty() {
            return Admission::NoRoom;
        }
        Admission::Now(shared)
    }

    fn begin(&mut self, mut sequence: Sequence, mut blocks: Vec<BlockId>) {
        blocks.iter().for_each(|&block| self.pool.share(block));
        let tokens = sequence.committed_tokens().len();
        self.counts.prefix_queried_tokens += tokens as u64;
        self.counts.prefix_hit_tokens += (blocks.len() * BLOCK_TOKENS) as u64;
        // The blocks of all that is known already, each under the name of what it will hold, so that others wait for it
        // rather than compute it too.
        let shared = blocks.len();
        for index in shared..blocks_for(tokens) {
            let Some(block) = self.pool.take() else { break };
            if let Some(&name) = sequence.names().get(index) {
                self.pool.announce(block, name);
            }
            blocks.push(block);
        }
        let absent = sequence.shareable_names().get(shared..).unwrap_or_default();
        sequence.restorable_blocks = self.spill.as_ref().map_or(0, |spill| spill.readable(absent));
        sequence.begin(shared, blocks);
        let at = self.running.partition_point(|running| running.turn < sequence.turn);
        self.running.insert(at, sequence);
    }

    /// Reads what the beginning sequences have on disk, as much as a step may.
    pub fn restore(&mut self, executor: &mut dyn Executor) {
        let Some(spill) = &mut self.spill else { return };
        let mut reads = spill.reads_per_step();
        for sequence in &mut self.running {
            while reads > 0 && sequence.restorable_blocks > 0 {
                reads -= 1;
                let index = sequence.computed_tokens() / BLOCK_TOKENS;
                if spill.read(&sequence.names()[index], sequence.block_table[index], executor) {
                    sequence.restored();
                    self.counts.prefix_hit_tokens += BLOCK_TOKENS as u64;
                } else {
                    spill.remove(&sequence.names()[index..index + sequence.restorable_blocks]);
                    sequence.restorable_blocks = 0;
                }
            }
        }
    }

    /// Gives the disk what it has not yet, one block between two steps; whether there is more.
    pub fn spill(&mut self, executor: &dyn Executor) -> bool {
        self.spill.as_mut().is_some_and(|spill| spill.pump(&self.pool, executor))
    }

    /// Writes what is left, for a while.
    pub fn end(&mut self, executor: &dyn Executor) {
        if let Some(spill) = self.spill.take() {
            spill.end(&self.pool, executor);
        }
    }

    /// Names the blocks that the last step has filled.
    pub fn note_computed(&mut self) {
        for sequence in &mut self.running {
            let full = sequence.computed_tokens() / BLOCK_TOKENS;
            for index in sequence.named_blocks..full.min(sequence.names().len()) {
                let block = sequence.block_table[index];
                self.pool.announce(block, sequence.names()[index]);
                self.pool.mark_computed(block);
                if let Some(spill) = &mut self.spill {
                    spill.want(sequence.names()[index], block);
                }
                sequence.named_blocks = index + 1;
            }
        }
    }

    /// Drops the sequences for which nobody waits any more, and frees their blocks.
    pub fn remove_done(&mut self) {
        let now = Instant::now();
        self.queue.iter_mut().chain(&mut self.running).for_each(|sequence| sequence.check_deadline(now));
        self.queue.remove_done();
        for sequence in self.running.extract_if(.., |sequence| sequence.is_done()) {
            self.pool.release(&sequence.block_table);
        }
    }

    /// Holds the pool and the sequences to each other.
    pub fn check_integrity(&self) -> Result<(), String> {
        self.pool.check_integrity(self.running.iter().map(|sequence| &sequence.block_table[..]))?;
        if !self.running.is_sorted_by_key(|sequence| sequence.turn) {
            return Err("running sequences are out of order".to_owned());
        }
        for sequence in &self.running {
            let (computed, blocks) = (sequence.computed_tokens(), sequence.block_table.len());
            if blocks * BLOCK_TOKENS < computed {
                return Err(format!("{blocks} blocks do not hold {computed} tokens"));
            }
            let written_next = &sequence.block_table[computed / BLOCK_TOKENS..];
            if let Some(block) = written_next.iter().find(|&&block| !self.pool.is_exclusive(block)) {
                return Err(format!("block {block} is shared and about to be written"));
            }
        }
        Ok(())
    }
}
