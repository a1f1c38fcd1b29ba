//! `POST /v1/responses`, `GET` and `DELETE /v1/responses/{id}`, and `GET /v1/responses/{id}/input_items`.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, Request, State, rejection::PathRejection},
    http::{Uri, header},
    response::{IntoResponse, Response as HttpResponse, sse::KeepAlive},
};
use dots_model::template::Message;
use serde::Serialize;

use super::{Job, off_runtime};
use crate::{
    App,
    answer::collect,
    body, constraints,
    context::RequestContext,
    conversation::{self, Ending},
    error::ApiError,
    openai::{
        generation::AboutPrompt,
        responses::{
            input_items::Page,
            object::Response,
            output::{GrowingOutput, as_said},
            request::{ResponseRequest, Truncation},
            store::Stored,
            tools::check_results,
            writer::ResponseWriter,
        },
        structured::Structure,
        to_json,
    },
    sse,
};

/// A request that was checked and tokenised.
struct Prepared {
    job: Job,
    structure: Option<Structure>,
    response: Response,
    output: GrowingOutput,
    /// What was said, without the instructions; `Some` where it is to be kept.
    conversation: Option<Vec<Message>>,
}

/// Answers a conversation.
pub async fn create(State(app): State<Arc<App>>, request: Request) -> Result<HttpResponse, ApiError> {
    let body = body::read(request).await?;
    let (reader, bytes) = (Arc::clone(&app), body.len());
    let request = off_runtime(bytes, move || {
        let request = ResponseRequest::parse(&body::parse(&body)?, reader.backend.defaults())?;
        reader.model_name(request.generation.model.as_deref())?;
        Ok(request)
    });
    let request = request.await?;
    let previous = match &request.previous_response_id {
        None => None,
        Some(id) => Some(
            app.responses
                .get(RequestContext::current_tenant(), id)
                .ok_or_else(|| ApiError::previous_response_not_found(id))?,
        ),
    };
    // A short request may go on with a long conversation.
    let bytes = bytes + previous.as_ref().map_or(0, |previous| previous.bytes());
    let reader = Arc::clone(&app);
    let prepared = off_runtime(bytes, move || prepare(&reader, request, previous.as_deref()));
    let Prepared { mut job, structure, mut response, mut output, conversation } = prepared.await?;
    job.constraint = constraints::compile(&app, structure).await?;
    let choices = job.submit(&app, None)?;
    if job.generation.stream.is_some() {
        let writer = ResponseWriter::new(app, response, output, conversation);
        return Ok(sse::written(choices, writer, KeepAlive::new()));
    }
    let answer = collect(choices, 1).await?.remove(0);
    // The changes are for who watches; the items are what they come to.
    output.begin();
    for token in answer.tokens {
        output.token(token, &*app.backend);
    }
    output.finish(&answer.finish, &*app.backend);
    let items = output.into_items();
    let said = as_said(&items);
    response.end(items, &answer.finish);
    let json = to_json(&response);
    if let Some(mut conversation) = conversation {
        conversation.push(said);
        app.responses.put(RequestContext::current_tenant(), response.id, Stored { json: json.clone(), conversation });
    }
    Ok(as_json(json))
}

fn prepare(app: &App, mut request: ResponseRequest, previous: Option<&Stored>) -> Result<Prepared, ApiError> {
    let model = app.model_name(request.generation.model.as_deref())?;
    let mut said = previous.map_or_else(Vec::new, |previous| previous.conversation.clone());
    check_results(&said, &request.input)?;
    said.append(&mut request.input);
    let (prompt, said) = prompt(app, &request, said)?;
    let response = Response::begun(model.clone(), &request);
    let structure = request.take_structure()?;
    let output = GrowingOutput::new(request.tools.callable.is_some(), request.logprobs.is_some());
    let job = Job {
        model,
        prompts: vec![prompt],
        prompt_param: "input",
        generation: request.generation,
        logprobs: request.logprobs,
        about_prompt: AboutPrompt::default(),
        constraint: None,
    };
    Ok(Prepared { job, structure, response, output, conversation: request.store.then_some(said) })
}

/// Ids of the instructions and of what was said. Where that is too long and the request allows it, only as many of the last
/// messages count as fit, from here on: what is kept could be read once, and so never grows beyond the context.
fn prompt(app: &App, request: &ResponseRequest, said: Vec<Message>) -> Result<(Vec<u32>, Vec<Message>), ApiError> {
    let instructions = request.instructions.as_ref().map(|text| Message::new("system", text.as_str()));
    let tools = request.tools.callable.as_ref().map_or(&[][..], |tools| &tools.definitions);
    let encode = |said: &[Message]| {
        let messages: Vec<_> = instructions.iter().chain(said).cloned().collect();
        conversation::encode(&*app.backend, &messages, tools, Ending::Answer, "input")
    };
    let room = app.backend.context_tokens().saturating_sub(request.generation.max_tokens.unwrap_or(1));
    let ids = encode(&said)?;
    if ids.len() <= room || request.truncation == Truncation::Disabled {
        return Ok((ids, said));
    }
    // The fewest that must go. The last stays, with the call that it may be the result of, and where it is too long alone,
    // the engine says so.
    let cuts: Vec<_> = (0..said.len()).filter(|&at| said[at].role != "tool").collect();
    let (mut low, mut high) = (0, cuts.len().saturating_sub(1));
    let mut kept = without(&said, cuts.last().copied().unwrap_or(0));
    let mut fitting = encode(&kept)?;
    while low + 1 < high {
        let middle = low.midpoint(high);
        let rest = without(&said, cuts[middle]);
        let ids = encode(&rest)?;
        if ids.len() <= room {
            (high, kept, fitting) = (middle, rest, ids);
        } else {
            low = middle;
        }
    }
    Ok((fitting, kept))
}

/// All but the first `count`. System messages stay, whatever is left out: they say how to answer.
fn without(said: &[Message], count: usize) -> Vec<Message> {
    let (gone, kept) = said.split_at(count);
    gone.iter().filter(|message| message.role == "system").chain(kept).cloned().collect()
}

/// A response that is kept.
pub async fn retrieve(
    State(app): State<Arc<App>>,
    id: Result<Path<String>, PathRejection>,
) -> Result<HttpResponse, ApiError> {
    let id = name(id)?;
    let stored =
        app.responses.get(RequestContext::current_tenant(), &id).ok_or_else(|| ApiError::response_not_found(&id))?;
    Ok(as_json(stored.json.clone()))
}

/// What a kept response was an answer to.
pub async fn input_items(
    State(app): State<Arc<App>>,
    id: Result<Path<String>, PathRejection>,
    uri: Uri,
) -> Result<HttpResponse, ApiError> {
    let id = name(id)?;
    let stored =
        app.responses.get(RequestContext::current_tenant(), &id).ok_or_else(|| ApiError::response_not_found(&id))?;
    let page = Page::parse(uri.query().unwrap_or_default())?;
    // The answer is what was said last.
    let said = stored.conversation.split_last().map_or(&[][..], |(_, said)| said);
    Ok(as_json(page.of(&id, said)?.to_string()))
}

#[derive(Serialize)]
pub struct Deleted {
    id: String,
    object: &'static str,
    deleted: bool,
}

/// Forgets a response. What continues it goes on, with the conversation that it has of its own.
pub async fn delete(
    State(app): State<Arc<App>>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<Deleted>, ApiError> {
    let id = name(id)?;
    match app.responses.remove(RequestContext::current_tenant(), &id) {
        true => Ok(Json(Deleted { id, object: "response", deleted: true })),
        false => Err(ApiError::response_not_found(&id)),
    }
}

/// An address whose escapes are no UTF-8 names no response.
fn name(id: Result<Path<String>, PathRejection>) -> Result<String, ApiError> {
    id.map(|Path(id)| id).map_err(|_| ApiError::response_not_found("\u{fffd}"))
}

fn as_json(text: String) -> HttpResponse {
    ([(header::CONTENT_TYPE, "application/json")], text).into_response()
}
