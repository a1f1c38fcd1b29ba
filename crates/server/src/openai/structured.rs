//! The fields that hold an answer to a form: OpenAI's `response_format`, vLLM's `structured_outputs` and its older `guided_*`,
//! and llama.cpp's `grammar` and `json_schema`.

use dots_engine::constraint::ConstraintSpec;
use serde_json::{Value, json};

use super::{
    fields::{Fields, empty_array, long_array, wrong_type},
    tools::check_name,
};
use crate::error::{ApiError, quoted};

/// Most texts of a choice.
const MAX_CHOICES: usize = 4096;

/// A form and the field that asked for it.
#[derive(Debug, Clone, PartialEq)]
pub struct Structure {
    /// What the answer must look like.
    pub spec: ConstraintSpec,
    /// The field to blame where it cannot be compiled.
    pub param: String,
    /// What it is made of, each with its own field: one of them may be what is wrong.
    pub parts: Vec<Structure>,
}

impl Structure {
    /// A form that one field describes.
    pub fn new(spec: ConstraintSpec, param: String) -> Self {
        Self { spec, param, parts: Vec::new() }
    }

    /// The form that the fields of a chat or of a completion ask for. One at the most.
    pub fn parse(fields: Fields<'_>) -> Result<Option<Self>, ApiError> {
        let mut found: Option<Self> = None;
        let named = [
            response_format(fields)?,
            structured_outputs(fields)?,
            json(fields, "guided_json", true)?,
            json_object(fields, "guided_json_object", true)?,
            regex(fields, "guided_regex")?,
            choice(fields, "guided_choice")?,
            grammar(fields, "guided_grammar")?,
            json(fields, "json_schema", true)?,
            grammar(fields, "grammar")?,
        ];
        if fields.get("guided_whitespace_pattern").is_some() {
            return Err(ApiError::unsupported("guided_whitespace_pattern", "white space of the client's choice"));
        }
        for structure in named.into_iter().flatten() {
            structure.join(&mut found)?;
        }
        Ok(found)
    }

    /// Becomes the form of an answer that has none yet.
    pub fn join(self, found: &mut Option<Self>) -> Result<(), ApiError> {
        if let Some(first) = found {
            let message = format!("'{}' and '{}' exclude each other.", first.param, self.param);
            return Err(ApiError::invalid(self.param, "invalid_value", message));
        }
        *found = Some(self);
        Ok(())
    }
}

/// `response_format`, or what else has its shape.
fn response_format(fields: Fields<'_>) -> Result<Option<Structure>, ApiError> {
    let Some(value) = fields.get("response_format") else { return Ok(None) };
    let format = Fields::nested(value, "response_format.")?;
    match format.string("type")? {
        None => Err(ApiError::missing("response_format.type")),
        Some("text") => Ok(None),
        Some("json_object") => Ok(Some(Structure::json(any_object(), true, "response_format".to_owned()))),
        Some("json_schema") => {
            let inner = Fields::nested(format.required("json_schema")?, "response_format.json_schema.")?;
            named_schema(inner).map(Some)
        }
        Some("structural_tag") => Err(ApiError::unsupported("response_format.type", "a structural tag")),
        Some(other) => Err(wrong_format("response_format.type", other, "'text', 'json_object' or 'json_schema'")),
    }
}

/// A schema with a name, as OpenAI's requests have it.
fn named_schema(fields: Fields<'_>) -> Result<Structure, ApiError> {
    let name = fields.string("name")?.ok_or_else(|| ApiError::missing(&fields.param("name")))?;
    check_name(name, &fields.param("name"))?;
    // Every schema is kept to, as `strict` asks.
    fields.boolean("strict")?;
    fields.string("description")?;
    only_schema(fields)
}

fn only_schema(fields: Fields<'_>) -> Result<Structure, ApiError> {
    let param = fields.param("schema");
    match fields.required("schema")? {
        schema @ Value::Object(_) => Ok(Structure::json(schema.clone(), true, param)),
        other => Err(wrong_type(&param, "an object", other)),
    }
}

/// `text.format` of a request for a response.
pub fn text_format(format: Fields<'_>) -> Result<Option<Structure>, ApiError> {
    let param = format.param("type");
    match format.string("type")? {
        None => Err(ApiError::missing(&param)),
        Some("text") => Ok(None),
        Some("json_object") => {
            Ok(Some(Structure::json(any_object(), true, param.trim_end_matches(".type").to_owned())))
        }
        Some("json_schema") => named_schema(format).map(Some),
        Some(other) => Err(wrong_format(&param, other, "'text', 'json_object' or 'json_schema'")),
    }
}

/// The format of an Anthropic message.
pub fn output_format(format: Fields<'_>) -> Result<Structure, ApiError> {
    let param = format.param("type");
    match format.string("type")? {
        None => Err(ApiError::missing(&param)),
        Some("json_schema") => only_schema(format),
        Some(other) => Err(wrong_format(&param, other, "'json_schema'")),
    }
}

fn wrong_format(param: &str, found: &str, known: &str) -> ApiError {
    let message = format!("'{param}': expected {known}, found '{}'.", quoted(found));
    ApiError::invalid(param, "invalid_value", message)
}

/// vLLM's object with one of `json`, `regex`, `choice`, `grammar` and `json_object`.
fn structured_outputs(fields: Fields<'_>) -> Result<Option<Structure>, ApiError> {
    let Some(value) = fields.get("structured_outputs") else { return Ok(None) };
    let inner = Fields::nested(value, "structured_outputs.")?;
    for name in ["structural_tag", "whitespace_pattern"] {
        if inner.get(name).is_some() {
            return Err(ApiError::unsupported(&inner.param(name), "this form"));
        }
    }
    if inner.boolean("disable_additional_properties")? == Some(true) {
        let param = inner.param("disable_additional_properties");
        return Err(ApiError::unsupported(
            &param,
            "another meaning of schemas ('additionalProperties': false says it)",
        ));
    }
    inner.boolean("disable_fallback")?;
    let white_space = !inner.boolean("disable_any_whitespace")?.unwrap_or(false);
    let mut named = [
        json(inner, "json", white_space)?,
        json_object(inner, "json_object", white_space)?,
        regex(inner, "regex")?,
        choice(inner, "choice")?,
        grammar(inner, "grammar")?,
    ]
    .into_iter()
    .flatten();
    match (named.next(), named.next()) {
        (Some(one), None) => Ok(Some(one)),
        (first, _) => Err(ApiError::invalid(
            "structured_outputs",
            "invalid_value",
            format!(
                "'structured_outputs': expected one of 'json', 'json_object', 'regex', 'choice' and 'grammar', found {}.",
                if first.is_some() { "several" } else { "none" }
            ),
        )),
    }
}

impl Structure {
    fn json(schema: Value, white_space: bool, param: String) -> Self {
        Self::new(ConstraintSpec::JsonSchema { schema, white_space }, param)
    }
}

fn any_object() -> Value {
    json!({"type": "object"})
}

/// A schema as an object, or as the text of one.
fn json(fields: Fields<'_>, name: &str, white_space: bool) -> Result<Option<Structure>, ApiError> {
    let Some(value) = fields.get(name) else { return Ok(None) };
    let param = fields.param(name);
    let schema = match value {
        Value::Object(_) => value.clone(),
        Value::String(text) => match serde_json::from_str(text) {
            Ok(schema @ Value::Object(_)) => schema,
            Ok(other) => return Err(wrong_type(&param, "the text of an object", &other)),
            Err(error) => {
                return Err(ApiError::invalid(&param, "invalid_value", format!("'{param}': it is no JSON: {error}.")));
            }
        },
        other => return Err(wrong_type(&param, "an object or its text", other)),
    };
    Ok(Some(Structure::json(schema, white_space, param)))
}

fn json_object(fields: Fields<'_>, name: &str, white_space: bool) -> Result<Option<Structure>, ApiError> {
    let asked = fields.boolean(name)?.unwrap_or(false);
    Ok(asked.then(|| Structure::json(any_object(), white_space, fields.param(name))))
}

fn regex(fields: Fields<'_>, name: &str) -> Result<Option<Structure>, ApiError> {
    let spec = |regex: &str| Structure::new(ConstraintSpec::Regex(regex.to_owned()), fields.param(name));
    Ok(not_empty(fields, name)?.map(spec))
}

fn grammar(fields: Fields<'_>, name: &str) -> Result<Option<Structure>, ApiError> {
    let spec = |grammar: &str| Structure::new(ConstraintSpec::Grammar(grammar.to_owned()), fields.param(name));
    Ok(not_empty(fields, name)?.map(spec))
}

fn not_empty<'a>(fields: Fields<'a>, name: &str) -> Result<Option<&'a str>, ApiError> {
    match fields.string(name)? {
        Some("") => {
            let param = fields.param(name);
            Err(ApiError::invalid(&param, "invalid_value", format!("'{param}': expected a text that is not empty.")))
        }
        other => Ok(other),
    }
}

fn choice(fields: Fields<'_>, name: &str) -> Result<Option<Structure>, ApiError> {
    let Some(items) = fields.array(name)? else { return Ok(None) };
    let param = fields.param(name);
    match items.len() {
        0 => return Err(empty_array(&param)),
        found if found > MAX_CHOICES => return Err(long_array(&param, MAX_CHOICES, found)),
        _ => {}
    }
    let text = |(i, item): (usize, &Value)| match item {
        Value::String(text) => Ok(text.clone()),
        other => Err(wrong_type(&format!("{param}[{i}]"), "a string", other)),
    };
    let texts = items.iter().enumerate().map(text).collect::<Result<_, _>>()?;
    Ok(Some(Structure::new(ConstraintSpec::Choice(texts), param)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(body: Value) -> Result<Option<Structure>, ApiError> {
        Structure::parse(Fields::new(body.as_object().unwrap()))
    }

    fn schema() -> Value {
        json!({"type": "object", "properties": {"a": {"type": "integer"}}})
    }

    #[test]
    fn each_spelling_of_a_form_is_read() {
        let json = |white_space| ConstraintSpec::JsonSchema { schema: schema(), white_space };
        let object = ConstraintSpec::JsonSchema { schema: json!({"type": "object"}), white_space: true };
        let format =
            json!({"type": "json_schema", "json_schema": {"name": "a-1_B", "strict": true, "schema": schema()}});
        let cases = [
            (json!({"response_format": format}), json(true), "response_format.json_schema.schema"),
            (json!({"response_format": {"type": "json_object"}}), object.clone(), "response_format"),
            (json!({"guided_json": schema()}), json(true), "guided_json"),
            (json!({"guided_json": schema().to_string()}), json(true), "guided_json"),
            (json!({"guided_json_object": true}), object.clone(), "guided_json_object"),
            (json!({"json_schema": schema()}), json(true), "json_schema"),
            (json!({"guided_regex": "a+"}), ConstraintSpec::Regex("a+".into()), "guided_regex"),
            (json!({"guided_choice": ["a", ""]}), ConstraintSpec::Choice(vec!["a".into(), "".into()]), "guided_choice"),
            (json!({"guided_grammar": "start: A"}), ConstraintSpec::Grammar("start: A".into()), "guided_grammar"),
            (json!({"grammar": "root ::= \"a\""}), ConstraintSpec::Grammar("root ::= \"a\"".into()), "grammar"),
            (json!({"structured_outputs": {"json": schema()}}), json(true), "structured_outputs.json"),
            (
                json!({"structured_outputs": {"json": schema(), "disable_any_whitespace": true}}),
                json(false),
                "structured_outputs.json",
            ),
            (json!({"structured_outputs": {"json_object": true}}), object, "structured_outputs.json_object"),
            (
                json!({"structured_outputs": {"regex": "a"}}),
                ConstraintSpec::Regex("a".into()),
                "structured_outputs.regex",
            ),
            (
                json!({"structured_outputs": {"choice": ["a"]}}),
                ConstraintSpec::Choice(vec!["a".into()]),
                "structured_outputs.choice",
            ),
            (
                json!({"structured_outputs": {"grammar": "start: A"}}),
                ConstraintSpec::Grammar("start: A".into()),
                "structured_outputs.grammar",
            ),
        ];
        for (body, spec, param) in cases {
            let found = parse(body.clone()).unwrap_or_else(|error| panic!("{error:?}: {body}"));
            assert_eq!(found, Some(Structure::new(spec, param.to_owned())), "{body}");
        }
        for nothing in [
            json!({}),
            json!({"response_format": {"type": "text"}, "guided_json_object": false, "guided_regex": null}),
            json!({"guided_decoding_backend": "outlines"}),
        ] {
            assert_eq!(parse(nothing).unwrap(), None);
        }
    }

    #[test]
    fn each_wrong_form_is_named() {
        let format = |inner: Value| json!({"response_format": {"type": "json_schema", "json_schema": inner}});
        let outputs = |inner: Value| json!({"structured_outputs": inner});
        let cases = [
            (json!({"response_format": "json"}), "response_format", "invalid_type"),
            (json!({"response_format": {}}), "response_format.type", "missing_required_parameter"),
            (json!({"response_format": {"type": 1}}), "response_format.type", "invalid_type"),
            (json!({"response_format": {"type": "xml"}}), "response_format.type", "invalid_value"),
            (json!({"response_format": {"type": "structural_tag"}}), "response_format.type", "unsupported_parameter"),
            (
                json!({"response_format": {"type": "json_schema"}}),
                "response_format.json_schema",
                "missing_required_parameter",
            ),
            (format(json!([])), "response_format.json_schema", "invalid_type"),
            (format(json!({"schema": {}})), "response_format.json_schema.name", "missing_required_parameter"),
            (format(json!({"name": "a b", "schema": {}})), "response_format.json_schema.name", "invalid_value"),
            (format(json!({"name": "a"})), "response_format.json_schema.schema", "missing_required_parameter"),
            (format(json!({"name": "a", "schema": "{}"})), "response_format.json_schema.schema", "invalid_type"),
            (
                format(json!({"name": "a", "schema": {}, "strict": 1})),
                "response_format.json_schema.strict",
                "invalid_type",
            ),
            (
                format(json!({"name": "a", "schema": {}, "description": 1})),
                "response_format.json_schema.description",
                "invalid_type",
            ),
            (json!({"guided_json": "{"}), "guided_json", "invalid_value"),
            (json!({"guided_json": "[]"}), "guided_json", "invalid_type"),
            (json!({"guided_json": 1}), "guided_json", "invalid_type"),
            (json!({"guided_json_object": 1}), "guided_json_object", "invalid_type"),
            (json!({"json_schema": true}), "json_schema", "invalid_type"),
            (json!({"guided_regex": 1}), "guided_regex", "invalid_type"),
            (json!({"guided_regex": ""}), "guided_regex", "invalid_value"),
            (json!({"guided_choice": "a"}), "guided_choice", "invalid_type"),
            (json!({"guided_choice": []}), "guided_choice", "empty_array"),
            (json!({"guided_choice": ["a", 1]}), "guided_choice[1]", "invalid_type"),
            (json!({"guided_choice": vec!["a"; MAX_CHOICES + 1]}), "guided_choice", "array_above_max_length"),
            (json!({"guided_grammar": {}}), "guided_grammar", "invalid_type"),
            (json!({"grammar": ""}), "grammar", "invalid_value"),
            (json!({"guided_whitespace_pattern": " "}), "guided_whitespace_pattern", "unsupported_parameter"),
            (json!({"guided_regex": "a", "guided_choice": ["a"]}), "guided_choice", "invalid_value"),
            (json!({"guided_regex": "a", "response_format": {"type": "json_object"}}), "guided_regex", "invalid_value"),
            (outputs(json!("json")), "structured_outputs", "invalid_type"),
            (outputs(json!({})), "structured_outputs", "invalid_value"),
            (outputs(json!({"regex": "a", "choice": ["a"]})), "structured_outputs", "invalid_value"),
            (outputs(json!({"json": 1})), "structured_outputs.json", "invalid_type"),
            (outputs(json!({"json_object": "yes"})), "structured_outputs.json_object", "invalid_type"),
            (outputs(json!({"regex": []})), "structured_outputs.regex", "invalid_type"),
            (outputs(json!({"choice": []})), "structured_outputs.choice", "empty_array"),
            (outputs(json!({"grammar": ""})), "structured_outputs.grammar", "invalid_value"),
            (outputs(json!({"structural_tag": "x"})), "structured_outputs.structural_tag", "unsupported_parameter"),
            (
                outputs(json!({"whitespace_pattern": "x"})),
                "structured_outputs.whitespace_pattern",
                "unsupported_parameter",
            ),
            (
                outputs(json!({"json": {}, "disable_any_whitespace": 1})),
                "structured_outputs.disable_any_whitespace",
                "invalid_type",
            ),
            (
                outputs(json!({"json": {}, "disable_fallback": 1})),
                "structured_outputs.disable_fallback",
                "invalid_type",
            ),
            (
                outputs(json!({"json": {}, "disable_additional_properties": true})),
                "structured_outputs.disable_additional_properties",
                "unsupported_parameter",
            ),
        ];
        for (body, param, code) in cases {
            let error = parse(body.clone()).expect_err(&body.to_string());
            let (status, message, found_param, found_code) = error.parts();
            assert_eq!((status, found_param, found_code), (400, Some(param), Some(code)), "{body}: {message}");
        }
    }
}
