//! Anthropic's Messages API. The files here are pure functions of JSON and events, as those of `openai` are.

pub mod error;
pub mod message_request;
pub mod message_response;
pub mod tools;
