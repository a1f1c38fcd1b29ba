//! The field `input` of `POST /v1/responses`.

use dots_model::template::Message;
use serde_json::Value;

use super::tools::{function_call, function_call_output};
use crate::{
    error::{ApiError, quoted},
    openai::{
        fields::{Fields, bounded, wrong_type},
        texts::text,
    },
};

/// Most items of an input.
const MAX_ITEMS: usize = 65_536;

/// What was said: a user's text, or messages, calls and their results.
pub fn messages(value: &Value) -> Result<Vec<Message>, ApiError> {
    let items = match value {
        Value::String(text) => return Ok(vec![Message::new("user", text.as_str())]),
        Value::Array(items) => bounded("input", items, MAX_ITEMS)?,
        other => return Err(wrong_type("input", "a string or an array of objects", other)),
    };
    let mut said: Vec<Message> = Vec::with_capacity(items.len());
    for (i, item) in items.iter().enumerate() {
        let path = format!("input[{i}].");
        let item = Fields::nested(item, &path)?;
        match item.string("type")? {
            None | Some("message") => said.push(message(item)?),
            // Items that call are of the turn that they stand in.
            Some("function_call") => {
                let call = function_call(item)?;
                match said.last_mut().filter(|last| last.role == "assistant") {
                    Some(turn) => turn.tool_calls.push(call),
                    None => said.push(Message { tool_calls: vec![call], ..Message::new("assistant", "") }),
                }
            }
            Some("function_call_output") => said.push(function_call_output(item)?),
            Some(other) => {
                let param = item.param("type");
                let message = format!(
                    "'{param}': expected 'message', 'function_call' or 'function_call_output', found '{}'.",
                    quoted(other)
                );
                return Err(ApiError::invalid(param, "invalid_value", message));
            }
        }
    }
    Ok(said)
}

fn message(fields: Fields<'_>) -> Result<Message, ApiError> {
    let role = match fields.string("role")?.ok_or_else(|| ApiError::missing(&fields.param("role")))? {
        // OpenAI's newer name for what dots.llm1 knows as the system prompt.
        "developer" => "system",
        role @ ("system" | "user" | "assistant") => role,
        other => {
            let param = fields.param("role");
            let message =
                format!("'{param}': expected 'system', 'developer', 'user' or 'assistant', found '{}'.", quoted(other));
            return Err(ApiError::invalid(param, "invalid_value", message));
        }
    };
    let param = fields.param("content");
    let content = content(fields.get("content").ok_or_else(|| ApiError::missing(&param))?, &param)?;
    Ok(Message::new(role, content))
}

/// A text, or parts of text: what was written and what was answered; a chat's parts are plain `text`.
pub fn content(value: &Value, param: &str) -> Result<String, ApiError> {
    text(value, param, &["input_text", "output_text", "text"])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn all_forms_of_input_are_read() {
        assert_eq!(messages(&json!("hello")).unwrap(), [Message::new("user", "hello")]);
        let items = json!([
            {"role": "developer", "content": "be brief"},
            {"type": "message", "role": "user", "content": [
                {"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"},
            ]},
            {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant", "content": [
                {"type": "output_text", "text": "c", "annotations": []},
            ]},
        ]);
        let expected = [("system", "be brief"), ("user", "a\nb"), ("assistant", "c")];
        assert_eq!(messages(&items).unwrap(), expected.map(|(role, content)| Message::new(role, content)));
    }

    #[test]
    fn items_that_call_are_of_one_turn_and_results_are_messages() {
        let call =
            |id: &str| json!({"type": "function_call", "id": "fc", "call_id": id, "name": "f", "arguments": " "});
        let result = |id: &str, output: Value| json!({"type": "function_call_output", "call_id": id, "output": output});
        let said = messages(&json!([
            {"role": "assistant", "content": "Wait."}, call("1"), call("2"),
            result("1", json!("a")), result("2", json!([{"type": "input_text", "text": "b"}])), call("3"),
        ]))
        .unwrap();
        let turns: Vec<_> = said.iter().map(|turn| (turn.role.as_str(), turn.content.as_str())).collect();
        assert_eq!(turns, [("assistant", "Wait."), ("tool", "a"), ("tool", "b"), ("assistant", "")]);
        let ids = |turn: &Message| turn.tool_calls.iter().map(|call| call.id.clone()).collect::<Vec<_>>();
        assert_eq!((ids(&said[0]), ids(&said[3])), (vec!["1".to_owned(), "2".to_owned()], vec!["3".to_owned()]));
        assert_eq!(said[2].tool_call_id.as_deref(), Some("2"));
    }

    #[test]
    fn a_wrong_item_is_named_by_its_place() {
        let user = |content: Value| json!([{"role": "user", "content": content}]);
        let call = |extra: Value| {
            let mut item = json!({"type": "function_call", "call_id": "x", "name": "f", "arguments": "{}"});
            item.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            json!([item])
        };
        for (input, param) in [
            (json!(1), "input"),
            (json!([]), "input"),
            (json!({"role": "user", "content": "x"}), "input"),
            (json!(["x"]), "input[0]"),
            (json!([{"content": "x"}]), "input[0].role"),
            (json!([{"role": "king", "content": "x"}]), "input[0].role"),
            (json!([{"role": 1, "content": "x"}]), "input[0].role"),
            (json!([{"role": "user"}]), "input[0].content"),
            (json!([{"type": "item_reference", "id": "x"}]), "input[0].type"),
            (json!([{"type": "function_call_output", "output": "y"}]), "input[0].call_id"),
            (json!([{"type": "function_call_output", "call_id": 1, "output": "y"}]), "input[0].call_id"),
            (json!([{"type": "function_call_output", "call_id": "x"}]), "input[0].output"),
            (json!([{"type": "function_call_output", "call_id": "x", "output": 1}]), "input[0].output"),
            (json!([{"type": "function_call_output", "call_id": "x", "output": [{}]}]), "input[0].output[0].type"),
            (call(json!({"call_id": null})), "input[0].call_id"),
            (call(json!({"call_id": 1})), "input[0].call_id"),
            (call(json!({"name": null})), "input[0].name"),
            (call(json!({"name": "a b"})), "input[0].name"),
            (call(json!({"arguments": null})), "input[0].arguments"),
            (call(json!({"arguments": {}})), "input[0].arguments"),
            (call(json!({"arguments": "[]"})), "input[0].arguments"),
            (call(json!({"arguments": "{\"a\": "})), "input[0].arguments"),
            (json!([{"type": 1}]), "input[0].type"),
            (user(json!(1)), "input[0].content"),
            (user(json!(["x"])), "input[0].content[0]"),
            (user(json!([{"text": "x"}])), "input[0].content[0].type"),
            (user(json!([{"type": "input_text"}])), "input[0].content[0].text"),
            (user(json!([{"type": "input_image", "image_url": "x"}])), "input[0].content[0].type"),
        ] {
            let error = messages(&input).expect_err(&input.to_string());
            assert_eq!((error.parts().0, error.parts().2), (400, Some(param)), "{input}");
        }
    }
}
