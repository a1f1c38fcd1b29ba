//! Jinja as Hugging Face's templates know it, within bounds.
//!
//! The settings are those of transformers' `chat_template_utils.py`: blocks trimmed, loop controls, Python's methods, and
//! `tojson` without HTML's escapes. Templates come from strangers, so a rendering has a budget of work and memory.

use std::time::SystemTime;

use minijinja::{
    Environment, Error, ErrorKind, Output, State, UndefinedBehavior, Value,
    syntax::SyntaxConfig,
    value::{Kwargs, Rest, ValueKind},
};

use super::{TemplateError, time::strftime};

/// One unit is an instruction or 64 bytes made: a quarter of a gigabyte of text, or about a second of work, at the most.
const FUEL: u64 = 4_000_000;
/// Half of minijinja's own limit: rendering also runs on threads with small stacks.
const RECURSION: usize = 250;
const NAME: &str = "chat_template";

/// The environment that holds `source`, compiled.
pub(super) fn compile(source: &str) -> Result<Environment<'static>, TemplateError> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.map_err(described)?);
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_formatter(as_python);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(RECURSION);
    environment.add_filter("tojson", tojson);
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("range", range);
    environment.add_template_owned(NAME, without_generation_tags(source)).map_err(described)?;
    Ok(environment)
}

/// Renders the template of `environment`. For `strftime_now` it is `now`.
pub(super) fn render(
    environment: &Environment<'static>,
    now: SystemTime,
    variables: Value,
) -> Result<String, TemplateError> {
    let mut environment = environment.clone();
    environment.add_function("strftime_now", move |format: &str| {
        strftime(now, format).map_err(|directive| {
            Error::new(ErrorKind::InvalidOperation, format!("strftime_now does not know {directive}"))
        })
    });
    environment.get_template(NAME).and_then(|template| template.render(variables)).map_err(described)
}

/// The error kind of `raise_exception`, told from others by this prefix.
const RAISED: &str = "raised: ";

fn raise_exception(message: &str) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, format!("{RAISED}{message}")))
}

fn described(error: Error) -> TemplateError {
    if let Some(message) = error.detail().and_then(|detail| detail.strip_prefix(RAISED)) {
        return TemplateError(message.to_owned());
    }
    let line = error.line().map(|line| format!(" line {line}")).unwrap_or_default();
    let reason = match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    };
    TemplateError(format!("chat template{line}: {reason}"))
}

/// Writes a value as Python does: `None`, `True` and `False` have capitals there.
fn as_python(out: &mut Output, state: &mut State, value: &Value) -> Result<(), Error> {
    match value.kind() {
        ValueKind::None => out.write_str("None").map_err(Error::from),
        ValueKind::Bool => out.write_str(if value.is_true() { "True" } else { "False" }).map_err(Error::from),
        _ => minijinja::escape_formatter(out, state, value),
    }
}

/// minijinja's `range`, which subtracts its bounds unchecked.
fn range(lower: i64, upper: Option<i64>, step: Option<i64>) -> Result<Value, Error> {
    let bound = |value: i64| {
        const FAR: i64 = 1 << 40;
        match (-FAR..=FAR).contains(&value) {
            true => Ok(value as isize),
            false => Err(Error::new(ErrorKind::InvalidOperation, format!("range to {value} is too long"))),
        }
    };
    minijinja::functions::range(bound(lower)?, upper.map(bound).transpose()?, step.map(bound).transpose()?)
}

/// `json.dumps(value, ensure_ascii=False, indent=indent)`.
fn tojson(state: &State, value: &Value, positional: Rest<Value>, options: Kwargs) -> Result<String, Error> {
    let refuse = |what: String| Err(Error::new(ErrorKind::InvalidOperation, what));
    if options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false) {
        return refuse("tojson: ensure_ascii is not supported".into());
    }
    for name in ["separators", "sort_keys"] {
        if options.get::<Option<Value>>(name)?.is_some_and(|value| value.is_true()) {
            return refuse(format!("tojson: {name} is not supported"));
        }
    }
    let indent = match options.get::<Option<Value>>("indent")? {
        Some(indent) => Some(indent),
        None => positional.first().cloned(),
    };
    options.assert_all_used()?;
    let indent = indent.filter(|indent| !indent.is_none());
    if let Some(indent) = &indent
        && usize::try_from(indent.clone())? > 16
    {
        return refuse(format!("tojson: indent of {indent}"));
    }
    let json = minijinja::filters::tojson(value, indent, Kwargs::from_iter::<[(&str, Value); 0]>([]))?;
    let json = without_html_escapes(json.as_str().unwrap_or_default());
    // As minijinja charges its own: a unit for four bytes written.
    state.consume_fuel(json.len() as u64 / 4)?;
    Ok(json)
}

/// Undoes the `\u003c` and the like that make JSON safe in HTML.
fn without_html_escapes(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    let mut rest = json;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let plain = match rest.get(..6) {
            Some("\\u003c") => Some('<'),
            Some("\\u003e") => Some('>'),
            Some("\\u0026") => Some('&'),
            Some("\\u0027") => Some('\''),
            _ => None,
        };
        // What follows a backslash is ASCII, and a second backslash must not begin another escape.
        let taken = if plain.is_some() { 6 } else { 2.min(rest.len()) };
        out.extend(plain);
        if plain.is_none() {
            out.push_str(&rest[..taken]);
        }
        rest = &rest[taken..];
    }
    out.push_str(rest);
    out
}

/// `{% generation %}` marks what was generated, for training on it; for rendering it is a block that is always taken.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(open) = rest.find("{%") {
        // Past the opening, whose `%` is no part of a closing: `{%}` is a mistake for the template engine to report.
        let Some(len) = rest[open + 2..].find("%}") else { break };
        let (before, after) = rest.split_at(open + 2 + len);
        let tag = &before[open + 2..];
        let replaced = match tag.trim_matches(|c: char| c.is_whitespace() || matches!(c, '-' | '+')) {
            "generation" => tag.replace("generation", "if true"),
            "endgeneration" => tag.replace("endgeneration", "endif"),
            _ => tag.to_owned(),
        };
        out.push_str(&before[..open + 2]);
        out.push_str(&replaced);
        rest = after;
    }
    out.push_str(rest);
    out
}
