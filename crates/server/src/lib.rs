//! HTTP over the dots engine, in OpenAI's and Anthropic's shapes. Nothing here knows of tensors.
//!
//! A request goes through one file after another: `listen` takes its connection, `track` follows it to its end, `auth` lets
//! it in, `drain` refuses it once the server stops, `body` reads it, `openai/*_request.rs` turns it
//! into settings or a 400 that names the field, `routes` tokenises and submits it, `answer` gathers what the engine
//! says, and `openai/*_response.rs` gives that its shape, whole or, through `sse`, chunk by chunk.

mod answer;
mod anthropic;
mod auth;
mod backend;
mod body;
mod compilers;
mod constraints;
mod context;
mod conversation;
mod cors;
mod drain;
mod error;
mod in_process;
mod keys;
mod listen;
mod local_names;
mod metrics;
mod observe;
mod openai;
mod openapi;
mod options;
mod otlp;
mod page;
mod routes;
mod shares;
mod sse;
#[cfg(test)]
mod tests;
mod tls;
mod trace_context;
mod track;
mod watch;
mod words;

use std::{sync::Arc, time::SystemTime};

use dots_engine::{Engine, Grammars, Request, SubmitError};
use dots_model::{checkpoint::GenerationDefaults, template::ChatTemplate, tokenizer::Tokenizer};

use crate::{
    backend::{Backend, EventStream},
    compilers::Compilers,
    context::RequestContext,
    drain::Drain,
    error::ApiError,
    listen::House,
    metrics::Metrics,
    observe::Observed,
    openai::responses::{background::Background, store::ResponseStore},
};
pub use crate::{
    cors::Origins,
    error::FileError,
    in_process::{InProcess, Reply},
    keys::Keys,
    local_names::LocalNames,
    options::{Limits, PlannedMemory, ServerOptions},
    otlp::Exporter,
    tls::Tls,
    watch::{RunError, Watch},
};

/// What the server serves.
pub struct Served {
    /// Runs the requests.
    pub engine: Engine,
    /// Text to ids and back.
    pub tokenizer: Arc<Tokenizer>,
    /// Forms that answers may be held to.
    pub grammars: Grammars,
    /// Conversations to prompts.
    pub template: ChatTemplate,
    /// The authors' sampling settings, under what a request sets itself.
    pub defaults: GenerationDefaults,
    /// Experts that a token takes in all layers together: what an answer that lists them holds for each token.
    pub experts_per_token: usize,
}

/// What every handler shares.
struct App {
    options: ServerOptions,
    backend: Box<dyn Backend>,
    metrics: Arc<Metrics>,
    drain: Arc<Drain>,
    /// When the server started, in seconds since 1970.
    created: u64,
    /// Conversations that can go on.
    responses: ResponseStore,
    /// Those that are made while nobody waits.
    background: Background,
    /// Whose form is compiled next.
    compilers: Arc<Compilers>,
}

impl App {
    fn new(options: ServerOptions, backend: Box<dyn Backend>) -> Arc<Self> {
        let shown = options.model_names.first().map_or("", String::as_str);
        let metrics = Arc::new(Metrics::new(shown, backend.context_tokens(), options.memory));
        Arc::new(Self {
            options,
            backend,
            metrics,
            drain: Arc::default(),
            created: unix_seconds(),
            responses: ResponseStore::default(),
            background: Background::default(),
            compilers: Arc::default(),
        })
    }

    /// The name under which the answer goes out: the request's own, or the first where it names none.
    fn model_name(&self, requested: Option<&str>) -> Result<String, ApiError> {
        match requested {
            None => Ok(self.options.model_names.first().cloned().unwrap_or_default()),
            Some(name) if self.options.model_names.iter().any(|known| known == name) => Ok(name.to_owned()),
            Some(name) => Err(ApiError::model_not_found(name)),
        }
    }

    /// Keeps what is in the cache among the requests of one key: `cached_tokens`, and the time to a first token, would tell
    /// others what was asked with it.
    fn salt_of(&self, tenant: u64) -> Option<String> {
        let is_shared = self.options.keys.is_open() || self.options.shares_cache;
        (!is_shared).then(|| format!("key {tenant:016x}"))
    }

    /// Queues a request. Every route goes this way, so that what it asks for is counted and ends with the server.
    fn submit(&self, request: Request) -> Result<EventStream, SubmitError> {
        let tenant = RequestContext::current_tenant();
        let cache_salt = request.cache_salt.or_else(|| self.salt_of(tenant));
        let request = Request { tenant, cache_salt, ..request };
        let (prompt_tokens, max_tokens) = (request.prompt.len(), request.max_tokens);
        let events = self.backend.submit(request)?;
        Ok(Box::pin(Observed::new(events, prompt_tokens, max_tokens, &self.drain, &self.metrics)))
    }
}

/// Serves until `shutdown` completes, then takes no new work and lets running answers end, for
/// [`ServerOptions::drain`] at most.
pub async fn serve(
    listener: tokio::net::TcpListener,
    options: ServerOptions,
    served: Served,
    shutdown: impl Future<Output = ()>,
) {
    serve_backend(listener, options, Box::new(served), shutdown).await;
}

async fn serve_backend(
    listener: tokio::net::TcpListener,
    options: ServerOptions,
    backend: Box<dyn Backend>,
    shutdown: impl Future<Output = ()>,
) {
    let app = App::new(options, backend);
    let house = House {
        limits: app.options.limits,
        tls: app.options.tls.clone(),
        metrics: Arc::clone(&app.metrics),
        drain: Arc::clone(&app.drain),
        longest_drain: app.options.drain,
    };
    let local_names = asks_for_local_name(&listener, &app.options).then(|| app.options.local_names.clone());
    listen::serve(listener, routes::router(app, local_names), house, shutdown).await;
}

/// Nothing else keeps a foreign page out: a key would, and a certificate is not of its host's name.
fn asks_for_local_name(listener: &tokio::net::TcpListener, options: &ServerOptions) -> bool {
    let is_local = listener.local_addr().is_ok_and(|address| address.ip().is_loopback());
    is_local && options.keys.is_open() && options.tls.is_none()
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}
