//! Training a dots.llm1: from token shards to released checkpoints, exactly resumable.
//!
//! The recipe, the order of the data and the checkpoints see no tensors: they meet the arithmetic at [`step::Step`], behind which the
//! CPU, a group of ranks or a card can stand, and ranks meet each other at [`comm::Comm`].

pub mod batches;
pub mod chats;
pub mod checkpoint;
pub mod comm;
mod compressed;
pub mod cpu;
mod data_error;
pub mod experts;
pub mod flops;
mod lines;
pub mod order;
pub mod ranks;
pub mod recipe;
pub mod rejection;
pub mod run;
pub mod schedule;
pub mod shards;
mod share;
pub mod step;
pub mod tokenize;
pub mod tokenizer;
pub mod verify;

pub use data_error::DataError;
