//! What is asked: the body of each request.

use anyhow::bail;
use clap::ValueEnum;
use hyper::body::Bytes;
use serde_json::{Value, json};

use super::{
    lengths::{Length, Lengths},
    words::Prompts,
};
use crate::units;

/// Which of OpenAI's endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Endpoint {
    /// /v1/completions: the prompt is continued
    Completions,
    /// /v1/chat/completions: the prompt is a user's message
    Chat,
}

impl Endpoint {
    pub fn path(self) -> &'static str {
        match self {
            Self::Completions => "/v1/completions",
            Self::Chat => "/v1/chat/completions",
        }
    }

    /// The least that a request says.
    pub fn body(self, model: &str, shared_prefix: &str, prompt: String, max_tokens: usize) -> Value {
        let mut body = json!({ "model": model, "max_tokens": max_tokens });
        match self {
            Self::Completions if shared_prefix.is_empty() => body["prompt"] = prompt.into(),
            Self::Completions => body["prompt"] = format!("{shared_prefix} {prompt}").into(),
            Self::Chat => {
                let user = json!({ "role": "user", "content": prompt });
                let system = json!({ "role": "system", "content": shared_prefix });
                let messages = if shared_prefix.is_empty() { vec![user] } else { vec![system, user] };
                body["messages"] = messages.into();
            }
        }
        body
    }
}

/// Most bytes of all requests of a run together: half a million of ShareGPT's lengths.
const MOST_BYTES: usize = 512 << 20;

/// One request.
#[derive(Debug, Clone)]
pub struct Asked {
    /// What it asks for, the shared prefix counted with its prompt.
    pub length: Length,
    pub body: Bytes,
}

/// Makes the requests of a run, each from the seed and its number alone.
#[derive(Debug, Clone)]
pub struct Work {
    pub model: String,
    pub endpoint: Endpoint,
    pub lengths: Lengths,
    pub prompts: Prompts,
    /// What every prompt begins with; the system's message of a chat.
    pub shared_prefix: String,
    /// Its tokens, as asked for.
    pub shared_prefix_tokens: usize,
    pub seed: u64,
    /// The server's own where missing.
    pub temperature: Option<f64>,
    pub ignore_eos: bool,
}

impl Work {
    pub fn path(&self) -> &'static str {
        self.endpoint.path()
    }

    /// The first `count` requests. They are made before the run, which would be late for one while it makes another.
    pub fn requests(&self, count: usize) -> anyhow::Result<Vec<Asked>> {
        self.requests_within(MOST_BYTES, count)
    }

    fn requests_within(&self, most_bytes: usize, count: usize) -> anyhow::Result<Vec<Asked>> {
        let mut requests = Vec::new();
        let mut bytes = 0usize;
        for index in 0..count {
            let request = self.request(index);
            bytes += request.body.len();
            if bytes > most_bytes {
                bail!(
                    "--requests {count}, --lengths {}: expected requests of at most {} together, found that {} take more",
                    self.lengths,
                    units::bytes(most_bytes as u64),
                    index + 1
                );
            }
            requests.push(request);
        }
        Ok(requests)
    }

    /// Request `index`.
    pub fn request(&self, index: usize) -> Asked {
        let length = self.lengths.draw(self.seed, index);
        let prompt = self.prompts.prompt(self.seed, index, length.prompt_tokens);
        let mut body = self.endpoint.body(&self.model, &self.shared_prefix, prompt, length.output_tokens);
        body["stream"] = Value::Bool(true);
        body["stream_options"] = json!({ "include_usage": true });
        // Servers that do not know a field may refuse it, so what nobody asked for is left out.
        if let Some(temperature) = self.temperature {
            body["temperature"] = temperature.into();
        }
        if self.ignore_eos {
            body["ignore_eos"] = Value::Bool(true);
        }
        let prompt_tokens = length.prompt_tokens + self.shared_prefix_tokens;
        Asked { length: Length { prompt_tokens, ..length }, body: Bytes::from(body.to_string()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work(endpoint: Endpoint, shared_prefix: &str) -> Work {
        Work {
            model: "dots".to_owned(),
            endpoint,
            lengths: "fixed:3,5".parse().unwrap(),
            prompts: Prompts::guessed(),
            shared_prefix: shared_prefix.to_owned(),
            shared_prefix_tokens: shared_prefix.split_whitespace().count(),
            seed: 1,
            temperature: None,
            ignore_eos: false,
        }
    }

    fn body(work: &Work, index: usize) -> Value {
        serde_json::from_slice(&work.request(index).body).unwrap()
    }

    #[test]
    fn a_completion_asks_for_a_counted_stream_and_nothing_that_nobody_asked_for() {
        let work = work(Endpoint::Completions, "");
        let body = body(&work, 0);
        assert_eq!(body["prompt"], work.prompts.prompt(1, 0, 3));
        assert_eq!((&body["max_tokens"], &body["stream"]), (&json!(5), &json!(true)));
        assert_eq!(body["stream_options"]["include_usage"], true);
        assert_eq!(body.as_object().unwrap().len(), 5, "{body}");
    }

    #[test]
    fn prompts_share_their_beginning_and_a_chat_its_system_message() {
        let completions = work(Endpoint::Completions, "be brief");
        for index in 0..3 {
            assert!(body(&completions, index)["prompt"].as_str().unwrap().starts_with("be brief "));
        }
        assert_eq!(completions.request(0).length, Length { prompt_tokens: 5, output_tokens: 5 });
        let body = body(&work(Endpoint::Chat, "be brief"), 0);
        assert_eq!(body["messages"][0], json!({ "role": "system", "content": "be brief" }));
        assert_eq!(body["messages"][1]["role"], "user");
    }

    #[test]
    fn more_requests_than_memory_should_hold_are_refused() {
        let work = work(Endpoint::Completions, "");
        assert_eq!(work.requests_within(1 << 10, 5).unwrap().len(), 5);
        let error = work.requests_within(1 << 10, 1_000_000).unwrap_err().to_string();
        assert!(error.contains("--requests 1000000") && error.contains("1.0 KiB"), "{error}");
    }

    #[test]
    fn what_was_asked_for_is_sent() {
        let body = body(&Work { temperature: Some(0.5), ignore_eos: true, ..work(Endpoint::Chat, "") }, 0);
        assert_eq!((&body["temperature"], &body["ignore_eos"]), (&json!(0.5), &json!(true)));
        assert_eq!(body["messages"].as_array().unwrap().len(), 1);
    }
}
