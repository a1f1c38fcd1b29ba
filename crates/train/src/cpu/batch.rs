//! Batches come from a recipe and files: what breaks their contract is an error.

use dots_model::Config;

use crate::step::{MicroBatch, NO_TARGET, StepError};

/// Holds `batch` to the contract of [`MicroBatch`] and to the memory that was planned. Returns its sequences.
pub(super) fn check(
    batch: &MicroBatch<'_>,
    config: &Config,
    micro_batch_tokens: usize,
    sequence_tokens: usize,
) -> Result<usize, StepError> {
    let wrong = |field, expected: String, found: String| Err(StepError::Batch { field, expected, found });
    let MicroBatch { sequence_tokens: length, tokens, attend_from, targets } = *batch;
    if !(1..=sequence_tokens).contains(&length) {
        return wrong("sequence_tokens", format!("1 to {sequence_tokens}, as planned"), length.to_string());
    }
    if tokens.is_empty() || !tokens.len().is_multiple_of(length) {
        return wrong("tokens", format!("whole sequences of {length}"), tokens.len().to_string());
    }
    if tokens.len() > micro_batch_tokens {
        return wrong("tokens", format!("at most {micro_batch_tokens}, as planned"), tokens.len().to_string());
    }
    for (field, len) in [("attend_from", attend_from.len()), ("targets", targets.len())] {
        if len != tokens.len() {
            return wrong(field, format!("one for each of {} tokens", tokens.len()), len.to_string());
        }
    }
    let vocab = config.vocab_size;
    let place = |at: usize| format!("sequence {}, position {}", at / length, at % length);
    if let Some(at) = tokens.iter().position(|token| *token as usize >= vocab) {
        return wrong("tokens", format!("ids below {vocab}"), format!("{} at {}", tokens[at], place(at)));
    }
    if let Some(at) = targets.iter().position(|token| *token != NO_TARGET && *token as usize >= vocab) {
        return wrong("targets", format!("ids below {vocab}"), format!("{} at {}", targets[at], place(at)));
    }
    for (at, from) in attend_from.iter().enumerate() {
        let position = at % length;
        if *from as usize > position {
            return wrong("attend_from", format!("at most {position}"), format!("{from} at {}", place(at)));
        }
        if position > 0 && *from < attend_from[at - 1] {
            let least = attend_from[at - 1];
            return wrong("attend_from", format!("{least} or more, as before it"), format!("{from} at {}", place(at)));
        }
    }
    Ok(tokens.len() / length)
}
