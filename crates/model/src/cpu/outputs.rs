//! From the last hidden states to what each row asked for. The head's product runs in tiles, so that the logits of a long
//! text never exist at once.

use super::{buffers::HEAD_ROWS, forward::Forward};
use crate::{
    executor::{Batch, LayerRouting, Logprobs, Output, Want},
    sample::{Sampler, log_prob, log_prob_and_rank, log_sum_exp, top_logprobs},
};

/// One sampler for each row of a tile.
#[derive(Default)]
pub struct HeadScratch {
    samplers: [Sampler; HEAD_ROWS],
}

/// Answers every want of `batch`, in order. `forward` has run; `routing` is what it noted.
pub fn collect(
    forward: &mut Forward<'_>,
    batch: &Batch<'_>,
    routing: &mut [Option<Vec<LayerRouting>>],
    scratch: &mut HeadScratch,
) -> Vec<Output> {
    let mut wants = Vec::new();
    let mut first = 0;
    for slice in &batch.slices {
        wants.extend(slice.wants.iter().map(|want| (first + want.row, want)));
        first += slice.tokens.len();
    }
    // What the pass left are the rows of which something is wanted.
    let mut left: Vec<usize> = wants.iter().map(|(row, _)| *row).collect();
    left.dedup();
    let mut outputs = vec![Output::default(); wants.len()];
    for (wants, outputs) in wants.chunks(HEAD_ROWS).zip(outputs.chunks_mut(HEAD_ROWS)) {
        let rows: Vec<usize> = wants.iter().map(|(row, _)| left.partition_point(|left| left < row)).collect();
        // States and routing need no head, which is half of what a small model computes.
        let is_about_tokens = |want: &Want<'_>| {
            want.sample.is_some() || want.top_logprobs.is_some() || want.score.is_some() || want.logits
        };
        forward.head(&rows, wants.iter().any(|(_, want)| is_about_tokens(want)));
        let buffers = &*forward.buffers;
        let logits = buffers.logits.chunks(forward.config.vocab_size);
        let hidden = buffers.head_in.chunks(forward.config.hidden_size);
        let mut parts: Vec<_> =
            wants.iter().zip(outputs.iter_mut()).zip(logits).zip(hidden).zip(&mut scratch.samplers).collect();
        forward.compute.for_each(&mut parts, |_, ((((want, output), logits), hidden), sampler)| {
            answer(want.1, logits, hidden, sampler, output);
        });
        for ((row, want), output) in wants.iter().zip(outputs) {
            if want.routing {
                output.routing.clone_from(&routing[*row]);
            }
        }
    }
    outputs
}

fn answer(want: &Want<'_>, logits: &[f32], hidden: &[f32], sampler: &mut Sampler, output: &mut Output) {
    output.token = want.sample.map(|sampling| sampler.sample(logits, &sampling));
    output.logprobs = want.top_logprobs.map(|count| {
        let (sum, top) = match count {
            0 => (log_sum_exp(logits), Vec::new()),
            _ => top_logprobs(logits, count),
        };
        Logprobs { sampled: output.token.map(|token| log_prob(logits[token as usize], sum)), top }
    });
    output.score = want.score.map(|id| log_prob_and_rank(logits, id));
    output.logits = want.logits.then(|| logits.to_vec());
    output.hidden = want.hidden.then(|| hidden.to_vec());
}
