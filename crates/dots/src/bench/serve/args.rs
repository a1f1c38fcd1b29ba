//! What can be typed after `dots bench serve`.

use std::path::PathBuf;

use clap::{Args, builder::NonEmptyStringValueParser};

use super::{
    lengths::Lengths,
    schedule::{Load, Rate},
    slo::Slo,
    target::Address,
    work::Endpoint,
};
use crate::flags::count;

pub const EXAMPLES: &str = "\
Examples:
  dots bench serve http://127.0.0.1:8000
  dots bench serve localhost:8000 --requests 500 --rate 4 --slo ttft=1000,itl=200
  dots bench serve localhost:8000 --concurrency 16 --lengths fixed:512,64 --ignore-eos
  dots bench serve localhost:8000 --endpoint chat --shared-prefix 1024 --html run.html

Any server with OpenAI's API will do. Ctrl-C ends the run early and shows what there
is. Without --ignore-eos an answer may be shorter than what --lengths asks for.";

/// Running requests where nobody says.
const CONCURRENCY: usize = 8;
/// So many streams at once are far beyond what a process may hold open.
const MOST_CONCURRENCY: usize = 1 << 16;
/// So many requests are far beyond what anyone waits for.
const MOST_REQUESTS: usize = 1 << 22;

#[derive(Debug, Args)]
pub struct BenchServeArgs {
    /// The server's address, with or without /v1
    pub url: Address,
    /// Name of the model [default: the first that the server lists]
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub model: Option<String>,
    /// Sent as `Authorization: Bearer KEY`
    #[arg(long, env = "DOTS_API_KEY", hide_env_values = true, value_name = "KEY",
          value_parser = NonEmptyStringValueParser::new())]
    pub api_key: Option<String>,
    /// Certificates in PEM to trust beside the usual ones, for https
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// Which endpoint is asked
    #[arg(long, value_enum, default_value_t = Endpoint::Completions)]
    pub endpoint: Endpoint,
    /// Requests to send
    #[arg(long, value_name = "N", default_value = "100", visible_alias = "num-prompts", value_parser = requests)]
    pub requests: usize,
    /// Requests a second, as a Poisson process; inf sends all at once
    #[arg(long, value_name = "R", visible_alias = "request-rate", conflicts_with = "concurrency")]
    pub rate: Option<Rate>,
    /// Requests that run at any time, the next when one ends [default: 8, where there is no --rate]
    #[arg(long, value_name = "N", visible_alias = "max-concurrency", value_parser = concurrency)]
    pub concurrency: Option<usize>,
    /// Tokens of prompts and answers: sharegpt, sharegpt:TOTAL, fixed:IN,OUT or uniform:LEAST-MOST,LEAST-MOST
    #[arg(long, value_name = "LENGTHS", default_value = "sharegpt")]
    pub lengths: Lengths,
    /// Begin every prompt with the same text of this many tokens more; in a chat it is the system's message
    #[arg(long, value_name = "TOKENS", value_parser = count)]
    pub shared_prefix: Option<usize>,
    /// The same seed gives the same requests at the same times
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Go on past the tokens that end an answer, where the server can
    #[arg(long)]
    pub ignore_eos: bool,
    /// Sampling temperature [default: the server's]
    #[arg(long, value_name = "T", value_parser = temperature)]
    pub temperature: Option<f64>,
    /// Milliseconds that a request must keep to count as good: ttft, itl (every pause), tpot (their mean), e2e
    #[arg(long, value_name = "ttft=MS,itl=MS,...", visible_alias = "goodput")]
    pub slo: Option<Slo>,
    /// Requests to send before, which do not count
    #[arg(long, value_name = "N", default_value = "0", value_parser = warmup)]
    pub warmup: usize,
    /// Give a request up after this long
    #[arg(long, value_name = "SECONDS", default_value = "600", value_parser = seconds)]
    pub timeout: f64,
    /// Write everything measured as JSON; - prints it instead of the table
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write a page with plots
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

impl BenchServeArgs {
    pub fn load(&self) -> Load {
        match self.rate {
            Some(requests_per_second) => Load::Open { requests_per_second },
            None => Load::Closed { concurrency: self.concurrency.unwrap_or(CONCURRENCY) },
        }
    }
}

fn whole(text: &str, least: usize, most: usize) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if (least..=most).contains(&number) => Ok(number),
        _ => Err(format!("expected a whole number from {least} to {most}")),
    }
}

fn requests(text: &str) -> Result<usize, String> {
    whole(text, 1, MOST_REQUESTS)
}

fn warmup(text: &str) -> Result<usize, String> {
    whole(text, 0, MOST_REQUESTS)
}

fn concurrency(text: &str) -> Result<usize, String> {
    whole(text, 1, MOST_CONCURRENCY)
}

fn number(text: &str, least: f64, most: f64) -> Result<f64, String> {
    match text.parse() {
        Ok(number) if (least..=most).contains(&number) => Ok(number),
        _ => Err(format!("expected a number from {least} to {most}")),
    }
}

fn temperature(text: &str) -> Result<f64, String> {
    number(text, 0.0, 100.0)
}

fn seconds(text: &str) -> Result<f64, String> {
    number(text, 0.001, 1e6)
}
