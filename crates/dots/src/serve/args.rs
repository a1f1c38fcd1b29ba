//! What `dots serve` takes. Each flag has a variable, `DOTS_` and its name, and a key of its name in the file that
//! `--config` names; `config` sees to both.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum, builder::NonEmptyStringValueParser};
use dots_server::Limits;

use crate::flags::{
    count,
    engine::{EngineArgs, headings},
};

pub const EXAMPLES: &str = "\
Examples:
  dots serve ./dots.llm1-Q4_K_M.gguf
  dots serve --model rednote-hilab/dots.llm1.inst --host 0.0.0.0 --api-key-file keys.txt
  dots serve ./dots.llm1-Q4_K_M.gguf --served-model-name dots --max-model-len 8192
  dots serve --config dots.toml --print-config

Every flag has a variable (--max-model-len: DOTS_MAX_MODEL_LEN) and a key in the
file of --config (max-model-len = 8192). A flag goes over a variable, a variable
over the file, the file over the default.

/docs of the running server lists what it answers to, and / is a chat. Ctrl-C lets
running answers end, for --drain-seconds, and stops; twice stops at once.";

#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Folder, GGUF file or hub name [default: the small model inside]
    pub model: Option<String>,
    /// MODEL, given as a flag
    #[arg(long = "model", visible_alias = "model-path", value_name = "MODEL")]
    pub model_flag: Option<String>,
    /// Address; 0.0.0.0 lets other machines in
    #[arg(long, default_value = "127.0.0.1")]
    pub host: String,
    /// Port; 0 takes a free one and says which
    #[arg(long, default_value_t = 8000)]
    pub port: u16,
    /// Names of the model, the first is shown [default: MODEL]
    #[arg(long, value_name = "NAME", num_args = 1.., value_delimiter = ',', value_parser = NonEmptyStringValueParser::new())]
    pub served_model_name: Vec<String>,
    /// Read settings from this TOML file: keys are the names of flags
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print the settings and where each comes from, and stop
    #[arg(long)]
    pub print_config: bool,
    #[command(flatten)]
    pub engine: EngineArgs,
    /// Devices to split it over; this build: 1
    #[arg(long, visible_alias = "tp", value_name = "N", default_value = "1", value_parser = count)]
    #[arg(help_heading = headings::MODEL)]
    pub tensor_parallel_size: usize,
    /// Accepted for scripts; no code of a model is ever run
    #[arg(long, help_heading = headings::MODEL)]
    pub trust_remote_code: bool,
    #[command(flatten)]
    pub scheduling: SchedulingArgs,
    #[command(flatten)]
    pub access: AccessArgs,
    #[command(flatten)]
    pub limits: LimitArgs,
    #[command(flatten)]
    pub watch: WatchArgs,
}

/// Who is served, and when.
#[derive(Debug, Args)]
#[command(next_help_heading = headings::SCHEDULING)]
pub struct SchedulingArgs {
    /// Most answers under way at once; others wait
    #[arg(long, visible_alias = "max-sequences", value_name = "N", default_value = "64", value_parser = count)]
    pub max_num_seqs: usize,
    /// Most requests that wait; more get status 429
    #[arg(long, value_name = "N", default_value = "1024")]
    pub max_queue: usize,
    /// Who goes first
    ///
    /// fcfs: whoever came first; priority: whoever asks with the lower `priority`. Callers with keys share fairly in both.
    #[arg(long, value_enum, value_name = "POLICY", default_value_t = SchedulingPolicy::Fcfs)]
    pub scheduling_policy: SchedulingPolicy,
}

/// Who goes first, under vLLM's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SchedulingPolicy {
    Fcfs,
    Priority,
}

impl ServeArgs {
    /// The model, however it was given; what was typed last on the line goes over a variable and over the file.
    pub fn model(&self) -> Option<&str> {
        self.model.as_deref().or(self.model_flag.as_deref())
    }
}

/// Who may ask.
#[derive(Debug, Args)]
#[command(next_help_heading = "Access")]
pub struct AccessArgs {
    /// Ask for `Authorization: Bearer KEY`; may be repeated
    ///
    /// Whoever lists this machine's processes sees it: a variable or a file hides it.
    #[arg(long, value_name = "KEY", value_parser = NonEmptyStringValueParser::new())]
    pub api_key: Vec<String>,
    /// Keys, one a line, # for comments; read again on SIGHUP
    #[arg(long, value_name = "FILE")]
    pub api_key_file: Option<PathBuf>,
    /// Share cached prompts among keys
    ///
    /// A system prompt that all send is then computed once and not once for each key, and whoever has a key can find out, by
    /// cached_tokens and by time, whether another has sent a prompt. A request's own cache_salt counts either way.
    #[arg(long)]
    pub share_cache_across_keys: bool,
    /// Serve HTTPS with this PEM chain; read again on SIGHUP
    #[arg(long, value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// The certificate's private key, in PEM
    #[arg(long, value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// Let pages of this origin call from browsers; may be repeated
    ///
    /// As in https://app.example; * stands for all.
    #[arg(long, value_name = "ORIGIN", value_delimiter = ',')]
    pub cors_origin: Vec<String>,
    /// Answer to this name on a local address without a key; may be repeated
    ///
    /// For a proxy that passes its own Host on. localhost, addresses and HOST are answered anyway; * stands for all.
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = host_name)]
    pub allowed_host: Vec<String>,
}

/// What a client may take.
#[derive(Debug, Args)]
#[command(next_help_heading = "Limits")]
pub struct LimitArgs {
    /// Largest request body
    #[arg(long, value_name = "BYTES", default_value_t = Limits::default().body_bytes, value_parser = count)]
    pub max_body_bytes: usize,
    /// Largest request line and headers together
    #[arg(long, value_name = "BYTES", default_value_t = Limits::default().header_bytes, value_parser = header_bytes)]
    pub max_header_bytes: usize,
    /// Most headers of a request
    #[arg(long, value_name = "N", default_value_t = Limits::default().headers, value_parser = headers)]
    pub max_headers: usize,
    /// Most connections; more wait
    #[arg(long, value_name = "N", default_value_t = Limits::default().connections, value_parser = count)]
    pub max_connections: usize,
    /// Close what sends no request
    ///
    /// A connection that sends no whole head, or of a body less than 64 KiB, in this time.
    #[arg(long, value_name = "SECONDS", default_value_t = Limits::default().read.as_secs(), value_parser = seconds)]
    pub read_timeout_seconds: u64,
    /// Close what does not read its answer
    ///
    /// A connection that takes less than 64 KiB of what is ready in this time; its request is cancelled.
    #[arg(long, value_name = "SECONDS", default_value_t = Limits::default().stall.as_secs(), value_parser = seconds)]
    pub stream_stall_seconds: u64,
    /// What running answers have after SIGTERM
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = seconds_or_none)]
    pub drain_seconds: u64,
}

impl LimitArgs {
    /// As the server takes them.
    pub fn limits(&self) -> Limits {
        Limits {
            body_bytes: self.max_body_bytes,
            header_bytes: self.max_header_bytes,
            headers: self.max_headers,
            read: Duration::from_secs(self.read_timeout_seconds),
            stall: Duration::from_secs(self.stream_stall_seconds),
            connections: self.max_connections,
        }
    }
}

/// What whoever watches the server sees.
#[derive(Debug, Args)]
#[command(next_help_heading = "Watching")]
pub struct WatchArgs {
    /// Log lines' form; DOTS_LOG says which
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// Send a span of each request to this OpenTelemetry collector
    ///
    /// By OTLP over HTTP, as in http://127.0.0.1:4318.
    #[arg(long, value_name = "URL")]
    pub otlp_endpoint: Option<String>,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One object a line.
    Json,
}

fn host_name(text: &str) -> Result<String, String> {
    match text.is_empty() || text.contains([':', '/', ' ']) {
        true => Err("expected a name without scheme or port, as in dots.example, or *".to_owned()),
        false => Ok(text.to_owned()),
    }
}

/// As the HTTP parser has a smallest buffer.
fn header_bytes(text: &str) -> Result<usize, String> {
    in_range(text, 8 << 10, 1 << 20)
}

fn headers(text: &str) -> Result<usize, String> {
    in_range(text, 10, 10_000)
}

/// Up to a day.
fn seconds(text: &str) -> Result<u64, String> {
    in_range(text, 1, 86_400).map(|seconds| seconds as u64)
}

fn seconds_or_none(text: &str) -> Result<u64, String> {
    in_range(text, 0, 86_400).map(|seconds| seconds as u64)
}

fn in_range(text: &str, least: usize, most: usize) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if (least..=most).contains(&number) => Ok(number),
        _ => Err(format!("expected a whole number from {least} to {most}")),
    }
}
