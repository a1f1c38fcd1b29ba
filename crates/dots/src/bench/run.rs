//! Prefill and decode directly over an executor, timed.
//!
//! Tokens are random (a model that follows its own would soon repeat itself, and take the same experts again and again),
//! the same in each run. The last token of each sequence is sampled from, greedily, as serving would. What lies before the
//! depth is not read as a prompt: the keys and values of one block of real tokens are copied everywhere, which costs to
//! attend to what any others would.

use std::time::{Duration, Instant};

use dots_model::{
    Error,
    checkpoint::WeightBytes,
    executor::{BLOCK_TOKENS, Batch, BlockId, Executor, LayerRouting, Sampling, Slice, Want},
};

use super::cost;

/// What is timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Reading a prompt, as many tokens a step as fit.
    Prefill,
    /// One token of each sequence a step.
    Decode,
}

/// One line of the table: `batch` sequences, each at `depth` tokens already, go on by `tokens`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Case {
    pub phase: Phase,
    pub tokens: usize,
    pub depth: usize,
    pub batch: usize,
}

impl Case {
    /// `prefill 512`.
    pub fn name(&self) -> String {
        let phase = match self.phase {
            Phase::Prefill => "prefill",
            Phase::Decode => "decode",
        };
        format!("{phase} {}", self.tokens)
    }

    /// Positions that each sequence takes.
    pub fn positions(&self) -> usize {
        self.depth + self.tokens
    }
}

/// What one case took.
#[derive(Debug, Clone)]
pub struct Measured {
    pub case: Case,
    /// One for each run.
    pub seconds: Vec<f64>,
    /// Of one run: operations of a prefill, bytes read by a decode.
    pub work: u64,
}

/// Runs cases.
pub struct Runner<'a> {
    executor: &'a mut dyn Executor,
    weights: WeightBytes,
    cache_bytes_per_token: u64,
    /// One a sequence.
    block_tables: Vec<Vec<BlockId>>,
    /// One list a sequence, by position.
    tokens: Vec<Vec<u32>>,
}

impl<'a> Runner<'a> {
    /// A runner of up to `batch` sequences of up to `positions` tokens each, for which the executor's cache has room.
    pub fn new(
        executor: &'a mut dyn Executor,
        weights: WeightBytes,
        batch: usize,
        positions: usize,
    ) -> Result<Self, Error> {
        let plan = executor.plan();
        let vocab_size = executor.config().vocab_size;
        let blocks = positions.div_ceil(BLOCK_TOKENS);
        let block_tables = (0..batch).map(|i| (i * blocks..(i + 1) * blocks).map(|block| block as BlockId).collect());
        let tokens = (0..batch).map(|i| (0..positions).map(|p| random_token(i, p, vocab_size)).collect());
        let mut runner = Self {
            weights,
            cache_bytes_per_token: plan.cache_bytes / (plan.cache_blocks * BLOCK_TOKENS).max(1) as u64,
            block_tables: block_tables.collect(),
            tokens: tokens.collect(),
            executor,
        };
        runner.prefill(Case { phase: Phase::Prefill, tokens: BLOCK_TOKENS.min(positions), depth: 0, batch: 1 })?;
        // Also, pages that nobody wrote would all be the one page of zeros, which a cache holds.
        (1..plan.cache_blocks).for_each(|block| runner.executor.copy_block(0, block as BlockId));
        Ok(runner)
    }

    /// Runs `case` once to warm up and count, then `repeat` times against the clock; `done` is told after each.
    pub fn measure(&mut self, case: Case, repeat: usize, mut done: impl FnMut()) -> Result<Measured, Error> {
        let work = match case.phase {
            Phase::Prefill => {
                self.prefill(case)?;
                let config = self.executor.config();
                case.batch as u64 * cost::prefill_operations(config, case.tokens, case.depth)
            }
            Phase::Decode => self.decode(case, true)?,
        };
        done();
        let mut seconds = Vec::with_capacity(repeat);
        for _ in 0..repeat {
            let start = Instant::now();
            match case.phase {
                Phase::Prefill => self.prefill(case)?,
                Phase::Decode => drop(self.decode(case, false)?),
            }
            seconds.push(start.elapsed().max(Duration::from_nanos(1)).as_secs_f64());
            done();
        }
        Ok(Measured { case, seconds, work })
    }

    fn prefill(&mut self, case: Case) -> Result<(), Error> {
        let most = self.executor.plan().max_batch_tokens;
        let mut slices = Vec::new();
        let mut room = most;
        for sequence in 0..case.batch {
            let mut start = case.depth;
            while start < case.positions() {
                let end = case.positions().min(start + room);
                let tokens = &self.tokens[sequence][start..end];
                let last = if end == case.positions() { Some(end - start - 1) } else { None };
                slices.push((sequence, start, tokens, last.map(|row| [want(row, false)])));
                room -= tokens.len();
                start = end;
                if room == 0 {
                    step(self.executor, &self.block_tables, &slices)?;
                    slices.clear();
                    room = most;
                }
            }
        }
        if !slices.is_empty() {
            step(self.executor, &self.block_tables, &slices)?;
        }
        Ok(())
    }

    /// The bytes that all steps read, where they are to be counted, which asks the model for its routing; else 0.
    fn decode(&mut self, case: Case, count: bool) -> Result<u64, Error> {
        let mut bytes = 0;
        for position in case.depth..case.positions() {
            let slices: Vec<Part<'_>> = (0..case.batch)
                .map(|i| (i, position, &self.tokens[i][position..=position], Some([want(0, count)])))
                .collect();
            let routing = step(self.executor, &self.block_tables, &slices)?;
            if count {
                let keys = case.batch as u64 * cost::attended(position..position + 1);
                bytes += self.weights.of_step(routing.iter().map(Vec::as_slice)) + keys * self.cache_bytes_per_token;
            }
        }
        Ok(bytes)
    }
}

/// Sequence, position of the first token, tokens, what is wanted.
type Part<'a> = (usize, usize, &'a [u32], Option<[Want<'a>; 1]>);

/// One step; the routing of the rows that want it.
fn step(
    executor: &mut dyn Executor,
    block_tables: &[Vec<BlockId>],
    parts: &[Part<'_>],
) -> Result<Vec<Vec<LayerRouting>>, Error> {
    let slices = parts
        .iter()
        .map(|(sequence, start, tokens, wants)| Slice {
            tokens,
            start: *start,
            block_table: &block_tables[*sequence],
            wants: wants.as_ref().map_or(&[], |wants| &wants[..]),
        })
        .collect();
    let ticket = executor.submit(&Batch { slices })?;
    Ok(executor.collect(ticket).rows.iter().filter_map(|row| row.routing.clone()).collect())
}

fn want<'a>(row: usize, routing: bool) -> Want<'a> {
    Want { row, sample: Some(Sampling::GREEDY), routing, ..Want::default() }
}

/// A token that nothing else decides.
fn random_token(sequence: usize, position: usize, vocab_size: usize) -> u32 {
    // The finaliser of MurmurHash3.
    let mut x = ((sequence as u64) << 32 | position as u64).wrapping_add(0x9e37_79b9_7f4a_7c15);
    for factor in [0xff51_afd7_ed55_8ccd, 0xc4ce_b9fe_1a85_ec53] {
        x = (x ^ (x >> 33)).wrapping_mul(factor);
    }
    ((x ^ (x >> 33)) % vocab_size as u64) as u32
}

#[cfg(test)]
mod tests {
    use dots_model::{
        Checkpoint,
        checkpoint::Types,
        cpu::{CpuExecutor, CpuOptions},
        executor::{Arithmetic, CacheType},
    };

    use super::*;
    use crate::bench::shape::Shape;

    /// Two layers of the small shape under a runner of two sequences.
    fn measured(case: Case, max_batch_tokens: usize) -> (Measured, WeightBytes, u64) {
        let shape: Shape = "small:2".parse().unwrap();
        let checkpoint = Checkpoint::random("random", shape.config(), Types::Q4_K_M, 1).unwrap();
        let options = CpuOptions {
            arithmetic: Arithmetic::Fast,
            cache_type: CacheType::Bf16,
            threads: 1,
            cache_tokens: 256,
            max_batch_tokens,
        };
        let mut executor = CpuExecutor::new(&checkpoint, &options).unwrap();
        let weights = WeightBytes::of(&checkpoint);
        let key_bytes = 2 * shape.config().cache_elements_per_token() as u64;
        let mut runner = Runner::new(&mut executor, weights.clone(), 2, 128).unwrap();
        let mut runs = 0;
        let measured = runner.measure(case, 3, || runs += 1).unwrap();
        assert_eq!((runs, measured.seconds.len()), (4, 3));
        (measured, weights, key_bytes)
    }

    #[test]
    fn one_sequence_reads_top_k_experts_a_layer_and_its_keys() {
        let case = Case { phase: Phase::Decode, tokens: 3, depth: 40, batch: 1 };
        let (measured, weights, key_bytes) = measured(case, 16);
        let step = weights.always + 6 * weights.expert[1];
        assert_eq!(measured.work, 3 * step + (41 + 42 + 43) * key_bytes);
    }

    #[test]
    fn two_sequences_read_what_they_share_once() {
        let case = Case { phase: Phase::Decode, tokens: 1, depth: 0, batch: 2 };
        let (measured, weights, key_bytes) = measured(case, 16);
        let experts = (measured.work - weights.always - 2 * key_bytes) / weights.expert[1];
        assert!((6..=12).contains(&experts), "{experts}");
    }

    #[test]
    fn a_prompt_longer_than_a_step_is_cut() {
        let case = Case { phase: Phase::Prefill, tokens: 50, depth: 7, batch: 2 };
        let (measured, ..) = measured(case, 16);
        let shape: Shape = "small:2".parse().unwrap();
        assert_eq!(measured.work, 2 * cost::prefill_operations(&shape.config(), 50, 7));
    }
}
