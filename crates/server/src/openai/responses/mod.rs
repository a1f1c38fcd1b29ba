//! OpenAI's Responses API: conversations that the server can keep.

pub mod background;
pub mod input;
pub mod input_items;
pub mod object;
pub mod output;
pub mod repeated;
pub mod request;
pub mod store;
pub mod tools;
pub mod writer;
