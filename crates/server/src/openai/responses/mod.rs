//! OpenAI's Responses API: conversations that the server can keep.

pub mod input;
pub mod object;
pub mod request;
pub mod store;
pub mod writer;
