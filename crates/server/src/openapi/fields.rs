//! Fields that several requests share.

use serde_json::{Value, json};

use super::schema::{any_object, choice, count, flag, integer, list, number, object, text, with};

/// How tokens are chosen.
pub fn sampling() -> Value {
    json!({
        "temperature": number(0.0, 2.0, "0 takes the likeliest token. Default: the model's own setting, else 1."),
        "top_p": number(0.0, 1.0, "Tokens are chosen from the likeliest that together have this probability."),
        "top_k": integer(-1, u32::MAX.into(), "Tokens are chosen from this many likeliest ones; 0 and -1 keep all."),
        "min_p": number(0.0, 1.0, "Tokens less likely than this share of the likeliest one are left out."),
        "repetition_penalty": number(0.01, 100.0, "Above 1, tokens that have occurred become less likely."),
        "presence_penalty": number(-2.0, 2.0, "Taken from the logit of each token that was generated before."),
        "frequency_penalty": number(-2.0, 2.0, "The same, times how often it was generated."),
        "logit_bias": any_object("Added to logits, by token id: numbers from -100 to 100."),
        "seed": integer(i64::MIN, i64::MAX, "The same seed gives the same tokens, whatever else the server is doing."),
    })
}

/// What a chat or a completion may ask about its prompt.
pub fn about_prompt() -> Value {
    json!({
        "prompt_logprobs": integer(
            0,
            20,
            "List the log-probability of each of the prompt's tokens and this many of the likeliest in its place. Not with `stream`.",
        ),
        "return_routing": flag("List the experts that each token took, by layer."),
    })
}

/// Which model, how sampled, how long, how sent: OpenAI's chats and completions.
pub fn generation() -> Value {
    let ours = json!({
        "model": model(),
        "n": integer(1, 16, "Answers to each prompt."),
        "max_tokens": count(1, "Most tokens to generate."),
        "max_completion_tokens": count(1, "The same under its newer name, which counts where both are given."),
        "stop": {
            "description": "Up to 16 texts that end the answer and are left out of it.",
            "anyOf": [
                {"type": ["string", "null"], "minLength": 1, "maxLength": 256},
                {"type": "array", "maxItems": 16, "items": {"type": "string", "minLength": 1, "maxLength": 256}},
            ],
        },
        "stream": stream(),
        "stream_options": {
            "description": "Only where `stream` is true.",
            "anyOf": [object(&[], json!({"include_usage": flag("A last chunk counts the tokens.")})), {"type": "null"}],
        },
        "user": text("Not used."),
    });
    with(ours, sampling())
}

pub fn model() -> Value {
    text("A name that the server serves; `GET /v1/models` lists them. The first where it is left out.")
}

pub fn stream() -> Value {
    flag("Send the answer as it grows, as server-sent events.")
}

/// A conversation in OpenAI's shape.
pub fn messages() -> Value {
    let part = object(&["type", "text"], json!({"type": {"const": "text"}, "text": {"type": "string"}}));
    let message = object(
        &["role", "content"],
        json!({
            "role": choice(&["system", "developer", "user", "assistant"], "Who speaks."),
            "content": {
                "description": "A text, or parts of text, which are joined by line breaks.",
                "anyOf": [{"type": "string"}, {"type": "array", "items": part}],
            },
        }),
    );
    let mut messages = list(message, 65_536, "The conversation.");
    messages["type"] = json!("array");
    messages["minItems"] = json!(1);
    messages
}
