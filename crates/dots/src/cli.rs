//! What can be typed: the commands.

use std::{
    ffi::{OsStr, OsString},
    io::{self, Write},
    path::PathBuf,
};

use clap::{
    Args, CommandFactory, FromArgMatches, Parser, Subcommand,
    builder::{Styles, styling::AnsiColor},
    error::ErrorKind,
    parser::ValueSource,
};
use dots_kernels::WeightType;
use dots_model::checkpoint::Types;
use dots_pack::{Recipe, gguf::Held};

use crate::{
    batch,
    bench::{self, Shape},
    experts,
    flags::{
        count,
        engine::{ArithmeticArg, CacheTypeArg, EngineArgs},
        sampling::SamplingArgs,
        threads,
    },
    serve, tokenize, tokenizer, train, watch,
};

/// What `dots` says where it is given no model; `inside` is whether it brings one.
pub fn how_to_get_a_model(inside: bool) -> String {
    let beginning = if inside { WITH_A_MODEL_INSIDE } else { "It needs a checkpoint of it:\n" };
    format!("dots runs dots.llm1, an open mixture-of-experts language model. {beginning}{NAMES_OF_MODELS}")
}

const WITH_A_MODEL_INSIDE: &str = "A small one is inside:

  dots chat                                  it knows how to use dots, and little else

A real one is a checkpoint, named in one of these ways:
";

const NAMES_OF_MODELS: &str = "
  dots chat rednote-hilab/dots.llm1.inst     by its name on the Hugging Face hub, fetched once
  dots chat OWNER/NAME:FILE.gguf             one GGUF file of a hub repository
  dots chat ./dots.llm1-Q4_K_M.gguf          a GGUF file here (of a split one, the first part)
  dots chat ./dots.llm1.inst                 a Hugging Face folder here

`dots inspect MODEL` shows what a checkpoint is and the memory that it takes, without
loading it; `dots inspect --published` the memory that the published model takes in
every type. `dots --help` has the rest.
";

const EXAMPLES: &str = "\
Examples:
  dots chat
  dots chat rednote-hilab/dots.llm1.inst
  dots complete ./dots.llm1-Q4_K_M.gguf \"The early bird\" --max-tokens 32
  dots inspect ./dots.llm1-Q4_K_M.gguf --context 16384
  dots serve ./dots.llm1-Q4_K_M.gguf --port 8000

MODEL is a Hugging Face folder, a GGUF file, or a hub name: OWNER/NAME,
OWNER/NAME@REVISION or OWNER/NAME:FILE.gguf; `nano`, or nothing in most
commands, is the small model inside. DOTS_LOG=debug (or RUST_LOG)
shows more of what happens, on standard error.";

const CHAT_EXAMPLES: &str = "\
Examples:
  dots chat
  dots chat ./dots.llm1-Q4_K_M.gguf
  dots chat ./dots.llm1-Q4_K_M.gguf --system \"Be brief.\" --temperature 0
  printf 'Hello\\nAnd in French?\\n' | dots chat ./dots.llm1-Q4_K_M.gguf

Inside, /help lists the commands. Ctrl-C stops an answer; at the prompt it
clears the line, and twice leaves, as Ctrl-D does. Where standard input is no
terminal, each line is one message and only the answers are printed.";

const COMPLETE_EXAMPLES: &str = "\
Examples:
  dots complete ./dots.llm1-Q4_K_M.gguf \"The early bird\" --max-tokens 32
  dots complete ./dots.llm1-Q4_K_M.gguf --echo < story.txt > longer.txt

Special tokens in the text (<|userprompt|>) mean what they mean to the model.
Standard output holds the completion and nothing else.";

const INSPECT_EXAMPLES: &str = "\
Examples:
  dots inspect ./dots.llm1-Q4_K_M.gguf
  dots inspect rednote-hilab/dots.llm1.inst --context 16384 --json
  dots inspect --published";

const BENCH_EXAMPLES: &str = "\
Examples:
  dots bench ./dots.llm1-Q4_K_M.gguf
  dots bench ./dots.llm1-Q4_K_M.gguf --depth 0,4096 --batch 1,16 --prefill 0
  dots bench --random full-width:5 --extrapolate 62
  dots bench --random small:4 --type Q8_0 --json
  dots bench serve http://127.0.0.1:8000 --concurrency 16

Each line says how much of this machine's read bandwidth (decode) or of its peak
of dot products (prefill) was used; both are measured first. --random needs no
file: 5 layers of the published width in Q4_K_M take 6.3 GiB of memory.";

const PACK_EXAMPLES: &str = "\
Examples:
  dots pack rednote-hilab/dots.llm1.inst ./dots.llm1-q4
  dots pack ./dots.llm1-BF16.gguf ./dots.llm1-q6 --type q6
  dots pack ./dots.llm1.inst ./dots.llm1-q4s --type q4s --calibrate text.txt
  dots pack ./dots.llm1.inst ./mine --type q4 --tensor '*.down_proj.*=q5' --tensor lm_head.weight=q8

Types:
  q8    every matrix in 8 bits
  q6    6 bits, the head in 8
  q5    5 bits, some matrices in 6
  q4    4 bits, matrices that suffer most in 5 and 6: about 4.5 bits a weight
  q4s   4 bits, experts of the middle layers in 3: about 4 bits a weight
  q3    experts in 3 and 4 bits: about 3.6 bits a weight
  bf16  nothing rounded beyond bf16, readable by anyone

Routers, norms and biases stay in f32. A run that was stopped goes on where it
stopped when it is started again.";

const EXPORT_EXAMPLES: &str = "\
Examples:
  dots export ./dots.llm1.inst --gguf dots.llm1-BF16.gguf
  dots export ./dots.llm1-q6 --gguf dots.llm1-Q8_0.gguf --type Q8_0

With `source`, the default, matrices keep their type: FP8 becomes BF16 and dots'
own types Q8_0, as GGUF has neither.";

const COMPARE_EXAMPLES: &str = "\
Examples:
  dots compare ./dots.llm1-BF16.gguf ./dots.llm1-Q4_K_M.gguf --text test.txt
  dots compare ./dots.llm1.inst ./dots.llm1-Q4_K_M.gguf --text test.txt --arithmetic fast

The text is read in windows, and each token that another follows is a position.
The reference runs in exact arithmetic, so with --arithmetic exact what is found
is the rounding of the model's weights; fast adds that of its activations.";

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default());

/// Run dots.llm1: chat with it, complete text, look into its checkpoints, serve it.
#[derive(Debug, Parser)]
#[command(name = "dots", version, styles = STYLES, max_term_width = 110, after_help = EXAMPLES)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Talk with a model in the terminal
    #[command(after_help = CHAT_EXAMPLES)]
    Chat(ChatArgs),
    /// Continue a text
    #[command(after_help = COMPLETE_EXAMPLES)]
    Complete(CompleteArgs),
    /// Show what a checkpoint is and the memory it takes, without loading it
    #[command(after_help = INSPECT_EXAMPLES)]
    Inspect(InspectArgs),
    /// Measure how fast a model runs here, beside what this machine can do at most
    #[command(after_help = BENCH_EXAMPLES)]
    Bench(BenchArgs),
    /// Round a model to dots' own types, which run fastest here
    #[command(after_help = PACK_EXAMPLES)]
    Pack(PackArgs),
    /// Write a model as a GGUF file, for llama.cpp and others
    #[command(after_help = EXPORT_EXAMPLES)]
    Export(ExportArgs),
    /// Measure how far a model lies from a reference, such as a quantised one from its original, over a text
    #[command(after_help = COMPARE_EXAMPLES)]
    Compare(CompareArgs),
    /// Serve a model to clients of OpenAI and Anthropic, and to browsers
    #[command(after_help = serve::EXAMPLES)]
    Serve(serve::ServeArgs),
    /// Answer a file of requests in OpenAI's batch format
    #[command(after_help = batch::EXAMPLES)]
    Batch(batch::BatchArgs),
    /// Turn text into token shards for training
    #[command(after_help = tokenize::EXAMPLES)]
    Tokenize(tokenize::TokenizeArgs),
    /// Make a tokenizer of one's own
    Tokenizer(tokenizer::TokenizerArgs),
    /// Train a model by a recipe, or go on with a run
    #[command(after_help = train::EXAMPLES)]
    Train(train::TrainArgs),
    /// Add experts to a model, or make a dense one into a mixture of experts
    Experts(experts::ExpertsArgs),
    /// Show training runs in the browser while they run, or write a report of them
    #[command(after_help = watch::EXAMPLES)]
    Watch(watch::WatchArgs),
}

#[derive(Debug, Args)]
pub struct ChatArgs {
    /// Folder, GGUF file or hub name [default: the small model inside]
    pub model: Option<String>,
    /// Instructions that the conversation begins with
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub system: Option<String>,
    #[command(flatten)]
    pub sampling: SamplingArgs,
    #[command(flatten)]
    pub engine: EngineArgs,
}

#[derive(Debug, Args)]
pub struct CompleteArgs {
    /// Folder, GGUF file or hub name [default: the small model inside]
    pub model: Option<String>,
    /// The text to continue; standard input where it is missing or `-` (one newline at its end is left out)
    #[arg(allow_hyphen_values = true)]
    pub text: Option<String>,
    /// Print the text before its completion
    #[arg(long)]
    pub echo: bool,
    /// Print tokens and speed to standard error at the end, as is done on a terminal
    #[arg(long)]
    pub stats: bool,
    /// Go on past the tokens that end a turn
    #[arg(long)]
    pub ignore_eos: bool,
    #[command(flatten)]
    pub sampling: SamplingArgs,
    #[command(flatten)]
    pub engine: EngineArgs,
}

#[derive(Debug, Args)]
pub struct InspectArgs {
    /// Folder, GGUF file or hub name [default: the small model inside]
    #[arg(conflicts_with = "published")]
    pub model: Option<String>,
    /// Context length of the memory plan, in tokens; may be given several times [default: 4096, 8192 and the longest]
    #[arg(long, visible_alias = "max-model-len", alias = "context-length", value_name = "TOKENS", value_parser = count)]
    pub context: Vec<usize>,
    /// The memory that the published dots.llm1 takes, by weight type and context length
    #[arg(long)]
    pub published: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct BenchArgs {
    #[command(subcommand)]
    pub command: Option<BenchCommand>,
    /// Folder, GGUF file or hub name [default: the small model inside]
    #[arg(conflicts_with = "random")]
    pub model: Option<String>,
    /// Random weights of this shape instead of a model's: full-width:LAYERS as published, small:LAYERS for a quick look
    #[arg(long, value_name = "SHAPE:LAYERS")]
    pub random: Option<Shape>,
    /// How random weights are held: Q4_K_M as llama.cpp mixes it, or any one weight type
    #[arg(long = "type", value_name = "TYPE", default_value = "Q4_K_M", requires = "random", value_parser = types)]
    pub types: Types,
    /// Say what this many layers would take, by a line through the layers of --random and 2 of them
    #[arg(long, value_name = "LAYERS", requires = "random", value_parser = count)]
    pub extrapolate: Option<usize>,
    /// Lengths of prompts to read; 0 for none
    #[arg(long, value_name = "TOKENS", default_value = "512", value_delimiter = ',', value_parser = count_or_none)]
    pub prefill: Vec<usize>,
    /// Tokens to generate one by one; 0 for none
    #[arg(long, value_name = "TOKENS", default_value = "64", value_delimiter = ',', value_parser = count_or_none)]
    pub decode: Vec<usize>,
    /// Tokens that each sequence has already
    #[arg(long, value_name = "TOKENS", default_value = "0", value_delimiter = ',', value_parser = count_or_none)]
    pub depth: Vec<usize>,
    /// Sequences together
    #[arg(long, value_name = "N", default_value = "1", value_delimiter = ',', value_parser = count)]
    pub batch: Vec<usize>,
    /// Runs of each, of which the median counts, after one that does not
    #[arg(long, value_name = "N", default_value = "5", value_parser = count)]
    pub repeat: usize,
    /// exact: activations in f32; fast: activations rounded to 8 bits, beside bf16 weights to bf16 where the processor multiplies such numbers
    #[arg(long, value_enum, default_value_t = ArithmeticArg::Fast)]
    pub arithmetic: ArithmeticArg,
    /// What keys and values are rounded to: q8 takes half of bf16's memory, q4 a third [default: bf16; with exact f32]
    #[arg(long, value_enum, value_name = "TYPE")]
    pub kv_cache_type: Option<CacheTypeArg>,
    /// Read the weights into memory of their own instead of mapping their files
    #[arg(long, conflicts_with = "random")]
    pub no_mmap: bool,
    /// Keep the system from taking the weights' memory back
    #[arg(long, conflicts_with = "random")]
    pub mlock: bool,
    /// Threads [default: every core]
    #[arg(long, value_name = "N", value_parser = threads)]
    pub threads: Option<usize>,
    /// Most tokens in one step; a longer prompt is read in pieces of this size
    #[arg(long, value_name = "TOKENS", default_value = "512", value_parser = count)]
    pub max_batch_tokens: usize,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// Put load on a server with OpenAI's API, of any make, and measure how it answers
    #[command(after_help = bench::serve::EXAMPLES)]
    Serve(Box<bench::serve::BenchServeArgs>),
}

#[derive(Debug, Args)]
pub struct PackArgs {
    /// Folder, GGUF file or hub name
    pub model: String,
    /// Folder to write, new or begun by the same command
    pub out: PathBuf,
    /// What to round to: q8, q6, q5, q4, q4s, q3 or bf16
    #[arg(long = "type", value_name = "TYPE", default_value = "q4", value_parser = recipe)]
    pub recipe: Recipe,
    /// A type for the matrices whose published names fit: * is any text, ? any character; may be given several times, and the
    /// last that fits counts
    #[arg(long, value_name = "PATTERN=TYPE")]
    pub tensor: Vec<String>,
    /// Run the model over this text first, and round best what its activations use most
    #[arg(long, value_name = "TEXT")]
    pub calibrate: Option<PathBuf>,
    /// Most tokens of that text
    #[arg(long, value_name = "TOKENS", default_value = "16384", requires = "calibrate", value_parser = count)]
    pub calibrate_tokens: usize,
    /// Threads [default: every core]
    #[arg(long, value_name = "N", value_parser = threads)]
    pub threads: Option<usize>,
}

#[derive(Debug, Args)]
pub struct ExportArgs {
    /// Folder, GGUF file or hub name
    pub model: String,
    /// The GGUF file to write
    #[arg(long, value_name = "OUT.gguf", required = true)]
    pub gguf: PathBuf,
    /// How matrices are written: source, F32, F16, BF16 or Q8_0
    #[arg(long = "type", value_name = "TYPE", default_value = "source", value_parser = held)]
    pub held: Held,
    /// Threads [default: every core]
    #[arg(long, value_name = "N", value_parser = threads)]
    pub threads: Option<usize>,
}

#[derive(Debug, Args)]
pub struct CompareArgs {
    /// Folder, GGUF file or hub name of what is held to be right
    pub reference: Option<String>,
    /// Folder, GGUF file or hub name of what is measured
    pub model: Option<String>,
    /// The text, a file in UTF-8
    #[arg(long, value_name = "FILE")]
    pub text: PathBuf,
    /// Tokens of a window; nothing before it is seen
    #[arg(long, value_name = "TOKENS", default_value = "512", value_parser = count)]
    pub context: usize,
    /// Stop after this many tokens of the text
    #[arg(long, value_name = "TOKENS", value_parser = count)]
    pub tokens: Option<usize>,
    /// The model's: exact: activations in f32; fast: activations rounded to 8 bits, beside bf16 weights to bf16 where the processor multiplies such numbers
    #[arg(long, value_enum, default_value_t = ArithmeticArg::Exact)]
    pub arithmetic: ArithmeticArg,
    /// What the model's keys and values are rounded to [default: bf16; exact: f32]
    #[arg(long, value_enum, value_name = "TYPE")]
    pub kv_cache_type: Option<CacheTypeArg>,
    /// Threads [default: every core]
    #[arg(long, value_name = "N", value_parser = threads)]
    pub threads: Option<usize>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What was typed, with what `dots serve` finds in variables and in its file; none where only the settings were asked for, and
/// printed. What is wrong with the call itself ends the program with clap's message.
pub fn parse(args: impl Iterator<Item = OsString>) -> anyhow::Result<Option<Cli>> {
    let command = serve::config::with_variables(Cli::command());
    let layered = serve::config::with_file(command.clone(), &Cli::command(), expand_tp(args))?;
    let matches = command.clone().get_matches_from(&layered.args);
    if let (Some(matches), Some(serve)) = (matches.subcommand_matches("serve"), command.find_subcommand("serve")) {
        // Only where both were typed: a variable or a file gives way.
        if ["model", "model_flag"].iter().all(|id| matches.value_source(id) == Some(ValueSource::CommandLine)) {
            let message = "MODEL: expected once, found as a flag too";
            Cli::command().error(ErrorKind::ArgumentConflict, message).exit();
        }
        if matches.get_flag("print_config") {
            write!(io::stdout(), "{}", layered.print(serve, matches))?;
            return Ok(None);
        }
    }
    Ok(Some(Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())))
}

/// Users of vLLM and SGLang type `-tp 8`, which clap would read as `-t p`. Only `serve` knows it.
fn expand_tp(args: impl Iterator<Item = OsString>) -> Vec<OsString> {
    const LONG: &str = "--tensor-parallel-size";
    let mut args: Vec<OsString> = args.collect();
    if args.get(1).is_none_or(|command| command != "serve") {
        return args;
    }
    for arg in args.iter_mut().skip(2).take_while(|arg| arg.as_os_str() != OsStr::new("--")) {
        let Some(value) = arg.to_str().and_then(|arg| arg.strip_prefix("-tp")) else { continue };
        if value.is_empty() {
            *arg = LONG.into();
        } else if let Some(value) = value.strip_prefix('=') {
            *arg = format!("{LONG}={value}").into();
        } else if value.bytes().all(|byte| byte.is_ascii_digit()) {
            *arg = format!("{LONG}={value}").into();
        }
    }
    args
}

/// As [`count`], or 0.
fn count_or_none(text: &str) -> Result<usize, String> {
    if text == "0" { Ok(0) } else { count(text).map_err(|wrong| format!("{wrong}, or 0")) }
}

/// A choice of weight types by its name.
fn types(text: &str) -> Result<Types, String> {
    Types::named(text).ok_or_else(|| {
        let names: Vec<&str> = WeightType::ALL.into_iter().map(WeightType::name).collect();
        format!("expected Q4_K_M, {}", names.join(", "))
    })
}

/// A recipe of `dots pack` by its name.
fn recipe(text: &str) -> Result<Recipe, String> {
    Recipe::named(text).ok_or_else(|| {
        let names: Vec<&str> = dots_pack::recipe::NAMES.into_iter().map(|(name, _)| name).collect();
        format!("expected one of {}", names.join(", "))
    })
}

/// A type of `dots export` by its name.
fn held(text: &str) -> Result<Held, String> {
    Held::named(text).ok_or_else(|| "expected source, F32, F16, BF16 or Q8_0".to_owned())
}

#[cfg(test)]
mod tests {
    use dots_engine::SamplingParams;
    use dots_model::checkpoint::GenerationDefaults;

    use super::*;

    fn expanded(args: &[&str]) -> Vec<String> {
        expand_tp(args.iter().map(OsString::from)).into_iter().map(|arg| arg.into_string().unwrap()).collect()
    }

    #[test]
    fn the_commands_and_their_flags_fit_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn tp_is_understood_as_users_of_other_servers_type_it() {
        for form in [vec!["-tp", "8"], vec!["-tp=8"], vec!["-tp8"], vec!["--tp", "8"], vec!["--tensor-parallel-size=8"]]
        {
            let args = [vec!["dots", "serve", "m"], form.clone()].concat();
            let cli = Cli::parse_from(expanded(&args));
            let Some(Command::Serve(serve)) = cli.command else { panic!("{form:?} is no serve command") };
            assert_eq!(serve.tensor_parallel_size, 8, "{form:?}");
        }
        assert_eq!(expanded(&["dots", "complete", "m", "-tp"])[3], "-tp", "other commands keep what was typed");
        assert_eq!(expanded(&["dots", "serve", "--", "-tp"])[3], "-tp", "so does what follows --");
    }

    #[test]
    fn what_is_typed_reaches_the_sampler() {
        let typed = "dots complete m text --typical-p 0.9 --xtc-probability 0.5 --xtc-threshold 0.2 --dry-multiplier 0.8 \
                     --dry-base 2 --dry-allowed-length 3 --dry-penalty-last-n 512";
        let Some(Command::Complete(args)) = Cli::parse_from(typed.split_whitespace()).command else { panic!() };
        let SamplingParams { typical_p, xtc_probability, xtc_threshold, dry, .. } =
            args.sampling.over(&GenerationDefaults::default());
        assert_eq!((typical_p, xtc_probability, xtc_threshold), (0.9, 0.5, 0.2));
        assert_eq!((dry.multiplier, dry.base, dry.allowed_length, dry.penalty_last_n), (0.8, 2.0, 3, 512));
    }

    #[test]
    fn numbers_out_of_range_are_refused_before_anything_is_loaded() {
        for flags in [
            ["--temperature", "NaN"],
            ["--temperature", "-1"],
            ["--top-p", "0"],
            ["--min-p", "1.5"],
            ["--typical-p", "0"],
            ["--xtc-probability", "-0.1"],
            ["--xtc-threshold", "1.1"],
            ["--dry-multiplier", "NaN"],
            ["--dry-base", "0.5"],
            ["--dry-allowed-length", "-1"],
            ["--dry-sequence-breaker", ""],
            ["--repetition-penalty", "0"],
            ["--presence-penalty", "3"],
            ["--max-tokens", "0"],
            ["--threads", "1000000"],
            ["--max-model-len", "99999999999999999999"],
        ] {
            let args = ["dots", "complete", "m", "text", flags[0], flags[1]];
            assert!(Cli::try_parse_from(args).is_err(), "{flags:?}");
        }
    }
}
