//! `POST /v1/completions`.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Request, State},
    response::{IntoResponse, Response},
};

use super::{Job, off_runtime};
use crate::{
    App,
    answer::collect,
    body, constraints,
    error::ApiError,
    openai::{
        Head,
        completion_request::{CompletionRequest, DEFAULT_MAX_TOKENS, Prompt},
        completion_response::{Completion, CompletionChunker, OBJECT},
    },
    sse,
};

/// Continues texts.
pub async fn create(State(app): State<Arc<App>>, request: Request) -> Result<Response, ApiError> {
    let body = body::read(request).await?;
    let reader = Arc::clone(&app);
    let (mut job, echoed) = off_runtime(body.len(), move || prepare(&reader, &body)).await?;
    job.constraint = constraints::compile(&app, job.generation.structure.take()).await?;
    let choices = job.submit(&app, Some(DEFAULT_MAX_TOKENS))?;
    let count = job.choices();
    let logprobs = job.logprobs.is_some();
    let n = job.generation.n;
    let head = Head::new("cmpl", OBJECT, job.model);
    match job.generation.stream {
        Some(options) => {
            let chunker = CompletionChunker::new(app, head, count, n, echoed, logprobs, options.include_usage);
            Ok(sse::response(choices, chunker, n, options))
        }
        None => {
            let answers = collect(choices, count).await?;
            let completion = Completion::new(head, answers, n, &echoed, logprobs, &*app.backend);
            Ok(Json(completion).into_response())
        }
    }
}

/// The job, and the prompts' texts where the answers are to begin with them.
fn prepare(app: &App, body: &[u8]) -> Result<(Job, Vec<String>), ApiError> {
    let request = CompletionRequest::parse(&body::parse(body)?, app.backend.defaults())?;
    let model = app.model_name(request.generation.model.as_deref())?;
    let prompts = request.prompts.iter().map(|prompt| match prompt {
        Prompt::Text(text) => app.backend.encode_text(text),
        Prompt::Ids(ids) => ids.clone(),
    });
    let prompts = prompts.collect();
    let echoed = request.prompts.into_iter().filter(|_| request.echo).map(|prompt| match prompt {
        Prompt::Text(text) => text,
        Prompt::Ids(ids) => app.backend.decode(&ids),
    });
    let echoed = echoed.collect();
    let job = Job {
        model,
        prompts,
        prompt_param: "prompt",
        generation: request.generation,
        logprobs: request.logprobs,
        constraint: None,
    };
    Ok((job, echoed))
}
