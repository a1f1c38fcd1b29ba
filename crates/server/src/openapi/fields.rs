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
        "typical_p": number(0.0, 1.0, "Tokens are chosen from those nearest to the expected surprise, of this probability."),
        "xtc_probability": number(0.0, 1.0, "How often the likeliest tokens above `xtc_threshold` are left out."),
        "xtc_threshold": number(0.0, 1.0, "See `xtc_probability`."),
        "dry_multiplier": number(0.0, 100.0, "Above 0, what would repeat a longer stretch becomes less likely."),
        "bad_words": list(json!({"type": "string"}), 1024, "Texts that the answer does not hold."),
        "min_tokens": count(0, "Tokens before which nothing ends the answer."),
        "ignore_eos": flag("Go on past the model's own end of turn."),
        "stop_token_ids": list(
            json!({"type": "integer", "minimum": 0, "maximum": u32::MAX}),
            256,
            "Ids that end the answer, beside the model's own.",
        ),
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
        "priority": integer(i32::MIN.into(), i32::MAX.into(), "The lower number goes first, where the server's policy is `priority`."),
        "cache_salt": text("Only requests of one salt share what is in the cache. Default: one for each key, where there are keys."),
        "timeout": number(0.0, 604_800.0, "Seconds after which the answer is not needed: 408 then."),
    });
    with(ours, sampling())
}

pub fn model() -> Value {
    text("A name that the server serves; `GET /v1/models` lists them. The first where it is left out.")
}

pub fn stream() -> Value {
    flag("Send the answer as it grows, as server-sent events.")
}

/// Forms that an answer is held to.
pub fn forms() -> Value {
    json!({
        "response_format": {
            "description": "`text`, `json_object`, or `json_schema` with `json_schema.name` and `json_schema.schema`.",
            "type": ["object", "null"],
            "required": ["type"],
            "properties": {"type": {"enum": ["text", "json_object", "json_schema"]}},
        },
        "structured_outputs": any_object("vLLM's: one of `json`, `regex`, `choice`, `grammar` and `json_object`."),
        "guided_json": {"description": "vLLM's older name for `structured_outputs.json`: a JSON schema."},
        "guided_regex": text("A regular expression."),
        "guided_choice": list(json!({"type": "string"}), 4096, "One of these texts."),
        "guided_grammar": text("A grammar in Lark's or GBNF's notation."),
    })
}

/// What a chat may call.
pub fn tools() -> Value {
    let function = object(&["name"], json!({"name": {"type": "string"}, "parameters": {"type": "object"}}));
    let tool = object(&["type", "function"], json!({"type": {"const": "function"}, "function": function}));
    json!({
        "tools": list(tool, 128, "Functions that the answer may call."),
        "tool_choice": {
            "description": "`auto`, `none`, `required`, or the function that must be called.",
            "anyOf": [{"enum": ["auto", "none", "required"]}, {"type": ["object", "null"]}],
        },
        "parallel_tool_calls": flag("Several calls in one answer. Default: true."),
    })
}

/// A conversation in OpenAI's shape.
pub fn messages() -> Value {
    let part = object(&["type", "text"], json!({"type": {"const": "text"}, "text": {"type": "string"}}));
    let message = object(
        &["role", "content"],
        json!({
            "role": choice(&["system", "developer", "user", "assistant", "tool"], "Who speaks."),
            "tool_call_id": text("With role `tool`: the call that this is the result of."),
            "tool_calls": {"description": "With role `assistant`: what it called.", "type": ["array", "null"]},
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
