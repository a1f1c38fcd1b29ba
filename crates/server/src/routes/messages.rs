//! `POST /v1/messages` and `POST /v1/messages/count_tokens`.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Request, State},
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive},
    },
};
use serde::Serialize;

use super::{Job, off_runtime};
use crate::{
    App,
    answer::collect,
    anthropic::{
        message_request::{Conversation, MessageRequest},
        message_response::{Message, MessageWriter},
    },
    body,
    constraints::Form,
    conversation,
    error::ApiError,
    openai::{fields::Fields, generation::AboutPrompt},
    sse,
};

/// Answers a conversation.
pub async fn create(State(app): State<Arc<App>>, request: Request) -> Result<Response, ApiError> {
    let body = body::read(request).await?;
    let reader = Arc::clone(&app);
    let (mut job, has_tools) = off_runtime(body.len(), move || prepare(&reader, &body)).await?;
    job.compile(&app).await?;
    let choices = job.submit(&app, None)?;
    if job.generation.stream.is_some() {
        let writer = MessageWriter::new(job.model, job.prompts[0].len(), has_tools);
        // Anthropic's clients know its pings; they serve as signs of life.
        let ping = Event::default().event("ping").data(r#"{"type":"ping"}"#);
        return Ok(sse::written(choices, writer, KeepAlive::new().event(ping)));
    }
    let answer = collect(choices, 1).await?.remove(0);
    Ok(Json(Message::new(job.model, answer, has_tools)).into_response())
}

/// The job, and whether its answer may call tools.
fn prepare(app: &App, body: &[u8]) -> Result<(Job, bool), ApiError> {
    let mut request = MessageRequest::parse(&body::parse(body)?, app.backend.defaults())?;
    let model = app.model_name(request.generation.model.as_deref())?;
    let form = request.take_structure()?.map(Form::new).transpose()?;
    let has_tools = request.conversation.tools.is_some();
    let job = Job {
        deadline: request.generation.scheduling.deadline(),
        model,
        prompts: vec![ids(app, &request.conversation)?],
        prompt_param: "messages",
        generation: request.generation,
        logprobs: None,
        logprobs_param: "top_logprobs",
        about_prompt: AboutPrompt::default(),
        form,
        constraint: None,
    };
    Ok((job, has_tools))
}

fn ids(app: &App, said: &Conversation) -> Result<Vec<u32>, ApiError> {
    let tools = said.tools.as_ref().map_or(&[][..], |tools| &tools.definitions);
    conversation::encode(&*app.backend, &said.messages, tools, said.ending, "messages")
}

#[derive(Serialize)]
struct Count {
    input_tokens: usize,
}

/// Tokens that a conversation would take.
pub async fn count_tokens(State(app): State<Arc<App>>, request: Request) -> Result<Response, ApiError> {
    let body = body::read(request).await?;
    let count = off_runtime(body.len(), move || {
        let body = body::parse(&body)?;
        let conversation = Conversation::parse(&body)?;
        app.model_name(Fields::new(&body).string("model")?)?;
        Ok(Count { input_tokens: ids(&app, &conversation)?.len() })
    });
    Ok(Json(count.await?).into_response())
}
