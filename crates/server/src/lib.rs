//! HTTP over the dots engine, in OpenAI's shapes. Nothing here knows of tensors.
//!
//! A request goes through one file after another: `auth` lets it in, `body` reads it, `openai/*_request.rs` turns it
//! into settings or a 400 that names the field, `routes` tokenises and submits it, `answer` gathers what the engine
//! says, and `openai/*_response.rs` gives that its shape, whole or, through `sse`, chunk by chunk.

mod answer;
mod auth;
mod backend;
mod body;
mod error;
mod openai;
mod routes;
mod sse;
#[cfg(test)]
mod tests;
mod words;

use std::{sync::Arc, time::SystemTime};

use axum::{
    Router,
    serve::{Listener, ListenerExt},
};
use dots_engine::Engine;
use dots_model::{checkpoint::GenerationDefaults, template::ChatTemplate, tokenizer::Tokenizer};

use crate::{backend::Backend, error::ApiError, words::KeptBreakers};

/// How the server presents itself.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// Names that requests may call the model by; the first is the one shown. Not empty.
    pub model_names: Vec<String>,
    /// With a key, requests need `Authorization: Bearer KEY`.
    pub api_key: Option<String>,
}

/// What the server serves.
pub struct Served {
    /// Runs the requests.
    pub engine: Engine,
    /// Text to ids and back.
    pub tokenizer: Arc<Tokenizer>,
    /// Conversations to prompts.
    pub template: ChatTemplate,
    /// The authors' sampling settings, under what a request sets itself.
    pub defaults: GenerationDefaults,
}

/// What every handler shares.
struct App {
    options: ServerOptions,
    backend: Box<dyn Backend>,
    kept_breakers: KeptBreakers,
    /// When the server started, in seconds since 1970.
    created: u64,
}

impl App {
    /// The name under which the answer goes out: the request's own, or the first where it names none.
    fn model_name(&self, requested: Option<&str>) -> Result<String, ApiError> {
        match requested {
            None => Ok(self.options.model_names.first().cloned().unwrap_or_default()),
            Some(name) if self.options.model_names.iter().any(|known| known == name) => Ok(name.to_owned()),
            Some(name) => Err(ApiError::model_not_found(name)),
        }
    }
}

/// The server's routes, for a listener or for a test.
pub fn router(options: ServerOptions, served: Served) -> Router {
    router_over(options, Box::new(served))
}

fn router_over(options: ServerOptions, backend: Box<dyn Backend>) -> Router {
    routes::router(Arc::new(App { options, backend, kept_breakers: KeptBreakers::default(), created: unix_seconds() }))
}

/// Serves until `shutdown` completes, then takes no new connections and lets running answers end.
pub async fn serve(
    listener: tokio::net::TcpListener,
    options: ServerOptions,
    served: Served,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    serve_router(listener, router(options, served), shutdown).await
}

async fn serve_router(
    listener: tokio::net::TcpListener,
    router: Router,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    // A streamed token is a small write that must not wait for the next one.
    let listener = listener.tap_io(|stream| {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY");
        }
    });
    if let Ok(address) = listener.local_addr() {
        tracing::info!(%address, "listening");
    }
    axum::serve(listener, router).with_graceful_shutdown(shutdown).await
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}
