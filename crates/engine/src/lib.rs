//! Requests over a dots.llm1 executor: which sequences run in a step, where their cache lies, when they stop, and what
//! those who asked are told.
//!
//! A request's way: [`Engine::submit`] checks it, gives it one of the `outstanding` places, and makes it a `Sequence`; the
//! engine's thread hands it to the `Scheduler`, in whose `Queue` it waits its turn. Then it shares what the `BlockPool` has of
//! it under the names of `prefix`, takes blocks for the rest, and step after step the scheduler chooses how many of its tokens
//! to compute. The `Stepper` runs the step on the executor; the sequence takes the sampled token, asks its `AnswerText` what
//! text became certain, and tells the [`Events`] that the caller holds. Where the cache has no block left, the sequence
//! whose turn is last gives its own up and waits again; nobody can tell from its answer.

mod blocks;
mod breakers;
pub mod constraint;
mod dry;
pub mod engine;
mod notes;
mod outstanding;
mod penalties;
mod prefix;
mod queue;
pub mod request;
mod scheduler;
mod sequence;
mod speculate;
mod spill;
mod stats;
mod stepper;
mod stop;
mod text;
mod turn;

#[cfg(test)]
mod tests;

pub use breakers::{Breakers, DEFAULT_BREAKERS, TokenBytes};
pub use constraint::{Constraint, Grammars};
pub use dry::Dry;
pub use engine::{Engine, EngineOptions, Events};
pub use request::{
    Event, Failure, Finish, FinishReason, Pooling, PromptList, PromptToken, Request, Routing, RoutingOf,
    SamplingParams, Stop, SubmitError, Timing, TokenEvent, TokenLogprobs,
};
pub use spill::SpillOptions;
pub use stats::{STEP_TOKENS, Stats};
