//! `POST /v1/score`: log-likelihoods of given continuations.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Request as HttpRequest, State},
    response::{IntoResponse, Response},
};
use dots_engine::{PromptToken, Request};
use dots_model::tokenizer::Specials;
use serde::Serialize;

use super::{PromptUsage, off_runtime};
use crate::{
    App,
    answer::{Choices, collect},
    body,
    conversation::{self, Ending},
    error::ApiError,
    openai::{
        completion_request::Prompt,
        score_request::{Context, ScoreRequest},
    },
};

/// Continuations that are computed together: each one's answer holds something about every token of its context.
const AT_ONCE: usize = 16;
/// What stands for a probability of zero, since JSON has no infinity.
const LOWEST: f32 = -9999.0;

#[derive(Serialize)]
struct Scores {
    object: &'static str,
    model: String,
    data: Vec<Score>,
    usage: PromptUsage,
}

/// How likely a continuation is after its context.
#[derive(Serialize)]
struct Score {
    index: usize,
    object: &'static str,
    /// Natural logarithm of the probability of the whole continuation.
    sum: f64,
    tokens: Vec<u32>,
    token_logprobs: Vec<f32>,
    /// Whether each of its tokens was the likeliest in its place.
    is_greedy: bool,
}

struct Prepared {
    model: String,
    context: Vec<u32>,
    continuations: Vec<Vec<u32>>,
}

/// Scores continuations.
pub async fn create(State(app): State<Arc<App>>, request: HttpRequest) -> Result<Response, ApiError> {
    let body = body::read(request).await?;
    let reader = Arc::clone(&app);
    let Prepared { model, context, continuations } = off_runtime(body.len(), move || prepare(&reader, &body)).await?;
    let mut scores = Scores { object: "list", model, data: Vec::new(), usage: PromptUsage::default() };
    app.metrics.requests.asked(continuations.len());
    for some in continuations.chunks(AT_ONCE) {
        let streams = some.iter().map(|continuation| {
            let request = Request {
                prompt: [&context[..], continuation].concat(),
                max_tokens: Some(0),
                prompt_logprobs: Some(1),
                ..Request::default()
            };
            app.submit(request).map_err(|error| ApiError::refused(&error, "continuations"))
        });
        let choices = Choices::new(streams.collect::<Result<_, _>>()?);
        for (answer, tokens) in collect(choices, some.len()).await?.into_iter().zip(some) {
            scores.usage.prompt_tokens += answer.finish.prompt_tokens;
            scores.data.push(Score::new(scores.data.len(), tokens.clone(), answer.prompt.get(context.len()..)));
        }
    }
    scores.usage.total_tokens = scores.usage.prompt_tokens;
    Ok(Json(scores).into_response())
}

impl Score {
    /// `found` is what the engine said about `tokens`.
    fn new(index: usize, tokens: Vec<u32>, found: Option<&[Option<PromptToken>]>) -> Self {
        let found: Vec<_> = found.unwrap_or_default().iter().flatten().collect();
        Self {
            index,
            object: "score",
            sum: found.iter().map(|token| f64::from(token.logprob.max(LOWEST))).sum(),
            token_logprobs: found.iter().map(|token| token.logprob.max(LOWEST)).collect(),
            is_greedy: found.len() == tokens.len() && found.iter().all(|token| token.rank == 0),
            tokens,
        }
    }
}

fn prepare(app: &App, body: &[u8]) -> Result<Prepared, ApiError> {
    let request = ScoreRequest::parse(&body::parse(body)?)?;
    let model = app.model_name(request.model.as_deref())?;
    let backend = &*app.backend;
    // What follows a conversation is said in it, so special tokens there are text; after a text they mean what they mean.
    let (context, specials) = match &request.context {
        Context::Prompt(Prompt::Text(text)) => (backend.encode_text(text), Specials::Parse),
        Context::Prompt(Prompt::Ids(ids)) => (ids.clone(), Specials::Parse),
        Context::Chat(messages) => {
            (conversation::encode(backend, messages, &[], Ending::Answer, "messages")?, Specials::AsText)
        }
    };
    let continuations = request.continuations.into_iter().map(|continuation| match continuation {
        Prompt::Text(text) => backend.encode_piece(&text, specials),
        Prompt::Ids(ids) => ids,
    });
    Ok(Prepared { model, context, continuations: continuations.collect() })
}
