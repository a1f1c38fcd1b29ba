use std::collections::BTreeSet;

use serde_json::Value;

use super::*;

/// `(method, address)` of every route, read from the router's source: a router does not tell what it knows.
fn routes() -> BTreeSet<(String, String)> {
    let source: String = include_str!("../routes/mod.rs").split_whitespace().collect();
    let router = source.split("pubfnrouter").nth(1).unwrap().split("\n}").next().unwrap();
    let mut routes = BTreeSet::new();
    for route in router.split(".route(\"").skip(1) {
        let (path, rest) = route.split_once('"').unwrap();
        let handlers = rest.split(".route").next().unwrap();
        for method in ["get", "post", "put", "patch", "delete"] {
            if handlers.contains(&format!(",{method}(")) || handlers.contains(&format!(").{method}(")) {
                routes.insert((method.to_owned(), path.replace("{*", "{")));
            }
        }
    }
    routes
}

#[test]
fn the_document_knows_every_route_and_no_other() {
    let written: BTreeSet<_> =
        operations().into_iter().map(|operation| (operation.method.to_owned(), operation.path.to_owned())).collect();
    let routes = routes();
    assert!(routes.len() > 10, "{routes:?}");
    assert_eq!(written, routes, "a route was added or removed: say what it does in crates/server/src/openapi");
}

#[test]
fn the_document_is_one() {
    let document: Value = serde_json::from_str(document()).unwrap();
    assert_eq!(document["openapi"], "3.1.0");
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            assert!(operation["responses"]["200"].is_object(), "{method} {path}");
            assert_eq!(path.contains('{'), operation.get("parameters").is_some(), "{method} {path}");
            if let Some(body) = operation.get("requestBody") {
                let examples = body["content"]["application/json"]["examples"].as_object().unwrap();
                assert!(!examples.is_empty(), "{method} {path}");
            }
        }
    }
}

#[test]
fn the_page_says_every_address_and_field_and_takes_nothing_from_elsewhere() {
    let page = page();
    for operation in operations() {
        assert!(page.contains(&format!(
            "<h2><code>{} {}</code></h2>",
            operation.method.to_uppercase(),
            operation.path
        )));
        for field in operation.request.iter().filter_map(schema::properties).flat_map(|fields| fields.keys()) {
            assert!(page.contains(&format!("<code>{field}</code>")), "{field}");
        }
    }
    for foreign in ["http:", "https:", "src=", "<script", "url(", "@import"] {
        assert!(!page.contains(foreign), "{foreign}");
    }
}
