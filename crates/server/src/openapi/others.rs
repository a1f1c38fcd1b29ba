//! What watches the server, and this document.

use serde_json::json;

use super::{
    Errors, Operation,
    schema::{a, answer},
};

pub fn operations() -> Vec<Operation> {
    let open =
        |path, summary, response| Operation { response, errors: Errors::None, ..Operation::new("get", path, summary) };
    vec![
        open(
            "/health",
            "Say whether the engine runs, and how busy it is",
            answer(json!({"status": a("string"), "running": a("integer"), "waiting": a("integer")})),
        ),
        open("/ready", "Say whether requests may be sent here", answer(json!({"ready": a("boolean")}))),
        open("/metrics", "Count, for Prometheus", json!({})),
        open("/version", "Say which dots this is", answer(json!({"version": a("string")}))),
        open("/openapi.json", "This document", answer(json!({"openapi": a("string"), "paths": a("object")}))),
        open("/docs", "This document as a page", json!({})),
    ]
}
