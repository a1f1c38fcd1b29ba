//! `POST /tokenize`, `POST /detokenize` and `GET /tokenizer_info`: the model's tokenizer for whoever counts or caches, in
//! vLLM's shapes.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Request, State},
    http::header,
    response::{IntoResponse, Response},
};
use dots_model::tokenizer::Specials;
use serde::Serialize;

use super::off_runtime;
use crate::{
    App, body, conversation,
    error::ApiError,
    openai::{
        logprobs::shown,
        to_json,
        token_request::{DetokenizeRequest, Input, TokenizeRequest},
    },
};

#[derive(Serialize)]
struct Tokenized {
    count: usize,
    /// Longest sequence, prompt and completion together.
    max_model_len: usize,
    tokens: Vec<u32>,
    /// `null` unless the request asked. A token that is only a part of a character is shown as its bytes, `\xe4\xbd`.
    token_strs: Option<Vec<String>>,
}

#[derive(Serialize)]
struct Detokenized {
    prompt: String,
}

/// Text or conversation to ids.
pub async fn tokenize(State(app): State<Arc<App>>, request: Request) -> Result<Response, ApiError> {
    let body = body::read(request).await?;
    off_runtime(body.len(), move || {
        let request = TokenizeRequest::parse(&body::parse(&body)?)?;
        app.model_name(request.model.as_deref())?;
        let backend = &*app.backend;
        let tokens = match request.input {
            Input::Text { text, add_special_tokens: true } => backend.encode_text(&text),
            Input::Text { text, add_special_tokens: false } => backend.encode_piece(&text, Specials::Parse),
            Input::Chat { messages, tools, ending } => {
                conversation::encode(backend, &messages, &tools, ending, "messages")?
            }
        };
        let token_strs =
            request.return_token_strs.then(|| tokens.iter().map(|&id| shown(&backend.token_bytes(id))).collect());
        Ok(to_json(&Tokenized { count: tokens.len(), max_model_len: backend.context_tokens(), tokens, token_strs }))
    })
    .await
    .map(json)
}

/// Ids to text, special tokens included, so that what `tokenize` cut comes back whole.
pub async fn detokenize(State(app): State<Arc<App>>, request: Request) -> Result<Response, ApiError> {
    let body = body::read(request).await?;
    off_runtime(body.len(), move || {
        let request = DetokenizeRequest::parse(&body::parse(&body)?, app.backend.vocab_size())?;
        app.model_name(request.model.as_deref())?;
        let bytes: Vec<u8> = request.tokens.iter().flat_map(|&id| app.backend.token_bytes(id)).collect();
        Ok(to_json(&Detokenized { prompt: String::from_utf8_lossy(&bytes).into_owned() }))
    })
    .await
    .map(json)
}

#[derive(Serialize)]
pub struct Info {
    /// What `lm-eval` separates documents with.
    eos_token: Option<String>,
    /// Put before texts by the tokenizer's own files, which is not said here.
    bos_token: Option<String>,
    /// Longest sequence, prompt and completion together.
    model_max_length: usize,
    vocab_size: usize,
}

/// What a client must know to do without a tokenizer of its own.
pub async fn info(State(app): State<Arc<App>>) -> Json<Info> {
    let backend = &*app.backend;
    let eos = backend.eos_token_ids().first().map(|&id| shown(&backend.token_bytes(id)));
    Json(Info {
        eos_token: eos,
        bos_token: None,
        model_max_length: backend.context_tokens(),
        vocab_size: backend.vocab_size(),
    })
}

fn json(text: String) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], text).into_response()
}
