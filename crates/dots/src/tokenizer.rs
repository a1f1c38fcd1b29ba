//! `dots tokenizer`: tokenizers of one's own.

use std::{
    io::{self, Write},
    path::PathBuf,
};

use clap::{Args, Subcommand};
use dots_train::tokenizer::{LEAST_VOCAB_SIZE, MOST_VOCAB_SIZE, Progress, SPECIAL, Training, train};

use crate::{
    flags::threads,
    steps::{Steps, bytes_of},
};

const TRAIN_EXAMPLES: &str = "\
Examples:
  dots tokenizer train en.jsonl zh.jsonl ko.jsonl -o tokenizer --vocab-size 8192
  dots tokenizer train chats.jsonl -o tokenizer --vocab-size 32768

Each line of the input is a JSON object with a text, or with the messages of a
chat. The same files give the same tokenizer, whatever the threads.";

#[derive(Debug, Args)]
pub struct TokenizerArgs {
    #[command(subcommand)]
    pub command: TokenizerCommand,
}

#[derive(Debug, Subcommand)]
pub enum TokenizerCommand {
    /// Learn a byte-level BPE with dots.llm1's cut and special tokens from text
    #[command(after_help = TRAIN_EXAMPLES)]
    Train(TrainArgs),
}

#[derive(Debug, Args)]
pub struct TrainArgs {
    /// JSONL files of texts or chats
    #[arg(required = true, value_name = "IN.jsonl")]
    pub inputs: Vec<PathBuf>,
    /// Folder for tokenizer.json and what belongs to it
    #[arg(short, long, value_name = "FOLDER")]
    pub out: PathBuf,
    /// Ids in all: bytes, merges and special tokens
    #[arg(long, value_name = "IDS", value_parser = vocab_size)]
    pub vocab_size: usize,
    /// Field of a line that holds its text
    #[arg(long, default_value = "text")]
    pub field: String,
    /// Lines that may hold no text before it is an error
    #[arg(long, value_name = "LINES", default_value_t = 0)]
    pub skip: u64,
    /// Write over a tokenizer in that folder
    #[arg(long)]
    pub replace: bool,
    /// Threads; every core where not given
    #[arg(long, value_parser = threads)]
    pub threads: Option<usize>,
}

pub fn run(args: TokenizerArgs) -> anyhow::Result<()> {
    let TokenizerCommand::Train(args) = args.command;
    let mut reading = Steps::new("reading", "bytes");
    reading.start(bytes_of(&args.inputs)?, 0);
    let mut learning: Option<(Steps, usize)> = None;
    let what = Training {
        inputs: args.inputs,
        field: args.field,
        vocab_size: args.vocab_size,
        skip: args.skip,
        threads: args.threads.unwrap_or(0),
    };
    let learnt = train(&what, &mut |progress| match progress {
        Progress::Read(bytes) => reading.advance(bytes),
        Progress::Learnt(tokens) => {
            let (steps, before) = learning.get_or_insert_with(|| {
                reading.end();
                let mut steps = Steps::new("learning", "tokens");
                let bytes = LEAST_VOCAB_SIZE - SPECIAL.len();
                steps.start((what.vocab_size - SPECIAL.len()) as u64, bytes as u64);
                (steps, bytes)
            });
            steps.advance((tokens - *before) as u64);
            *before = tokens;
        }
    })?;
    if let Some((mut steps, _)) = learning {
        steps.end();
    }
    learnt.write(&args.out, args.replace)?;
    let (out, ids, skipped) = (args.out.display(), what.vocab_size, learnt.skipped_lines);
    writeln!(io::stdout(), "{out}: {ids} tokens, the last {} of them special, {skipped} lines skipped", SPECIAL.len())?;
    Ok(())
}

fn vocab_size(text: &str) -> Result<usize, String> {
    let expected = || format!("expected {LEAST_VOCAB_SIZE} to {MOST_VOCAB_SIZE}");
    let size = text.parse().map_err(|_| expected())?;
    if (LEAST_VOCAB_SIZE..=MOST_VOCAB_SIZE).contains(&size) { Ok(size) } else { Err(expected()) }
}
