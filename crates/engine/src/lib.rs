//! Requests over a dots.llm1 executor: which sequences run in a step, where their cache lies, when they stop, and what
//! those who asked are told.

pub mod engine;
pub mod request;

pub use engine::{Engine, EngineOptions, Events};
pub use request::{Event, Finish, FinishReason, Request, SamplingParams, SubmitError, TokenEvent, TokenLogprobs};
