//! `GET /health`, `/ready`, `/metrics` and `/version`, open to whoever watches the server.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::{HeaderName, StatusCode, header},
};
use serde::Serialize;

use crate::{App, metrics::CONTENT_TYPE};

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
    let (code, status) = match (app.backend.is_running(), app.drain.has_begun()) {
        (true, false) => (StatusCode::OK, "ok"),
        (true, true) => (StatusCode::OK, "stopping"),
        (false, _) => (StatusCode::SERVICE_UNAVAILABLE, "stopped"),
    };
    (code, Json(Health { status, running: stats.running, waiting: stats.waiting }))
}

#[derive(Serialize)]
pub struct Ready {
    ready: bool,
}

/// Whether the server takes new work: 503 from the moment on at which it was asked to stop.
pub async fn ready(State(app): State<Arc<App>>) -> (StatusCode, Json<Ready>) {
    let ready = app.backend.is_running() && !app.drain.has_begun();
    (if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, Json(Ready { ready }))
}

/// For Prometheus.
pub async fn metrics(State(app): State<Arc<App>>) -> ([(HeaderName, &'static str); 1], String) {
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], app.metrics.encode(&app.backend.stats()))
}

#[derive(Serialize)]
pub struct Version {
    version: &'static str,
}

/// Which dots this is.
pub async fn version() -> Json<Version> {
    Json(Version { version: env!("CARGO_PKG_VERSION") })
}
