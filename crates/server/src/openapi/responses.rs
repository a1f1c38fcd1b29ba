//! OpenAI's Responses API and Anthropic's Messages API.

use serde_json::{Value, json};

use super::{
    Errors, Operation, fields,
    schema::{
        a, always, answer, any_object, choice, count, flag, integer, list, many, maybe, number, object, text, with,
    },
};

pub fn operations() -> Vec<Operation> {
    let deleted = answer(json!({"id": a("string"), "object": always("response"), "deleted": {"const": true}}));
    vec![
        create(),
        Operation {
            description: "A response that was asked for with `store`, until it is deleted or has to make room for others; one in \
                          the background also while it is `queued` or `in_progress`.",
            query: vec![(
                "stream",
                json!({"const": false, "description": "A response that was begun is not streamed."}),
            )],
            response: response(),
            ..Operation::new("get", "/v1/responses/{id}", "Read a response again")
        },
        Operation {
            description: "Of a response in the background. One that has ended is answered as it did.",
            response: response(),
            ..Operation::new("post", "/v1/responses/{id}/cancel", "Stop a response")
        },
        Operation {
            description: "The messages, calls and results that a kept response answered, the newest first.",
            query: vec![
                ("limit", json!({"type": "integer", "minimum": 1, "maximum": 100, "default": 20})),
                ("order", json!({"enum": ["asc", "desc"], "default": "desc"})),
                (
                    "after",
                    json!({"type": "string", "description": "The name of the item that the page begins behind."}),
                ),
            ],
            response: answer(json!({
                "object": always("list"),
                "data": many(json!({"type": "object", "required": ["type", "id"]})),
                "first_id": maybe("string"),
                "last_id": maybe("string"),
                "has_more": a("boolean"),
            })),
            ..Operation::new("get", "/v1/responses/{id}/input_items", "Read what a response answered")
        },
        Operation { response: deleted, ..Operation::new("delete", "/v1/responses/{id}", "Forget a response") },
        messages(),
        count_tokens(),
    ]
}

fn create() -> Operation {
    let part = object(
        &["type", "text"],
        json!({"type": {"enum": ["input_text", "output_text", "text"]}, "text": {"type": "string"}}),
    );
    let text_or_parts = json!({"anyOf": [{"type": "string"}, {"type": "array", "items": part}]});
    let item = object(
        &["role", "content"],
        json!({
            "type": {"const": "message"},
            "role": {"enum": ["system", "developer", "user", "assistant"]},
            "content": text_or_parts,
        }),
    );
    let call = object(
        &["type", "call_id", "name", "arguments"],
        json!({
            "type": {"const": "function_call"},
            "call_id": {"type": "string"},
            "name": {"type": "string"},
            "arguments": {"type": "string", "description": "The text of a JSON object."},
        }),
    );
    let result = object(
        &["type", "call_id", "output"],
        json!({"type": {"const": "function_call_output"}, "call_id": {"type": "string"}, "output": text_or_parts}),
    );
    let item = json!({"anyOf": [item, call, result]});
    let input = json!({
        "description": "What a user says, or messages, calls and their results.",
        "anyOf": [{"type": "string", "minLength": 1}, {"type": "array", "minItems": 1, "items": item}],
    });
    let ours = json!({
        "model": fields::model(),
        "input": input,
        "instructions": text("A system prompt for this response and none that follows it."),
        "max_output_tokens": count(1, "Most tokens to generate."),
        "stream": fields::stream(),
        "previous_response_id": text("The response whose conversation goes on. It must have been stored."),
        "store": flag("Keep the conversation. Default: true. The server keeps a few thousand in memory, the last used."),
        "background": flag("Answer at once with a response that is `queued`, to be read again until it has ended. With `store`, and without `stream`."),
        "truncation": choice(&["auto", "disabled"], "auto leaves out the oldest messages where the conversation is too long."),
        "text": {
            "description": "`format` holds the answer to a form: `text`, `json_object`, or `json_schema` with `name` and `schema`.",
            "type": ["object", "null"],
            "properties": {"format": {"type": "object", "required": ["type"]}},
        },
        "metadata": {
            "description": "Up to 16 notes, which the answer repeats.",
            "type": ["object", "null"],
            "maxProperties": 16,
            "propertyNames": {"maxLength": 64},
            "additionalProperties": {"type": "string", "maxLength": 512},
        },
        "include": list(
            json!({"const": "message.output_text.logprobs"}),
            16,
            "`message.output_text.logprobs` lists each token's log-probability.",
        ),
        "top_logprobs": integer(0, 20, "And this many of the likeliest tokens."),
        "user": text("Not used; the answer repeats it."),
    });
    let tool = object(
        &["type", "name"],
        json!({"type": {"const": "function"}, "name": {"type": "string"}, "parameters": {"type": ["object", "null"]}}),
    );
    let mut tools = fields::tools();
    tools["tools"] = list(tool, 128, "Functions that the answer may call. The server runs none itself.");
    Operation {
        description: "OpenAI's Responses API: text in, text and calls of functions out.",
        request: Some(object(&["input"], with(with(ours, tools), fields::sampling()))),
        examples: vec![
            ("plain", json!({"input": "Hello", "max_output_tokens": 8})),
            (
                "messages",
                json!({
                    "input": [{"role": "user", "content": [{"type": "input_text", "text": "Hello"}]}],
                    "instructions": "Be brief.", "max_output_tokens": 8, "store": false, "metadata": {"run": "1"},
                }),
            ),
            (
                "tools",
                json!({
                    "input": [
                        {"role": "user", "content": "Rain?"},
                        {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": "{}"},
                        {"type": "function_call_output", "call_id": "call_1", "output": "No."},
                    ],
                    "tools": [{"type": "function", "name": "weather"}], "max_output_tokens": 8,
                }),
            ),
        ],
        response: response(),
        stream: Some(
            "Named events with a `sequence_number`: `response.created`, `response.in_progress`, \
             `response.output_item.added`, `response.content_part.added`, `response.output_text.delta`, \
             `response.output_text.done`, `response.content_part.done`, `response.function_call_arguments.delta`, \
             `response.function_call_arguments.done`, `response.output_item.done`, and \
             `response.completed`, `response.incomplete` or `response.failed` last.",
        ),
        ..Operation::new("post", "/v1/responses", "Answer a conversation, and keep it")
    }
}

fn response() -> Value {
    let item = json!({"type": "object", "required": ["type", "id", "status"]});
    answer(json!({
        "id": a("string"),
        "object": always("response"),
        "created_at": a("integer"),
        "status": {"enum": ["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]},
        "background": a("boolean"),
        "error": maybe("object"),
        "incomplete_details": maybe("object"),
        "instructions": maybe("string"),
        "max_output_tokens": maybe("integer"),
        "model": a("string"),
        "output": many(item),
        "tools": many(json!({"type": "object"})),
        "parallel_tool_calls": a("boolean"),
        "previous_response_id": maybe("string"),
        "store": a("boolean"),
        "temperature": a("number"),
        "top_p": a("number"),
        "truncation": {"enum": ["auto", "disabled"]},
        "usage": maybe("object"),
        "metadata": a("object"),
    }))
}

/// The fields of a message's request that are also one for counting.
fn conversation() -> Value {
    let block = object(&["type"], json!({"type": {"enum": ["text", "tool_use", "tool_result"]}}));
    let content = json!({"anyOf": [{"type": "string"}, {"type": "array", "items": block}]});
    let message = object(&["role", "content"], json!({"role": {"enum": ["user", "assistant"]}, "content": content}));
    json!({
        "model": fields::model(),
        "system": {"description": "The system prompt.", "anyOf": [{"type": "null"}, content]},
        "messages": {
            "description": "The conversation. Where the assistant spoke last, its answer goes on.",
            "type": "array",
            "minItems": 1,
            "items": message,
        },
    })
}

fn messages() -> Operation {
    let ours = json!({
        "max_tokens": {"type": "integer", "minimum": 1, "maximum": i64::MAX, "description": "Most tokens to generate."},
        "stop_sequences": list(
            json!({"type": "string", "minLength": 1, "maxLength": 256}),
            16,
            "Texts that end the answer and are left out of it.",
        ),
        "temperature": number(0.0, 1.0, "0 takes the likeliest token."),
        "top_k": integer(0, u32::MAX.into(), "Tokens are chosen from this many likeliest ones; 0 keeps all."),
        "stream": fields::stream(),
        "metadata": any_object("Not used."),
        "tools": list(
            object(&["name", "input_schema"], json!({"name": {"type": "string"}, "input_schema": {"type": "object"}})),
            128,
            "What the answer may call.",
        ),
        "tool_choice": any_object("`auto`, `any`, `none`, or `tool` with its `name`."),
        "output_config": any_object("`format` of type `json_schema` holds the answer to its `schema`."),
        "thinking": any_object("`disabled` or `adaptive`: this model never thinks aloud."),
    });
    let usage = answer(json!({"input_tokens": a("integer"), "output_tokens": a("integer")}));
    Operation {
        description: "Anthropic's Messages API: text and calls of tools. Errors have Anthropic's shape.",
        request: Some(object(&["messages", "max_tokens"], with(with(conversation(), fields::sampling()), ours))),
        examples: vec![
            ("plain", json!({"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8})),
            (
                "begun",
                json!({
                    "system": "Be brief.",
                    "messages": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "The sum is"}],
                    "max_tokens": 8, "stop_sequences": ["."],
                }),
            ),
        ],
        response: answer(json!({
            "id": a("string"),
            "type": always("message"),
            "role": always("assistant"),
            "model": a("string"),
            "content": many(json!({"type": "object", "required": ["type"]})),
            "stop_reason": a("string"),
            "stop_sequence": maybe("string"),
            "usage": usage,
        })),
        stream: Some(
            "Named events: `message_start`, `content_block_start`, `ping`, `content_block_delta`, `content_block_stop`, \
             `message_delta`, `message_stop`; `error` where the generation failed.",
        ),
        errors: Errors::Anthropic,
        ..Operation::new("post", "/v1/messages", "Answer a conversation as Anthropic does")
    }
}

fn count_tokens() -> Operation {
    Operation {
        request: Some(object(&["messages"], conversation())),
        examples: vec![("plain", json!({"messages": [{"role": "user", "content": "Hello"}]}))],
        response: answer(json!({"input_tokens": a("integer")})),
        errors: Errors::Anthropic,
        ..Operation::new("post", "/v1/messages/count_tokens", "Count the tokens that a conversation takes")
    }
}
