//! The tokenizer.

use serde_json::json;

use super::{
    Operation, fields,
    schema::{a, answer, flag, many, maybe, object},
};

pub fn operations() -> Vec<Operation> {
    vec![tokenize(), detokenize(), info()]
}

fn tokenize() -> Operation {
    let strings = json!({"anyOf": [many(a("string")), {"type": "null"}]});
    Operation {
        description: "vLLM's shape: either `prompt` or `messages`.",
        request: Some(object(
            &[],
            json!({
                "model": fields::model(),
                "prompt": {"type": ["string", "null"], "description": "A text of at most 1 MiB; special tokens are parsed."},
                "messages": fields::messages(),
                "add_special_tokens": flag("With a text: put BOS before it where the tokenizer's files ask for one. Default: true."),
                "add_generation_prompt": flag("With messages: end in the prompt for an answer. Default: true."),
                "continue_final_message": flag("With messages: leave the last one, an assistant's, open. Default: false."),
                "return_token_strs": flag("List each token's text. Default: false."),
            }),
        )),
        examples: vec![
            ("a text", json!({"prompt": "Hello", "return_token_strs": true})),
            ("a conversation", json!({"messages": [{"role": "user", "content": "Hello"}]})),
        ],
        response: answer(json!({
            "count": a("integer"),
            "max_model_len": a("integer"),
            "tokens": many(a("integer")),
            "token_strs": strings,
        })),
        ..Operation::new("post", "/tokenize", "Cut a text or a conversation into tokens")
    }
}

fn detokenize() -> Operation {
    let ids = json!({"type": "integer", "minimum": 0, "maximum": u32::MAX});
    Operation {
        description: "vLLM's shape. Special tokens are shown as they are written.",
        request: Some(object(
            &["tokens"],
            json!({
                "model": fields::model(),
                "tokens": {"type": "array", "maxItems": 1 << 18, "items": ids, "description": "Token ids."},
            }),
        )),
        examples: vec![("plain", json!({"tokens": [10, 20, 30]}))],
        response: answer(json!({"prompt": a("string")})),
        ..Operation::new("post", "/detokenize", "Turn token ids into text")
    }
}

fn info() -> Operation {
    Operation {
        description: "What a client must know to do without a tokenizer of its own, under vLLM's names.",
        response: answer(json!({
            "eos_token": maybe("string"),
            "bos_token": maybe("string"),
            "model_max_length": a("integer"),
            "vocab_size": a("integer"),
        })),
        ..Operation::new("get", "/tokenizer_info", "Describe the tokenizer")
    }
}
