//! `dots inspect`: what a checkpoint is and the memory it takes, without loading it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, Write},
};

use anyhow::bail;
use dots_kernels::WeightType;
use dots_model::{
    Checkpoint, Config,
    checkpoint::{Format, TokenizerSource, WeightBytes},
    cpu::CpuOptions,
    executor::{Arithmetic, CacheType, Plan},
    tokenizer::Tokenizer,
};
use dots_pack::identity::Origin;
use serde_json::{Value, json};

use crate::{
    cli::InspectArgs,
    inside, load,
    memory::{self, Memory},
    published,
    table::Table,
    terminal::{Style, clean, first_line},
    units,
};

/// Tokens in one step, where the plan's buffers need a number; what the other commands take unless told.
const MAX_BATCH_TOKENS: usize = 512;

pub fn run(args: InspectArgs) -> anyhow::Result<()> {
    let out = &mut io::stdout().lock();
    if args.published {
        let config = Config::dots_llm1();
        let contexts = contexts(args.context, config.max_position_embeddings)?;
        if args.json {
            write_json(out, &published::to_json(&config, &contexts))?;
        } else {
            published::print(out, &config, &contexts)?;
        }
        return Ok(());
    }
    let checkpoint = load::open(args.model.as_deref())?;
    let contexts = contexts(args.context, checkpoint.config.max_position_embeddings)?;
    let report = Report::of(&checkpoint, &contexts)?;
    if args.json {
        write_json(out, &report.to_json())?
    } else {
        report.print(out, Style::stdout())?
    }
    Ok(())
}

fn write_json(out: &mut dyn Write, value: &Value) -> io::Result<()> {
    writeln!(out, "{value:#}")
}

/// The context lengths to plan for: those asked for, or 4096, 8192 and the longest.
fn contexts(asked: Vec<usize>, longest: usize) -> anyhow::Result<Vec<usize>> {
    if let Some(beyond) = asked.iter().find(|&&context| context > longest) {
        bail!("--context: expected at most {longest}, the model's own, found {beyond}");
    }
    if !asked.is_empty() {
        return Ok(asked);
    }
    Ok([4096, 8192].into_iter().filter(|&context| context < longest).chain([longest]).collect())
}

/// Tensors of one type together.
#[derive(Debug, Default)]
struct Share {
    count: usize,
    weights: u64,
    bytes: u64,
}

impl Share {
    fn bits_per_weight(&self) -> f64 {
        8.0 * self.bytes as f64 / self.weights.max(1) as f64
    }
}

/// A special token and its id.
struct Special {
    id: u32,
    text: String,
}

/// The tokenizer's facts.
struct TokenizerFacts {
    kind: String,
    vocab_size: usize,
    specials: Vec<Special>,
}

/// Everything that is shown.
struct Report<'a> {
    checkpoint: &'a Checkpoint,
    /// Where a packed checkpoint comes from.
    origin: Option<Origin>,
    files: usize,
    disk_bytes: u64,
    types: BTreeMap<WeightType, Share>,
    tensor_bytes: u64,
    active_bytes: u64,
    tokenizer: Option<TokenizerFacts>,
    memory: Option<Memory>,
    plans: Vec<(usize, CacheType, Plan)>,
}

impl<'a> Report<'a> {
    fn of(checkpoint: &'a Checkpoint, contexts: &[usize]) -> anyhow::Result<Self> {
        let mut types = BTreeMap::<WeightType, Share>::new();
        let mut files = BTreeSet::new();
        for (_, tensor) in checkpoint.tensors() {
            let share = types.entry(tensor.kind).or_default();
            share.count += 1;
            share.weights += tensor.shape.iter().map(|size| *size as u64).product::<u64>();
            share.bytes += tensor.bytes();
            files.insert(tensor.file.clone());
        }
        let disk_bytes = match inside::is(checkpoint) {
            true => inside::bytes(),
            false => files.iter().filter_map(|file| fs::metadata(file).ok()).map(|metadata| metadata.len()).sum(),
        };
        // A template that does not compile is an error here as it is in `chat`.
        load::template(checkpoint)?;
        let plans = contexts
            .iter()
            .flat_map(|&context| published::CACHE_TYPES.map(|cache_type| (context, cache_type)))
            .map(|(context, cache_type)| {
                let options = CpuOptions {
                    arithmetic: Arithmetic::Fast,
                    cache_type,
                    threads: 0,
                    cache_tokens: context,
                    max_batch_tokens: MAX_BATCH_TOKENS,
                };
                (context, cache_type, options.plan(checkpoint))
            })
            .collect();
        Ok(Self {
            origin: (checkpoint.format == Format::Packed).then(|| Origin::of(&checkpoint.path)).flatten(),
            files: files.len(),
            disk_bytes,
            tensor_bytes: types.values().map(|share| share.bytes).sum(),
            types,
            active_bytes: WeightBytes::of(checkpoint).of_token,
            tokenizer: checkpoint.tokenizer.as_ref().map(tokenizer_facts).transpose()?,
            memory: memory::of_this_machine(),
            plans,
            checkpoint,
        })
    }

    fn print(&self, out: &mut dyn Write, style: Style) -> io::Result<()> {
        let checkpoint = self.checkpoint;
        let path = checkpoint.path.display().to_string();
        writeln!(out, "{}", style.bold(&clean(&path)))?;
        let files = if self.files == 1 { "1 file".to_owned() } else { format!("{} files", self.files) };
        fact(out, "format", format_name(checkpoint.format))?;
        if let Some(origin) = &self.origin {
            fact(out, "packed from", &clean(&origin.to_string()))?;
        }
        match inside::is(checkpoint) {
            true => fact(out, "size", &format!("{} inside the program", units::bytes(self.disk_bytes)))?,
            false => fact(out, "on disk", &format!("{} in {files}", units::bytes(self.disk_bytes)))?,
        }
        self.print_shape(out, style)?;
        self.print_types(out, style)?;
        self.print_text(out, style)?;
        self.print_memory(out, style)
    }

    fn all(&self) -> Share {
        self.types.values().fold(Share::default(), |all, share| Share {
            count: all.count + share.count,
            weights: all.weights + share.weights,
            bytes: all.bytes + share.bytes,
        })
    }

    fn print_shape(&self, out: &mut dyn Write, style: Style) -> io::Result<()> {
        let config = &self.checkpoint.config;
        let parameters = config.parameters();
        let moe_layers = config.num_hidden_layers.saturating_sub(config.first_k_dense_replace);
        heading(out, style, "shape")?;
        let share = 100.0 * parameters.active as f64 / parameters.total.max(1) as f64;
        fact(out, "parameters", &format!("{} in total", units::parameters(parameters.total)))?;
        fact(out, "active", &format!("{} a token, {share:.1} %", units::parameters(parameters.active)))?;
        let dense = config.num_hidden_layers - moe_layers;
        let layers = format!("{}: {dense} dense, {moe_layers} mixtures of experts", config.num_hidden_layers);
        fact(out, "layers", &layers)?;
        fact(out, "hidden size", &config.hidden_size.to_string())?;
        let (heads, kv_heads) = (config.num_attention_heads, config.num_key_value_heads);
        let attention = format!("{heads} query heads, {kv_heads} key and value heads, {} wide", config.head_dim);
        fact(out, "attention", &attention)?;
        fact(out, "dense MLP", &format!("{} wide", config.intermediate_size))?;
        let experts = format!(
            "{} routed, {} a token, {} shared, {} wide",
            config.n_routed_experts, config.num_experts_per_tok, config.n_shared_experts, config.moe_intermediate_size
        );
        fact(out, "experts", &experts)?;
        fact(out, "vocabulary", &config.vocab_size.to_string())?;
        fact(out, "context", &format!("{} tokens", config.max_position_embeddings))
    }

    fn print_types(&self, out: &mut dyn Write, style: Style) -> io::Result<()> {
        heading(out, style, "tensors")?;
        let mut table = Table::new(["type", "count", "bytes", "share", "bits a weight"]);
        for (kind, share) in &self.types {
            let percent = 100.0 * share.bytes as f64 / self.tensor_bytes.max(1) as f64;
            table.row([
                kind.name().to_owned(),
                share.count.to_string(),
                units::bytes(share.bytes),
                format!("{percent:.1} %"),
                format!("{:.2}", share.bits_per_weight()),
            ]);
        }
        let all = self.all();
        let (count, bits) = (all.count.to_string(), format!("{:.2}", all.bits_per_weight()));
        table.row(["all".to_owned(), count, units::bytes(self.tensor_bytes), "100.0 %".to_owned(), bits]);
        table.write(out, "  ")?;
        writeln!(
            out,
            "  One token reads {} of them. The matrices of experts are counted one by one.",
            units::bytes(self.active_bytes)
        )
    }

    fn print_text(&self, out: &mut dyn Write, style: Style) -> io::Result<()> {
        heading(out, style, "text")?;
        match &self.tokenizer {
            None => fact(out, "tokenizer", "none; chat, complete and serve need one")?,
            Some(tokenizer) => {
                fact(out, "tokenizer", &format!("{}, {} ids", tokenizer.kind, tokenizer.vocab_size))?;
                let some = tokenizer.specials.iter().take(SPECIALS_SHOWN);
                let mut specials: Vec<String> =
                    some.map(|special| format!("{} {}", special.id, first_line(&special.text, 40))).collect();
                if let Some(more) = tokenizer.specials.len().checked_sub(SPECIALS_SHOWN).filter(|&more| more > 0) {
                    specials.push(format!("and {more} more"));
                }
                fact(out, "specials", &specials.join(", "))?;
            }
        }
        let ends = &self.checkpoint.generation.eos_token_ids;
        let ends: Vec<String> = ends.iter().map(u32::to_string).collect();
        fact(out, "ends a turn", if ends.is_empty() { "no token".into() } else { ends.join(", ") }.as_str())?;
        match &self.checkpoint.chat_template {
            Some(template) => fact(out, "template", &format!("its own: {}", first_line(template, 72))),
            None => fact(out, "template", "none of its own; the published dots.llm1 form is used"),
        }
    }

    fn print_memory(&self, out: &mut dyn Write, style: Style) -> io::Result<()> {
        heading(out, style, "memory")?;
        let mut table = Table::new(["context", "cache in", "weights", "cache", "buffers", "together"]);
        for (context, cache_type, plan) in &self.plans {
            table.row([
                context.to_string(),
                cache_type.name().to_owned(),
                units::bytes(plan.weights_bytes),
                units::bytes(plan.cache_bytes),
                units::bytes(plan.buffers_bytes),
                units::bytes(together(plan)),
            ]);
        }
        table.write(out, "  ")?;
        match self.memory {
            Some(memory) => writeln!(
                out,
                "  This machine has {}, {} of it free. Weights are mapped: only the cache and the buffers must fit.",
                units::bytes(memory.total_bytes),
                units::bytes(memory.available_bytes)
            ),
            None => writeln!(out, "  This system does not say how much memory it has."),
        }
    }

    fn to_json(&self) -> Value {
        let checkpoint = self.checkpoint;
        let config = &checkpoint.config;
        let parameters = config.parameters();
        let types: Vec<Value> = self
            .types
            .iter()
            .map(|(kind, share)| json!({ "type": kind.name(), "count": share.count, "bytes": share.bytes, "bits_per_weight": share.bits_per_weight() }))
            .collect();
        let tokenizer = self.tokenizer.as_ref().map(|tokenizer| {
            let specials: serde_json::Map<String, Value> =
                tokenizer.specials.iter().map(|special| (special.text.clone(), special.id.into())).collect();
            json!({ "kind": tokenizer.kind, "vocab_size": tokenizer.vocab_size, "special_tokens": specials })
        });
        let plans: Vec<Value> = self
            .plans
            .iter()
            .map(|(context, cache_type, plan)| {
                json!({
                    "context_tokens": context,
                    "cache_type": cache_type.name(),
                    "weights_bytes": plan.weights_bytes,
                    "cache_bytes": plan.cache_bytes,
                    "buffers_bytes": plan.buffers_bytes,
                })
            })
            .collect();
        json!({
            "path": checkpoint.path.display().to_string(),
            "format": format_name(checkpoint.format),
            "packed_from": self.origin.as_ref().map(|origin| {
                json!({ "source": origin.source, "recipe": origin.recipe, "calibrated": origin.calibrated })
            }),
            "files": self.files,
            "disk_bytes": self.disk_bytes,
            "parameters": { "total": parameters.total, "active": parameters.active },
            "config": {
                "vocab_size": config.vocab_size,
                "hidden_size": config.hidden_size,
                "intermediate_size": config.intermediate_size,
                "moe_intermediate_size": config.moe_intermediate_size,
                "num_hidden_layers": config.num_hidden_layers,
                "first_k_dense_replace": config.first_k_dense_replace,
                "num_attention_heads": config.num_attention_heads,
                "num_key_value_heads": config.num_key_value_heads,
                "head_dim": config.head_dim,
                "n_routed_experts": config.n_routed_experts,
                "n_shared_experts": config.n_shared_experts,
                "num_experts_per_tok": config.num_experts_per_tok,
                "norm_topk_prob": config.norm_topk_prob,
                "routed_scaling_factor": config.routed_scaling_factor,
                "rms_norm_eps": config.rms_norm_eps,
                "rope_theta": config.rope_theta,
                "max_position_embeddings": config.max_position_embeddings,
            },
            "tensors": { "bytes": self.tensor_bytes, "active_bytes": self.active_bytes, "bits_per_weight": self.all().bits_per_weight(), "types": types },
            "tokenizer": tokenizer,
            "eos_token_ids": checkpoint.generation.eos_token_ids,
            "chat_template": checkpoint.chat_template,
            "memory": plans,
            "machine": self.memory.map(|memory| {
                json!({ "total_bytes": memory.total_bytes, "available_bytes": memory.available_bytes })
            }),
        })
    }
}

/// Special tokens named one by one.
const SPECIALS_SHOWN: usize = 12;

fn tokenizer_facts(source: &TokenizerSource) -> anyhow::Result<TokenizerFacts> {
    let tokenizer = Tokenizer::new(source)?;
    let kind = match source {
        TokenizerSource::HuggingFace { .. } => "tokenizer.json".to_owned(),
        TokenizerSource::Gguf { pre, .. } => format!("GGUF, pre-tokenizer {}", first_line(pre, 40)),
    };
    let ids = u32::try_from(tokenizer.vocab_size()).unwrap_or(u32::MAX);
    let specials = (0..ids)
        .filter(|&id| tokenizer.is_special(id))
        .map(|id| Special { id, text: String::from_utf8_lossy(tokenizer.token_bytes(id)).into_owned() })
        .collect();
    Ok(TokenizerFacts { kind, vocab_size: tokenizer.vocab_size(), specials })
}

fn format_name(format: Format) -> &'static str {
    match format {
        Format::HuggingFace => "Hugging Face",
        Format::Packed => "packed by dots",
        Format::Gguf => "GGUF",
        Format::Random => "random",
    }
}

fn together(plan: &Plan) -> u64 {
    plan.weights_bytes.saturating_add(plan.cache_bytes).saturating_add(plan.buffers_bytes)
}

fn heading(out: &mut dyn Write, style: Style, name: &str) -> io::Result<()> {
    writeln!(out, "\n{}", style.bold(name))
}

fn fact(out: &mut dyn Write, name: &str, value: &str) -> io::Result<()> {
    writeln!(out, "  {name:<12} {value}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_go_up_to_the_models_own() {
        assert_eq!(contexts(vec![], 32768).unwrap(), [4096, 8192, 32768]);
        assert_eq!(contexts(vec![], 256).unwrap(), [256]);
        assert_eq!(contexts(vec![], 8192).unwrap(), [4096, 8192]);
        assert_eq!(contexts(vec![100], 256).unwrap(), [100]);
        assert!(contexts(vec![257], 256).unwrap_err().to_string().contains("at most 256, the model's own, found 257"));
    }
}
