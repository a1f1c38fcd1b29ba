//! `dots compare`: how far a model's distributions lie from a reference's, over one text.

mod report;
mod statistics;

use std::io::{self, Write};

use anyhow::bail;
use dots_model::{
    Checkpoint, Error,
    cpu::{CpuExecutor, CpuOptions},
    executor::{Arithmetic, BLOCK_TOKENS, Batch, BlockId, CacheType, Executor, Slice, Want},
    tokenizer::{Specials, Tokenizer},
};

use self::{
    report::{Report, Side},
    statistics::{Position, Summary},
};
use crate::{
    cli::CompareArgs,
    load::{self, NoModel},
    memory,
    progress::Meter,
    text, units,
};

/// Logits of one model that exist at once.
const LOGITS_BYTES: usize = 64 << 20;
/// Most tokens in one step, where the vocabulary is small.
const STEP_TOKENS: usize = 512;

pub fn run(args: CompareArgs) -> anyhow::Result<()> {
    let reference = load::open(Some(args.reference.as_deref().ok_or(NoModel)?))?;
    let model = load::open(Some(args.model.as_deref().ok_or(NoModel)?))?;
    let tokenizer = load::tokenizer(&reference)?;
    same_vocabulary(&reference, &tokenizer, &model)?;
    for checkpoint in [&reference, &model] {
        let longest = checkpoint.config.max_position_embeddings;
        if !(2..=longest).contains(&args.context) {
            bail!(
                "--context: expected 2 to {longest} tokens, the context of {}, found {}",
                path(checkpoint),
                args.context
            );
        }
    }
    let text = text::beginning(&args.text, args.tokens)?;
    let mut tokens = tokenizer.encode(&text, Specials::Parse);
    tokens.truncate(args.tokens.unwrap_or(usize::MAX));
    if tokens.len() < 2 {
        bail!("{}: expected a text of at least 2 tokens, found {}", args.text.display(), tokens.len());
    }
    // A tokenizer may have more than the model, which must know the last token too.
    let vocab_size = reference.config.vocab_size;
    if let Some(id) = tokens.iter().find(|&&id| id as usize >= vocab_size) {
        bail!("{}: expected ids below vocab_size {vocab_size}, found {id} for a token of the text", path(&reference));
    }

    let step_tokens = (LOGITS_BYTES / (4 * reference.config.vocab_size)).clamp(1, STEP_TOKENS).min(args.context);
    let options = |arithmetic: Arithmetic, cache_type| CpuOptions {
        arithmetic,
        cache_type,
        threads: args.threads.unwrap_or(0),
        cache_tokens: args.context.next_multiple_of(BLOCK_TOKENS),
        max_batch_tokens: step_tokens,
    };
    let arithmetic: Arithmetic = args.arithmetic.into();
    let cache_type = args.kv_cache_type.map_or(arithmetic.cache_type(), CacheType::from);
    let (exact, chosen) = (options(Arithmetic::Exact, CacheType::F32), options(arithmetic, cache_type));
    fits(&[exact.plan(&reference), chosen.plan(&model)])?;
    let mut pair = Pair {
        reference: &mut CpuExecutor::new(&reference, &exact)?,
        model: &mut CpuExecutor::new(&model, &chosen)?,
        step_tokens,
    };
    let total = tokens.len();
    let mut meter = Meter::new("{bar:30} {pos}/{len} tokens  {elapsed}, {eta} left", Some(total as u64)).ticking();
    let mut positions = Vec::with_capacity(tokens.len());
    for window in tokens.chunks(args.context) {
        pair.compare(window, &mut positions, |done| {
            meter.advance(done as u64, |bar| {
                format!("{} of {total} tokens, {:.0} tokens/s", bar.position(), bar.per_sec())
            });
        })?;
    }
    drop(meter);

    let report = Report {
        sides: [Side::of(&reference, exact.arithmetic, exact.cache_type), Side::of(&model, arithmetic, cache_type)],
        text: args.text.display().to_string(),
        context: args.context,
        summary: Summary::of(&positions),
    };
    let out = &mut io::stdout().lock();
    if args.json {
        writeln!(out, "{:#}", report.to_json())?
    } else {
        report.print(out)?
    }
    Ok(())
}

/// Two executors that take the same steps.
struct Pair<'a> {
    reference: &'a mut dyn Executor,
    model: &'a mut dyn Executor,
    step_tokens: usize,
}

impl Pair<'_> {
    /// Reads one window in both and appends what is found at each of its tokens that another follows. `done` is told how
    /// many tokens each step read.
    fn compare(
        &mut self,
        window: &[u32],
        positions: &mut Vec<Position>,
        mut done: impl FnMut(usize),
    ) -> Result<(), Error> {
        let blocks = window.len().div_ceil(BLOCK_TOKENS);
        let block_table: Vec<BlockId> = (0..blocks).map(|block| block as BlockId).collect();
        for (index, tokens) in window.chunks(self.step_tokens).enumerate() {
            let start = index * self.step_tokens;
            let followed = &window[start + 1..window.len().min(start + tokens.len() + 1)];
            let wants: Vec<Want<'_>> =
                (0..followed.len()).map(|row| Want { row, logits: true, ..Want::default() }).collect();
            let batch = Batch { slices: vec![Slice { tokens, start, block_table: &block_table, wants: &wants }] };
            // A card may work on both at once.
            let tickets = (self.reference.submit(&batch)?, self.model.submit(&batch)?);
            let (reference, model) = (self.reference.collect(tickets.0), self.model.collect(tickets.1));
            for ((reference, model), &next) in reference.rows.iter().zip(&model.rows).zip(followed) {
                if let (Some(reference), Some(model)) = (&reference.logits, &model.logits) {
                    positions.push(Position::of(reference, model, next));
                }
            }
            done(tokens.len());
        }
        Ok(())
    }
}

/// Distributions over different vocabularies cannot be compared. A model without a tokenizer is taken at its size.
fn same_vocabulary(reference: &Checkpoint, tokenizer: &Tokenizer, model: &Checkpoint) -> anyhow::Result<()> {
    let (expected, found) = (reference.config.vocab_size, model.config.vocab_size);
    let (reference, name) = (path(reference), path(model));
    if expected != found {
        bail!("{name}: vocab_size: expected {expected}, as {reference} has, found {found}");
    }
    if model.tokenizer.is_none() {
        return Ok(());
    }
    let other = load::tokenizer(model)?;
    // Ids past the end of a list are padding, which GGUF files give names and folders do not.
    let ids = tokenizer.vocab_size().min(other.vocab_size()) as u32;
    match (0..ids).find(|&id| tokenizer.token_bytes(id) != other.token_bytes(id)) {
        None => Ok(()),
        Some(id) => {
            let [expected, found] = [tokenizer, &other].map(|tokenizer| tokenizer.token_bytes(id).escape_ascii());
            bail!(
                "{name}: tokenizer: expected the vocabulary of {reference}, where token {id} is \"{expected}\", found \"{found}\""
            )
        }
    }
}

fn path(checkpoint: &Checkpoint) -> String {
    checkpoint.path.display().to_string()
}

/// Law 3. Weights are mapped, so they need not fit.
fn fits(plans: &[dots_model::executor::Plan; 2]) -> anyhow::Result<()> {
    let Some(memory) = memory::of_this_machine() else { return Ok(()) };
    let needed: u64 = plans.iter().map(|plan| plan.cache_bytes.saturating_add(plan.buffers_bytes)).sum();
    let needed = needed.saturating_add(2 * LOGITS_BYTES as u64);
    if needed > memory.available_bytes {
        bail!(
            "two caches and their buffers take {}, {} more than the {} that this machine has free; ask for a shorter --context",
            units::bytes(needed),
            units::bytes(needed - memory.available_bytes),
            units::bytes(memory.available_bytes)
        );
    }
    Ok(())
}
