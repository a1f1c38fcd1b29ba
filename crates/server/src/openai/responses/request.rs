//! The body of `POST /v1/responses`.

use dots_model::{checkpoint::GenerationDefaults, template::Message};
use serde_json::{Map, Value, json};

use super::{
    input,
    repeated::{self, Repeated},
    tools::{NAMES, ResponseTools},
};
use crate::{
    error::{ApiError, quoted, renamed},
    openai::{
        Generation,
        fields::{Fields, wrong_type},
        structured::{Structure, text_format},
    },
};

/// Most alternatives that a token's log-probabilities list.
const MAX_TOP_LOGPROBS: i64 = 20;
/// Most entries of `metadata`, and most characters of its keys and values: OpenAI's limits.
const MAX_METADATA: (usize, usize, usize) = (16, 64, 512);
/// What `include` may ask for. All but the first belong to tools and to reasoning, of which there are none here.
const INCLUDABLE: [&str; 7] = [
    LOGPROBS,
    "reasoning.encrypted_content",
    "file_search_call.results",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
    "web_search_call.action.sources",
];
const LOGPROBS: &str = "message.output_text.logprobs";
/// Fields that mean something else here than in a chat's request, or nothing.
const NOT_SHARED: [&str; 10] = [
    "input",
    "instructions",
    "n",
    "stop",
    "stream_options",
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "tools",
    "tool_choice",
];

/// What is done where a conversation is longer than the context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Truncation {
    /// It is refused.
    Disabled,
    /// Its oldest messages are left out.
    Auto,
}

/// A request for a response, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct ResponseRequest {
    /// What is said now; not empty.
    pub input: Vec<Message>,
    /// The system prompt of this response, and of none that follows it.
    pub instructions: Option<String>,
    /// The response whose conversation goes on.
    pub previous_response_id: Option<String>,
    /// Whether the conversation is kept.
    pub store: bool,
    /// Whether it is made while nobody waits for it.
    pub background: bool,
    /// What is done where it is too long.
    pub truncation: Truncation,
    /// The client's own notes.
    pub metadata: Map<String, Value>,
    /// The client's name for who asks.
    pub user: Option<String>,
    /// What the answer may call.
    pub tools: ResponseTools,
    /// As the request said, for the answer to repeat.
    pub parallel_tool_calls: bool,
    /// With `Some(n)`: each token's log-probability and the `n` best.
    pub logprobs: Option<usize>,
    /// `text.format` as the request said, for the answer to repeat.
    pub format: Repeated,
    /// All else.
    pub generation: Generation,
}

impl ResponseRequest {
    /// Reads the body. `defaults` are the authors' settings, under the request's own.
    pub fn parse(body: &Map<String, Value>, defaults: &GenerationDefaults) -> Result<Self, ApiError> {
        let fields = Fields::new(body);
        refuse_what_is_not_here(fields)?;
        // Before anything is copied.
        repeated::check(fields)?;
        let tools = ResponseTools::parse(fields)?;
        let max_output_tokens = fields.integer("max_output_tokens", 1..=i64::MAX)?;
        let mut shared: Map<_, _> = body
            .iter()
            .filter(|(name, _)| !NOT_SHARED.contains(&name.as_str()))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        if let Some(tokens) = max_output_tokens {
            shared.insert("max_tokens".to_owned(), tokens.into());
        }
        let mut generation = Generation::parse(Fields::new(&shared), defaults)?;
        let format = match fields.get("text") {
            Some(text) => Fields::nested(text, "text.")?.get("format").cloned(),
            None => None,
        };
        if let Some(format) = &format
            && let Some(structure) = text_format(Fields::nested(format, "text.format.")?)?
        {
            structure.join(&mut generation.structure)?;
        }
        Ok(Self {
            format: Repeated::new(&format.unwrap_or_else(|| json!({"type": "text"}))),
            input: input::messages(fields.required("input")?)?,
            instructions: fields.string("instructions")?.map(str::to_owned),
            previous_response_id: fields.string("previous_response_id")?.map(str::to_owned),
            store: fields.boolean("store")?.unwrap_or(true),
            background: background(fields)?,
            truncation: truncation(fields)?,
            metadata: metadata(fields)?,
            user: fields.string("user")?.map(str::to_owned),
            tools,
            parallel_tool_calls: fields.boolean("parallel_tool_calls")?.unwrap_or(true),
            logprobs: logprobs(fields)?,
            generation,
        })
    }

    /// Takes the form that the answer must have: that of its tools and of its text.
    pub fn take_structure(&mut self) -> Result<Option<Structure>, ApiError> {
        let structure = self.generation.structure.take();
        let Some(tools) = &self.tools.callable else { return Ok(structure) };
        let mut structure = tools.structure(structure).map_err(|error| error.renamed(&NAMES))?;
        for part in &mut structure.parts {
            part.param = renamed(&part.param, &NAMES);
        }
        Ok(Some(structure))
    }
}

fn logprobs(fields: Fields<'_>) -> Result<Option<usize>, ApiError> {
    let mut asked = false;
    for (i, item) in fields.array("include")?.unwrap_or(&[]).iter().enumerate() {
        let name = item.as_str().ok_or_else(|| wrong_type(&format!("include[{i}]"), "a string", item))?;
        if !INCLUDABLE.contains(&name) {
            let param = format!("include[{i}]");
            let message =
                format!("'{param}': expected one of '{}', found '{}'.", INCLUDABLE.join("', '"), quoted(name));
            return Err(ApiError::invalid(param, "invalid_value", message));
        }
        asked |= name == LOGPROBS;
    }
    let top = fields.integer("top_logprobs", 0..=MAX_TOP_LOGPROBS)?.unwrap_or(0) as usize;
    Ok((asked || top > 0).then_some(top))
}

fn background(fields: Fields<'_>) -> Result<bool, ApiError> {
    let background = fields.boolean("background")?.unwrap_or(false);
    if background && fields.boolean("store")? == Some(false) {
        let message = "'store': a response in the background can only be read where it is kept.";
        return Err(ApiError::invalid("store", "invalid_value", message));
    }
    if background && fields.boolean("stream")? == Some(true) {
        return Err(ApiError::unsupported("stream", "a stream of a response in the background"));
    }
    Ok(background)
}

fn truncation(fields: Fields<'_>) -> Result<Truncation, ApiError> {
    match fields.string("truncation")? {
        None | Some("disabled") => Ok(Truncation::Disabled),
        Some("auto") => Ok(Truncation::Auto),
        Some(other) => Err(ApiError::invalid(
            "truncation",
            "invalid_value",
            format!("'truncation': expected 'auto' or 'disabled', found '{}'.", quoted(other)),
        )),
    }
}

fn metadata(fields: Fields<'_>) -> Result<Map<String, Value>, ApiError> {
    let (most, most_key, most_value) = MAX_METADATA;
    let Some(value) = fields.get("metadata") else { return Ok(Map::new()) };
    let Value::Object(entries) = value else { return Err(wrong_type("metadata", "an object", value)) };
    let too_much = |expected: String, found: usize| {
        ApiError::invalid("metadata", "invalid_value", format!("'metadata': expected {expected}, found {found}."))
    };
    if entries.len() > most {
        return Err(too_much(format!("at most {most} entries"), entries.len()));
    }
    for (key, value) in entries {
        let text = value.as_str().ok_or_else(|| wrong_type(&format!("metadata.{}", quoted(key)), "a string", value))?;
        for (what, text, most) in [("keys", key.as_str(), most_key), ("values", text, most_value)] {
            let found = text.chars().count();
            if found > most {
                return Err(too_much(format!("{what} of at most {most} characters"), found));
            }
        }
    }
    Ok(entries.clone())
}

/// What would change the answer and cannot: an answer that left it out would look like one that kept to it.
fn refuse_what_is_not_here(fields: Fields<'_>) -> Result<(), ApiError> {
    for (name, what) in [("conversation", "a conversation object"), ("prompt", "a stored prompt")] {
        if fields.get(name).is_some() {
            return Err(ApiError::unsupported(name, what));
        }
    }
    if let Some(value) = fields.get("reasoning")
        && Fields::nested(value, "reasoning.")?.string("effort")?.is_some_and(|effort| effort != "none")
    {
        return Err(ApiError::unsupported("reasoning.effort", "reasoning"));
    }
    if let Some(value) = fields.get("text") {
        let text = Fields::nested(value, "text.")?;
        if text.string("verbosity")?.is_some_and(|verbosity| verbosity != "medium") {
            return Err(ApiError::unsupported("text.verbosity", "any verbosity but 'medium'"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(extra: Value) -> Result<ResponseRequest, ApiError> {
        let mut body = json!({"input": "hello"});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        ResponseRequest::parse(body.as_object().unwrap(), &GenerationDefaults::default())
    }

    #[test]
    fn a_wrong_field_is_named() {
        let many: Map<_, _> = (0..17).map(|i| (i.to_string(), json!("x"))).collect();
        let tool = |name: &str| json!({"type": "function", "name": name});
        let of_tool = |extra: Value| {
            let mut tool = tool("f");
            tool.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            json!({"tools": [tool]})
        };
        let choose = |choice: Value| json!({"tools": [tool("f")], "tool_choice": choice});
        let cases = [
            (json!({"input": null}), "input"),
            (json!({"input": 1}), "input"),
            (json!({"model": 1}), "model"),
            (json!({"instructions": 1}), "instructions"),
            (json!({"previous_response_id": 1}), "previous_response_id"),
            (json!({"store": "no"}), "store"),
            (json!({"truncation": "some"}), "truncation"),
            (json!({"truncation": 1}), "truncation"),
            (json!({"metadata": []}), "metadata"),
            (json!({"metadata": many}), "metadata"),
            (json!({"metadata": {"a": 1}}), "metadata.a"),
            (json!({"metadata": {"a": "x".repeat(513)}}), "metadata"),
            (json!({"metadata": {"x".repeat(65): "a"}}), "metadata"),
            (json!({"user": 1}), "user"),
            (json!({"parallel_tool_calls": 1}), "parallel_tool_calls"),
            (json!({"max_output_tokens": 0}), "max_output_tokens"),
            (json!({"max_output_tokens": "many"}), "max_output_tokens"),
            (json!({"temperature": 3}), "temperature"),
            (json!({"top_p": -1}), "top_p"),
            (json!({"stream": 1}), "stream"),
            (json!({"include": "x"}), "include"),
            (json!({"include": [1]}), "include[0]"),
            (json!({"include": ["everything"]}), "include[0]"),
            (json!({"top_logprobs": 21}), "top_logprobs"),
            (json!({"tools": {}}), "tools"),
            (json!({"tools": vec![tool("f"); 129]}), "tools"),
            (json!({"tools": ["f"]}), "tools[0]"),
            (json!({"tools": [{}]}), "tools[0].type"),
            (json!({"tools": [{"type": 1}]}), "tools[0].type"),
            (json!({"tools": [{"type": "web_search"}]}), "tools[0].type"),
            (json!({"tools": [tool("f"), {"type": "file_search"}]}), "tools[1].type"),
            (json!({"tools": [{"type": "custom", "name": "f"}]}), "tools[0].type"),
            (json!({"tools": [{"type": "function", "function": {"name": "f"}}]}), "tools[0].name"),
            (json!({"tools": [tool("a b")]}), "tools[0].name"),
            (json!({"tools": [tool("f"), tool("f")]}), "tools[1].name"),
            (of_tool(json!({"name": 1})), "tools[0].name"),
            (of_tool(json!({"description": 1})), "tools[0].description"),
            (of_tool(json!({"strict": "yes"})), "tools[0].strict"),
            (of_tool(json!({"parameters": []})), "tools[0].parameters"),
            (of_tool(json!({"parameters": {"type": "array"}})), "tools[0].parameters.type"),
            (choose(json!("any")), "tool_choice"),
            (choose(json!(1)), "tool_choice"),
            (choose(json!({})), "tool_choice.type"),
            (choose(json!({"type": "allowed_tools"})), "tool_choice.type"),
            (choose(json!({"type": "web_search"})), "tool_choice.type"),
            (choose(json!({"type": "function"})), "tool_choice.name"),
            (choose(json!({"type": "function", "name": 1})), "tool_choice.name"),
            (choose(json!({"type": "function", "name": "g"})), "tool_choice.name"),
            (json!({"tool_choice": "required"}), "tool_choice"),
            (json!({"conversation": "conv_1"}), "conversation"),
            (json!({"prompt": {"id": "p"}}), "prompt"),
            (json!({"background": 1}), "background"),
            (json!({"background": true, "store": false}), "store"),
            (json!({"background": true, "stream": true}), "stream"),
            (json!({"reasoning": {"effort": "high"}}), "reasoning.effort"),
            (json!({"reasoning": 1}), "reasoning"),
            (json!({"text": "x"}), "text"),
            (json!({"text": {"format": {}}}), "text.format.type"),
            (json!({"text": {"format": {"type": "xml"}}}), "text.format.type"),
            (json!({"text": {"format": {"type": "json_schema"}}}), "text.format.name"),
            (json!({"text": {"format": {"type": "json_schema", "name": "a b"}}}), "text.format.name"),
            (json!({"text": {"format": {"type": "json_schema", "name": "a"}}}), "text.format.schema"),
            (json!({"text": {"format": {"type": "json_schema", "name": "a", "schema": 1}}}), "text.format.schema"),
            (
                json!({"text": {"format": {"type": "json_schema", "name": "a", "schema": {}, "strict": 1}}}),
                "text.format.strict",
            ),
            (json!({"text": {"format": {"type": "json_object"}}, "guided_regex": "a"}), "text.format"),
            (json!({"text": {"verbosity": "low"}}), "text.verbosity"),
        ];
        for (extra, param) in cases {
            let error = parse(extra.clone()).expect_err(&extra.to_string());
            let (status, message, found, _) = error.parts();
            assert_eq!((status, found), (400, Some(param)), "{extra}: {message}");
        }
    }

    #[test]
    fn what_changes_nothing_is_taken() {
        let harmless = json!({
            "text": {"format": {"type": "text"}, "verbosity": "medium"}, "tools": [], "tool_choice": "auto",
            "reasoning": {"effort": "none"}, "include": ["reasoning.encrypted_content"], "background": false,
            "service_tier": "auto", "safety_identifier": "x", "prompt_cache_key": "y", "n": 9, "stop": 1,
            "max_tool_calls": 3, "stream_options": {"include_obfuscation": false}, "instructions": null,
        });
        assert_eq!(parse(harmless).unwrap(), parse(json!({})).unwrap());
    }

    #[test]
    fn tools_are_a_chats_and_are_repeated_as_they_came() {
        let tool = json!({"type": "function", "name": "f", "parameters": {"type": "object"}});
        let mut parsed = parse(json!({"tools": [tool], "tool_choice": {"type": "function", "name": "f"}})).unwrap();
        let chats = json!({"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}});
        assert_eq!(parsed.tools.callable.as_ref().unwrap().definitions, [chats]);
        assert_eq!(parsed.tools.choice, Repeated::new(&json!({"type": "function", "name": "f"})));
        let repeated = json!([{
            "type": "function", "name": "f", "description": null, "parameters": {"type": "object"}, "strict": true,
        }]);
        assert_eq!(parsed.tools.definitions, Repeated::new(&repeated));
        let structure = parsed.take_structure().unwrap().unwrap();
        assert_eq!((structure.param.as_str(), structure.parts[0].param.as_str()), ("tools", "tools[0].parameters"));
        let none = parse(json!({"tools": [tool], "tool_choice": "none"})).unwrap().tools;
        assert_eq!((none.callable, none.definitions), (None, Repeated::new(&repeated)));
    }

    #[test]
    fn what_is_repeated_is_bounded_and_the_field_that_is_too_long_is_named() {
        let schema = |zeros: usize| json!({"type": "object", "enum": vec![0; zeros]});
        let tools = |zeros: usize| json!([{"type": "function", "name": "f", "parameters": schema(zeros)}]);
        let format = |zeros: usize| json!({"format": {"type": "json_schema", "name": "a", "schema": schema(zeros)}});
        let long = "x".repeat(1 << 20);
        for (extra, param) in [
            (json!({"tools": tools(600_000), "tool_choice": "none"}), "tools"),
            (json!({"text": format(600_000)}), "text"),
            (json!({"text": format(300_000), "tools": tools(300_000)}), "tools"),
            (json!({"tools": tools(1), "tool_choice": {"type": "function", "name": "f", "x": long}}), "tool_choice"),
            (json!({"user": long}), "user"),
        ] {
            let error = parse(extra).unwrap_err();
            let (status, message, found, _) = error.parts();
            assert_eq!((status, found), (400, Some(param)), "{message}");
            assert!(message.contains("1048576") && message.len() < 300, "{message}");
        }
        assert!(parse(json!({"text": format(200_000), "tools": tools(200_000)})).is_ok());
    }

    #[test]
    fn a_form_that_is_no_json_goes_with_no_tools() {
        let tools = json!([{"type": "function", "name": "f"}]);
        let error = parse(json!({"tools": tools, "guided_regex": "a"})).unwrap().take_structure().unwrap_err();
        let (status, message, param, _) = error.parts();
        assert_eq!((status, param), (400, Some("guided_regex")));
        assert!(message.contains("'text.format'"), "{message}");
    }

    #[test]
    fn settings_arrive_as_the_engine_wants_them() {
        let parsed = parse(json!({
            "max_output_tokens": 9, "temperature": 0.5, "seed": 3, "store": false, "truncation": "auto",
            "metadata": {"a": "b"}, "include": [LOGPROBS], "top_logprobs": 2, "previous_response_id": "resp_1",
        }))
        .unwrap();
        assert_eq!(parsed.generation.max_tokens, Some(9));
        assert_eq!((parsed.generation.sampling.temperature, parsed.generation.sampling.seed), (0.5, Some(3)));
        assert_eq!((parsed.store, parsed.truncation, parsed.logprobs), (false, Truncation::Auto, Some(2)));
        assert_eq!(parsed.previous_response_id.as_deref(), Some("resp_1"));
        assert!(parse(json!({})).unwrap().store);
    }
}
