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
    body,
    constraints::Form,
    error::ApiError,
    openai::{
        Head,
        completion_request::{CompletionRequest, DEFAULT_MAX_TOKENS, Prompt},
        completion_response::{Completion, CompletionChunker, Echoed, Listed, OBJECT},
    },
    sse,
};

/// Continues texts.
pub async fn create(State(app): State<Arc<App>>, request: Request) -> Result<Response, ApiError> {
    let body = body::read(request).await?;
    let reader = Arc::clone(&app);
    let (mut job, echoed, listed) = off_runtime(body.len(), move || prepare(&reader, &body)).await?;
    job.compile(&app).await?;
    let choices = job.submit(&app, Some(DEFAULT_MAX_TOKENS))?;
    let count = job.choices();
    let n = job.generation.n;
    let head = Head::new("cmpl", OBJECT, job.model);
    match job.generation.stream {
        Some(options) => {
            let chunker = CompletionChunker::new(app, head, count, n, echoed, listed.logprobs, options.include_usage);
            Ok(sse::response(choices, chunker, n, options))
        }
        None => {
            let answers = collect(choices, count).await?;
            let completion = Completion::new(head, answers, n, &echoed, listed, &*app.backend);
            Ok(Json(completion).into_response())
        }
    }
}

/// The job, the prompts where the answers are to begin with them, and what is listed.
fn prepare(app: &App, body: &[u8]) -> Result<(Job, Vec<Echoed>, Listed), ApiError> {
    let mut request = CompletionRequest::parse(&body::parse(body)?, app.backend.defaults())?;
    let model = app.model_name(request.generation.model.as_deref())?;
    let form = request.generation.structure.take().map(Form::new).transpose()?;
    let prompts = request.prompts.iter().map(|prompt| match prompt {
        Prompt::Text(text) => app.backend.encode_text(text),
        Prompt::Ids(ids) => ids.clone(),
    });
    let prompts: Vec<Vec<u32>> = prompts.collect();
    let listed =
        Listed { logprobs: request.logprobs.is_some(), prompt_logprobs: request.about_prompt.logprobs.is_some() };
    let mut about_prompt = request.about_prompt;
    if request.echo {
        about_prompt.logprobs = about_prompt.logprobs.max(request.logprobs);
    }
    let prompt_tokens = prompts.iter().map(Vec::len).sum();
    let param = if listed.prompt_logprobs { "prompt_logprobs" } else { "logprobs" };
    about_prompt.check_listed(prompt_tokens, request.generation.n, param)?;
    let both = request.prompts.into_iter().zip(&prompts).filter(|_| request.echo);
    let echoed = both.map(|(prompt, ids)| match prompt {
        Prompt::Text(text) => Echoed { text, ids: ids.clone(), is_given: true },
        Prompt::Ids(_) => Echoed { text: app.backend.decode(ids), ids: ids.clone(), is_given: false },
    });
    let echoed = echoed.collect();
    let job = Job {
        deadline: request.generation.scheduling.deadline(),
        model,
        prompts,
        prompt_param: "prompt",
        generation: request.generation,
        logprobs: request.logprobs,
        logprobs_param: "logprobs",
        about_prompt,
        form,
        constraint: None,
    };
    Ok((job, echoed, listed))
}
