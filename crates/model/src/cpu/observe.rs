//! A model run over a text for what its layers see, not for what it says.

use super::{CpuExecutor, CpuOptions};
use crate::{
    Checkpoint, Error,
    executor::{Arithmetic, BLOCK_TOKENS, Batch, Executor, Slice},
    observer::Observer,
};

/// Tokens of one sequence: enough for attention to look back, and few enough for one step.
pub const SEQUENCE_TOKENS: usize = 512;

/// Runs `checkpoint` in f32 over `tokens`, whose ids it must have, one sequence of up to [`SEQUENCE_TOKENS`] after the other, before the
/// eyes of `observer`. `after` is called behind each, with how many tokens it had.
pub fn observe<O: Observer>(
    checkpoint: &Checkpoint,
    tokens: &[u32],
    threads: usize,
    observer: &mut O,
    mut after: impl FnMut(&mut O, usize),
) -> Result<(), Error> {
    let length = SEQUENCE_TOKENS.min(checkpoint.config.max_position_embeddings);
    let options = CpuOptions {
        arithmetic: Arithmetic::Exact,
        cache_type: Arithmetic::Exact.cache_type(),
        threads,
        cache_tokens: length.next_multiple_of(BLOCK_TOKENS),
        max_batch_tokens: length,
    };
    let mut executor = CpuExecutor::new(checkpoint, &options)?;
    let block_table: Vec<u32> = (0..length.div_ceil(BLOCK_TOKENS) as u32).collect();
    for tokens in tokens.chunks(length) {
        let slices = vec![Slice { tokens, start: 0, block_table: &block_table, wants: &[] }];
        let ticket = executor.submit_observed(&Batch { slices }, observer)?;
        executor.collect(ticket);
        after(observer, tokens.len());
    }
    Ok(())
}
