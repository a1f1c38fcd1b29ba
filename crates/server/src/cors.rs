//! Which pages of other sites may call this server from a browser: none, unless they are named.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use crate::App;

/// What a page may read of an answer beside its body.
const EXPOSED: HeaderValue = HeaderValue::from_static("x-request-id, retry-after, traceparent");
const METHODS: HeaderValue = HeaderValue::from_static("GET, POST, DELETE, OPTIONS");
/// Seconds for which a browser need not ask again.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");

/// Origins that are let in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origins(Vec<String>);

impl Origins {
    /// Origins as browsers send them, `https://app.example` or `http://localhost:3000`; `*` is every one.
    pub fn new(origins: Vec<String>) -> Result<Self, String> {
        for origin in &origins {
            let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
            let is_origin = authority.is_some_and(|rest| {
                !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_graphic() && !b"/?#@".contains(&byte))
            });
            if origin != "*" && !is_origin {
                return Err(format!("expected * or an origin as https://app.example, found {origin:?}"));
            }
        }
        Ok(Self(origins))
    }

    /// What the answer says of `origin`, where it is let in.
    fn admitted(&self, origin: &HeaderValue) -> Option<HeaderValue> {
        if self.0.iter().any(|known| known == "*") {
            return Some(HeaderValue::from_static("*"));
        }
        self.0.iter().any(|known| known.as_bytes() == origin.as_bytes()).then(|| origin.clone())
    }
}

/// Answers what browsers ask beforehand, and lets the named origins read answers.
pub async fn share(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let origins = &app.options.cors;
    if origins.0.is_empty() {
        return next.run(request).await;
    }
    let admitted = request.headers().get(header::ORIGIN).and_then(|origin| origins.admitted(origin));
    let asked = request.headers().get(header::ACCESS_CONTROL_REQUEST_METHOD).is_some();
    let mut response = if request.method() == Method::OPTIONS && asked && admitted.is_some() {
        preflight(request.headers())
    } else {
        next.run(request).await
    };
    let headers = response.headers_mut();
    // A cache must not give one origin's answer to another.
    headers.append(header::VARY, HeaderValue::from_static("origin"));
    if let Some(origin) = admitted {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    }
    response
}

fn preflight(asked: &HeaderMap) -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, MAX_AGE);
    // OpenAI's clients send many of their own, so those that are asked for are those that are allowed.
    if let Some(wanted) = asked.get(header::ACCESS_CONTROL_REQUEST_HEADERS) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, wanted.clone());
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_a_scheme_and_a_host() {
        for right in ["*", "https://app.example", "http://localhost:3000", "http://[::1]:8080"] {
            assert!(Origins::new(vec![right.to_owned()]).is_ok(), "{right}");
        }
        for wrong in ["", "app.example", "https://", "https://app.example/", "ftp://x", "https://a b", "null"] {
            assert!(Origins::new(vec![wrong.to_owned()]).is_err(), "{wrong}");
        }
    }
}
