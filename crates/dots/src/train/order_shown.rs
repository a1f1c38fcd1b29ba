//! `dots train order`: which data a step sees.

use std::{
    io::{self, Write},
    path::PathBuf,
};

use anyhow::{anyhow, bail};
use clap::Args;
use dots_model::{checkpoint::TokenizerSource, tokenizer::Tokenizer};
use dots_train::{
    order::{self, Order, Piece},
    recipe::{Kind, Recipe},
    rejection::round::Sampled,
    schedule::{Position, Schedule},
};
use serde_json::{Value, json};

use crate::flags::threads;

pub const EXAMPLES: &str = "\
Examples:
  dots train order runs/small --step 120 --text
  dots train order small.toml --document en:0:4711 --json

A step is a row of sequences, a sequence a row of pieces of documents or chats.
Shards, files and documents are counted from 0, steps from 1, as in a run's
metrics. Every piece stands on a line of its own.";

/// Most tokens that are shown as text.
const TEXT_TOKENS: u64 = 48;

#[derive(Debug, Args)]
pub struct OrderArgs {
    /// A recipe, or a run's folder
    #[arg(value_name = "RECIPE.toml|RUN")]
    pub what: PathBuf,
    /// The step whose pieces are shown
    #[arg(long, value_name = "STEP", required_unless_present = "document", conflicts_with = "document")]
    pub step: Option<u64>,
    /// The document whose steps are shown
    #[arg(long, value_name = "SOURCE:SHARD:DOCUMENT", value_parser = document)]
    pub document: Option<Document>,
    /// Show how each piece begins
    #[arg(long)]
    pub text: bool,
    /// Print JSON, an object a line
    #[arg(long)]
    pub json: bool,
    /// Threads to read chats with; every core where not given
    #[arg(long, value_parser = threads)]
    pub threads: Option<usize>,
}

/// A document or chat by its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    source: String,
    shard: usize,
    document: usize,
}

fn document(text: &str) -> Result<Document, String> {
    let mut parts = text.rsplitn(3, ':');
    let mut number = || parts.next().and_then(|part| part.parse::<usize>().ok());
    let (document, shard) = (number(), number());
    match (document, shard, parts.next()) {
        (Some(document), Some(shard), Some(source)) => Ok(Document { source: source.to_owned(), shard, document }),
        _ => Err("expected SOURCE:SHARD:DOCUMENT, such as en:0:4711".to_owned()),
    }
}

pub fn run(args: &OrderArgs) -> anyhow::Result<()> {
    let path = if args.what.is_dir() { args.what.join("recipe.toml") } else { args.what.clone() };
    let recipe = Recipe::load(&path)?;
    let sampled = if args.what.is_dir() { Sampled::of_run(&args.what) } else { Sampled::default() };
    let (schedule, order) = order::open(&recipe, &sampled, args.threads.unwrap_or(0))?;
    let tokenizer = match args.text {
        true => Some(Tokenizer::new(&TokenizerSource::of_folder(&recipe.tokenizer)?)?),
        false => None,
    };
    let shown = Shown { recipe: &recipe, order: &order, tokenizer, json: args.json, out: io::stdout().lock() };
    match (args.step, &args.document) {
        (Some(step), _) => shown.step(&schedule, step),
        (None, Some(document)) => shown.document(&schedule, document),
        (None, None) => bail!("expected --step or --document, found neither"),
    }
}

struct Shown<'a> {
    recipe: &'a Recipe,
    order: &'a Order,
    tokenizer: Option<Tokenizer>,
    json: bool,
    out: io::StdoutLock<'static>,
}

impl Shown<'_> {
    fn step(mut self, schedule: &Schedule, step: u64) -> anyhow::Result<()> {
        let at = step.checked_sub(1).and_then(|step| schedule.at(step));
        let unsampled = schedule.unsampled().map(|phase| &self.recipe.phases[phase].name);
        let more =
            unsampled.map_or(String::new(), |phase| format!("; what {phase} learns is sampled when a run comes to it"));
        let at = at.ok_or_else(|| anyhow!("--step: expected 1 to {}, found {step}{more}", schedule.steps()))?;
        let (first, count) = self.sequences(&at);
        for sequence in first..first + count {
            for piece in self.order.sample(at.phase, sequence) {
                self.piece(step, &at, sequence, &piece)?;
            }
        }
        Ok(())
    }

    fn document(mut self, schedule: &Schedule, wanted: &Document) -> anyhow::Result<()> {
        let Document { source, shard, document } = wanted;
        let seen = self.order.seen(source, *shard, *document);
        if seen.is_empty() {
            let known: Vec<&str> = self.recipe.sources.keys().map(String::as_str).collect();
            bail!(
                "{source}:{shard}:{document}: expected a document that the run sees, found none; sources are {}, shards and documents are \
                 counted from 0",
                known.join(", ")
            );
        }
        for seen in seen {
            let (step, at) =
                step_of(schedule, seen.phase, seen.sequence * self.recipe.phases[seen.phase].sequence_tokens as u64)
                    .ok_or_else(|| anyhow!("sequence {} of phase {}: no step has it", seen.sequence, seen.phase))?;
            for piece in self.order.sample(seen.phase, seen.sequence) {
                if self.name(&at, &piece) == source && (piece.shard, piece.document) == (*shard, *document) {
                    self.piece(step + 1, &at, seen.sequence, &piece)?;
                }
            }
        }
        Ok(())
    }

    /// The first of a step's sequences in its phase, and how many it has.
    fn sequences(&self, at: &Position) -> (u64, u64) {
        let tokens = self.recipe.phases[at.phase].sequence_tokens as u64;
        (at.tokens_in_phase / tokens, at.batch_tokens / tokens)
    }

    fn name(&self, at: &Position, piece: &Piece) -> &str {
        match self.recipe.phases[at.phase].kind {
            Kind::Pretrain => self.order.sources()[piece.source].name(),
            Kind::Sft => self.order.chats()[piece.source].name(),
        }
    }

    fn piece(&mut self, step: u64, at: &Position, sequence: u64, piece: &Piece) -> anyhow::Result<()> {
        let phase = &self.recipe.phases[at.phase];
        let source = self.name(at, piece).to_owned();
        let file = match phase.kind {
            Kind::Pretrain => self.order.sources()[piece.source].shards()[piece.shard].prefix().display().to_string(),
            Kind::Sft => self.order.chats()[piece.source].files()[piece.shard].path.clone(),
        };
        let text = match &self.tokenizer {
            None => None,
            Some(tokenizer) => {
                let tokens = piece.tokens.min(TEXT_TOKENS);
                let ids = self.order.ids(phase.kind, piece, tokens, self.recipe.model.config.vocab_size)?;
                // What steers the model is part of what it sees.
                let bytes: Vec<u8> = ids.iter().flat_map(|&id| tokenizer.token_bytes(id)).copied().collect();
                Some(String::from_utf8_lossy(&bytes).into_owned())
            }
        };
        let Piece { epoch, shard, document, offset, tokens, .. } = *piece;
        if self.json {
            let mut line = json!({
                "step": step, "phase": phase.name, "sequence": sequence, "source": source, "epoch": epoch, "shard": shard,
                "file": file, "document": document, "offset": offset, "tokens": tokens,
            });
            if let Some(text) = text {
                line["text"] = Value::from(text);
            }
            writeln!(self.out, "{line}")?;
        } else {
            let text = text.map(|text| format!("  {text:?}")).unwrap_or_default();
            writeln!(
                self.out,
                "step {step}  sequence {sequence}  epoch {epoch}  {source}:{shard}:{document}  tokens {offset} to {}{text}",
                offset + tokens
            )?;
        }
        Ok(())
    }
}

/// The step, from 0, that begins at or before so many tokens of a phase.
fn step_of(schedule: &Schedule, phase: usize, tokens_in_phase: u64) -> Option<(u64, Position)> {
    let (first, count) = schedule.steps_of(phase);
    let (mut low, mut high) = (first, first + count);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if schedule.at(middle)?.tokens_in_phase <= tokens_in_phase { low = middle } else { high = middle }
    }
    Some((low, schedule.at(low)?))
}
