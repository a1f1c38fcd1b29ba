//! What the server answers to, written down: an OpenAPI document at `/openapi.json` and the same as a page at `/docs`.
//!
//! Bodies are read by hand, so the document is written by hand too; that it knows every route and that its examples are
//! answered is tested.

mod about_prompts;
mod fields;
mod openai;
mod others;
mod page;
mod responses;
mod schema;
#[cfg(test)]
mod tests;
mod tokens;

use std::sync::LazyLock;

use serde_json::{Map, Value, json};

pub use page::page;

/// The document's JSON.
pub fn document() -> &'static str {
    static DOCUMENT: LazyLock<String> = LazyLock::new(|| build(&operations()).to_string());
    &DOCUMENT
}

/// Whose shape an operation's errors have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Errors {
    /// None but a server that is going down.
    None,
    OpenAi,
    Anthropic,
}

/// One method of one address.
#[derive(Debug, Clone)]
struct Operation {
    method: &'static str,
    path: &'static str,
    summary: &'static str,
    /// More than the summary says; may be empty.
    description: &'static str,
    /// Parameters of the address's query, each with its schema.
    query: Vec<(&'static str, Value)>,
    /// Schema of the body; `None` where there is none.
    request: Option<Value>,
    /// Bodies that are answered with 200, each with what it shows.
    examples: Vec<(&'static str, Value)>,
    /// Schema of the answer.
    response: Value,
    /// What a stream's events are, where there can be a stream.
    stream: Option<&'static str>,
    errors: Errors,
}

impl Operation {
    fn new(method: &'static str, path: &'static str, summary: &'static str) -> Self {
        Self {
            method,
            path,
            summary,
            description: "",
            query: Vec::new(),
            request: None,
            examples: Vec::new(),
            response: json!({}),
            stream: None,
            errors: Errors::OpenAi,
        }
    }

    /// The name in the address, `{name}`, where there is one.
    fn path_parameter(&self) -> Option<&'static str> {
        let (_, rest) = self.path.split_once('{')?;
        rest.split_once('}').map(|(name, _)| name)
    }
}

fn operations() -> Vec<Operation> {
    let groups = [
        openai::operations(),
        responses::operations(),
        about_prompts::operations(),
        tokens::operations(),
        others::operations(),
    ];
    groups.into_iter().flatten().collect()
}

fn build(operations: &[Operation]) -> Value {
    let mut paths = Map::new();
    for operation in operations {
        let path = paths.entry(operation.path).or_insert_with(|| json!({}));
        path[operation.method] = described(operation);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "dots",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "dots.llm1 behind OpenAI's and Anthropic's APIs. Fields that are not listed are ignored; \
                            a field that is null is as good as absent.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "paths": paths,
        "components": {
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
            "schemas": {"Error": schema::error(), "AnthropicError": schema::anthropic_error()},
        },
    })
}

fn described(operation: &Operation) -> Value {
    let mut value = json!({"summary": operation.summary, "responses": responses(operation)});
    if !operation.description.is_empty() {
        value["description"] = json!(operation.description);
    }
    value["security"] = match operation.errors {
        Errors::None => json!([]),
        // The first: a server without a key takes everybody.
        _ => json!([{}, {"bearer": []}, {"x-api-key": []}]),
    };
    if let Some(name) = operation.path_parameter() {
        let of_path =
            json!({"name": name, "in": "path", "required": true, "schema": {"type": "string", "minLength": 1}});
        let of_query =
            operation.query.iter().map(|(name, schema)| json!({"name": name, "in": "query", "schema": schema}));
        value["parameters"] = [of_path].into_iter().chain(of_query).collect();
    }
    if let Some(schema) = &operation.request {
        let examples = operation.examples.iter().map(|(name, body)| (name.to_string(), json!({"value": body})));
        value["requestBody"] = json!({
            "required": true,
            "content": {"application/json": {"schema": schema, "examples": examples.collect::<Map<_, _>>()}},
        });
    }
    value
}

fn responses(operation: &Operation) -> Value {
    let mut content = json!({"application/json": {"schema": operation.response}});
    match operation.path {
        "/docs" => content = json!({"text/html": {}}),
        "/metrics" => content = json!({"text/plain": {}}),
        _ => {}
    }
    if let Some(description) = operation.stream {
        // The schema of one event.
        let schema = json!({
            "type": "object",
            "description": description,
            "required": ["data"],
            "properties": {"event": {"type": "string"}, "data": {"type": "string"}},
        });
        content["text/event-stream"] = json!({"schema": schema});
    }
    let mut responses = json!({"200": {"description": "The answer", "content": content}});
    let schema = match operation.errors {
        Errors::None => {
            if matches!(operation.path, "/health" | "/ready") {
                let content = json!({"application/json": {"schema": operation.response}});
                responses["503"] = json!({"description": "The engine has stopped", "content": content});
            }
            return responses;
        }
        Errors::OpenAi => "#/components/schemas/Error",
        Errors::Anthropic => "#/components/schemas/AnthropicError",
    };
    let takes_body = operation.request.is_some();
    for (status, description, applies) in [
        (
            "400",
            "A field is wrong: the message names it, with what was expected and what was found",
            operation.method == "post" || !operation.query.is_empty(),
        ),
        ("401", "The key is missing or wrong", true),
        ("403", "A server for its own machine only was called by another name", true),
        ("404", "No such model, or no such name", true),
        ("408", "The body came too slowly, or the request's `timeout` passed", takes_body),
        ("413", "The body is larger than the server takes", takes_body),
        ("429", "The queue is full; `Retry-After` says when to come back", takes_body),
        ("500", "The generation failed; the reason is in the server's log", takes_body),
        ("503", "The engine has stopped, or the server is going down", takes_body),
    ] {
        if applies {
            let content = json!({"application/json": {"schema": {"$ref": schema}}});
            responses[status] = json!({"description": description, "content": content});
        }
    }
    responses
}
