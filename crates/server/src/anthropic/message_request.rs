//! The bodies of `POST /v1/messages` and `POST /v1/messages/count_tokens`.

use dots_model::{checkpoint::GenerationDefaults, template::Message};
use serde_json::{Map, Value, json};

use crate::{
    conversation::Ending,
    error::{ApiError, quoted},
    openai::{
        Generation,
        fields::{Fields, wrong_type},
        generation::{MAX_STOP, bounded, refuse_entries},
        structured::output_format,
    },
};

/// Most messages of a conversation.
const MAX_MESSAGES: usize = 65_536;
/// Fields that mean something else here than in OpenAI's requests, or nothing.
const NOT_SHARED: [&str; 9] = [
    "messages",
    "system",
    "n",
    "stop",
    "stop_sequences",
    "stream_options",
    "max_completion_tokens",
    "tools",
    "tool_choice",
];

/// A conversation, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Conversation {
    /// The system prompt, if there is one, and the messages; not empty.
    pub messages: Vec<Message>,
    /// An answer, or the rest of one that the client has begun.
    pub ending: Ending,
}

/// A request for a message, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct MessageRequest {
    /// What was said.
    pub conversation: Conversation,
    /// How the answer is made.
    pub generation: Generation,
}

impl MessageRequest {
    /// Reads the body. `defaults` are the authors' settings, under the request's own.
    pub fn parse(body: &Map<String, Value>, defaults: &GenerationDefaults) -> Result<Self, ApiError> {
        let fields = Fields::new(body);
        let conversation = Conversation::parse(body)?;
        fields.required("max_tokens")?;
        fields.number("temperature", 0.0..=1.0)?;
        fields.integer("top_k", 0..=i64::MAX)?;
        refuse_what_is_not_here(fields)?;
        let mut generation = Generation::parse(Fields::new(&shared(fields, body)?), defaults)?;
        if let Some(value) = fields.get("output_format") {
            output_format(Fields::nested(value, "output_format.")?)?.join(&mut generation.structure)?;
        }
        // How much effort an answer is worth is for the model to weigh, and this one has one way to answer.
        if let Some(value) = fields.get("output_config")
            && let Some(value) = Fields::nested(value, "output_config.")?.get("format")
        {
            output_format(Fields::nested(value, "output_config.format.")?)?.join(&mut generation.structure)?;
        }
        Ok(Self { conversation, generation })
    }
}

/// The request in OpenAI's names, so that what both have is read in one place, and what OpenAI's requests have beyond
/// Anthropic's (`seed`, `min_p`) is there for both.
fn shared(fields: Fields<'_>, body: &Map<String, Value>) -> Result<Map<String, Value>, ApiError> {
    let mut shared: Map<_, _> = body
        .iter()
        .filter(|(name, _)| !NOT_SHARED.contains(&name.as_str()))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    // The name that an error must have is Anthropic's.
    let stops = fields.array("stop_sequences")?.unwrap_or(&[]);
    for (i, stop) in stops.iter().enumerate() {
        match stop {
            Value::String(text) if !text.is_empty() => {}
            Value::String(_) => {
                let param = format!("stop_sequences[{i}]");
                let message = format!("'{param}': expected a text that is not empty, found ''.");
                return Err(ApiError::invalid(param, "invalid_value", message));
            }
            other => return Err(wrong_type(&format!("stop_sequences[{i}]"), "a string", other)),
        }
    }
    if !stops.is_empty() {
        bounded("stop_sequences", stops, MAX_STOP)?;
        shared.insert("stop".to_owned(), json!(stops));
    }
    Ok(shared)
}

/// What would change the answer and cannot: an answer that left it out would look like one that kept to it.
fn refuse_what_is_not_here(fields: Fields<'_>) -> Result<(), ApiError> {
    refuse_entries(fields, "mcp_servers", "a tool server")?;
    for (name, what) in
        [("container", "running code"), ("context_management", "changing the conversation on the server")]
    {
        if fields.get(name).is_some() {
            return Err(ApiError::unsupported(name, what));
        }
    }
    if let Some(value) = fields.get("thinking") {
        match Fields::nested(value, "thinking.")?.string("type")? {
            None => return Err(ApiError::missing("thinking.type")),
            // With the last the model may choose, and this one never thinks aloud.
            Some("disabled" | "adaptive") => {}
            Some(_) => return Err(ApiError::unsupported("thinking", "extended thinking")),
        }
    }
    Ok(())
}

impl Conversation {
    /// Reads the fields that are also a request for counting.
    pub fn parse(body: &Map<String, Value>) -> Result<Self, ApiError> {
        let fields = Fields::new(body);
        refuse_tools(fields)?;
        let mut said = Vec::new();
        if let Some(value) = fields.get("system") {
            said.push(Message::new("system", content(value, "system")?));
        }
        let value = fields.required("messages")?;
        let items = value.as_array().ok_or_else(|| wrong_type("messages", "an array of objects", value))?;
        for (i, item) in bounded("messages", items, MAX_MESSAGES)?.iter().enumerate() {
            let path = format!("messages[{i}].");
            let (role, text) = message(Fields::nested(item, &path)?)?;
            match said.last_mut() {
                // Anthropic takes turns of one speaker for one.
                Some(last) if last.role == role => {
                    last.content.push('\n');
                    last.content.push_str(&text);
                }
                _ => said.push(Message::new(role, text)),
            }
        }
        let begun = said.last().filter(|last| last.role == "assistant");
        if begun.is_some_and(|begun| begun.content.ends_with(char::is_whitespace)) {
            let param = format!("messages[{}].content", items.len() - 1);
            let message = format!("'{param}': final assistant content cannot end with trailing whitespace.");
            return Err(ApiError::invalid(param, "invalid_value", message));
        }
        let ending = if begun.is_some() { Ending::Continue } else { Ending::Answer };
        Ok(Self { messages: said, ending })
    }
}

fn refuse_tools(fields: Fields<'_>) -> Result<(), ApiError> {
    refuse_entries(fields, "tools", "tool calling")?;
    let Some(value) = fields.get("tool_choice") else { return Ok(()) };
    match Fields::nested(value, "tool_choice.")?.string("type")? {
        None => Err(ApiError::missing("tool_choice.type")),
        // Without tools both mean the same.
        Some("auto" | "none") => Ok(()),
        Some(_) => Err(ApiError::unsupported("tool_choice", "tool calling")),
    }
}

fn message(fields: Fields<'_>) -> Result<(&'static str, String), ApiError> {
    let role = match fields.string("role")?.ok_or_else(|| ApiError::missing(&fields.param("role")))? {
        "user" => "user",
        "assistant" => "assistant",
        other => {
            let param = fields.param("role");
            let message = format!(
                "'{param}': expected 'user' or 'assistant', found '{}'. A system prompt goes into the field 'system'.",
                quoted(other)
            );
            return Err(ApiError::invalid(param, "invalid_value", message));
        }
    };
    let param = fields.param("content");
    Ok((role, content(fields.get("content").ok_or_else(|| ApiError::missing(&param))?, &param)?))
}

/// A text, or blocks of type `text`, which are joined by line breaks as a chat's parts are.
fn content(value: &Value, param: &str) -> Result<String, ApiError> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Array(blocks) => {
            let texts = blocks.iter().enumerate().map(|(i, block)| text_block(block, &format!("{param}[{i}].")));
            Ok(texts.collect::<Result<Vec<_>, _>>()?.join("\n"))
        }
        other => Err(wrong_type(param, "a string or an array of objects", other)),
    }
}

fn text_block(block: &Value, path: &str) -> Result<String, ApiError> {
    let fields = Fields::nested(block, path)?;
    let param = fields.param("type");
    match fields.string("type")?.ok_or_else(|| ApiError::missing(&param))? {
        "text" => fields.string("text")?.map(str::to_owned).ok_or_else(|| ApiError::missing(&fields.param("text"))),
        "tool_use" | "tool_result" => Err(ApiError::unsupported(&param, "tool calling")),
        other => {
            let message =
                format!("'{param}': expected 'text', which is what this model reads, found '{}'.", quoted(other));
            Err(ApiError::invalid(param, "invalid_value", message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(body: Value) -> Result<MessageRequest, ApiError> {
        let Value::Object(object) = body else { panic!("an object") };
        MessageRequest::parse(&object, &GenerationDefaults::default())
    }

    fn hello(extra: Value) -> Value {
        let mut body = json!({"messages": [{"role": "user", "content": "hello"}], "max_tokens": 5});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        body
    }

    #[test]
    fn all_forms_of_content_are_read() {
        let parsed = parse(json!({
            "max_tokens": 5,
            "system": [{"type": "text", "text": "be", "cache_control": {"type": "ephemeral"}}, {"type": "text", "text": "brief"}],
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
                {"role": "user", "content": "c"},
                {"role": "assistant", "content": ""},
                {"role": "user", "content": "d"},
            ],
        }))
        .unwrap()
        .conversation;
        let said: Vec<_> = parsed.messages.iter().map(|m| (m.role.as_str(), m.content.as_str())).collect();
        assert_eq!(said, [("system", "be\nbrief"), ("user", "a\nb\nc"), ("assistant", ""), ("user", "d")]);
        assert_eq!(parsed.ending, Ending::Answer);
    }

    #[test]
    fn an_answer_that_the_client_began_is_continued() {
        let begun = |text| json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": text}]);
        let parsed = parse(hello(json!({"messages": begun("The answer is")}))).unwrap();
        assert_eq!(parsed.conversation.ending, Ending::Continue);
        let error = parse(hello(json!({"messages": begun("The answer is ")}))).unwrap_err();
        assert_eq!(error.parts().2, Some("messages[1].content"));
    }

    #[test]
    fn settings_arrive_as_the_engine_wants_them() {
        let parsed = parse(hello(json!({
            "model": "dots1", "temperature": 0.5, "top_p": 0.9, "top_k": 40, "stop_sequences": ["a", "b"],
            "stream": true, "seed": 7, "n": 5, "stop": 3, "metadata": {"user_id": "u"}, "service_tier": "auto",
            "output_config": {"effort": "low"},
            "thinking": {"type": "disabled"}, "tools": [], "tool_choice": {"type": "auto"},
        })))
        .unwrap()
        .generation;
        let sampling = &parsed.sampling;
        assert_eq!((sampling.temperature, sampling.top_p, sampling.top_k, sampling.seed), (0.5, 0.9, 40, Some(7)));
        assert_eq!((parsed.max_tokens, parsed.n, parsed.stop), (Some(5), 1, vec!["a".to_owned(), "b".to_owned()]));
        assert!(parsed.stream.is_some());
    }

    #[test]
    fn a_wrong_field_is_named() {
        let content = |content: Value| hello(json!({"messages": [{"role": "user", "content": content}]}));
        let cases = [
            (json!({"messages": [{"role": "user", "content": "x"}]}), "max_tokens"),
            (json!({"max_tokens": 5}), "messages"),
            (hello(json!({"max_tokens": 0})), "max_tokens"),
            (hello(json!({"max_tokens": "5"})), "max_tokens"),
            (hello(json!({"messages": []})), "messages"),
            (hello(json!({"messages": "hello"})), "messages"),
            (hello(json!({"messages": ["hello"]})), "messages[0]"),
            (hello(json!({"messages": [{"content": "x"}]})), "messages[0].role"),
            (hello(json!({"messages": [{"role": "system", "content": "x"}]})), "messages[0].role"),
            (hello(json!({"messages": [{"role": 1, "content": "x"}]})), "messages[0].role"),
            (hello(json!({"messages": [{"role": "user"}]})), "messages[0].content"),
            (content(json!(1)), "messages[0].content"),
            (content(json!(["x"])), "messages[0].content[0]"),
            (content(json!([{"text": "x"}])), "messages[0].content[0].type"),
            (content(json!([{"type": "text"}])), "messages[0].content[0].text"),
            (content(json!([{"type": "text", "text": 1}])), "messages[0].content[0].text"),
            (content(json!([{"type": "image", "source": {}}])), "messages[0].content[0].type"),
            (content(json!([{"type": "tool_result", "tool_use_id": "x"}])), "messages[0].content[0].type"),
            (hello(json!({"system": 1})), "system"),
            (hello(json!({"system": [{"type": "image"}]})), "system[0].type"),
            (hello(json!({"temperature": 1.5})), "temperature"),
            (hello(json!({"temperature": "hot"})), "temperature"),
            (hello(json!({"top_p": 2})), "top_p"),
            (hello(json!({"top_k": -1})), "top_k"),
            (hello(json!({"stop_sequences": "a"})), "stop_sequences"),
            (hello(json!({"stop_sequences": [1]})), "stop_sequences[0]"),
            (hello(json!({"stop_sequences": ["a", ""]})), "stop_sequences[1]"),
            (hello(json!({"stop_sequences": vec!["a"; 17]})), "stop_sequences"),
            (hello(json!({"stream": "yes"})), "stream"),
            (hello(json!({"model": 1})), "model"),
            (hello(json!({"tools": [{"name": "f"}]})), "tools"),
            (hello(json!({"tools": 1})), "tools"),
            (hello(json!({"tool_choice": {"type": "any"}})), "tool_choice"),
            (hello(json!({"tool_choice": "auto"})), "tool_choice"),
            (hello(json!({"tool_choice": {}})), "tool_choice.type"),
            (hello(json!({"thinking": {"type": "enabled", "budget_tokens": 1024}})), "thinking"),
            (hello(json!({"thinking": {}})), "thinking.type"),
            (hello(json!({"mcp_servers": [{}]})), "mcp_servers"),
            (hello(json!({"container": "c"})), "container"),
            (hello(json!({"context_management": {}})), "context_management"),
            (hello(json!({"output_config": "x"})), "output_config"),
            (hello(json!({"output_config": {"format": {"type": "json_schema"}}})), "output_config.format.schema"),
            (hello(json!({"output_config": {"format": "json"}})), "output_config.format"),
            (hello(json!({"output_format": {}})), "output_format.type"),
            (hello(json!({"output_format": {"type": "json_object"}})), "output_format.type"),
            (hello(json!({"output_format": {"type": "json_schema", "schema": []}})), "output_format.schema"),
            (
                hello(json!({"output_format": {"type": "json_schema", "schema": {}}, "guided_regex": "a"})),
                "output_format.schema",
            ),
        ];
        for (body, param) in cases {
            let error = parse(body.clone()).expect_err(&body.to_string());
            let (status, message, found, _) = error.parts();
            assert_eq!((status, found), (400, Some(param)), "{body}: {message}");
            // Anthropic's shape has no place for the field's name but the message.
            assert!(message.contains(param), "{message}");
        }
    }
}
