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
    body, constraints, conversation,
    error::ApiError,
    openai::{fields::Fields, generation::AboutPrompt, structured::Structure},
    sse,
};

/// Answers a conversation.
pub async fn create(State(app): State<Arc<App>>, request: Request) -> Result<Response, ApiError> {
    let body = body::read(request).await?;
    let reader = Arc::clone(&app);
    let (mut job, structure, has_tools) = off_runtime(body.len(), move || prepare(&reader, &body)).await?;
    job.constraint = constraints::compile(&app, structure).await?;
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

/// The job, the form of its answer, and whether it may call tools.
fn prepare(app: &App, body: &[u8]) -> Result<(Job, Option<Structure>, bool), ApiError> {
    let mut request = MessageRequest::parse(&body::parse(body)?, app.backend.defaults())?;
    let model = app.model_name(request.generation.model.as_deref())?;
    let structure = request.take_structure()?;
    let has_tools = request.conversation.tools.is_some();
    let job = Job {
        model,
        prompts: vec![ids(app, &request.conversation)?],
        prompt_param: "messages",
        generation: request.generation,
        logprobs: None,
        about_prompt: AboutPrompt::default(),
        constraint: None,
    };
    Ok((job, structure, has_tools))
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
