//! What a dots.llm1 is: its config, its checkpoints in every published layout, its tokenizer and chat template, and its
//! forward pass behind the [`executor::Executor`] seam. Nothing here knows of requests or HTTP.

pub mod aside;
pub mod checkpoint;
pub mod config;
pub mod cpu;
pub mod error;
pub mod executor;
mod hex;
pub mod hub;
pub mod observer;
pub mod sample;
pub mod template;
pub mod tokenizer;

pub use checkpoint::Checkpoint;
pub use config::Config;
pub use error::Error;
pub use hex::hex;
