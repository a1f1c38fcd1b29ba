//! What can be typed after `dots batch`.

use std::path::PathBuf;

use clap::Args;

use crate::flags::engine::EngineArgs;

pub const EXAMPLES: &str = "\
Examples:
  dots batch in.jsonl -o out.jsonl ./dots.llm1-Q4_K_M.gguf
  dots batch in.jsonl -o out.jsonl ./dots.llm1.inst --served-model-name gpt-4o

Each line of the input is a request in OpenAI's batch format:
  {\"custom_id\": \"1\", \"method\": \"POST\", \"url\": \"/v1/chat/completions\",
   \"body\": {\"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}]}}
Answers are added to the output as they are complete, in the same format. A run
that was stopped goes on where it stopped when it is started again.";

#[derive(Debug, Args)]
pub struct BatchArgs {
    /// Requests, one JSON object a line
    #[arg(value_name = "IN.jsonl")]
    pub input: PathBuf,
    /// Answers; what is in it already is not asked again
    #[arg(short, long, value_name = "OUT.jsonl")]
    pub output: PathBuf,
    /// Folder, GGUF file or hub name
    pub model: Option<String>,
    /// Requests under way at once
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = concurrency)]
    pub concurrency: usize,
    /// Names that requests may call the model by [default: as it is typed here, and a path's last part]
    #[arg(long, value_name = "NAME", num_args = 1..)]
    pub served_model_name: Vec<String>,
    #[command(flatten)]
    pub engine: EngineArgs,
}

/// Each request under way keeps its body in memory.
fn concurrency(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if (1..=4096).contains(&number) => Ok(number),
        _ => Err("expected a whole number from 1 to 4096".to_owned()),
    }
}
