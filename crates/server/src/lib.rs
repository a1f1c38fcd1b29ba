//! HTTP over the dots engine, in OpenAI's shapes. Nothing here knows of tensors.

use std::sync::Arc;

use dots_engine::Engine;
use dots_model::{checkpoint::GenerationDefaults, template::ChatTemplate, tokenizer::Tokenizer};

/// How the server presents itself.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// Names that requests may call the model by; the first is the one shown.
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

/// Serves until `shutdown` completes, then lets running answers end.
pub async fn serve(
    _listener: tokio::net::TcpListener,
    _options: ServerOptions,
    _served: Served,
    _shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    todo!()
}
