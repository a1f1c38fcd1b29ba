//! Chats and completions, and the models.

use serde_json::{Value, json};

use super::{
    Operation, fields,
    schema::{a, always, answer, by_name, flag, integer, many, maybe, object, with},
};

const CHUNKS: &str = "One chunk of JSON an event, `[DONE]` last. A failure travels as a last chunk with `error`.";

pub fn operations() -> Vec<Operation> {
    vec![chat(), completions(), list(), retrieve()]
}

fn usage() -> Value {
    answer(json!({
        "prompt_tokens": a("integer"),
        "completion_tokens": a("integer"),
        "total_tokens": a("integer"),
        "prompt_tokens_details": answer(json!({"cached_tokens": a("integer")})),
    }))
}

fn whole(object: &str, choice: Value) -> Value {
    answer(json!({
        "id": a("string"),
        "object": always(object),
        "created": a("integer"),
        "model": a("string"),
        "system_fingerprint": a("string"),
        "choices": many(choice),
        "usage": usage(),
    }))
}

fn chat() -> Operation {
    let more = json!({
        "messages": fields::messages(),
        "logprobs": flag("List each token's log-probability."),
        "add_generation_prompt": flag("End the prompt in the place for an answer. Default: true."),
        "continue_final_message": flag("Go on with the last message, an assistant's. Default: false."),
        "top_logprobs": integer(0, 20, "And this many of the likeliest tokens; only with `logprobs`."),
    });
    let message = json!({"type": "object", "required": ["role", "content"]});
    let choice = answer(json!({
        "index": a("integer"),
        "message": message,
        "logprobs": maybe("object"),
        "finish_reason": a("string"),
    }));
    let user = json!([{"role": "user", "content": "Hello"}]);
    Operation {
        description: "OpenAI's chat completions. The model's own chat template makes the prompt.",
        request: Some(object(
            &["messages"],
            [fields::tools(), fields::forms(), fields::generation(), fields::about_prompt()]
                .into_iter()
                .fold(more, with),
        )),
        examples: vec![
            ("plain", json!({"messages": user, "max_tokens": 8})),
            (
                "sampled",
                json!({
                    "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}],
                    "max_tokens": 8, "temperature": 0.7, "top_p": 0.8, "seed": 7, "n": 2, "stop": ["\n\n"],
                }),
            ),
            (
                "a form",
                json!({
                    "messages": user, "max_tokens": 32,
                    "response_format": {
                        "type": "json_schema",
                        "json_schema": {"name": "sum", "schema": {"type": "object", "properties": {"sum": {"type": "integer"}}}},
                    },
                }),
            ),
            ("log-probabilities", json!({"messages": user, "max_tokens": 8, "logprobs": true, "top_logprobs": 3})),
        ],
        response: whole("chat.completion", choice),
        stream: Some(CHUNKS),
        ..Operation::new("post", "/v1/chat/completions", "Answer a conversation")
    }
}

fn completions() -> Operation {
    let ids = json!({"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 0, "maximum": u32::MAX}});
    let more = json!({
        "prompt": {
            "description": "A text, token ids, or up to 256 of either. Special tokens in a text are parsed.",
            "anyOf": [
                {"type": "string", "minLength": 1},
                {"type": "array", "minItems": 1, "maxItems": 256, "items": {"type": "string", "minLength": 1}},
                ids,
                {"type": "array", "minItems": 1, "maxItems": 256, "items": ids},
            ],
        },
        "echo": flag("The answer begins with its prompt."),
        "logprobs": integer(0, 5, "List each token's log-probability and this many of the likeliest; with `echo` the prompt's too."),
        "best_of": integer(1, 16, "No other number than `n`."),
    });
    let logprobs = json!({
        "anyOf": [
            answer(json!({
                "tokens": many(a("string")),
                "token_logprobs": many(maybe("number")),
                "top_logprobs": many(json!({"anyOf": [by_name(a("number")), {"type": "null"}]})),
                "text_offset": many(a("integer")),
            })),
            {"type": "null"},
        ],
    });
    let choice = answer(json!({
        "text": a("string"),
        "index": a("integer"),
        "logprobs": logprobs,
        "finish_reason": a("string"),
    }));
    Operation {
        description: "OpenAI's completions. 16 tokens where `max_tokens` is left out; it may be 0 where something is asked about the prompt.",
        request: Some(object(
            &["prompt"],
            [fields::forms(), fields::generation(), fields::about_prompt()].into_iter().fold(more, with),
        )),
        examples: vec![
            ("plain", json!({"prompt": "Once upon", "max_tokens": 8})),
            ("several", json!({"prompt": ["Once", "upon"], "max_tokens": 4, "echo": true})),
            ("token ids", json!({"prompt": [10, 20, 30], "max_tokens": 4, "logprobs": 2})),
            ("about the prompt", json!({"prompt": "Once upon", "max_tokens": 0, "echo": true, "logprobs": 1})),
        ],
        response: whole("text_completion", choice),
        stream: Some(CHUNKS),
        ..Operation::new("post", "/v1/completions", "Continue a text")
    }
}

fn model() -> Value {
    answer(json!({
        "id": a("string"),
        "object": always("model"),
        "created": a("integer"),
        "owned_by": a("string"),
        "max_model_len": a("integer"),
    }))
}

fn list() -> Operation {
    Operation {
        response: answer(json!({"object": always("list"), "data": many(model())})),
        ..Operation::new("get", "/v1/models", "List the names that the model answers to")
    }
}

fn retrieve() -> Operation {
    Operation { response: model(), ..Operation::new("get", "/v1/models/{name}", "Describe one of them") }
}
