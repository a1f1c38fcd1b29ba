//! What one event of an OpenAI-compatible stream says.

use serde_json::Value;

use super::sse::Event;

/// A message of the stream.
#[derive(Debug, Clone, PartialEq)]
pub enum Message {
    /// `[DONE]`: nothing follows.
    Done,
    Chunk(Chunk),
    /// The server gave up, in these words.
    Error(String),
}

/// A piece of an answer.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Chunk {
    /// Whether it brought text, of the answer or of thoughts before it, or arguments of a tool call. A chunk with a role only,
    /// or with a token whose bytes end inside a character, does not.
    pub has_text: bool,
    /// Why the answer ends.
    pub finish_reason: Option<String>,
    pub usage: Option<Usage>,
}

/// The server's own counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    pub prompt_tokens: Option<usize>,
    pub completion_tokens: Option<usize>,
    pub cached_tokens: Option<usize>,
}

impl Message {
    /// Reads an event. What is no JSON object is an error, in words.
    pub fn read(event: &Event) -> Result<Self, String> {
        let data = event.data.trim();
        if data == "[DONE]" {
            return Ok(Self::Done);
        }
        let value: Value = serde_json::from_str(data).map_err(|error| format!("an event is no JSON: {error}"))?;
        let error = value.get("error").filter(|error| !error.is_null());
        if event.name == "error" || error.is_some() {
            return Ok(Self::Error(error_message(&value)));
        }
        if !value.is_object() {
            return Err("an event is no JSON object".to_owned());
        }
        let mut chunk = Chunk { usage: value.get("usage").and_then(Usage::read), ..Chunk::default() };
        for choice in value.get("choices").and_then(Value::as_array).into_iter().flatten() {
            chunk.has_text |= has_text(choice);
            if let Some(reason) = choice.get("finish_reason").and_then(Value::as_str) {
                chunk.finish_reason = Some(crate::terminal::first_line(reason, 40));
            }
        }
        Ok(Self::Chunk(chunk))
    }
}

fn has_text(choice: &Value) -> bool {
    let is_text = |value: Option<&Value>| value.and_then(Value::as_str).is_some_and(|text| !text.is_empty());
    let delta = choice.get("delta");
    let of_delta = |name: &str| delta.and_then(|delta| delta.get(name));
    is_text(choice.get("text"))
        || ["content", "reasoning_content", "reasoning", "refusal"].into_iter().any(|name| is_text(of_delta(name)))
        || of_delta("tool_calls").and_then(Value::as_array).is_some_and(|calls| !calls.is_empty())
}

impl Usage {
    fn read(value: &Value) -> Option<Self> {
        let count = |value: Option<&Value>| value.and_then(Value::as_u64).and_then(|count| usize::try_from(count).ok());
        value.as_object().map(|usage| Self {
            prompt_tokens: count(usage.get("prompt_tokens")),
            completion_tokens: count(usage.get("completion_tokens")),
            cached_tokens: count(usage.get("prompt_tokens_details").and_then(|details| details.get("cached_tokens"))),
        })
    }
}

/// The words of an error in OpenAI's shape, in one like it, or else the whole.
pub fn error_message(value: &Value) -> String {
    let error = value.get("error").unwrap_or(value);
    let message = [error.get("message"), value.get("message"), value.get("detail"), Some(error)];
    match message.into_iter().flatten().find_map(Value::as_str) {
        Some(message) => message.to_owned(),
        None => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(data: &str) -> Result<Message, String> {
        Message::read(&Event { name: String::new(), data: data.to_owned() })
    }

    fn chunk(data: &str) -> Chunk {
        match read(data) {
            Ok(Message::Chunk(chunk)) => chunk,
            other => panic!("{data}: {other:?}"),
        }
    }

    #[test]
    fn text_is_found_wherever_servers_put_it() {
        for choice in [
            r#"{"text":" a"}"#,
            r#"{"delta":{"content":"a"}}"#,
            r#"{"delta":{"reasoning_content":"a","content":null}}"#,
            r#"{"delta":{"tool_calls":[{"index":0}]}}"#,
        ] {
            assert!(chunk(&format!(r#"{{"choices":[{choice}]}}"#)).has_text, "{choice}");
        }
    }

    #[test]
    fn roles_and_empty_texts_are_no_text() {
        for choice in [r#"{"text":""}"#, r#"{"delta":{"role":"assistant","content":""}}"#, r#"{"delta":{}}"#, "{}", "3"]
        {
            assert_eq!(chunk(&format!(r#"{{"choices":[{choice}]}}"#)), Chunk::default(), "{choice}");
        }
    }

    #[test]
    fn usage_comes_with_a_chunk_or_alone() {
        let found = chunk(
            r#"{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":4}}}"#,
        );
        let usage = Usage { prompt_tokens: Some(7), completion_tokens: Some(3), cached_tokens: Some(4) };
        assert_eq!(found, Chunk { usage: Some(usage), ..Chunk::default() });
        let last = chunk(r#"{"choices":[{"text":"x","finish_reason":"length"}],"usage":{"completion_tokens":-1}}"#);
        assert_eq!(
            (last.has_text, last.finish_reason.as_deref(), last.usage),
            (true, Some("length"), Some(Usage::default()))
        );
        assert_eq!(chunk(r#"{"choices":[{"text":"x"}],"usage":null}"#).usage, None);
    }

    #[test]
    fn errors_in_the_stream_are_found_in_every_shape() {
        for data in [r#"{"error":{"message":"no memory"}}"#, r#"{"error":"no memory"}"#] {
            assert_eq!(read(data), Ok(Message::Error("no memory".to_owned())), "{data}");
        }
        let event = Event { name: "error".to_owned(), data: r#"{"message":"no memory"}"#.to_owned() };
        assert_eq!(Message::read(&event), Ok(Message::Error("no memory".to_owned())));
    }

    #[test]
    fn what_is_no_chunk_is_named() {
        for data in ["", "hello", "[1]", "3", "{\"choices\":"] {
            assert!(read(data).is_err(), "{data:?}");
        }
        assert_eq!(read(" [DONE] "), Ok(Message::Done));
    }
}
