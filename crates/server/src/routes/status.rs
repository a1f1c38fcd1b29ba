//! `GET /health` and `GET /version`, open to whoever watches the server.

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode};
use serde::Serialize;

use crate::App;

#[derive(Serialize)]
pub struct Health {
    status: &'static str,
    /// Answers under way.
    running: usize,
    /// Answers that wait for a place.
    waiting: usize,
}

/// The server answers, and how busy it is; 503 once its engine has stopped, so that whoever watches starts another.
pub async fn health(State(app): State<Arc<App>>) -> (StatusCode, Json<Health>) {
    let stats = app.backend.stats();
    let (code, status) = match app.backend.is_running() {
        true => (StatusCode::OK, "ok"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "stopped"),
    };
    (code, Json(Health { status, running: stats.running, waiting: stats.waiting }))
}

#[derive(Serialize)]
pub struct Version {
    version: &'static str,
}

/// Which dots this is.
pub async fn version() -> Json<Version> {
    Json(Version { version: env!("CARGO_PKG_VERSION") })
}
