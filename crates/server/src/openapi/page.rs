//! The document as a page: made on the server, without a script and without anything from elsewhere.

use std::{fmt::Write, sync::LazyLock};

use serde_json::Value;

use super::{Errors, Operation, operations, schema::properties};

const STYLE: &str = include_str!("page.css");

/// The page's HTML.
pub fn page() -> &'static str {
    static PAGE: LazyLock<String> = LazyLock::new(|| render(&operations()));
    &PAGE
}

fn render(operations: &[Operation]) -> String {
    let mut html = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" \
         content=\"width=device-width\">\n<title>dots API</title>\n<style>{STYLE}</style>\n<h1>dots {} API</h1>\n\
         <p>As a document for tools: <a href=\"/openapi.json\">/openapi.json</a>. Fields that are not listed are ignored; \
         a field that is <code>null</code> is as good as absent.</p>\n<nav><ul>\n",
        env!("CARGO_PKG_VERSION")
    );
    for operation in operations {
        let (name, summary) = (name(operation), escaped(operation.summary));
        put(&mut html, format_args!("<li><a href=\"#{}\"><code>{name}</code></a> {summary}\n", anchor(operation)));
    }
    html.push_str("</ul></nav>\n<main>\n");
    for operation in operations {
        section(&mut html, operation);
    }
    html.push_str("</main>\n</html>\n");
    html
}

fn section(html: &mut String, operation: &Operation) {
    let summary = escaped(operation.summary);
    put(
        html,
        format_args!(
            "<section id=\"{}\">\n<h2><code>{}</code></h2>\n<p>{summary}.",
            anchor(operation),
            name(operation)
        ),
    );
    if !operation.description.is_empty() {
        put(html, format_args!(" {}", prose(operation.description)));
    }
    if let Some(events) = operation.stream {
        put(html, format_args!("</p>\n<p>With <code>stream</code>: {}", prose(events)));
    }
    if operation.errors != Errors::None {
        html.push_str("</p>\n<p>Needs the server's key, where it has one.");
    }
    html.push_str("</p>\n");
    if let Some(schema) = &operation.request {
        fields(html, schema);
    }
    for (name, body) in &operation.examples {
        let body = serde_json::to_string_pretty(body).unwrap_or_default();
        put(
            html,
            format_args!(
                "<h3>Example: {}</h3>\n<pre tabindex=\"0\"><code>{}</code></pre>\n",
                escaped(name),
                escaped(&body)
            ),
        );
    }
    html.push_str("</section>\n");
}

fn fields(html: &mut String, schema: &Value) {
    html.push_str(
        "<table>\n<thead><tr><th scope=\"col\">Field<th scope=\"col\">Value<th scope=\"col\"></thead>\n<tbody>\n",
    );
    for (name, field) in properties(schema).into_iter().flatten() {
        let required = schema["required"].as_array().is_some_and(|names| names.iter().any(|known| known == name));
        let mark = if required { " <em>required</em>" } else { "" };
        let description = prose(field["description"].as_str().unwrap_or_default());
        put(
            html,
            format_args!(
                "<tr><th scope=\"row\"><code>{}</code>{mark}<td>{}<td>{description}\n",
                escaped(name),
                escaped(&value(field))
            ),
        );
    }
    html.push_str("</tbody>\n</table>\n");
}

/// What a field takes, in a few words.
fn value(field: &Value) -> String {
    if let Some(values) = field["enum"].as_array() {
        let values: Vec<_> = values.iter().filter_map(Value::as_str).collect();
        return values.join(", ");
    }
    if let Some(choices) = field["anyOf"].as_array() {
        let choices: Vec<_> = choices.iter().map(value).filter(|choice| !choice.is_empty()).collect();
        return choices.join(" or ");
    }
    let kind = match &field["type"] {
        Value::Array(kinds) => kinds.first().and_then(Value::as_str),
        kind => kind.as_str(),
    };
    match kind {
        Some("array") => match value(&field["items"]) {
            item if item.is_empty() => "array".to_owned(),
            item => format!("array of {item}"),
        },
        Some("null") | None => String::new(),
        Some(kind) => {
            let bound = |name: &str| field.get(name).filter(|bound| **bound != i64::MAX && **bound != i64::MIN);
            match (bound("minimum"), bound("maximum")) {
                (Some(least), Some(most)) => format!("{kind}, {least} to {most}"),
                (Some(least), None) => format!("{kind}, at least {least}"),
                _ => kind.to_owned(),
            }
        }
    }
}

fn name(operation: &Operation) -> String {
    format!("{} {}", operation.method.to_uppercase(), escaped(operation.path))
}

fn anchor(operation: &Operation) -> String {
    let path = operation.path.trim_matches('/').replace(['/', '.'], "-").replace(['{', '}'], "");
    format!("{}-{path}", operation.method)
}

/// Words with `code` in them.
fn prose(text: &str) -> String {
    let pieces = text.split('`').enumerate().map(|(i, piece)| match i % 2 {
        0 => escaped(piece),
        _ => format!("<code>{}</code>", escaped(piece)),
    });
    pieces.collect()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn put(html: &mut String, text: std::fmt::Arguments<'_>) {
    // A string takes everything.
    let _ = html.write_fmt(text);
}
