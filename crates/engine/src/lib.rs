//! Requests over a dots.llm1 executor: which sequences run in a step, where their cache lies, when they stop, and what
//! those who asked are told.
//!
//! A request's way: [`Engine::submit`] checks it and makes it a `Sequence`; the engine's thread hands it to the
//! `Scheduler`, which takes cache blocks for it from the `BlockPool` and, step after step, chooses how many of its tokens to
//! compute; the `Stepper` runs the step on the executor; the sequence takes the sampled token, asks its `AnswerText` what
//! text became certain, and tells the [`Events`] that the caller holds.

mod blocks;
mod breakers;
pub mod constraint;
mod dry;
pub mod engine;
mod penalties;
pub mod request;
mod scheduler;
mod sequence;
mod stepper;
mod stop;
mod text;

#[cfg(test)]
mod tests;

pub use breakers::{Breakers, DEFAULT_BREAKERS};
pub use constraint::{Constraint, Grammars};
pub use dry::Dry;
pub use engine::{Engine, EngineOptions, Events, Stats};
pub use request::{Event, Finish, FinishReason, Request, SamplingParams, SubmitError, TokenEvent, TokenLogprobs};
