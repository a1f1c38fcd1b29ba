//! `GET /health` and `GET /version`, open to whoever watches the server.

use std::sync::Arc;

use axum::{Json, extract::State};
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

/// The server answers, and how busy it is.
pub async fn health(State(app): State<Arc<App>>) -> Json<Health> {
    let stats = app.backend.stats();
    Json(Health { status: "ok", running: stats.running, waiting: stats.waiting })
}

#[derive(Serialize)]
pub struct Version {
    version: &'static str,
}

/// Which dots this is.
pub async fn version() -> Json<Version> {
    Json(Version { version: env!("CARGO_PKG_VERSION") })
}
