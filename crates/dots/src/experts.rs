//! `dots experts`: a checkpoint with more experts, or a dense one with some.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use anyhow::{anyhow, bail};
use clap::{Args, Subcommand, ValueEnum};
use dots_model::{Checkpoint, tokenizer::Specials};
use dots_train::{
    experts::{self, Add, Added, Domain, Upcycle},
    shards::{Shard, tokenizer_hash},
};
use serde_json::{Map, Value};

use crate::{
    flags::{count, threads},
    load,
    steps::Steps,
    table::Table,
    text, units,
};

const ADD_EXAMPLES: &str = "\
Examples:
  dots experts add ./base -o ./grown --count 4 --shards data/ko --keep-shards data/en
  dots experts add ./base -o ./grown --count 2 --text laws.txt --from fresh

The router runs over the new domain's text; the experts that its tokens choose most are copied, each with its
router row. With a text to keep, the rows of the new experts are turned so that its tokens stay where they are.
A recipe with `start = \"./grown\"`, `new_experts = 4` and `freeze = \"all\"` in its [model] then trains the new ones.";

const UPCYCLE_EXAMPLES: &str = "\
Examples:
  dots experts upcycle ./dense -o ./mixture --experts 48 --top-k 6
  dots experts upcycle ./dense -o ./mixture --experts 16 --top-k 4 --shared 1 --noise 0.01

The neurons of each MLP are dealt out to the shared experts and to top-k groups of routed ones, each group's copied
experts / top-k times: without noise the mixture computes what the dense model does.";

#[derive(Debug, Args)]
pub struct ExpertsArgs {
    #[command(subcommand)]
    pub command: ExpertsCommand,
}

#[derive(Debug, Subcommand)]
pub enum ExpertsCommand {
    /// Add experts to every MoE layer of a model, for a new domain
    #[command(after_help = ADD_EXAMPLES)]
    Add(AddArgs),
    /// Make a mixture of experts of a dense model
    #[command(after_help = UPCYCLE_EXAMPLES)]
    Upcycle(UpcycleArgs),
}

#[derive(Debug, Args)]
pub struct AddArgs {
    /// Folder, GGUF file or hub name
    pub model: String,
    /// Folder to write
    #[arg(short, long, value_name = "OUT")]
    pub out: PathBuf,
    /// New experts of each MoE layer
    #[arg(long, value_name = "N", value_parser = count)]
    pub count: usize,
    /// What new experts start as
    #[arg(long, value_enum, default_value_t = FromArg::Nearest)]
    pub from: FromArg,
    /// Noise on copies, as a share of the copied matrix's size
    #[arg(long, value_name = "SHARE", default_value_t = 0.02)]
    pub noise: f64,
    /// Seed of the noise
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Most of the new domain's choices that may be new experts at first, a share
    #[arg(long, value_name = "SHARE", default_value_t = 0.5)]
    pub most_new: f64,
    /// Most of the tokens of what is kept that may choose a new expert at first, a share
    #[arg(long, value_name = "SHARE", default_value_t = 0.01)]
    pub most_kept: f64,
    /// Text of the new domain, a file in UTF-8
    #[arg(long, value_name = "FILE", conflicts_with = "shards", required_unless_present = "shards")]
    pub text: Option<PathBuf>,
    /// Token shard of the new domain, without its ending
    #[arg(long, value_name = "PREFIX")]
    pub shards: Option<PathBuf>,
    /// Text of what the model should go on doing as it does
    #[arg(long, value_name = "FILE", conflicts_with = "keep_shards")]
    pub keep_text: Option<PathBuf>,
    /// The same as a token shard
    #[arg(long, value_name = "PREFIX")]
    pub keep_shards: Option<PathBuf>,
    /// Most tokens of each that are looked at
    #[arg(long, value_name = "TOKENS", default_value = "32768", value_parser = count)]
    pub tokens: usize,
    /// Threads [default: every core]
    #[arg(long, value_name = "N", value_parser = threads)]
    pub threads: Option<usize>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum FromArg {
    /// Copies of the experts that the new domain's tokens choose most
    Nearest,
    /// Random ones that say nothing at first
    Fresh,
}

#[derive(Debug, Args)]
pub struct UpcycleArgs {
    /// Folder, GGUF file or hub name of a model whose layers are all dense
    pub model: String,
    /// Folder to write
    #[arg(short, long, value_name = "OUT")]
    pub out: PathBuf,
    /// Routed experts of each MoE layer, a multiple of --top-k
    #[arg(long, value_name = "N", value_parser = count)]
    pub experts: usize,
    /// Experts chosen for a token
    #[arg(long, value_name = "K", value_parser = count)]
    pub top_k: usize,
    /// Shared experts; the dense width is cut into as many parts as there are of both
    #[arg(long, value_name = "N", default_value = "2", value_parser = count)]
    pub shared: usize,
    /// First layers that stay dense
    #[arg(long, value_name = "LAYERS", default_value_t = 1)]
    pub dense_layers: usize,
    /// Noise on routed experts, as a share of the copied matrix's size
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    pub noise: f64,
    /// Seed of the router and the noise
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

pub fn run(args: ExpertsArgs) -> anyhow::Result<()> {
    match args.command {
        ExpertsCommand::Add(args) => add(&args),
        ExpertsCommand::Upcycle(args) => upcycle(&args),
    }
}

fn add(args: &AddArgs) -> anyhow::Result<()> {
    let checkpoint = load::open(Some(&args.model))?;
    let what = Add {
        count: args.count,
        from: match args.from {
            FromArg::Nearest => experts::From::Nearest,
            FromArg::Fresh => experts::From::Fresh,
        },
        noise: args.noise,
        seed: args.seed,
        most_new: args.most_new,
        most_kept: args.most_kept,
    };
    what.check(&checkpoint)?;
    let look = |name, text: &Option<PathBuf>, shards: &Option<PathBuf>| {
        let tokens = match (text, shards) {
            (Some(text), _) => of_text(&checkpoint, text, args.tokens)?,
            (None, Some(prefix)) => of_shard(&checkpoint, prefix, args.tokens)?,
            (None, None) => return Ok(None),
        };
        let mut steps = Steps::new(name, "tokens");
        steps.start(tokens.len() as u64, 0);
        let domain = Domain::look(&checkpoint, &tokens, args.threads.unwrap_or(0), &mut |done| steps.advance(done))?;
        anyhow::Ok(Some(domain))
    };
    let new =
        look("the new domain", &args.text, &args.shards)?.ok_or_else(|| anyhow!("expected --text or --shards"))?;
    let keep = look("what is kept", &args.keep_text, &args.keep_shards)?;
    let added = experts::add(&checkpoint, &what, &new, keep.as_ref(), &lineage(), &args.out)?;
    let out = &mut io::stdout().lock();
    table(&added).write(out, "  ")?;
    let (count, path) = (args.count, args.out.display());
    writeln!(out, "{path}: {} parameters", parameters(&Checkpoint::open(&args.out)?))?;
    writeln!(out, "to train the new ones alone: [model] start = \"{path}\", new_experts = {count}, freeze = \"all\"")?;
    Ok(())
}

/// What was copied in each layer.
fn table(added: &[Added]) -> Table {
    let keeps = added.iter().any(|layer| layer.sources.iter().any(|source| source.2.is_some()));
    let mut table = Table::new(["layer", "nearest", "of new tokens"].into_iter().chain(keeps.then_some("of kept")));
    let percent = |share: f64| format!("{:.1} %", 100.0 * share);
    for layer in added {
        for (expert, new, keep) in &layer.sources {
            let cells = [layer.layer.to_string(), expert.to_string(), percent(*new)];
            table.row(cells.into_iter().chain(keep.map(percent)));
        }
    }
    table
}

fn upcycle(args: &UpcycleArgs) -> anyhow::Result<()> {
    let checkpoint = load::open(Some(&args.model))?;
    let what = Upcycle {
        experts: args.experts,
        top_k: args.top_k,
        shared: args.shared,
        dense_layers: args.dense_layers,
        noise: args.noise,
        seed: args.seed,
    };
    experts::upcycle(&checkpoint, &what, &lineage(), &args.out)?;
    let (before, after) = (parameters(&checkpoint), parameters(&Checkpoint::open(&args.out)?));
    Ok(writeln!(io::stdout(), "{}: {after} parameters, made of {before}", args.out.display())?)
}

fn parameters(checkpoint: &Checkpoint) -> String {
    let parameters = checkpoint.config.parameters();
    format!("{} ({} active)", units::parameters(parameters.total), units::parameters(parameters.active))
}

fn lineage() -> Map<String, Value> {
    Map::from_iter([("made_by".to_owned(), concat!("dots ", env!("CARGO_PKG_VERSION")).into())])
}

/// The first ids of a text.
fn of_text(checkpoint: &Checkpoint, path: &Path, most: usize) -> anyhow::Result<Vec<u32>> {
    let text = text::beginning(path, Some(most))?;
    let mut tokens = load::tokenizer(checkpoint)?.encode(&text, Specials::AsText);
    tokens.truncate(most);
    if tokens.is_empty() {
        bail!("{}: expected a text, found none", path.display());
    }
    Ok(tokens)
}

/// The first ids of a shard's documents, one after the other.
fn of_shard(checkpoint: &Checkpoint, prefix: &Path, most: usize) -> anyhow::Result<Vec<u32>> {
    /// Ids of a document, so that one long one is not all that is seen.
    const OF_DOCUMENT: u64 = 512;
    let shard = Shard::open(prefix)?;
    if let (Some(manifest), Some(source)) = (shard.manifest(), &checkpoint.tokenizer)
        && manifest.tokenizer_sha256 != tokenizer_hash(source)
    {
        let (expected, found) = (tokenizer_hash(source), &manifest.tokenizer_sha256);
        bail!("{}.json: tokenizer_sha256: expected {expected}, the model's tokenizer, found {found}", prefix.display());
    }
    let mut tokens = Vec::new();
    for document in 0..shard.documents() {
        let length = shard.document_tokens(document).min(OF_DOCUMENT).min((most - tokens.len()) as u64);
        shard.read(document, 0..length, checkpoint.config.vocab_size, &mut tokens)?;
        if tokens.len() == most {
            break;
        }
    }
    if tokens.is_empty() {
        bail!("{}: expected documents with tokens, found none", prefix.display());
    }
    Ok(tokens)
}
