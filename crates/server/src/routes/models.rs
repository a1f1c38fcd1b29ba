//! `GET /v1/models` and `GET /v1/models/{name}`.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State, rejection::PathRejection},
};
use serde::Serialize;

use crate::{App, error::ApiError};

#[derive(Serialize)]
pub struct List {
    object: &'static str,
    data: Vec<Model>,
}

/// One name that the model answers to.
#[derive(Serialize)]
pub struct Model {
    id: String,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
    /// Longest sequence in tokens, under vLLM's name.
    max_model_len: usize,
}

fn model(app: &App, name: &str) -> Model {
    Model {
        id: name.to_owned(),
        object: "model",
        created: app.created,
        owned_by: "dots",
        max_model_len: app.backend.context_tokens(),
    }
}

/// Every name.
pub async fn list(State(app): State<Arc<App>>) -> Json<List> {
    let data = app.options.model_names.iter().map(|name| model(&app, name)).collect();
    Json(List { object: "list", data })
}

/// One name.
pub async fn retrieve(
    State(app): State<Arc<App>>,
    name: Result<Path<String>, PathRejection>,
) -> Result<Json<Model>, ApiError> {
    // An address whose escapes are no UTF-8 names no model.
    let Path(name) = name.map_err(|_| ApiError::model_not_found("\u{fffd}"))?;
    let name = app.model_name(Some(&name))?;
    Ok(Json(model(&app, &name)))
}
