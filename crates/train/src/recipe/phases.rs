//! The phases of a run, one after the other.

use std::collections::BTreeMap;

use super::{Balance, Source, count, error::RecipeError, section::Section};

/// One part of a run: its length, its data and its dials.
#[derive(Debug, Clone, PartialEq)]
pub struct Phase {
    /// Its name, unlike any other phase's.
    pub name: String,
    /// What it learns from.
    pub kind: Kind,
    /// How long it lasts.
    pub length: Length,
    /// Positions of a sequence.
    pub sequence_tokens: usize,
    /// What a position attends to.
    pub attention: Attention,
    /// Tokens of a step, each stage from a number of tokens of this phase on; the first from 0, then ascending. All are whole
    /// multiples of `sequence_tokens`.
    pub batch: Vec<BatchStage>,
    /// Steps in which the learning rate rises from nothing to [`Rate::from`].
    pub warmup_steps: u64,
    /// The learning rate after these.
    pub learning_rate: Rate,
    /// By source: under [`Kind::Pretrain`] shares of the sequences' tokens, to be divided by their sum; under [`Kind::Sft`] how
    /// often an epoch goes through the source (up-sampling). All above 0.
    pub mixture: BTreeMap<String, f64>,
    /// How far a router's bias moves after a step (γ).
    pub bias_rate: f64,
    /// Weight of the sequence-wise balance loss (α).
    pub sequence_loss: f64,
    /// Documents cut into chunks and shuffled within their sequence (UtK), where a phase extends the context.
    pub utk: Option<Utk>,
}

/// What a phase learns from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Every token of documents in shards.
    Pretrain,
    /// The answers of chats, their end tokens included: of those that are given, and of those that the model itself found.
    Sft,
}

/// How long a phase lasts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Length {
    /// Tokens; the last step may go past them.
    Tokens(u64),
    /// Times through the data (of [`Kind::Sft`] only): how many steps these are, the packed chats say.
    Epochs(f64),
}

/// What a position attends to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attention {
    /// The earlier positions of its document.
    Document,
    /// All earlier positions of its sequence.
    Sequence,
}

/// Tokens of a step from some point of the phase on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchStage {
    /// Tokens of the phase before the first step of this size.
    pub from: u64,
    /// Tokens of a step.
    pub tokens: u64,
}

/// A learning rate over a phase.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// At the first step after warm-up.
    pub from: f64,
    /// Where it tends at the phase's end.
    pub to: f64,
    /// How it gets there.
    pub shape: Shape,
}

/// How a learning rate falls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Not at all.
    Constant,
    /// Along a line.
    Linear,
    /// Along half a cosine.
    Cosine,
    /// By the same factor in the same time.
    Exponential,
    /// With the square root of the time: fast at first.
    Sqrt,
}

/// How UtK cuts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Utk {
    /// Chunks of a document.
    pub chunks: usize,
}

pub const KINDS: [(&str, Kind); 2] = [("pretrain", Kind::Pretrain), ("sft", Kind::Sft)];
pub const ATTENTIONS: [(&str, Attention); 2] = [("document", Attention::Document), ("sequence", Attention::Sequence)];
pub const SHAPES: [(&str, Shape); 5] = [
    ("constant", Shape::Constant),
    ("linear", Shape::Linear),
    ("cosine", Shape::Cosine),
    ("exponential", Shape::Exponential),
    ("sqrt", Shape::Sqrt),
];

/// What a phase must fit.
pub struct Around<'a> {
    pub balance: Balance,
    pub context: usize,
    pub sources: &'a BTreeMap<String, Source>,
    pub data_ranks: u64,
    /// Whether the first phase begins with weights that were trained before.
    pub has_weights: bool,
}

pub fn read(mut section: Section<'_>, around: &Around<'_>, is_first: bool) -> Result<Phase, RecipeError> {
    let name = section.text("name")?;
    let name = section.need("name", "a name of its own", name.filter(|name| super::is_name(name)))?;
    let kind = section.word("kind", &KINDS)?.unwrap_or(Kind::Pretrain);
    let length = read_length(&mut section, kind)?;
    let sequence_tokens = section.count("sequence_tokens", 2)?;
    let expected = format!("2 to {}, the model's context", around.context);
    let sequence_tokens =
        section.need("sequence_tokens", &expected, sequence_tokens.filter(|&t| t <= around.context as u64))?;
    let utk = read_utk(&mut section, sequence_tokens)?;
    let attention = section.word("attention", &ATTENTIONS)?.unwrap_or(match utk {
        None => Attention::Document,
        Some(_) => Attention::Sequence,
    });
    if utk.is_some() && (attention, kind) != (Attention::Sequence, Kind::Pretrain) {
        let expected = "none, or attention = \"sequence\" and kind = \"pretrain\" beside it: a chunk must reach its document's earlier ones";
        return Err(section.wrong("utk", expected, Some("a phase without".to_owned())));
    }
    let batch = read_batch(&mut section, sequence_tokens, around.data_ranks)?;
    let warmup_steps = section.whole("warmup_steps", 0..=1 << 40)?.unwrap_or(0);
    let learning_rate = read_rate(&mut section)?;
    let mixture = read_mixture(&mut section, kind, around.sources)?;
    let is_sampled = |name: &&String| matches!(around.sources.get(*name), Some(Source::Problems(_)));
    if is_first
        && !around.has_weights
        && let Some(name) = mixture.keys().find(is_sampled)
    {
        let expected = "a phase before it, or model.start: problems are answered by what was learnt until then";
        return Err(section.wrong("mixture", expected, Some(format!("{name:?}"))));
    }
    let phase = Phase {
        name,
        kind,
        length,
        sequence_tokens: sequence_tokens as usize,
        attention,
        batch,
        warmup_steps,
        learning_rate,
        mixture,
        bias_rate: section.not_negative("bias_rate")?.unwrap_or(around.balance.bias_rate),
        sequence_loss: section.not_negative("sequence_loss")?.unwrap_or(around.balance.sequence_loss),
        utk,
    };
    section.finish(&[("seq_len", "sequence_tokens"), ("lr", "learning_rate"), ("batch_size", "batch_tokens")])?;
    Ok(phase)
}

fn read_length(section: &mut Section<'_>, kind: Kind) -> Result<Length, RecipeError> {
    let tokens = section.count("tokens", 1)?;
    let epochs = section.positive("epochs")?.filter(|&epochs| epochs <= 1e6);
    match (kind, tokens, epochs) {
        (_, Some(tokens), None) => Ok(Length::Tokens(tokens)),
        (Kind::Sft, None, Some(epochs)) => Ok(Length::Epochs(epochs)),
        (Kind::Pretrain, _, Some(_)) => {
            Err(section.wrong("epochs", "tokens in its place where kind = \"pretrain\"", None))
        }
        (Kind::Sft, Some(_), Some(_)) => Err(section.wrong("epochs", "epochs or tokens", Some("both".to_owned()))),
        (Kind::Pretrain, None, None) => Err(section.wrong("tokens", count::EXPECTED, None)),
        (Kind::Sft, None, None) => Err(section.wrong("epochs", "a number above 0, up to a million", None)),
    }
}

fn read_utk(section: &mut Section<'_>, sequence_tokens: u64) -> Result<Option<Utk>, RecipeError> {
    if !section.has("utk") {
        return Ok(None);
    }
    let mut utk = section.section("utk")?;
    let chunks = utk.whole("chunks", 2..=sequence_tokens)?;
    let chunks = utk.need("chunks", "a whole number from 2 on", chunks)? as usize;
    utk.finish(&[])?;
    Ok(Some(Utk { chunks }))
}

fn read_batch(
    section: &mut Section<'_>,
    sequence_tokens: u64,
    data_ranks: u64,
) -> Result<Vec<BatchStage>, RecipeError> {
    const NAME: &str = "batch_tokens";
    let fit = |section: &Section<'_>, name: &str, tokens: Option<u64>| {
        let tokens = section.need(name, count::EXPECTED, tokens)?;
        if tokens.is_multiple_of(sequence_tokens) && tokens / sequence_tokens >= data_ranks {
            return Ok(tokens);
        }
        let near = (tokens.div_ceil(sequence_tokens)).max(data_ranks) * sequence_tokens;
        let expected =
            format!("whole sequences of {sequence_tokens} tokens, at least one for each data rank, such as {near}");
        Err(section.wrong(name, expected, Some(tokens.to_string())))
    };
    let Some(stages) = section.list(NAME)? else {
        let tokens = section.count(NAME, 1)?;
        return Ok(vec![BatchStage { from: 0, tokens: fit(section, NAME, tokens)? }]);
    };
    let mut batch: Vec<BatchStage> = Vec::new();
    for mut stage in stages {
        let from = stage.count("from", 0)?;
        let after = batch.last().map(|last| last.from);
        let (expected, fits) = match after {
            None => ("0 in the first stage".to_owned(), from == Some(0)),
            Some(after) => (format!("more than {after}, where the stage before begins"), from > Some(after)),
        };
        let from = stage.need("from", &expected, from.filter(|_| fits))?;
        let tokens = stage.count("tokens", 1)?;
        batch.push(BatchStage { from, tokens: fit(&stage, "tokens", tokens)? });
        stage.finish(&[])?;
    }
    if batch.is_empty() || batch.len() > 1000 {
        return Err(section.wrong(NAME, "1 to 1000 stages", None));
    }
    Ok(batch)
}

fn read_rate(section: &mut Section<'_>) -> Result<Rate, RecipeError> {
    const NAME: &str = "learning_rate";
    if !section.is_table(NAME) {
        let rate = section.not_negative(NAME)?;
        let rate = section.need(NAME, "a number, or { from, to, shape }", rate)?;
        return Ok(Rate { from: rate, to: rate, shape: Shape::Constant });
    }
    let mut rate = section.section(NAME)?;
    let from = rate.not_negative("from")?;
    let from = rate.need("from", "a number from 0 on", from)?;
    let to = rate.not_negative("to")?.unwrap_or(from);
    let shape = rate.word("shape", &SHAPES)?;
    let shape = rate.need(
        "shape",
        "constant, linear, cosine, exponential or sqrt",
        shape.or((from == to).then_some(Shape::Constant)),
    )?;
    if shape == Shape::Constant && from != to {
        return Err(rate.wrong("to", format!("{from:?} as a constant rate has it"), None));
    }
    if shape == Shape::Exponential && (from <= 0.0 || to <= 0.0) {
        return Err(rate.wrong("to", "both ends above 0 for an exponential rate", None));
    }
    rate.finish(&[])?;
    Ok(Rate { from, to, shape })
}

fn read_mixture(
    section: &mut Section<'_>,
    kind: Kind,
    sources: &BTreeMap<String, Source>,
) -> Result<BTreeMap<String, f64>, RecipeError> {
    const NAME: &str = "mixture";
    let mixture = section.numbers(NAME)?;
    let mixture = section.need(NAME, "a table of sources and their shares", mixture)?;
    if mixture.is_empty() || mixture.iter().any(|&(_, share)| !(1e-9..=1e9).contains(&share)) {
        return Err(section.wrong(NAME, "at least one source, each share from 1e-9 to 1e9", None));
    }
    for (name, _) in &mixture {
        let Some(source) = sources.get(name) else {
            let known: Vec<&str> = sources.keys().map(String::as_str).collect();
            return Err(section.wrong(
                NAME,
                format!("sources of the recipe ({})", known.join(", ")),
                Some(format!("{name:?}")),
            ));
        };
        let (fits, expected) = match kind {
            Kind::Pretrain => (matches!(source, Source::Shards(_)), "sources of shards, as kind = \"pretrain\" reads"),
            Kind::Sft => (
                matches!(source, Source::Chats(_) | Source::Problems(_)),
                "sources of chats or problems, as kind = \"sft\" reads",
            ),
        };
        if !fits {
            return Err(section.wrong(NAME, expected, Some(format!("{name:?}, which is none"))));
        }
    }
    Ok(mixture.into_iter().collect())
}
