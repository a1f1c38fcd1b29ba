//! `POST /v1/chat/completions`.

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
    conversation,
    error::ApiError,
    openai::{
        Head,
        chat_request::ChatRequest,
        chat_response::{CHUNK_OBJECT, ChatChunker, ChatCompletion, OBJECT},
    },
    sse,
};

/// Answers a conversation.
pub async fn create(State(app): State<Arc<App>>, request: Request) -> Result<Response, ApiError> {
    let body = body::read(request).await?;
    let reader = Arc::clone(&app);
    let (mut job, has_tools) = off_runtime(body.len(), move || prepare(&reader, &body)).await?;
    job.compile(&app).await?;
    let choices = job.submit(&app, None)?;
    let count = job.choices();
    let logprobs = job.logprobs.is_some();
    match job.generation.stream {
        Some(options) => {
            let head = Head::new("chatcmpl", CHUNK_OBJECT, job.model);
            let chunker = ChatChunker::new(app, head, count, has_tools, logprobs, options.include_usage);
            Ok(sse::response(choices, chunker, job.generation.n, options))
        }
        None => {
            let head = Head::new("chatcmpl", OBJECT, job.model);
            let answers = collect(choices, count).await?;
            let completion = ChatCompletion::new(head, answers, has_tools, logprobs, &*app.backend);
            Ok(Json(completion).into_response())
        }
    }
}

/// The job, and whether its answers may call tools.
fn prepare(app: &App, body: &[u8]) -> Result<(Job, bool), ApiError> {
    let mut request = ChatRequest::parse(&body::parse(body)?, app.backend.defaults())?;
    let model = app.model_name(request.generation.model.as_deref())?;
    let form = request.take_structure()?.map(Form::new).transpose()?;
    let tools = request.tools.as_ref().map_or(&[][..], |tools| &tools.definitions);
    let prompt = conversation::encode(&*app.backend, &request.messages, tools, request.ending, "messages")?;
    request.about_prompt.check_listed(prompt.len(), 1, "prompt_logprobs")?;
    let job = Job {
        deadline: request.generation.scheduling.deadline(),
        model,
        prompts: vec![prompt],
        prompt_param: "messages",
        generation: request.generation,
        logprobs: request.logprobs,
        logprobs_param: "top_logprobs",
        about_prompt: request.about_prompt,
        form,
        constraint: None,
    };
    Ok((job, request.tools.is_some()))
}
