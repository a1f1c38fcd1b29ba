//! `tools`, `tool_choice` and `parallel_tool_calls`.

use dots_engine::constraint::{CallRule, ConstraintSpec, FreeText, Function, ToolCalls};
use serde_json::{Value, json};

use super::{
    fields::{Fields, bounded, wrong_type},
    structured::Structure,
};
use crate::error::{ApiError, quoted};

/// Most tools of one request, as OpenAI's.
pub const MAX_TOOLS: usize = 128;
/// Longest name, in characters.
const MAX_NAME: usize = 64;

/// What an answer may call. There are no tools where `tool_choice` is `none`.
#[derive(Debug, Clone, PartialEq)]
pub struct Tools {
    /// Each tool as the client wrote it, for the template.
    pub definitions: Vec<Value>,
    functions: Vec<Function>,
    choice: ToolChoice,
    parallel: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum ToolChoice {
    Auto,
    Required,
    /// The function of this index.
    Named(usize),
}

impl Tools {
    /// The tools of a chat.
    pub fn parse(fields: Fields<'_>) -> Result<Option<Self>, ApiError> {
        let parallel = fields.boolean("parallel_tool_calls")?.unwrap_or(true);
        let items = fields.array("tools")?.unwrap_or_default();
        if items.is_empty() {
            return match fields.get("tool_choice") {
                // Without tools both mean the same.
                None => Ok(None),
                Some(Value::String(word)) if word == "none" || word == "auto" => Ok(None),
                Some(_) => Err(ApiError::invalid(
                    "tool_choice",
                    "invalid_value",
                    "'tool_choice' is only allowed when 'tools' are specified.",
                )),
            };
        }
        let items = bounded("tools", items, MAX_TOOLS)?;
        let mut functions: Vec<Function> = Vec::with_capacity(items.len());
        for (i, item) in items.iter().enumerate() {
            let function = function(item, i)?;
            if functions.iter().any(|other| other.name == function.name) {
                let param = format!("tools[{i}].function.name");
                let message = format!("'{param}': there is another tool named '{}'.", function.name);
                return Err(ApiError::invalid(param, "invalid_value", message));
            }
            functions.push(function);
        }
        let choice = choice(fields, &functions)?;
        let definitions = items.to_vec();
        Ok(choice.map(|choice| Self { definitions, functions, choice, parallel }))
    }

    /// The form of an answer that may call these, where a text must have the form `structure`.
    pub fn structure(&self, structure: Option<Structure>) -> Result<Structure, ApiError> {
        let functions = match self.choice {
            ToolChoice::Named(index) => vec![self.functions[index].clone()],
            ToolChoice::Auto | ToolChoice::Required => self.functions.clone(),
        };
        let arguments = self.functions.iter().enumerate().map(|(i, Function { parameters, .. })| {
            let spec = ConstraintSpec::JsonSchema { schema: parameters.clone(), white_space: true };
            Structure::new(spec, format!("tools[{i}].function.parameters"))
        });
        let mut parts: Vec<Structure> = arguments.collect();
        let text = match &structure {
            None => FreeText::Any,
            Some(Structure { spec: ConstraintSpec::JsonSchema { schema, .. }, .. }) => FreeText::Json(schema.clone()),
            Some(Structure { param, .. }) => {
                let message = format!("'{param}' and 'tools' exclude each other; 'response_format' goes with both.");
                return Err(ApiError::invalid(param, "invalid_value", message));
            }
        };
        parts.extend(structure);
        let rule = if self.choice == ToolChoice::Auto { CallRule::Auto(text) } else { CallRule::Required };
        let parallel = self.parallel && !matches!(self.choice, ToolChoice::Named(_));
        let spec = ConstraintSpec::ToolCalls(ToolCalls { functions, rule, parallel });
        Ok(Structure { spec, param: "tools".to_owned(), parts })
    }
}

fn function(item: &Value, i: usize) -> Result<Function, ApiError> {
    let path = format!("tools[{i}].");
    let tool = Fields::nested(item, &path)?;
    match tool.string("type")? {
        Some("function") => {}
        None => return Err(ApiError::missing(&tool.param("type"))),
        Some("custom") => return Err(ApiError::unsupported(&tool.param("type"), "a tool that takes text")),
        Some(other) => {
            return Err(ApiError::invalid(
                tool.param("type"),
                "invalid_value",
                format!("Invalid value: '{}'. The supported value is 'function'.", quoted(other)),
            ));
        }
    }
    let path = tool.param("function.");
    let function = Fields::nested(tool.required("function")?, &path)?;
    let name = function.string("name")?.ok_or_else(|| ApiError::missing(&function.param("name")))?;
    check_name(name, &function.param("name"))?;
    function.string("description")?;
    // Every schema is kept to, as `strict` asks.
    function.boolean("strict")?;
    let parameters = match function.get("parameters") {
        // OpenAI's meaning of none given.
        None => json!({"type": "object", "properties": {}, "additionalProperties": false}),
        Some(parameters @ Value::Object(schema)) => match schema.get("type") {
            None => parameters.clone(),
            Some(kind) if kind == "object" => parameters.clone(),
            Some(kind) => {
                let param = function.param("parameters.type");
                let message = format!("'{param}': expected 'object', found {}.", quoted(&kind.to_string()));
                return Err(ApiError::invalid(param, "invalid_value", message));
            }
        },
        Some(other) => return Err(wrong_type(&function.param("parameters"), "an object", other)),
    };
    Ok(Function { name: name.to_owned(), parameters })
}

/// `None` is the choice to call none.
fn choice(fields: Fields<'_>, functions: &[Function]) -> Result<Option<ToolChoice>, ApiError> {
    let Some(value) = fields.get("tool_choice") else { return Ok(Some(ToolChoice::Auto)) };
    match value {
        Value::String(word) => match word.as_str() {
            "none" => Ok(None),
            "auto" => Ok(Some(ToolChoice::Auto)),
            "required" => Ok(Some(ToolChoice::Required)),
            other => Err(ApiError::invalid(
                "tool_choice",
                "invalid_value",
                format!("Invalid value: '{}'. Supported values are: 'none', 'auto', and 'required'.", quoted(other)),
            )),
        },
        Value::Object(_) => {
            let named = Fields::nested(value, "tool_choice.")?;
            match named.string("type")? {
                Some("function") => {}
                None => return Err(ApiError::missing("tool_choice.type")),
                Some("allowed_tools" | "custom") => {
                    return Err(ApiError::unsupported("tool_choice.type", "any choice but a function"));
                }
                Some(other) => {
                    return Err(ApiError::invalid(
                        "tool_choice.type",
                        "invalid_value",
                        format!("Invalid value: '{}'. The supported value is 'function'.", quoted(other)),
                    ));
                }
            }
            let function = Fields::nested(named.required("function")?, "tool_choice.function.")?;
            let param = function.param("name");
            let name = function.string("name")?.ok_or_else(|| ApiError::missing(&param))?;
            match functions.iter().position(|function| function.name == name) {
                Some(index) => Ok(Some(ToolChoice::Named(index))),
                None => {
                    let message = format!("'{param}': there is no tool named '{}'.", quoted(name));
                    Err(ApiError::invalid(param, "invalid_value", message))
                }
            }
        }
        other => Err(wrong_type("tool_choice", "a string or an object", other)),
    }
}

/// A name of letters, digits, `_` and `-`.
pub fn check_name(name: &str, param: &str) -> Result<(), ApiError> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !name.is_empty() && name.len() <= MAX_NAME && name.chars().all(is_name) {
        return Ok(());
    }
    Err(ApiError::invalid(
        param,
        "invalid_value",
        format!(
            "Invalid '{param}': expected up to {MAX_NAME} of the characters a-z, A-Z, 0-9, '_' and '-', found '{}'.",
            quoted(name)
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(body: Value) -> Result<Option<Tools>, ApiError> {
        Tools::parse(Fields::new(body.as_object().unwrap()))
    }

    fn tool(name: &str) -> Value {
        json!({"type": "function", "function": {"name": name, "parameters": {"type": "object"}}})
    }

    #[test]
    fn a_choice_says_what_may_be_called() {
        let rule = |choice: Value, parallel: bool| {
            let body = json!({"tools": [tool("f"), tool("g")], "tool_choice": choice, "parallel_tool_calls": parallel});
            let structure = parse(body).unwrap().unwrap().structure(None).unwrap();
            let ConstraintSpec::ToolCalls(calls) = structure.spec else { panic!("calls") };
            let names: Vec<String> = calls.functions.into_iter().map(|function| function.name).collect();
            (names.concat(), calls.rule, calls.parallel)
        };
        let auto = CallRule::Auto(FreeText::Any);
        assert_eq!(rule(Value::Null, true), ("fg".to_owned(), auto.clone(), true));
        assert_eq!(rule(json!("auto"), false), ("fg".to_owned(), auto, false));
        assert_eq!(rule(json!("required"), true), ("fg".to_owned(), CallRule::Required, true));
        let named = json!({"type": "function", "function": {"name": "g"}});
        assert_eq!(rule(named, true), ("g".to_owned(), CallRule::Required, false));
        assert_eq!(parse(json!({"tools": [tool("f")], "tool_choice": "none"})).unwrap(), None);
        assert_eq!(parse(json!({"tools": [], "tool_choice": "auto"})).unwrap(), None);
    }

    #[test]
    fn a_text_beside_tools_may_be_json_and_nothing_else() {
        let tools = parse(json!({"tools": [tool("f")]})).unwrap().unwrap();
        let schema = json!({"type": "object"});
        let spec = ConstraintSpec::JsonSchema { schema: schema.clone(), white_space: true };
        let found = tools.structure(Some(Structure::new(spec, "response_format".into()))).unwrap();
        let ConstraintSpec::ToolCalls(calls) = found.spec else { panic!("calls") };
        assert_eq!(calls.rule, CallRule::Auto(FreeText::Json(schema)));
        let regex = Structure::new(ConstraintSpec::Regex("a".into()), "guided_regex".into());
        let error = tools.structure(Some(regex)).unwrap_err();
        assert_eq!((error.parts().0, error.parts().2), (400, Some("guided_regex")));
    }

    #[test]
    fn a_wrong_tool_is_named_by_its_place() {
        let one = |function: Value| json!({"tools": [{"type": "function", "function": function}]});
        let choose = |choice: Value| json!({"tools": [tool("f")], "tool_choice": choice});
        let cases = [
            (json!({"tools": {}}), "tools"),
            (json!({"tools": vec![tool("f"); MAX_TOOLS + 1]}), "tools"),
            (json!({"tools": ["f"]}), "tools[0]"),
            (json!({"tools": [{}]}), "tools[0].type"),
            (json!({"tools": [{"type": "custom"}]}), "tools[0].type"),
            (json!({"tools": [{"type": "web_search"}]}), "tools[0].type"),
            (json!({"tools": [tool("f"), {"type": "function"}]}), "tools[1].function"),
            (json!({"tools": [{"type": "function", "function": "f"}]}), "tools[0].function"),
            (one(json!({})), "tools[0].function.name"),
            (one(json!({"name": 1})), "tools[0].function.name"),
            (one(json!({"name": ""})), "tools[0].function.name"),
            (one(json!({"name": "a b"})), "tools[0].function.name"),
            (one(json!({"name": "x".repeat(65)})), "tools[0].function.name"),
            (json!({"tools": [tool("f"), tool("f")]}), "tools[1].function.name"),
            (one(json!({"name": "f", "description": 1})), "tools[0].function.description"),
            (one(json!({"name": "f", "strict": "yes"})), "tools[0].function.strict"),
            (one(json!({"name": "f", "parameters": []})), "tools[0].function.parameters"),
            (one(json!({"name": "f", "parameters": {"type": "array"}})), "tools[0].function.parameters.type"),
            (json!({"tool_choice": "required"}), "tool_choice"),
            (json!({"tool_choice": {"type": "function", "function": {"name": "f"}}}), "tool_choice"),
            (choose(json!("any")), "tool_choice"),
            (choose(json!(1)), "tool_choice"),
            (choose(json!({})), "tool_choice.type"),
            (choose(json!({"type": "allowed_tools"})), "tool_choice.type"),
            (choose(json!({"type": "tool"})), "tool_choice.type"),
            (choose(json!({"type": "function"})), "tool_choice.function"),
            (choose(json!({"type": "function", "function": {}})), "tool_choice.function.name"),
            (choose(json!({"type": "function", "function": {"name": "g"}})), "tool_choice.function.name"),
            (json!({"parallel_tool_calls": 1}), "parallel_tool_calls"),
        ];
        for (body, param) in cases {
            let error = parse(body.clone()).expect_err(&body.to_string());
            let (status, message, found, _) = error.parts();
            assert_eq!((status, found), (400, Some(param)), "{body}: {message}");
        }
    }
}
