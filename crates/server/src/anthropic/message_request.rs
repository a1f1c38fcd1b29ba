//! The bodies of `POST /v1/messages` and `POST /v1/messages/count_tokens`.

use dots_model::{checkpoint::GenerationDefaults, template::Message};
use serde_json::{Map, Value, json};

use super::tools::{NAMES, tool_use, tools};
use crate::{
    conversation::Ending,
    error::{ApiError, quoted, renamed},
    openai::{
        Generation,
        fields::{Fields, bounded, wrong_type},
        generation::{MAX_STOP, refuse_entries},
        structured::Structure,
        structured::output_format,
        tools::Tools,
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
    /// What the answer may call.
    pub tools: Option<Tools>,
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

    /// Takes the form that the answer must have: that of its tools and of its text.
    pub fn take_structure(&mut self) -> Result<Option<Structure>, ApiError> {
        let structure = self.generation.structure.take();
        match &self.conversation.tools {
            Some(tools) => {
                let mut structure = tools.structure(structure).map_err(|error| error.renamed(&NAMES))?;
                for part in &mut structure.parts {
                    part.param = renamed(&part.param, &NAMES);
                }
                Ok(Some(structure))
            }
            None => Ok(structure),
        }
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
    // Not used, and of its type all the same.
    if let Some(value) = fields.get("metadata") {
        Fields::nested(value, "metadata.")?;
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
        let tools = tools(fields)?;
        let mut said: Vec<Message> = Vec::new();
        if let Some(value) = fields.get("system") {
            said.push(Message::new("system", text_of(value, "system")?));
        }
        let value = fields.required("messages")?;
        let items = value.as_array().ok_or_else(|| wrong_type("messages", "an array of objects", value))?;
        for (i, item) in bounded("messages", items, MAX_MESSAGES)?.iter().enumerate() {
            let path = format!("messages[{i}].");
            for message in messages(Fields::nested(item, &path)?)? {
                match said.last_mut() {
                    // Anthropic takes turns of one speaker for one; each result of a tool stays apart.
                    Some(last) if last.role == message.role && message.role != "tool" => join(last, message),
                    _ => said.push(message),
                }
            }
        }
        let begun = said.last().filter(|last| last.role == "assistant" && last.tool_calls.is_empty());
        if begun.is_some_and(|begun| begun.content.ends_with(char::is_whitespace)) {
            let param = format!("messages[{}].content", items.len() - 1);
            let message = format!("'{param}': final assistant content cannot end with trailing whitespace.");
            return Err(ApiError::invalid(param, "invalid_value", message));
        }
        let ending = if begun.is_some() { Ending::Continue } else { Ending::Answer };
        Ok(Self { messages: said, tools, ending })
    }
}

fn join(last: &mut Message, more: Message) {
    if !last.content.is_empty() && !more.content.is_empty() {
        last.content.push('\n');
    }
    last.content.push_str(&more.content);
    last.tool_calls.extend(more.tool_calls);
}

/// What one message says: the results of tools apart, since a template knows them as messages of their own.
fn messages(fields: Fields<'_>) -> Result<Vec<Message>, ApiError> {
    let role = match fields.string("role")?.ok_or_else(|| ApiError::missing(&fields.param("role")))? {
        role @ ("user" | "assistant") => role,
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
    let blocks = match fields.get("content").ok_or_else(|| ApiError::missing(&param))? {
        Value::String(text) => return Ok(vec![Message::new(role, text.as_str())]),
        Value::Array(blocks) => blocks,
        other => return Err(wrong_type(&param, "a string or an array of objects", other)),
    };
    let (mut texts, mut calls, mut said) = (Vec::new(), Vec::new(), Vec::new());
    for (i, block) in blocks.iter().enumerate() {
        let path = format!("{param}[{i}].");
        let block = Fields::nested(block, &path)?;
        match (block.string("type")?, role) {
            (Some("tool_use"), "assistant") => calls.push(tool_use(block)?),
            (Some("tool_result"), "user") => said.push(tool_result(block)?),
            _ => texts.push(text_block(block)?),
        }
    }
    if !texts.is_empty() || !calls.is_empty() || said.is_empty() {
        said.push(Message { tool_calls: calls, ..Message::new(role, texts.join("\n")) });
    }
    Ok(said)
}

fn tool_result(fields: Fields<'_>) -> Result<Message, ApiError> {
    let id = fields.string("tool_use_id")?.ok_or_else(|| ApiError::missing(&fields.param("tool_use_id")))?;
    let content = match fields.get("content") {
        None => String::new(),
        Some(value) => text_of(value, &fields.param("content"))?,
    };
    fields.boolean("is_error")?;
    Ok(Message { tool_call_id: Some(id.to_owned()), ..Message::new("tool", content) })
}

/// A text, or blocks of type `text`, which are joined by line breaks as a chat's parts are.
fn text_of(value: &Value, param: &str) -> Result<String, ApiError> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Array(blocks) => {
            let path = |i| format!("{param}[{i}].");
            let texts = blocks.iter().enumerate().map(|(i, block)| text_block(Fields::nested(block, &path(i))?));
            Ok(texts.collect::<Result<Vec<_>, _>>()?.join("\n"))
        }
        other => Err(wrong_type(param, "a string or an array of objects", other)),
    }
}

fn text_block(fields: Fields<'_>) -> Result<String, ApiError> {
    let param = fields.param("type");
    match fields.string("type")?.ok_or_else(|| ApiError::missing(&param))? {
        "text" => fields.string("text")?.map(str::to_owned).ok_or_else(|| ApiError::missing(&fields.param("text"))),
        other => {
            let message =
                format!("'{param}': expected 'text', which is what this model reads here, found '{}'.", quoted(other));
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
    fn calls_and_their_results_are_read() {
        let parsed = parse(hello(json!({
            "tools": [{"name": "f", "description": "d", "input_schema": {"type": "object"}}],
            "tool_choice": {"type": "any", "disable_parallel_tool_use": true},
            "messages": [
                {"role": "user", "content": "q"},
                {"role": "assistant", "content": [
                    {"type": "text", "text": "Wait."},
                    {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}},
                ]},
                {"role": "user", "content": [
                    {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "7"}]},
                    {"type": "tool_result", "tool_use_id": "t2", "is_error": true},
                    {"type": "text", "text": "And?"},
                ]},
            ],
        })))
        .unwrap();
        let said = &parsed.conversation.messages;
        let roles: Vec<_> = said.iter().map(|m| (m.role.as_str(), m.content.as_str())).collect();
        assert_eq!(roles, [("user", "q"), ("assistant", "Wait."), ("tool", "7"), ("tool", ""), ("user", "And?")]);
        assert_eq!((said[1].tool_calls[0].name.as_str(), said[2].tool_call_id.as_deref()), ("f", Some("t1")));
        let definition = json!({
            "type": "function",
            "function": {"name": "f", "parameters": {"type": "object"}, "description": "d"},
        });
        assert_eq!(parsed.conversation.tools.unwrap().definitions, [definition]);
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
        let called = |block: Value| hello(json!({"messages": [{"role": "assistant", "content": [block]}]}));
        let tool = |choice: Value| {
            hello(json!({"tools": [{"name": "f", "input_schema": {"type": "object"}}], "tool_choice": choice}))
        };
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
            (hello(json!({"tools": [{"name": "f"}]})), "tools[0].input_schema"),
            (hello(json!({"tools": 1})), "tools"),
            (hello(json!({"tool_choice": {"type": "any"}})), "tool_choice"),
            (hello(json!({"tool_choice": "auto"})), "tool_choice"),
            (hello(json!({"tool_choice": {}})), "tool_choice.type"),
            (hello(json!({"thinking": {"type": "enabled", "budget_tokens": 1024}})), "thinking"),
            (hello(json!({"thinking": {}})), "thinking.type"),
            (hello(json!({"metadata": "me"})), "metadata"),
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
            (hello(json!({"output_config": {"format": {}}})), "output_config.format.type"),
            (
                hello(json!({"output_config": {"format": {"type": "json_schema", "schema": 1}}})),
                "output_config.format.schema",
            ),
            (hello(json!({"tools": ["f"]})), "tools[0]"),
            (hello(json!({"tools": [{"input_schema": {}}]})), "tools[0].name"),
            (hello(json!({"tools": [{"name": "f g", "input_schema": {}}]})), "tools[0].name"),
            (hello(json!({"tools": [{"name": "f", "input_schema": 1}]})), "tools[0].input_schema"),
            (hello(json!({"tools": [{"name": "f", "input_schema": {}, "description": 1}]})), "tools[0].description"),
            (hello(json!({"tools": [{"type": "web_search_20250305", "name": "web_search"}]})), "tools[0].type"),
            (tool(json!({"type": "tool"})), "tool_choice.name"),
            (tool(json!({"type": "tool", "name": "g"})), "tool_choice.name"),
            (tool(json!({"type": "auto", "disable_parallel_tool_use": 1})), "tool_choice.disable_parallel_tool_use"),
            (tool(json!({"type": "king"})), "tool_choice.type"),
            (content(json!([{"type": "tool_result"}])), "messages[0].content[0].tool_use_id"),
            (
                content(json!([{"type": "tool_result", "tool_use_id": "1", "content": [{"type": "image"}]}])),
                "messages[0].content[0].content[0].type",
            ),
            (
                content(json!([{"type": "tool_use", "id": "1", "name": "f", "input": {}}])),
                "messages[0].content[0].type",
            ),
            (called(json!({"type": "tool_use", "name": "f", "input": {}})), "messages[0].content[0].id"),
            (called(json!({"type": "tool_use", "id": "1", "input": {}})), "messages[0].content[0].name"),
            (called(json!({"type": "tool_use", "id": "1", "name": "f"})), "messages[0].content[0].input"),
            (called(json!({"type": "tool_use", "id": "1", "name": "f", "input": 1})), "messages[0].content[0].input"),
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
