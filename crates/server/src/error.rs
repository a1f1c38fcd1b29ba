//! Errors in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use axum::{
    Json,
    http::{Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use dots_engine::SubmitError;
use serde::Serialize;

/// Longest piece of a client's own text that a message repeats, in characters.
const QUOTED_CHARS: usize = 100;

/// Why a request got no answer.
#[derive(Debug, Clone, PartialEq)]
pub struct ApiError {
    status: StatusCode,
    body: Body,
    retry_after: Option<Duration>,
}

/// What an error's response carries for the server itself: the error's `code`, or its `type` where it has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal(pub &'static str);

/// What is wrong with a file of whoever runs the server.
#[derive(Debug, thiserror::Error)]
#[error("{}: {wrong}", path.display())]
pub struct FileError {
    path: PathBuf,
    wrong: String,
}

impl FileError {
    pub(crate) fn new(path: &Path, wrong: String) -> Self {
        Self { path: path.to_path_buf(), wrong }
    }
}

/// `{"error": ...}`.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Body {
    message: String,
    #[serde(rename = "type")]
    kind: &'static str,
    param: Option<String>,
    code: Option<&'static str>,
}

#[derive(Serialize)]
struct Envelope<'a> {
    error: &'a Body,
}

impl ApiError {
    fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        Self { status, body: Body { message: message.into(), kind, param: None, code: None }, retry_after: None }
    }

    fn code(mut self, code: &'static str) -> Self {
        self.body.code = Some(code);
        self
    }

    fn param(mut self, param: impl Into<String>) -> Self {
        self.body.param = Some(param.into());
        self
    }

    /// When to try again.
    fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// 400 about the request as a whole.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", message)
    }

    /// 400 about one field.
    pub fn invalid(param: impl Into<String>, code: &'static str, message: impl Into<String>) -> Self {
        Self::bad_request(message).param(param).code(code)
    }

    /// 400 for a field that must be there.
    pub fn missing(param: &str) -> Self {
        Self::invalid(param, "missing_required_parameter", format!("Missing required parameter: '{param}'."))
    }

    /// 400 for what OpenAI has and this server does not have yet.
    pub fn unsupported(param: &str, what: &str) -> Self {
        Self::invalid(param, "unsupported_parameter", format!("'{param}': {what} is not supported yet by this server."))
    }

    /// 401.
    pub fn invalid_api_key(message: &str) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "invalid_request_error", message).code("invalid_api_key")
    }

    /// 403 for a name that a server for this machine only is not called by.
    pub fn foreign_host(found: &str) -> Self {
        let message = format!(
            "Host: expected localhost or an address, since this server is for its own machine only, found '{}'. `dots serve` \
             takes other names with --allowed-host, and every name with --api-key.",
            quoted(found)
        );
        Self::new(StatusCode::FORBIDDEN, "invalid_request_error", message).code("host_not_allowed")
    }

    /// 404 for a model that is not served here.
    pub fn model_not_found(name: &str) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "invalid_request_error",
            format!("The model '{}' does not exist or you do not have access to it.", quoted(name)),
        )
        .param("model")
        .code("model_not_found")
    }

    /// 404 for a response that was never there, was deleted, or had to make room.
    pub fn response_not_found(id: &str) -> Self {
        let message = format!("Response with id '{}' not found.", quoted(id));
        Self::new(StatusCode::NOT_FOUND, "invalid_request_error", message)
    }

    /// 400 for a conversation that cannot go on.
    pub fn previous_response_not_found(id: &str) -> Self {
        let message = format!("Previous response with id '{}' not found.", quoted(id));
        Self::invalid("previous_response_id", "previous_response_not_found", message)
    }

    /// 400 for a conversation whose last answer is not there.
    pub fn previous_response_without_answer(id: &str) -> Self {
        let id = quoted(id);
        let message = format!(
            "Previous response with id '{id}' has no answer to go on from: it still runs, or failed, or was cancelled."
        );
        Self::invalid("previous_response_id", "invalid_value", message)
    }

    /// 400 for a response that somebody waited for.
    pub fn not_in_background(id: &str) -> Self {
        Self::bad_request(format!(
            "Response with id '{}' was not made in the background: it cannot be cancelled.",
            quoted(id)
        ))
    }

    /// 404 for an address that leads nowhere.
    pub fn unknown_url(method: &Method, uri: &Uri) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "invalid_request_error",
            format!("Invalid URL ({method} {})", quoted(uri.path())),
        )
    }

    /// 405.
    pub fn method_not_allowed(method: &Method, uri: &Uri) -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "invalid_request_error",
            format!(
                "Not allowed to {method} on {}. (HINT: Perhaps you meant to use a different HTTP method?)",
                quoted(uri.path())
            ),
        )
        .code("method_not_supported")
    }

    /// 413.
    pub fn body_too_large(limit_bytes: usize) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "invalid_request_error",
            format!("The request's body is larger than {limit_bytes} bytes."),
        )
        .code("request_too_large")
    }

    /// 408 for an answer that was not complete at its deadline.
    pub fn deadline() -> Self {
        let message = "The deadline of the request passed before its answer was complete.";
        Self::new(StatusCode::REQUEST_TIMEOUT, "invalid_request_error", message).code("deadline_exceeded")
    }

    /// 408.
    pub fn too_slow(seconds: u64) -> Self {
        let message =
            format!("The request's body came too slowly: nothing new of it in {seconds} seconds, or too little.");
        Self::new(StatusCode::REQUEST_TIMEOUT, "invalid_request_error", message).code("request_timeout")
    }

    /// 429 for more than this server takes at once.
    pub fn too_many(message: impl Into<String>, wait: Duration) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", message).code("queue_full").retry_after(wait)
    }

    /// 503 for a server that has its hands full for a moment.
    pub fn busy(message: &'static str) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", message)
            .code("service_unavailable")
            .retry_after(Duration::from_secs(1))
    }

    /// 503 for a server that was asked to stop.
    pub fn stopping() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", "The server is stopping.")
            .code("service_unavailable")
            .retry_after(Duration::from_secs(1))
    }

    /// 500; `message` is for the client and says nothing of the inside.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", message).code("internal_error")
    }

    /// 400 for a form that grew beyond its bounds while it was used.
    pub fn form_failed(reason: &str) -> Self {
        Self::bad_request(format!("The answer could not be held to its form any further: {reason}"))
            .code("invalid_value")
    }

    /// What the engine refused. `prompt_param` is the field that held the prompt.
    pub fn refused(error: &SubmitError, prompt_param: &'static str) -> Self {
        let message = error.to_string();
        match error {
            SubmitError::EmptyPrompt => {
                Self::invalid(prompt_param, "invalid_value", format!("'{prompt_param}': {message}."))
            }
            SubmitError::TooLong { .. } => Self::invalid(prompt_param, "context_length_exceeded", message),
            SubmitError::Invalid { field, .. } => Self::invalid(*field, "invalid_value", message),
            SubmitError::QueueFull { retry_after_seconds, .. } => {
                Self::too_many(message, Duration::from_secs(*retry_after_seconds))
            }
            SubmitError::Stopped => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", message).code("service_unavailable")
            }
        }
    }

    /// The error's JSON, as it also goes into a stream that has begun.
    pub fn to_json(&self) -> String {
        serde_json::to_string(&Envelope { error: &self.body }).expect("strings serialise")
    }

    /// The same about a field that goes by another name here, where a request was read in another API's names.
    pub fn renamed(mut self, names: &[(&str, &str)]) -> Self {
        self.body.message = renamed(&self.body.message, names);
        self.body.param = self.body.param.map(|param| renamed(&param, names));
        self
    }

    /// The status that it is answered with.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// What the client reads.
    pub fn message(&self) -> &str {
        &self.body.message
    }

    #[cfg(test)]
    pub fn parts(&self) -> (u16, &str, Option<&str>, Option<&str>) {
        (self.status.as_u16(), &self.body.message, self.body.param.as_deref(), self.body.code)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(Envelope { error: &self.body })).into_response();
        // For whoever gives errors another shape.
        response.extensions_mut().insert(self.clone());
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
        }
        if let Some(wait) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from(wait.as_secs().max(1)));
        }
        response.extensions_mut().insert(Refusal(self.body.code.unwrap_or(self.body.kind)));
        response
    }
}

/// `text` with other names in it: pairs of what stands there and what is to.
pub fn renamed(text: &str, names: &[(&str, &str)]) -> String {
    names.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

/// A client's own text, short enough for a message.
pub fn quoted(text: &str) -> String {
    match text.char_indices().nth(QUOTED_CHARS) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}
