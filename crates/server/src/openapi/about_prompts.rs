//! Scores and vectors.

use serde_json::{Value, json};

use super::{
    Operation, fields,
    schema::{a, always, answer, choice, many, object},
};

pub fn operations() -> Vec<Operation> {
    vec![embeddings(), score()]
}

fn usage() -> Value {
    answer(json!({"prompt_tokens": a("integer"), "total_tokens": a("integer")}))
}

fn ids() -> Value {
    json!({"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 0, "maximum": u32::MAX}})
}

fn embeddings() -> Operation {
    let texts = json!({"type": "array", "minItems": 1, "maxItems": 256, "items": {"type": "string", "minLength": 1}});
    let lists = json!({"type": "array", "minItems": 1, "maxItems": 256, "items": ids()});
    let item = answer(json!({
        "object": always("embedding"),
        "index": a("integer"),
        "embedding": {"anyOf": [many(a("number")), a("string")]},
    }));
    Operation {
        description: "OpenAI's shape. A vector is made of the hidden states behind the model's last norm and has length 1.",
        request: Some(object(
            &["input"],
            json!({
                "model": fields::model(),
                "input": {
                    "description": "A text, token ids, or up to 256 of either.",
                    "anyOf": [{"type": "string", "minLength": 1}, texts, ids(), lists],
                },
                "pooling": choice(&["mean", "last"], "The mean over all tokens, or the last token's. Default: mean."),
                "encoding_format": choice(&["float", "base64"], "Numbers, or their little-endian f32s in base64."),
            }),
        )),
        examples: vec![
            ("texts", json!({"input": ["Hello", "you"]})),
            ("the last token", json!({"input": "Hello", "pooling": "last", "encoding_format": "base64"})),
        ],
        response: answer(json!({
            "object": always("list"),
            "data": many(item),
            "model": a("string"),
            "usage": usage(),
        })),
        ..Operation::new("post", "/v1/embeddings", "Turn texts into vectors")
    }
}

fn score() -> Operation {
    let texts = json!({"type": "array", "minItems": 1, "maxItems": 256, "items": {"type": "string", "minLength": 1}});
    let lists = json!({"type": "array", "minItems": 1, "maxItems": 256, "items": ids()});
    let item = answer(json!({
        "index": a("integer"),
        "object": always("score"),
        "sum": a("number"),
        "tokens": many(a("integer")),
        "token_logprobs": many(a("number")),
        "is_greedy": a("boolean"),
    }));
    Operation {
        description: "Log-likelihoods, by natural logarithm, of given continuations of a `prompt` or of `messages`. A \
                      continuation is cut into tokens by itself.",
        request: Some(object(
            &["continuations"],
            json!({
                "model": fields::model(),
                "prompt": {
                    "description": "What the continuations follow: a text, or token ids.",
                    "anyOf": [{"type": ["string", "null"], "minLength": 1}, ids()],
                },
                "messages": fields::messages(),
                "continuations": {"description": "Up to 256.", "anyOf": [texts, lists]},
            }),
        )),
        examples: vec![
            ("a text", json!({"prompt": "The sky is", "continuations": [" blue", " green"]})),
            ("a conversation", json!({"messages": [{"role": "user", "content": "2+2?"}], "continuations": ["4", "5"]})),
        ],
        response: answer(json!({
            "object": always("list"),
            "model": a("string"),
            "data": many(item),
            "usage": usage(),
        })),
        ..Operation::new("post", "/v1/score", "Say how likely continuations are")
    }
}
