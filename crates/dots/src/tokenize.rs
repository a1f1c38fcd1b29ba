//! `dots tokenize`: text to token shards.

use std::{
    io::{self, Write},
    path::PathBuf,
};

use clap::Args;
use dots_model::checkpoint::TokenizerSource;
use dots_train::tokenize::{Tokenize, tokenize};

use crate::{
    flags::threads,
    steps::{Steps, bytes_of},
};

pub const EXAMPLES: &str = "\
Examples:
  dots tokenize books.jsonl web.jsonl -o data/en --tokenizer ./dots.llm1.base
  dots tokenize ko.jsonl -o data/ko --tokenizer ./tokenizer --end '<|endoftext|>'

Each line of the input is a JSON object with a text; .gz and .zst are unpacked.
Written are OUT.bin and OUT.idx in Megatron's format, and OUT.json, which says
what they were made of.";

#[derive(Debug, Args)]
pub struct TokenizeArgs {
    /// JSONL files, one document a line
    #[arg(required = true, value_name = "IN.jsonl")]
    pub inputs: Vec<PathBuf>,
    /// Path of the shard, without its ending
    #[arg(short, long, value_name = "OUT")]
    pub out: PathBuf,
    /// Folder with tokenizer.json
    #[arg(long, value_name = "FOLDER")]
    pub tokenizer: PathBuf,
    /// Field of a line that holds its text
    #[arg(long, default_value = "text")]
    pub field: String,
    /// Token to put after each document
    #[arg(long, value_name = "TOKEN")]
    pub end: Option<String>,
    /// Lines that may hold no document before it is an error
    #[arg(long, value_name = "LINES", default_value_t = 0)]
    pub skip: u64,
    /// Write over a shard of that name
    #[arg(long)]
    pub replace: bool,
    /// Threads; every core where not given
    #[arg(long, value_parser = threads)]
    pub threads: Option<usize>,
}

pub fn run(args: TokenizeArgs) -> anyhow::Result<()> {
    let source = TokenizerSource::of_folder(&args.tokenizer)?;
    let mut steps = Steps::new("tokenizing", "bytes");
    steps.start(bytes_of(&args.inputs)?, 0);
    let what = Tokenize {
        inputs: args.inputs,
        prefix: args.out,
        field: args.field,
        end_of_document: args.end,
        skip: args.skip,
        replace: args.replace,
        threads: args.threads.unwrap_or(0),
    };
    let manifest = tokenize(&source, &what, &mut |bytes| steps.advance(bytes))?;
    steps.end();
    let (prefix, skipped) = (what.prefix.display(), manifest.skipped_lines);
    let (documents, tokens) = (manifest.documents, manifest.tokens);
    writeln!(io::stdout(), "{prefix}: {documents} documents, {tokens} tokens, {skipped} lines skipped")?;
    Ok(())
}
