//! `/openapi.json` and `/docs`.

use super::*;

#[test]
fn every_example_of_the_document_is_answered() {
    let server = Server::start(None);
    let (status, _, document) = server.call("GET", "/openapi.json", "", b"");
    assert_eq!(status, 200);
    let document: Value = serde_json::from_str(&document).unwrap();
    let mut answered = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        let operation = &methods["post"];
        let Some(examples) = operation["requestBody"]["content"]["application/json"]["examples"].as_object() else {
            continue;
        };
        let streams = operation["responses"]["200"]["content"].get("text/event-stream").is_some();
        let required = &operation["responses"]["200"]["content"]["application/json"]["schema"]["required"];
        for (name, example) in examples {
            let (status, answer) = server.post(path, example["value"].clone());
            assert_eq!(status, 200, "{path}, {name}: {answer}");
            for field in required.as_array().unwrap() {
                assert!(answer.get(field.as_str().unwrap()).is_some(), "{path}, {name}: no {field} in {answer}");
            }
            if streams {
                let mut body = example["value"].clone();
                body["stream"] = json!(true);
                let (status, head, _) = server.call("POST", path, JSON, body.to_string().as_bytes());
                assert!(status == 200 && head.contains("text/event-stream"), "{path}, {name}: {head}");
            }
            answered += 1;
        }
    }
    assert!(answered > 10, "{answered}");
    server.wait_until_running(0);
}

#[test]
fn the_documents_are_open_and_the_page_may_load_nothing() {
    let server = Server::start(Some("secret"));
    let (status, head, _) = server.call("GET", "/openapi.json", "", b"");
    assert!(status == 200 && head.contains("content-type: application/json"), "{head}");
    let (status, head, page) = server.call("GET", "/docs", "", b"");
    assert!(status == 200 && head.contains("content-type: text/html; charset=utf-8"), "{head}");
    assert!(head.contains("default-src 'none'"), "{head}");
    assert!(page.starts_with("<!doctype html>") && page.contains("/v1/chat/completions"));
}

/// Whether the document's schema, in the few words that it is written in, takes a value.
fn takes(schema: &Value, value: &Value) -> bool {
    let kinds: Vec<&str> = match &schema["type"] {
        Value::String(kind) => vec![kind],
        kinds => kinds.as_array().into_iter().flatten().filter_map(Value::as_str).collect(),
    };
    let is = |kind: &&str| match *kind {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        other => panic!("{other}"),
    };
    let within = |name: &str, compare: fn(&f64, &f64) -> bool, found: Option<f64>| {
        schema[name].as_f64().zip(found).is_none_or(|(bound, found)| compare(&found, &bound))
    };
    let items = value.as_array().map(|items| items.len() as f64);
    let chars = value.as_str().map(|text| text.chars().count() as f64);
    (kinds.is_empty() || kinds.iter().any(is))
        && schema["enum"].as_array().is_none_or(|values| values.contains(value))
        && schema["anyOf"].as_array().is_none_or(|forms| forms.iter().any(|form| takes(form, value)))
        && within("minimum", f64::ge, value.as_f64())
        && within("maximum", f64::le, value.as_f64())
        && within("minItems", f64::ge, items)
        && within("maxItems", f64::le, items)
        && within("minLength", f64::ge, chars)
        && within("maxLength", f64::le, chars)
        && value
            .as_array()
            .is_none_or(|list| list.iter().all(|item| schema.get("items").is_none_or(|of| takes(of, item))))
}

/// A value of every kind, and those just beyond the schema's bounds.
fn candidates(schema: &Value) -> Vec<Value> {
    let mut values =
        vec![json!(1.5), json!("no such thing"), json!(""), json!(true), json!([]), json!({}), json!([[]])];
    let forms = schema["anyOf"].as_array().into_iter().flatten().chain([schema]);
    for form in forms {
        let whole = form["minimum"].is_i64() || form["minimum"].is_u64();
        for (bound, step) in [(&form["minimum"], -1), (&form["maximum"], 1)] {
            match bound.as_i64().map(|bound| bound.checked_add(step)) {
                Some(Some(beyond)) if whole => values.push(json!(beyond)),
                _ => values.extend(bound.as_f64().map(|bound| json!(bound + f64::from(step as i32)))),
            }
        }
        if let Some(most) = form["maxItems"].as_u64() {
            let item = if form["items"]["type"] == "integer" { json!(1) } else { json!("x") };
            values.push(Value::Array(vec![item; most as usize + 1]));
        }
        // The engine holds texts to their length, and here it is a script.
    }
    values.retain(|value| !takes(schema, value));
    values
}

#[test]
fn every_field_of_every_request_is_named_where_it_is_wrong() {
    let server = Server::start(None);
    let (_, _, document) = server.call("GET", "/openapi.json", "", b"");
    let document: Value = serde_json::from_str(&document).unwrap();
    let (mut refused, mut wrong) = (0, Vec::new());
    for (path, methods) in document["paths"].as_object().unwrap() {
        let body = &methods["post"]["requestBody"]["content"]["application/json"];
        let Some(examples) = body["examples"].as_object() else { continue };
        let example = &examples.values().next().unwrap()["value"];
        let required = body["schema"]["required"].as_array().unwrap();
        for (name, schema) in body["schema"]["properties"].as_object().unwrap() {
            let absent = required.contains(&json!(name)).then_some(Value::Null);
            for value in candidates(schema).into_iter().chain(absent) {
                let mut body = example.clone();
                body[name] = value.clone();
                let (status, answer) = server.post(path, body);
                let error = &answer["error"];
                // Anthropic's errors have no `param`: the message begins with it.
                let said = [&error["param"], &error["message"]].map(|text| text.as_str().unwrap_or_default());
                if status == 400 && (said[0].starts_with(name.as_str()) || said[1].contains(name.as_str())) {
                    refused += 1;
                } else {
                    let shown: String = value.to_string().chars().take(60).collect();
                    wrong.push(format!("{path} {name} = {shown}: {status} {said:?}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), wrong.len() + refused, wrong.join("\n"));
    assert!(refused > 500, "{refused}");
    server.wait_until_running(0);
}
