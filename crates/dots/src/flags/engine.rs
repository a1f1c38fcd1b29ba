//! How the model runs.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use dots_model::executor::{Arithmetic, CacheType};

use super::{count, threads};

/// What flags stand under.
pub mod headings {
    pub const MODEL: &str = "Model";
    pub const CACHE: &str = "Cache";
    pub const SCHEDULING: &str = "Scheduling";
}

/// How the model runs.
#[derive(Debug, Args)]
#[command(next_help_heading = headings::MODEL)]
pub struct EngineArgs {
    /// How activations are rounded
    ///
    /// exact: not at all, they are f32; fast: to 8 bits, beside bf16 weights to bf16 where the processor multiplies such numbers.
    #[arg(long, value_enum, value_name = "KIND", default_value_t = ArithmeticArg::Fast)]
    pub arithmetic: ArithmeticArg,
    /// Read the weights into memory instead of mapping their files
    #[arg(long)]
    pub no_mmap: bool,
    /// Keep the system from taking the weights' memory back
    #[arg(long)]
    pub mlock: bool,
    /// Threads [default: every core]
    #[arg(long, value_name = "N", value_parser = threads)]
    pub threads: Option<usize>,
    /// Longest sequence, prompt and answer together
    ///
    /// [default: the model's own, or what half of the free memory holds]
    #[arg(long, visible_aliases = ["context", "context-length"], value_name = "TOKENS", value_parser = count)]
    #[arg(help_heading = headings::CACHE)]
    pub max_model_len: Option<usize>,
    /// Tokens that the cache holds, all sequences together
    ///
    /// [default: one longest sequence; a server up to four]
    #[arg(long, value_name = "TOKENS", value_parser = count, help_heading = headings::CACHE)]
    pub cache_tokens: Option<usize>,
    /// How keys and values are kept
    ///
    /// Rounded to this type: q8 takes half of bf16's memory, q4 a third. [default: bf16; with exact f32]
    #[arg(long, value_enum, value_name = "TYPE", help_heading = headings::CACHE)]
    pub kv_cache_type: Option<CacheTypeArg>,
    /// Keep the cache here too, so that chats outlive a restart
    ///
    /// A long chat then goes on without being read again.
    #[arg(long, value_name = "DIR", help_heading = headings::CACHE)]
    pub kv_spill: Option<PathBuf>,
    /// Most gigabytes there; the least recently used go
    #[arg(long, value_name = "GB", default_value = "32", value_parser = count, requires = "kv_spill")]
    #[arg(help_heading = headings::CACHE)]
    pub kv_spill_gb: usize,
    /// Most tokens in one step, of all sequences
    ///
    /// A longer prompt is read in pieces.
    #[arg(long = "max-num-batched-tokens", visible_alias = "max-batch-tokens", value_name = "TOKENS", default_value = "512",
          value_parser = count, help_heading = headings::SCHEDULING)]
    pub max_batch_tokens: usize,
    /// Try what is likely to come next, where that is faster
    ///
    /// Answers do not change, and it is measured whether it pays.
    #[arg(long, value_enum, value_name = "METHOD", help_heading = headings::SCHEDULING)]
    pub speculate: Option<SpeculateArg>,
}

impl EngineArgs {
    /// Where nobody gives flags: on so many threads, for sequences of at most `max_model_len` tokens.
    pub fn plain(threads: usize, max_model_len: usize) -> Self {
        Self {
            arithmetic: ArithmeticArg::Fast,
            no_mmap: false,
            mlock: false,
            threads: (threads > 0).then_some(threads),
            max_model_len: Some(max_model_len),
            cache_tokens: None,
            kv_cache_type: None,
            kv_spill: None,
            kv_spill_gb: 32,
            max_batch_tokens: 512,
            speculate: None,
        }
    }
}

/// Where drafts come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SpeculateArg {
    /// What followed the last tokens when they were last seen, in the prompt or the answer
    Ngram,
}

/// Which arithmetic; `--arithmetic` says what they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ArithmeticArg {
    Exact,
    Fast,
}

impl From<ArithmeticArg> for Arithmetic {
    fn from(arg: ArithmeticArg) -> Self {
        match arg {
            ArithmeticArg::Exact => Self::Exact,
            ArithmeticArg::Fast => Self::Fast,
        }
    }
}

/// What keys and values are rounded to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CacheTypeArg {
    Bf16,
    Q8,
    Q4,
    F32,
}

impl From<CacheTypeArg> for CacheType {
    fn from(arg: CacheTypeArg) -> Self {
        match arg {
            CacheTypeArg::Bf16 => Self::Bf16,
            CacheTypeArg::Q8 => Self::Q8,
            CacheTypeArg::Q4 => Self::Q4,
            CacheTypeArg::F32 => Self::F32,
        }
    }
}
