//! `Authorization: Bearer KEY`, or `x-api-key: KEY` as Anthropic's clients send it.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{HeaderMap, header},
    middleware::Next,
    response::Response,
};

use crate::{App, context::RequestContext, error::ApiError, keys::Keys};

/// Lets a request through that brings one of the server's keys, or any where the server has none.
pub async fn require_key(State(app): State<Arc<App>>, request: Request, next: Next) -> Result<Response, ApiError> {
    let tenant = check(request.headers(), &app.options.keys)?;
    if let Some(context) = RequestContext::current() {
        context.outcome().tenant = tenant;
    }
    Ok(next.run(request).await)
}

/// Whose key came; 0 where nobody is asked for one.
fn check(headers: &HeaderMap, keys: &Keys) -> Result<u64, ApiError> {
    if keys.is_open() {
        return Ok(0);
    }
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| bearer(value.as_bytes()));
    let given = bearer.or_else(|| headers.get("x-api-key").map(|value| value.as_bytes())).ok_or_else(|| {
        ApiError::invalid_api_key(
            "You didn't provide an API key. Provide it in an Authorization header using Bearer auth \
             (i.e. Authorization: Bearer YOUR_KEY).",
        )
    })?;
    keys.admit(given).ok_or_else(|| ApiError::invalid_api_key("Incorrect API key provided."))
}

/// The key in `Bearer KEY`; the scheme's case does not matter (RFC 9110).
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, key) = value.split_at_checked("bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| key.trim_ascii())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn checked(name: &'static str, value: &'static str) -> Result<u64, ApiError> {
        let headers = HeaderMap::from_iter([(name.parse().unwrap(), HeaderValue::from_static(value))]);
        check(&headers, &Keys::new(&["secret"], None).unwrap())
    }

    #[test]
    fn only_the_whole_key_opens() {
        assert!(checked("authorization", "Bearer secret").is_ok());
        assert!(checked("authorization", "bearer  secret ").is_ok());
        assert!(checked("x-api-key", "secret").is_ok());
        for wrong in ["Bearer secre", "Bearer secrets", "Bearer ", "Bearer", "Basic secret", "secret", ""] {
            let error = checked("authorization", wrong).unwrap_err();
            let (status, _, _, code) = error.parts();
            assert_eq!((status, code), (401, Some("invalid_api_key")), "{wrong}");
        }
        assert!(checked("x-api-key", "Bearer secret").is_err());
        assert!(checked("accept", "secret").is_err());
    }
}
