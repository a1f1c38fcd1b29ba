//! From a model's name to an engine that runs it.

use std::{
    io::{self, IsTerminal, Write},
    sync::Arc,
};

use anyhow::{anyhow, bail};
use dots_engine::{Engine, EngineOptions, Grammars, SpillOptions};
use dots_model::{
    Checkpoint,
    checkpoint::WeightBytes,
    cpu::{CpuExecutor, CpuOptions},
    executor::{Arithmetic, CacheType, Plan},
    hub::{self, Progress},
    template::ChatTemplate,
    tokenizer::Tokenizer,
};
use dots_server::Served;
use indicatif::{ProgressBar, ProgressStyle};

use crate::{
    flags::engine::EngineArgs,
    inside, memory,
    plan::{self, WeightsPlace, Wish},
    units,
    version::made_by,
};

/// Longest sequences that a server's cache holds at once, where memory allows it.
const SERVER_CACHE_CONTEXTS: usize = 4;

/// Who the engine is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Users {
    /// One request at a time.
    One,
    /// A server's: so many at once, and so many more that wait.
    Many { max_sequences: usize, max_queue: usize },
}

impl Users {
    /// A command's, which itself asks for at most so many at once: the queue needs no bound, and one request with many
    /// prompts could find it full for ever.
    pub fn batch(max_sequences: usize) -> Self {
        Self::Many { max_sequences, max_queue: 1 << 30 }
    }
}

/// A model that runs.
pub struct Running {
    pub engine: Engine,
    pub tokenizer: Arc<Tokenizer>,
    pub checkpoint: Checkpoint,
    /// Longest sequence, prompt and answer together.
    pub max_model_len: usize,
    /// Bytes of weights that one decoded token reads.
    pub active_bytes: u64,
    /// What was taken at start.
    pub plan: Plan,
}

/// A command was given no model.
#[derive(Debug)]
pub struct NoModel;

impl std::fmt::Display for NoModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("which model?\n")
    }
}

impl std::error::Error for NoModel {}

impl Running {
    /// As the server takes it.
    pub fn served(self, template: ChatTemplate) -> Served {
        let config = &self.checkpoint.config;
        let routed_layers = config.num_hidden_layers.saturating_sub(config.first_k_dense_replace);
        Served {
            experts_per_token: routed_layers * config.num_experts_per_tok,
            grammars: Grammars::new(Arc::clone(&self.tokenizer), self.engine.options().eos_token_ids.clone()),
            engine: self.engine,
            tokenizer: self.tokenizer,
            template,
            defaults: self.checkpoint.generation,
        }
    }
}

/// Opens `model`, fetching it first where it is a hub name; where none is named, the one inside.
pub fn open(model: Option<&str>) -> anyhow::Result<Checkpoint> {
    if inside::is_meant(model) {
        return inside::open();
    }
    let path = hub::resolve(model.ok_or(NoModel)?, &mut Download::default())?;
    Ok(Checkpoint::open(&path)?)
}

/// The checkpoint's tokenizer.
pub fn tokenizer(checkpoint: &Checkpoint) -> anyhow::Result<Tokenizer> {
    let path = checkpoint.path.display();
    let source = checkpoint.tokenizer.as_ref().ok_or_else(|| {
        anyhow!("{path}: tokenizer: expected tokenizer.json beside the weights or in the GGUF's metadata, found none")
    })?;
    Ok(Tokenizer::new(source)?)
}

/// The checkpoint's chat template.
pub fn template(checkpoint: &Checkpoint) -> anyhow::Result<ChatTemplate> {
    ChatTemplate::new(checkpoint).map_err(|error| anyhow!("{}: chat_template: {error}", checkpoint.path.display()))
}

/// Does with the weights what `--no-mmap` and `--mlock` ask for; `taken_bytes` is what else will be taken.
pub fn settle(checkpoint: &mut Checkpoint, no_mmap: bool, mlock: bool, taken_bytes: u64) -> anyhow::Result<()> {
    let weights_bytes: u64 = checkpoint.tensors().map(|(_, tensor)| tensor.bytes()).sum();
    if let (true, Some(memory)) = (no_mmap || mlock, memory::of_this_machine())
        && weights_bytes.saturating_add(taken_bytes) > memory.available_bytes
    {
        bail!(
            "{}: its weights take {} beside {} for cache and buffers, and {} are free; leave out --no-mmap and --mlock",
            checkpoint.path.display(),
            units::bytes(weights_bytes),
            units::bytes(taken_bytes),
            units::bytes(memory.available_bytes)
        );
    }
    if no_mmap {
        let mut bar = Download::default();
        if io::stderr().is_terminal() {
            bar.begin("reading", "weights", weights_bytes, 0);
        }
        let shown = bar.bar.clone();
        checkpoint.copy_into_memory(|bytes| {
            if let Some(bar) = &shown {
                bar.inc(bytes);
            }
        })?;
        bar.finish();
    }
    if mlock {
        checkpoint.lock_in_memory()?;
    }
    Ok(())
}

/// Plans the memory, says the plan on stderr, then takes it and starts the engine.
pub fn start(mut checkpoint: Checkpoint, args: &EngineArgs, users: Users) -> anyhow::Result<Running> {
    let tokenizer = Arc::new(tokenizer(&checkpoint)?);
    let arithmetic = Arithmetic::from(args.arithmetic);
    let cache_type = args.kv_cache_type.map_or(arithmetic.cache_type(), CacheType::from);
    let options = |cache_tokens| CpuOptions {
        arithmetic,
        cache_type,
        threads: args.threads.unwrap_or(0),
        cache_tokens,
        max_batch_tokens: args.max_batch_tokens,
    };
    let (max_sequences, max_queue, sequences) = match users {
        Users::One => (1, 1, 1),
        Users::Many { max_sequences, max_queue } => {
            (max_sequences.min(args.max_batch_tokens), max_queue, SERVER_CACHE_CONTEXTS)
        }
    };
    let wish = Wish {
        max_model_len: args.max_model_len,
        cache_tokens: args.cache_tokens,
        sequences,
        longest: checkpoint.config.max_position_embeddings,
    };
    let memory = memory::of_this_machine();
    let lengths = plan::choose(wish, memory, |tokens| options(tokens).plan(&checkpoint))?;
    let options = options(lengths.cache_tokens);
    // A closed stderr is no reason not to run.
    let plan = options.plan(&checkpoint);
    let weights = WeightsPlace::of(&checkpoint, args.no_mmap);
    let _ = plan::print(&mut io::stderr().lock(), plan, weights, &lengths, cache_type, memory);
    settle(&mut checkpoint, args.no_mmap, args.mlock, plan.cache_bytes.saturating_add(plan.buffers_bytes))?;

    let executor = CpuExecutor::new(&checkpoint, &options)?;
    let spill = match &args.kv_spill {
        None => None,
        Some(folder) => {
            std::fs::create_dir_all(folder).map_err(|error| anyhow!("--kv-spill {}: {error}", folder.display()))?;
            let key = checkpoint.cache_key(&made_by(), arithmetic, cache_type, executor.instruction_set());
            Some(SpillOptions { folder: folder.clone(), limit_bytes: args.kv_spill_gb as u64 * 1_000_000_000, key })
        }
    };
    let engine = Engine::start(
        Box::new(executor),
        Arc::clone(&tokenizer),
        EngineOptions {
            max_model_len: lengths.max_model_len,
            max_batch_tokens: args.max_batch_tokens,
            max_sequences,
            max_queue,
            speculate: args.speculate.is_some(),
            spill,
            eos_token_ids: checkpoint.generation.eos_token_ids.clone(),
        },
    );
    let active_bytes = WeightBytes::of(&checkpoint).of_token;
    Ok(Running { engine, tokenizer, max_model_len: lengths.max_model_len, active_bytes, plan, checkpoint })
}

/// Shows a download: a bar on a terminal, a line a file elsewhere.
#[derive(Default)]
struct Download {
    bar: Option<ProgressBar>,
}

impl Download {
    /// Begins a bar, or writes a line: what is done, and to which file.
    fn begin(&mut self, doing: &str, file: &str, total_bytes: u64, done_bytes: u64) {
        if !io::stderr().is_terminal() {
            let _ = writeln!(io::stderr(), "{doing} {file}, {}", units::bytes(total_bytes));
            return;
        }
        let style = ProgressStyle::with_template(
            "{msg}  {bar:30} {binary_bytes}/{binary_total_bytes}  {binary_bytes_per_sec}  {eta} left",
        )
        .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::new(total_bytes).with_style(style).with_message(format!("{doing} {file}"));
        bar.set_position(done_bytes);
        bar.reset_eta();
        self.bar = Some(bar);
    }
}

impl Progress for Download {
    fn check(&mut self, file: &str, part_bytes: u64) {
        self.begin("checking what is there of", file, part_bytes, 0);
    }

    fn start(&mut self, file: &str, total_bytes: u64, done_bytes: u64) {
        self.begin("fetching", file, total_bytes, done_bytes);
    }

    fn advance(&mut self, bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.inc(bytes);
        }
    }

    fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish();
        }
    }
}
