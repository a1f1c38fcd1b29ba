//! What each step of a run is: its phase, its batch and its dials, as a pure function of the recipe.

use crate::{
    recipe::{Length, Phase, Recipe},
    step::Dials,
};

mod rate;

#[cfg(test)]
mod tests;

/// The steps of a run, numbered from 0.
#[derive(Debug, Clone)]
pub struct Schedule {
    phases: Vec<Phase>,
    /// [`Dials::balanced`] before new experts have settled, and from this many tokens of the run on.
    balanced: [[usize; 2]; 2],
    settle_tokens: u64,
    spans: Vec<Span>,
    /// By phase: tokens of its warm-up's steps, and of all.
    extents: Vec<Extent>,
    goes_on: bool,
}

/// Steps of one size within one phase.
#[derive(Debug, Clone, Copy)]
struct Span {
    phase: usize,
    steps: u64,
    batch_tokens: u64,
    /// Of the run.
    first_step: u64,
    /// Of the phase.
    first_step_in_phase: u64,
    /// Of the run, before the first step.
    tokens: u64,
    /// Of the phase, before the first step.
    tokens_in_phase: u64,
}

#[derive(Debug, Clone, Copy)]
struct Extent {
    first_step: u64,
    steps: u64,
    warmup_tokens: u64,
    tokens: u64,
}

/// One step of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Position {
    /// Index of its phase in the recipe.
    pub phase: usize,
    /// Its number in the phase, from 0.
    pub step_in_phase: u64,
    /// Tokens of the run before it.
    pub tokens: u64,
    /// Tokens of its phase before it.
    pub tokens_in_phase: u64,
    /// Tokens of it.
    pub batch_tokens: u64,
    /// How it learns.
    pub dials: Dials,
}

impl Schedule {
    /// The schedule of `recipe`. `packed_sequences(phase)` is asked for phases whose length is said in epochs: how many sequences all of
    /// their epochs fill. Every step of a stage is whole: the last one of a phase may go past its tokens.
    pub fn new(recipe: &Recipe, packed_sequences: impl Fn(usize) -> u64) -> Self {
        Self::of_first(recipe, recipe.phases.len(), packed_sequences)
    }

    /// That of the first `phases` phases: the steps that are known before what follows is sampled.
    pub fn of_first(recipe: &Recipe, phases: usize, packed_sequences: impl Fn(usize) -> u64) -> Self {
        let mut schedule = Self {
            phases: recipe.phases.iter().take(phases).cloned().collect(),
            balanced: [false, true].map(|settled| recipe.model.balanced(settled)),
            settle_tokens: recipe.balance.settle_tokens,
            spans: Vec::new(),
            extents: Vec::new(),
            goes_on: phases < recipe.phases.len(),
        };
        let (mut step, mut tokens) = (0, 0);
        for index in 0..schedule.phases.len() {
            let phase = &schedule.phases[index];
            let asked = match phase.length {
                Length::Tokens(tokens) => tokens,
                Length::Epochs(_) => packed_sequences(index).saturating_mul(phase.sequence_tokens as u64),
            };
            let spans = spans(phase, index, asked, step, tokens);
            let (steps, in_phase) = spans.last().map_or((0, 0), Span::end_in_phase);
            let warmup_tokens = tokens_before(&spans, phase.warmup_steps);
            schedule.extents.push(Extent { first_step: step, steps, warmup_tokens, tokens: in_phase });
            schedule.spans.extend(spans);
            step += steps;
            tokens += in_phase;
        }
        schedule
    }

    /// The name of a phase.
    pub fn phase_name(&self, phase: usize) -> &str {
        &self.phases[phase].name
    }

    /// The phase that comes after these steps and whose answers are to be sampled first; `None` where they are all.
    pub fn unsampled(&self) -> Option<usize> {
        self.goes_on.then_some(self.phases.len())
    }

    /// Steps in all.
    pub fn steps(&self) -> u64 {
        self.extents.last().map_or(0, |last| last.first_step + last.steps)
    }

    /// Tokens in all.
    pub fn tokens(&self) -> u64 {
        self.extents.iter().map(|extent| extent.tokens).sum()
    }

    /// The number of the phase's first step in the run, and how many it has.
    pub fn steps_of(&self, phase: usize) -> (u64, u64) {
        let extent = self.extents[phase];
        (extent.first_step, extent.steps)
    }

    /// Tokens of the phase's steps.
    pub fn tokens_of(&self, phase: usize) -> u64 {
        self.extents[phase].tokens
    }

    /// The step of that number; `None` past the last.
    pub fn at(&self, step: u64) -> Option<Position> {
        let after = self.spans.partition_point(|span| span.first_step <= step);
        let span = self.spans[..after].last().filter(|span| step < span.first_step + span.steps)?;
        let steps = step - span.first_step;
        let step_in_phase = span.first_step_in_phase + steps;
        let tokens_in_phase = span.tokens_in_phase + steps * span.batch_tokens;
        let (phase, extent) = (&self.phases[span.phase], self.extents[span.phase]);
        let tokens = span.tokens + steps * span.batch_tokens;
        Some(Position {
            phase: span.phase,
            step_in_phase,
            tokens,
            tokens_in_phase,
            batch_tokens: span.batch_tokens,
            dials: Dials {
                learning_rate: match rate::warming(phase.warmup_steps, step_in_phase) {
                    Some(share) => phase.learning_rate.from * share,
                    None => phase.learning_rate.at(share(tokens_in_phase, extent)),
                },
                sequence_loss: phase.sequence_loss,
                bias_rate: phase.bias_rate,
                balanced: self.balanced[usize::from(tokens >= self.settle_tokens)],
            },
        })
    }
}

impl Span {
    /// The step and the tokens of the phase after it.
    fn end_in_phase(&self) -> (u64, u64) {
        (self.first_step_in_phase + self.steps, self.tokens_in_phase + self.steps * self.batch_tokens)
    }
}

/// How much of what follows the warm-up lies behind, from 0 to below 1.
fn share(tokens_in_phase: u64, extent: Extent) -> f64 {
    let past = tokens_in_phase.saturating_sub(extent.warmup_tokens);
    past as f64 / extent.tokens.saturating_sub(extent.warmup_tokens).max(1) as f64
}

fn spans(phase: &Phase, index: usize, asked: u64, first_step: u64, first_tokens: u64) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    for (stage, batch) in phase.batch.iter().enumerate() {
        let end = phase.batch.get(stage + 1).map_or(asked, |next| next.from.min(asked));
        let (step, tokens) = spans.last().map_or((0, 0), Span::end_in_phase);
        let steps = end.saturating_sub(tokens).div_ceil(batch.tokens);
        // The stage before may have gone past all of this one.
        if steps > 0 {
            spans.push(Span {
                phase: index,
                steps,
                batch_tokens: batch.tokens,
                first_step: first_step + step,
                first_step_in_phase: step,
                tokens: first_tokens + tokens,
                tokens_in_phase: tokens,
            });
        }
    }
    spans
}

/// Tokens of the phase before its step of that number, or of all where it has fewer.
fn tokens_before(spans: &[Span], step: u64) -> u64 {
    spans.iter().map(|span| step.saturating_sub(span.first_step_in_phase).min(span.steps) * span.batch_tokens).sum()
}
