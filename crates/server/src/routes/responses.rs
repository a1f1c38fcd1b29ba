//! `POST /v1/responses`, `GET` and `DELETE /v1/responses/{id}`, `POST /v1/responses/{id}/cancel`, and
//! `GET /v1/responses/{id}/input_items`.

use std::{future::poll_fn, sync::Arc};

use axum::{
    Json,
    extract::{Path, Request, State, rejection::PathRejection},
    http::{Uri, header},
    response::{IntoResponse, Response as HttpResponse, sse::KeepAlive},
};
use dots_engine::{Event, Failure, Finish};
use dots_model::{template::Message, tokenizer::Specials};
use serde::Serialize;
use serde_json::Value;
use tracing::Instrument;

use super::{Job, OFF_RUNTIME_BYTES, off_runtime};
use crate::{
    App,
    answer::{Choices, failed},
    body,
    constraints::Form,
    context::RequestContext,
    conversation::{self, Ending},
    drain::Work,
    error::ApiError,
    openai::{
        generation::AboutPrompt,
        responses::{
            input_items::Page,
            object::Response,
            output::{GrowingOutput, OutputItem, as_said},
            request::{ResponseRequest, Truncation},
            store::Stored,
            tools::check_results,
            writer::ResponseWriter,
        },
        to_json,
    },
    sse,
    track::or_panicked,
};

/// A request that was checked and tokenised.
struct Prepared {
    job: Job,
    response: Response,
    output: GrowingOutput,
    /// What was said, without the instructions; `Some` where it is to be kept.
    conversation: Option<Vec<Message>>,
    background: bool,
}

/// Answers a conversation.
pub async fn create(State(app): State<Arc<App>>, request: Request) -> Result<HttpResponse, ApiError> {
    let body = body::read(request).await?;
    let tenant = RequestContext::current_tenant();
    let (reader, bytes) = (Arc::clone(&app), body.len() + previous_bytes(&app, tenant, &body));
    // In one go: between two it would wait with what it was parsed to.
    let prepared = off_runtime(bytes, move || prepare(&reader, tenant, &body));
    let Prepared { mut job, mut response, output, conversation, background } = prepared.await?;
    job.compile(&app).await?;
    let choices = job.submit(&app, None)?;
    if job.generation.stream.is_some() {
        let writer = ResponseWriter::new(app, response, output, conversation);
        return Ok(sse::written(choices, writer, KeepAlive::new()));
    }
    if background {
        let work = app.drain.work().ok_or_else(ApiError::stopping)?;
        let said = conversation.unwrap_or_default();
        let run = run(Arc::clone(&app), response.id.clone(), work, choices, output).in_current_span();
        let queued = app.background.begin(tenant, response, said, run)?;
        return Ok(as_json(queued.json.clone()));
    }
    let (items, finish) = whole(&app, choices, output, || {}).await?;
    let answer = Some(as_said(&items));
    response.end(items, &finish);
    let json = to_json(&response);
    if let Some(said) = conversation {
        let stored = Stored { json: json.clone(), said: Arc::new(said), answer, background: false };
        app.responses.put(tenant, response.id, stored);
    }
    Ok(as_json(json))
}

/// The items of a whole answer. `began` is called when its first token comes.
async fn whole(
    app: &App,
    mut choices: Choices,
    mut output: GrowingOutput,
    began: impl FnOnce(),
) -> Result<(Vec<OutputItem>, Finish), ApiError> {
    let mut began = Some(began);
    // The changes are for who watches; the items are what they come to.
    output.begin();
    while let Some((_, event)) = poll_fn(|cx| choices.poll_event(cx)).await {
        match event {
            Event::Token(token) => {
                if let Some(began) = began.take() {
                    began();
                }
                output.token(token, &*app.backend);
            }
            Event::Finished(finish) => {
                output.finish(&finish, &*app.backend);
                return Ok((output.into_items(), finish));
            }
            Event::Failed(failure) => return Err(failed(&failure)),
            Event::Prompt(_) | Event::Embedding(_) => {}
        }
    }
    Err(failed(&Failure::Stopped))
}

/// Makes the answer of a response that nobody waits for, whatever comes of it. A server that stops waits for it as for any
/// other work, and then until it was read, since nobody can read it later.
async fn run(app: Arc<App>, id: String, _work: Work, choices: Choices, output: GrowingOutput) {
    let made = or_panicked(whole(&app, choices, output, || app.background.progress(&id))).await;
    let made = made.unwrap_or_else(|_| {
        Err(ApiError::internal("The response failed on the server. The reason is in the server's log."))
    });
    let told = app.background.end(&id, &app.responses, app.drain.has_begun(), |response| {
        let answer = match made {
            Ok((items, finish)) => {
                let answer = as_said(&items);
                response.end(items, &finish);
                Some(answer)
            }
            Err(error) => {
                response.fail(error.message());
                None
            }
        };
        tracing::info!(response = response.id, status = response.status(), "a response in the background ended");
        answer
    });
    if let Some(told) = told {
        tokio::select! {
            _ = told => {}
            () = app.drain.on_cut() => {}
        }
    }
}

/// What the conversation that a short request goes on with takes: it may be long. A long request is read off the runtime
/// anyway, and what is wrong with either is found there.
fn previous_bytes(app: &App, tenant: u64, body: &[u8]) -> usize {
    if body.len() >= OFF_RUNTIME_BYTES {
        return 0;
    }
    let previous =
        body::parse(body).ok().and_then(|body| kept(app, tenant, body.get("previous_response_id")?.as_str()?));
    previous.map_or(0, |previous| previous.bytes())
}

fn prepare(app: &App, tenant: u64, body: &[u8]) -> Result<Prepared, ApiError> {
    let mut request = ResponseRequest::parse(&body::parse(body)?, app.backend.defaults())?;
    let model = app.model_name(request.generation.model.as_deref())?;
    let mut said = match &request.previous_response_id {
        None => Vec::new(),
        Some(id) => said_before(app, tenant, id)?,
    };
    check_results(&said, &request.input)?;
    said.append(&mut request.input);
    let (prompt, said) = prompt(app, &request, said)?;
    let response = Response::begun(model.clone(), &request);
    let form = request.take_structure()?.map(Form::new).transpose()?;
    let output = GrowingOutput::new(request.tools.callable.is_some(), request.logprobs.is_some());
    let job = Job {
        deadline: request.generation.scheduling.deadline(),
        model,
        prompts: vec![prompt],
        prompt_param: "input",
        generation: request.generation,
        logprobs: request.logprobs,
        logprobs_param: "top_logprobs",
        about_prompt: AboutPrompt::default(),
        form,
        constraint: None,
    };
    let (conversation, background) = (request.store.then_some(said), request.background);
    Ok(Prepared { job, response, output, conversation, background })
}

/// The conversation that the response of this id ended, its answer included.
fn said_before(app: &App, tenant: u64, id: &str) -> Result<Vec<Message>, ApiError> {
    let previous = kept(app, tenant, id).ok_or_else(|| ApiError::previous_response_not_found(id))?;
    let answer = previous.answer.as_ref().ok_or_else(|| ApiError::previous_response_without_answer(id))?;
    Ok(previous.said.iter().chain([answer]).cloned().collect())
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
    let mut kept = without(&said, cuts.last().copied().unwrap_or(0));
    let mut fitting = encode(&kept)?;
    if fitting.len() > room {
        return Ok((fitting, kept));
    }
    let hopeless = hopeless(app, &said, room);
    // Between the last cut that leaves too much and the last of all, which does.
    let (mut low, mut high) =
        (cuts.partition_point(|&cut| cut < hopeless).saturating_sub(1), cuts.len().saturating_sub(1));
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

/// So many of the first messages must go at least, by the tokens of what is said alone and one for each turn: a text of millions
/// of tokens is not tokenised again in every try that it can only spoil. With twice the room, whatever the template does to
/// texts' ends.
fn hopeless(app: &App, said: &[Message], room: usize) -> usize {
    let tokens = |text: &str| app.backend.encode_piece(text, Specials::AsText).len();
    let mut left = room.saturating_mul(2);
    let too_long = said.iter().rposition(|message| {
        let arguments =
            message.tool_calls.iter().map(|call| tokens(&Value::Object(call.arguments.clone()).to_string()));
        let tokens = 1 + tokens(&message.content) + arguments.sum::<usize>();
        let is_too_long = tokens > left;
        left = left.saturating_sub(tokens);
        is_too_long
    });
    too_long.map_or(0, |at| at + 1)
}

/// All but the first `count`. System messages stay, whatever is left out: they say how to answer.
fn without(said: &[Message], count: usize) -> Vec<Message> {
    let (gone, kept) = said.split_at(count);
    gone.iter().filter(|message| message.role == "system").chain(kept).cloned().collect()
}

/// A response of `tenant` that runs, or is kept.
fn kept(app: &App, tenant: u64, id: &str) -> Option<Arc<Stored>> {
    // One that ends is in the store before it runs no more.
    app.background.get(tenant, id).or_else(|| app.responses.get(tenant, id))
}

/// A response that is kept, or as far as it is.
pub async fn retrieve(
    State(app): State<Arc<App>>,
    id: Result<Path<String>, PathRejection>,
    uri: Uri,
) -> Result<HttpResponse, ApiError> {
    let id = name(id)?;
    if uri.query().unwrap_or_default().split('&').any(|pair| pair == "stream=true") {
        return Err(ApiError::unsupported("stream", "a stream of a response that was begun"));
    }
    let tenant = RequestContext::current_tenant();
    if let Some(running) = app.background.get(tenant, &id) {
        return Ok(as_json(running.json.clone()));
    }
    let stored = app.responses.get(tenant, &id).ok_or_else(|| ApiError::response_not_found(&id))?;
    app.background.was_read(&id);
    Ok(as_json(stored.json.clone()))
}

/// Stops a response that nobody waits for; one that has ended is answered as it did.
pub async fn cancel(
    State(app): State<Arc<App>>,
    id: Result<Path<String>, PathRejection>,
) -> Result<HttpResponse, ApiError> {
    let id = name(id)?;
    let tenant = RequestContext::current_tenant();
    let ended = match app.background.cancel(tenant, &id, &app.responses) {
        Some(cancelled) => cancelled,
        None => app.responses.get(tenant, &id).ok_or_else(|| ApiError::response_not_found(&id))?,
    };
    if !ended.background {
        return Err(ApiError::not_in_background(&id));
    }
    app.background.was_read(&id);
    Ok(as_json(ended.json.clone()))
}

/// What a kept response was an answer to.
pub async fn input_items(
    State(app): State<Arc<App>>,
    id: Result<Path<String>, PathRejection>,
    uri: Uri,
) -> Result<HttpResponse, ApiError> {
    let id = name(id)?;
    let stored = kept(&app, RequestContext::current_tenant(), &id).ok_or_else(|| ApiError::response_not_found(&id))?;
    let page = Page::parse(uri.query().unwrap_or_default())?;
    Ok(as_json(page.of(&id, &stored.said)?.to_string()))
}

#[derive(Serialize)]
pub struct Deleted {
    id: String,
    object: &'static str,
    deleted: bool,
}

/// Forgets a response, and stops it where it runs. What continues it goes on, with the conversation that it has of its own.
pub async fn delete(
    State(app): State<Arc<App>>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<Deleted>, ApiError> {
    let id = name(id)?;
    let tenant = RequestContext::current_tenant();
    match app.background.remove(tenant, &id) || app.responses.remove(tenant, &id) {
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
