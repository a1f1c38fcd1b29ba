//! The object that `POST /v1/responses` answers with.

use dots_engine::{Finish, FinishReason};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{
    output::OutputItem,
    repeated::Repeated,
    request::{ResponseRequest, Truncation},
};
use crate::openai::unique_id;

/// A response, finished or not.
#[derive(Debug, Clone, Serialize)]
pub struct Response {
    /// Its name, by which it can be read again and continued.
    pub id: String,
    object: &'static str,
    created_at: u64,
    status: &'static str,
    background: bool,
    error: Option<Value>,
    incomplete_details: Option<Value>,
    instructions: Option<String>,
    max_output_tokens: Option<usize>,
    model: String,
    output: Vec<OutputItem>,
    parallel_tool_calls: bool,
    previous_response_id: Option<String>,
    reasoning: Value,
    service_tier: &'static str,
    store: bool,
    temperature: f32,
    text: TextShape,
    tool_choice: Repeated,
    tools: Repeated,
    top_logprobs: usize,
    top_p: f32,
    truncation: &'static str,
    usage: Option<Usage>,
    user: Option<String>,
    metadata: Map<String, Value>,
}

#[derive(Debug, Clone, Serialize)]
struct TextShape {
    format: Repeated,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct Usage {
    input_tokens: usize,
    input_tokens_details: InputDetails,
    output_tokens: usize,
    output_tokens_details: OutputDetails,
    total_tokens: usize,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct InputDetails {
    cached_tokens: usize,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct OutputDetails {
    reasoning_tokens: usize,
}

impl Response {
    /// A response that has begun, or is queued where nobody waits for it, to a request whose settings it repeats.
    pub fn begun(model: String, request: &ResponseRequest) -> Self {
        let sampling = &request.generation.sampling;
        Self {
            id: format!("resp_{}", unique_id()),
            object: "response",
            created_at: crate::unix_seconds(),
            status: if request.background { "queued" } else { "in_progress" },
            background: request.background,
            error: None,
            incomplete_details: None,
            instructions: request.instructions.clone(),
            max_output_tokens: request.generation.max_tokens,
            model,
            output: Vec::new(),
            parallel_tool_calls: request.parallel_tool_calls,
            previous_response_id: request.previous_response_id.clone(),
            reasoning: json!({"effort": null, "summary": null}),
            service_tier: "default",
            store: request.store,
            temperature: sampling.temperature,
            text: TextShape { format: request.format.clone() },
            tool_choice: request.tools.choice.clone(),
            tools: request.tools.definitions.clone(),
            top_logprobs: request.logprobs.unwrap_or(0),
            top_p: sampling.top_p,
            truncation: match request.truncation {
                Truncation::Auto => "auto",
                Truncation::Disabled => "disabled",
            },
            usage: None,
            user: request.user.clone(),
            metadata: request.metadata.clone(),
        }
    }

    /// One that was queued is made now.
    pub fn progress(&mut self) {
        self.status = "in_progress";
    }

    /// Ends it without an answer, since the client wants none any more.
    pub fn cancel(&mut self) {
        self.status = "cancelled";
    }

    /// `completed`, `incomplete`, `failed`, `cancelled`, or how far it is.
    pub fn status(&self) -> &'static str {
        self.status
    }

    /// Ends it with what was said and called. An answer that was cut short leaves it incomplete.
    pub fn end(&mut self, output: Vec<OutputItem>, finish: &Finish) {
        (self.status, self.incomplete_details) = match finish.reason {
            FinishReason::Stop => ("completed", None),
            FinishReason::Length => ("incomplete", Some(json!({"reason": "max_output_tokens"}))),
        };
        self.output = output;
        self.usage = Some(Usage {
            input_tokens: finish.prompt_tokens,
            input_tokens_details: InputDetails { cached_tokens: finish.cached_tokens },
            output_tokens: finish.completion_tokens,
            output_tokens_details: OutputDetails { reasoning_tokens: 0 },
            total_tokens: finish.prompt_tokens + finish.completion_tokens,
        });
    }

    /// Ends it with an error.
    pub fn fail(&mut self, message: &str) {
        self.status = "failed";
        self.error = Some(json!({"code": "server_error", "message": message}));
    }

    /// `response.completed` or `response.incomplete`, as it ended.
    pub fn last_event(&self) -> &'static str {
        if self.status == "incomplete" { "response.incomplete" } else { "response.completed" }
    }
}
