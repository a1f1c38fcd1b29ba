//! Errors in Anthropic's shape: `{"type": "error", "error": {"type", "message"}, "request_id"}`.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderValue, StatusCode, header},
    middleware::Next,
    response::Response,
};
use serde::Serialize;

use crate::{context::RequestContext, error::ApiError, openai::to_json};

#[derive(Serialize)]
struct Envelope<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    error: Said<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
}

#[derive(Serialize)]
struct Said<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    message: &'a str,
}

fn envelope<'a>(error: &'a ApiError, request_id: Option<&'a str>) -> Envelope<'a> {
    let body = Said { kind: kind(error.status()), message: error.message() };
    Envelope { kind: "error", error: body, request_id }
}

/// Anthropic's word for a status.
fn kind(status: StatusCode) -> &'static str {
    match status {
        StatusCode::UNAUTHORIZED => "authentication_error",
        StatusCode::FORBIDDEN => "permission_error",
        StatusCode::NOT_FOUND => "not_found_error",
        StatusCode::PAYLOAD_TOO_LARGE => "request_too_large",
        StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
        StatusCode::SERVICE_UNAVAILABLE => "overloaded_error",
        status if status.is_server_error() => "api_error",
        _ => "invalid_request_error",
    }
}

/// An error inside a stream that has begun.
pub fn to_event(error: &ApiError) -> String {
    to_json(&envelope(error, None))
}

/// Names each answer of Anthropic's addresses in the header `request-id`, and gives errors Anthropic's shape, whoever
/// refused the request: the route, the key's guard, or the router where no route fits.
pub async fn reshape(request: Request, next: Next) -> Response {
    let path = request.uri().path();
    if path != "/v1/messages" && !path.starts_with("/v1/messages/") {
        return next.run(request).await;
    }
    let context: Option<&Arc<RequestContext>> = request.extensions().get();
    let request_id = context.map(|context| context.id.to_string()).unwrap_or_default();
    let mut response = next.run(request).await;
    if let Some(error) = response.extensions_mut().remove::<ApiError>() {
        // All else that the error said stays, as when to come back.
        response.headers_mut().remove(header::CONTENT_LENGTH);
        *response.body_mut() = Body::from(to_json(&envelope(&error, Some(&request_id))));
    }
    if let Ok(value) = HeaderValue::from_str(&request_id) {
        response.headers_mut().insert("request-id", value);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_have_anthropics_words() {
        for (status, word) in [
            (400, "invalid_request_error"),
            (401, "authentication_error"),
            (403, "permission_error"),
            (404, "not_found_error"),
            (405, "invalid_request_error"),
            (413, "request_too_large"),
            (429, "rate_limit_error"),
            (500, "api_error"),
            (503, "overloaded_error"),
        ] {
            assert_eq!(kind(StatusCode::from_u16(status).unwrap()), word, "{status}");
        }
    }
}
