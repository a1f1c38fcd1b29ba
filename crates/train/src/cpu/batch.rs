//! Batches come from a recipe and files: what breaks their contract is an error.

use dots_model::Config;

use super::Options;
use crate::step::{MicroBatch, NO_TARGET, NO_TOKEN, StepError, Totals};

/// Positions of a sequence before its padding.
fn filled(sequence: &[u32]) -> usize {
    sequence.iter().position(|token| *token == NO_TOKEN).unwrap_or(sequence.len())
}

/// `(sequences)`: positions of each before its padding.
pub(crate) fn filled_of_each(batch: &MicroBatch<'_>) -> Vec<u32> {
    batch.tokens.chunks_exact(batch.sequence_tokens.max(1)).map(|tokens| filled(tokens) as u32).collect()
}

/// Ids for those who know none of padding: it is computed as any token is, and counts nowhere.
pub(crate) fn ids(tokens: &[u32]) -> Vec<u32> {
    tokens.iter().map(|&id| if id == NO_TOKEN { 0 } else { id }).collect()
}

/// Holds `batch` to the contract of [`MicroBatch`] and to the memory that was planned. Returns its sequences.
pub(crate) fn check(batch: &MicroBatch<'_>, config: &Config, options: &Options) -> Result<usize, StepError> {
    let Options { micro_batch_tokens, sequence_tokens, .. } = *options;
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
    for (sequence, tokens) in tokens.chunks_exact(length).enumerate() {
        let filled = filled(tokens);
        if filled == 0 {
            return wrong(
                "tokens",
                "a token in each sequence".to_owned(),
                format!("padding alone in sequence {sequence}"),
            );
        }
        let first = sequence * length;
        if let Some(past) = (filled..length).find(|&at| tokens[at] != NO_TOKEN) {
            let found = format!("{} at {}", tokens[past], place(first + past));
            return wrong("tokens", "nothing behind padding".to_owned(), found);
        }
        if let Some(past) = (filled..length).find(|&at| targets[first + at] != NO_TARGET) {
            let found = format!("{} at {}", targets[first + past], place(first + past));
            return wrong("targets", "none on padding".to_owned(), found);
        }
    }
    if let Some(at) = tokens.iter().position(|token| *token != NO_TOKEN && *token as usize >= vocab) {
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

/// A step is of something.
pub(crate) fn check_totals(totals: &Totals) -> Result<(), StepError> {
    if totals.targets > 0 && totals.sequences > 0 {
        return Ok(());
    }
    let expected = "at least one sequence and one target in a step".to_owned();
    Err(StepError::Batch { field: "totals", expected, found: format!("{totals:?}") })
}

/// The error that a step's micro-batches are not what it began with.
pub(crate) fn other_totals(totals: Totals, found: Totals) -> StepError {
    StepError::Batch {
        field: "totals",
        expected: format!("{totals:?}, as the step began with"),
        found: format!("{found:?} in its micro-batches"),
    }
}

/// The error that no step is under way.
pub(crate) fn no_step() -> StepError {
    StepError::Batch {
        field: "step",
        expected: "`begin` before it".to_owned(),
        found: "no step under way, or one that failed".to_owned(),
    }
}
