//! Law 3: memory is planned, then taken. Chooses how long the context is, and says what that takes.

use std::io::{self, Write};

use dots_model::{
    Checkpoint,
    executor::{Arithmetic, CacheType, Plan},
};

use crate::{inside, memory::Memory, units};

/// What decides the lengths.
#[derive(Debug, Clone, Copy)]
pub struct Wish {
    /// `--max-model-len`.
    pub max_model_len: Option<usize>,
    /// `--cache-tokens`.
    pub cache_tokens: Option<usize>,
    /// Longest sequences that the cache should hold at once where memory allows it.
    pub sequences: usize,
    /// Longest context that the model was trained for.
    pub longest: usize,
}

/// The lengths chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lengths {
    /// Longest sequence, prompt and answer together.
    pub max_model_len: usize,
    /// Tokens that the cache holds.
    pub cache_tokens: usize,
    /// Why the context is shorter than the model's own, where nobody asked for that.
    pub note: Option<String>,
}

/// Lengths that make sense in tokens: thousands, below them hundreds.
fn round_lengths(longest: usize) -> Vec<usize> {
    let mut lengths: Vec<usize> = [128, 256, 512].into_iter().chain((1..=longest / 1024).map(|k| k * 1024)).collect();
    lengths.retain(|&length| length <= longest);
    lengths
}

/// Chooses the lengths. `plan` gives what a cache of so many tokens takes, and grows with them.
///
/// Without a wish the context is the model's own where its cache takes at most half of the memory available, and else
/// the longest round one that does, but no less than 512 tokens.
pub fn choose(wish: Wish, memory: Option<Memory>, plan: impl Fn(usize) -> Plan) -> anyhow::Result<Lengths> {
    let longest = wish.longest;
    if let Some(asked) = wish.max_model_len.filter(|&asked| asked > longest) {
        anyhow::bail!("--max-model-len: expected at most {longest}, the model's own context, found {asked}");
    }
    if let (Some(cache), Some(context)) = (wish.cache_tokens, wish.max_model_len)
        && cache < context
    {
        anyhow::bail!("--cache-tokens: expected at least {context}, as --max-model-len says, found {cache}");
    }

    let mut note = None;
    let max_model_len = match (wish.max_model_len, wish.cache_tokens, memory) {
        (Some(asked), _, _) => asked,
        (None, Some(cache), _) => longest.min(cache),
        (None, None, None) => longest,
        (None, None, Some(memory)) => {
            let half = memory.available_bytes / 2;
            let within_half = |tokens: usize| plan(tokens).cache_bytes <= half;
            if within_half(longest) {
                longest
            } else {
                let lengths = round_lengths(longest);
                let fitting = lengths[..lengths.partition_point(|&tokens| within_half(tokens))].last().copied();
                let chosen = fitting.unwrap_or(0).max(512).min(longest);
                note = Some(format!(
                    "The context is {chosen} tokens: the cache of the model's {longest} would take {}, more than half of \
                     the {} that this machine has free. --max-model-len chooses another.",
                    units::bytes(plan(longest).cache_bytes),
                    units::bytes(memory.available_bytes)
                ));
                chosen
            }
        }
    };
    let cache_tokens = wish.cache_tokens.unwrap_or_else(|| several(max_model_len, wish.sequences, memory, &plan));
    if let Some(memory) = memory {
        fits(max_model_len, cache_tokens, wish.cache_tokens.is_some(), memory, &plan)?;
    }
    Ok(Lengths { max_model_len, cache_tokens, note })
}

/// The cache of as many longest sequences, up to `sequences`, as fit into half of what the weights leave free; of one
/// where that is less.
fn several(context: usize, sequences: usize, memory: Option<Memory>, plan: impl Fn(usize) -> Plan) -> usize {
    let Some(memory) = memory else { return context };
    (2..=sequences)
        .rev()
        .filter_map(|sequences| context.checked_mul(sequences))
        .find(|&tokens| {
            let plan = plan(tokens);
            plan.cache_bytes <= memory.available_bytes.saturating_sub(plan.weights_bytes) / 2
        })
        .unwrap_or(context)
}

/// Refuses what the machine cannot hold. Weights are mapped, so only the cache and the buffers must fit.
fn fits(
    context: usize,
    cache_tokens: usize,
    cache_asked: bool,
    memory: Memory,
    plan: impl Fn(usize) -> Plan,
) -> anyhow::Result<()> {
    let need = |tokens: usize| {
        let plan = plan(tokens);
        plan.cache_bytes.saturating_add(plan.buffers_bytes)
    };
    let needed = need(cache_tokens);
    if needed <= memory.available_bytes {
        return Ok(());
    }
    let flag = if cache_asked { "--cache-tokens" } else { "--max-model-len" };
    let lengths = round_lengths(if cache_asked { cache_tokens } else { context });
    let fitting = lengths[..lengths.partition_point(|&tokens| need(tokens) <= memory.available_bytes)].last();
    let advice = match fitting {
        Some(tokens) => format!("{flag} {tokens} fits"),
        None => "no context fits: free some memory first".to_owned(),
    };
    anyhow::bail!(
        "a cache of {cache_tokens} tokens and the buffers take {}, {} more than the {} that this machine has free; {advice}",
        units::bytes(needed),
        units::bytes(needed - memory.available_bytes),
        units::bytes(memory.available_bytes)
    )
}

/// The arithmetic's name, as it is given.
pub fn arithmetic_name(arithmetic: Arithmetic) -> &'static str {
    match arithmetic {
        Arithmetic::Exact => "exact",
        Arithmetic::Fast => "fast",
    }
}

/// Where weights lie while a model runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightsPlace {
    Mapped,
    Inside,
    /// Copied there from files.
    Memory,
    /// Random ones.
    Made,
}

impl WeightsPlace {
    /// Of a checkpoint that was opened, or will be copied.
    pub fn of(checkpoint: &Checkpoint, no_mmap: bool) -> Self {
        match (no_mmap, inside::is(checkpoint)) {
            (true, _) => Self::Memory,
            (false, true) => Self::Inside,
            (false, false) => Self::Mapped,
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Mapped => "mapped from their files",
            Self::Inside => "inside the program",
            Self::Memory => "in memory of their own",
            Self::Made => "made in memory",
        }
    }
}

/// Says what is about to be taken.
pub fn print(
    out: &mut dyn Write,
    plan: Plan,
    weights: WeightsPlace,
    lengths: &Lengths,
    cache_type: CacheType,
    memory: Option<Memory>,
) -> io::Result<()> {
    let context = lengths.max_model_len;
    writeln!(out, "memory for a context of {context} tokens:")?;
    let mut line = |what: &str, bytes: u64, of: &str| writeln!(out, "  {what:<8} {:>10}  {of}", units::bytes(bytes));
    line("weights", plan.weights_bytes, weights.words())?;
    line("cache", plan.cache_bytes, &format!("{} tokens in {}", lengths.cache_tokens, cache_type.name()))?;
    line("buffers", plan.buffers_bytes, &format!("steps of up to {} tokens", plan.max_batch_tokens))?;
    match memory {
        Some(memory) => {
            line("free", memory.available_bytes, &format!("of this machine's {}", units::bytes(memory.total_bytes)))?;
            let taken = plan.cache_bytes.saturating_add(plan.buffers_bytes);
            let mapped = matches!(weights, WeightsPlace::Mapped | WeightsPlace::Inside);
            if mapped && plan.weights_bytes > memory.available_bytes.saturating_sub(taken) {
                writeln!(
                    out,
                    "The weights do not fit into what is left: they are mapped, and read from disk again as they are \
                     needed, which is slow."
                )?;
            }
        }
        None => writeln!(out, "  This system does not say how much memory is free; nothing was checked.")?,
    }
    if let Some(note) = &lengths.note {
        writeln!(out, "{note}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 1000 bytes a token of cache, 100 of buffers, 5000 of weights.
    fn plan(tokens: usize) -> Plan {
        Plan { weights_bytes: 5000, cache_bytes: tokens as u64 * 1000, buffers_bytes: 100, ..Plan::default() }
    }

    fn memory(available_bytes: u64) -> Option<Memory> {
        Some(Memory { total_bytes: available_bytes, available_bytes })
    }

    const NOTHING_ASKED: Wish = Wish { max_model_len: None, cache_tokens: None, sequences: 1, longest: 32768 };

    #[test]
    fn the_models_own_context_where_its_cache_takes_at_most_half() {
        let lengths = choose(NOTHING_ASKED, memory(2 * 32_768_000), plan).unwrap();
        assert_eq!(lengths, Lengths { max_model_len: 32768, cache_tokens: 32768, note: None });
    }

    #[test]
    fn else_the_longest_round_one_that_does_and_it_is_said() {
        let lengths = choose(NOTHING_ASKED, memory(2 * 32_767_999), plan).unwrap();
        assert_eq!(lengths.max_model_len, 31 * 1024);
        assert!(lengths.note.unwrap().contains("31744 tokens"));
    }

    #[test]
    fn never_less_than_512_where_that_fits_at_all() {
        let lengths = choose(NOTHING_ASKED, memory(600_000), plan).unwrap();
        assert_eq!(lengths.max_model_len, 512);
        let error = choose(NOTHING_ASKED, memory(400_000), plan).unwrap_err().to_string();
        assert!(error.contains("--max-model-len 256 fits"), "{error}");
    }

    #[test]
    fn a_short_model_keeps_its_own_context() {
        let wish = Wish { longest: 256, ..NOTHING_ASKED };
        assert_eq!(choose(wish, memory(500_000), plan).unwrap().max_model_len, 256);
    }

    #[test]
    fn what_does_not_fit_is_refused_with_what_would() {
        let wish = Wish { max_model_len: Some(16384), ..NOTHING_ASKED };
        let error = choose(wish, memory(10_000_000), plan).unwrap_err().to_string();
        assert!(error.contains("16384 tokens"), "{error}");
        assert!(error.contains("6.1 MiB more than the 9.5 MiB"), "{error}");
        assert!(error.contains("--max-model-len 9216 fits"), "{error}");
    }

    #[test]
    fn lengths_that_contradict_each_other_are_refused() {
        let wish = Wish { max_model_len: Some(32769), ..NOTHING_ASKED };
        assert!(choose(wish, None, plan).unwrap_err().to_string().contains("at most 32768"));
        let wish = Wish { max_model_len: Some(2048), cache_tokens: Some(1024), ..NOTHING_ASKED };
        assert!(choose(wish, None, plan).unwrap_err().to_string().contains("at least 2048"));
    }

    #[test]
    fn a_server_keeps_room_for_several_where_memory_allows() {
        let wish = Wish { max_model_len: Some(1024), sequences: 4, ..NOTHING_ASKED };
        assert_eq!(choose(wish, memory(5000 + 2 * 4_096_000), plan).unwrap().cache_tokens, 4096);
        assert_eq!(choose(wish, memory(5000 + 2 * 3_500_000), plan).unwrap().cache_tokens, 3072);
        assert_eq!(choose(wish, memory(1_500_000), plan).unwrap().cache_tokens, 1024);
    }

    #[test]
    fn weights_beyond_the_memory_are_no_error_but_said() {
        let lengths = choose(Wish { max_model_len: Some(1), ..NOTHING_ASKED }, memory(2000), plan).unwrap();
        let said = |weights| {
            let mut out = Vec::new();
            print(&mut out, plan(1), weights, &lengths, CacheType::Bf16, memory(2000)).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert!(said(WeightsPlace::Mapped).contains("read from disk"));
        let copied = said(WeightsPlace::Memory);
        assert!(copied.contains("in memory of their own") && !copied.contains("mapped"), "{copied}");
    }
}
