//! Compiling what an answer must look like, where it holds up nobody.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use dots_engine::constraint::{CallRule, Constraint, ConstraintError, ConstraintSpec, FreeText, MAX_SOURCE_BYTES};
use serde_json::Value;

use crate::{App, context::RequestContext, error::ApiError, openai::structured::Structure};

/// How long one may take. Its size and its work are bounded; this is for what the bounds forgot.
const LIMIT: Duration = Duration::from_secs(20);

/// Most bytes of the JSON of a form's schemas: those of the engine's compiler, which is asked only when a form's turn has come.
const MAX_SCHEMA_BYTES: usize = 1 << 20;

/// A form that waits to be compiled. Its schemas are text, each as a JSON string in the schema's place: parsed they take up to
/// 36 times the memory, and many may wait.
#[derive(Debug, Clone)]
pub struct Form {
    structure: Structure,
    /// Of what it is made of, and of that once more as a whole.
    bytes: usize,
}

impl Form {
    /// Of what a request asked for. What is too long to be compiled is its author's 400 before it waits.
    pub fn new(mut structure: Structure) -> Result<Self, ApiError> {
        let mut bytes = 0;
        for part in &mut structure.parts {
            bytes += pack(part)?;
        }
        bytes += pack(&mut structure)?;
        Ok(Self { structure, bytes })
    }

    fn unpacked(self) -> Structure {
        let mut structure = self.structure;
        structure.parts.iter_mut().for_each(unpack);
        unpack(&mut structure);
        structure
    }
}

/// Makes the schemas texts, and refuses them where they are too long together. Gives how long they are.
fn pack(structure: &mut Structure) -> Result<usize, ApiError> {
    let mut schema_bytes = 0;
    for schema in schemas(&mut structure.spec) {
        let text = schema.to_string();
        schema_bytes += text.len();
        *schema = Value::String(text);
    }
    let (found, most) = match &structure.spec {
        ConstraintSpec::JsonSchema { .. } | ConstraintSpec::ToolCalls(_) => (schema_bytes, MAX_SCHEMA_BYTES),
        ConstraintSpec::Regex(source) | ConstraintSpec::Grammar(source) => (source.len(), MAX_SOURCE_BYTES),
        ConstraintSpec::Choice(texts) => (texts.iter().map(String::len).sum(), MAX_SOURCE_BYTES),
    };
    match found <= most {
        true => Ok(found),
        false => Err(refused(&structure.param, &format!("expected at most {most} bytes, found {found}"))),
    }
}

fn unpack(structure: &mut Structure) {
    for schema in schemas(&mut structure.spec) {
        if let Value::String(text) = schema {
            *schema = serde_json::from_str(text).expect("it is the text of a value that was parsed");
        }
    }
}

fn schemas(spec: &mut ConstraintSpec) -> Vec<&mut Value> {
    match spec {
        ConstraintSpec::JsonSchema { schema, .. } => vec![schema],
        ConstraintSpec::ToolCalls(calls) => {
            let text = match &mut calls.rule {
                CallRule::Auto(FreeText::Json(schema)) => Some(schema),
                CallRule::Auto(FreeText::Any) | CallRule::Required => None,
            };
            calls.functions.iter_mut().map(|function| &mut function.parameters).chain(text).collect()
        }
        ConstraintSpec::Regex(_) | ConstraintSpec::Grammar(_) | ConstraintSpec::Choice(_) => Vec::new(),
    }
}

/// Compiles a form, for which its request waits with `bytes` bytes more, until `deadline` at most; what is wrong with it is its
/// author's 400.
pub async fn compile(
    app: &Arc<App>,
    form: Form,
    bytes: usize,
    deadline: Option<Instant>,
) -> Result<Constraint, ApiError> {
    let param = form.structure.param.clone();
    let place = app.compilers.place(RequestContext::current_tenant(), form.bytes + bytes, deadline).await?;
    let app = Arc::clone(app);
    let work = move || {
        // Given back when the work ends, not when the client hangs up.
        let _place = place;
        let structure = form.unpacked();
        app.backend.compile(&structure.spec).map_err(|error| blame(&app, &structure, &error))
    };
    match tokio::time::timeout(LIMIT, tokio::task::spawn_blocking(work)).await {
        Ok(Ok(compiled)) => compiled,
        Ok(Err(error)) => {
            tracing::error!(%error, "compiling a form failed");
            Err(ApiError::internal("The answer's form could not be compiled. The reason is in the server's log."))
        }
        Err(_) => Err(refused(&param, &format!("compiling it takes longer than {} s", LIMIT.as_secs()))),
    }
}

/// Names the field that is wrong: a part's, where a part is wrong by itself.
fn blame(app: &App, structure: &Structure, error: &ConstraintError) -> ApiError {
    match error {
        ConstraintError::Tokenizer(_) => {
            tracing::error!(%error, "no form can be compiled");
            ApiError::internal("This model's answers cannot be held to a form. The reason is in the server's log.")
        }
        ConstraintError::Invalid(reason) => {
            let of_part = |part: &Structure| match app.backend.compile(&part.spec) {
                Err(ConstraintError::Invalid(reason)) => Some(refused(&part.param, &reason)),
                _ => None,
            };
            structure.parts.iter().find_map(of_part).unwrap_or_else(|| refused(&structure.param, reason))
        }
    }
}

fn refused(param: &str, reason: &str) -> ApiError {
    ApiError::invalid(param, "invalid_value", format!("'{param}' cannot be compiled: {reason}"))
}

#[cfg(test)]
mod tests {
    use dots_engine::constraint::{Function, ToolCalls};
    use serde_json::json;

    use super::*;

    fn calls(parameters: &[Value], text: Value) -> ConstraintSpec {
        let function =
            |(i, parameters): (usize, &Value)| Function { name: format!("f{i}"), parameters: parameters.clone() };
        ConstraintSpec::ToolCalls(ToolCalls {
            functions: parameters.iter().enumerate().map(function).collect(),
            rule: CallRule::Auto(FreeText::Json(text)),
            parallel: true,
        })
    }

    fn of_schema(schema: Value, param: &str) -> Structure {
        Structure::new(ConstraintSpec::JsonSchema { schema, white_space: true }, param.to_owned())
    }

    #[test]
    fn a_form_waits_as_text_and_is_compiled_as_it_was() {
        let schema = |zeros: usize| json!({"b": vec![0; zeros], "a": {"type": ["null", 1.5]}});
        let parts = vec![of_schema(schema(3), "tools[0].function.parameters"), of_schema(schema(4), "guided_json")];
        let structure = Structure { parts, ..Structure::new(calls(&[schema(3)], schema(4)), "tools".to_owned()) };
        let form = Form::new(structure.clone()).unwrap();
        let mut waiting = form.structure.clone();
        let mut held: Vec<&mut Value> = schemas(&mut waiting.spec);
        waiting.parts.iter_mut().for_each(|part| held.extend(schemas(&mut part.spec)));
        assert_eq!((held.len(), held.iter().all(|schema| schema.is_string())), (4, true));
        assert_eq!(form.unpacked(), structure);
    }

    #[test]
    fn a_form_that_is_too_long_is_refused_before_it_waits_and_its_field_named() {
        let schema = |zeros: usize| json!({"type": "object", "enum": vec![0; zeros]});
        let (half, whole) = (schema(300_000), schema(600_000));
        let both = calls(&[half.clone(), half.clone()], json!({}));
        let with_parts = |spec: ConstraintSpec, parts: Vec<Structure>| {
            let structure = Structure::new(spec, "tools".to_owned());
            Structure { parts, ..structure }
        };
        let source = |spec: ConstraintSpec| Structure::new(spec, "source".to_owned());
        for (structure, param) in [
            (of_schema(whole.clone(), "guided_json"), "guided_json"),
            (
                with_parts(calls(std::slice::from_ref(&whole), json!({})), vec![of_schema(whole, "tools[0]")]),
                "tools[0]",
            ),
            (with_parts(both, vec![of_schema(half.clone(), "tools[0]"), of_schema(half, "tools[1]")]), "tools"),
            (source(ConstraintSpec::Regex("a".repeat(70_000))), "source"),
            (source(ConstraintSpec::Grammar("a".repeat(70_000))), "source"),
            (source(ConstraintSpec::Choice(vec!["a".repeat(40_000); 2])), "source"),
        ] {
            let error = Form::new(structure).unwrap_err();
            let (status, message, found, _) = error.parts();
            assert_eq!((status, found), (400, Some(param)), "{message}");
            assert!(message.contains("cannot be compiled: expected at most "), "{message}");
        }
    }
}
