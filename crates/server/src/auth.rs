//! `Authorization: Bearer KEY`.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{HeaderMap, header},
    middleware::Next,
    response::Response,
};
use subtle::ConstantTimeEq;

use crate::{App, error::ApiError};

/// Lets a request through that brings the server's key, or any where the server has none.
pub async fn require_key(State(app): State<Arc<App>>, request: Request, next: Next) -> Result<Response, ApiError> {
    if let Some(key) = &app.options.api_key {
        check(request.headers(), key)?;
    }
    Ok(next.run(request).await)
}

fn check(headers: &HeaderMap, key: &str) -> Result<(), ApiError> {
    let given = headers.get(header::AUTHORIZATION).and_then(|value| bearer(value.as_bytes())).ok_or_else(|| {
        ApiError::invalid_api_key(
            "You didn't provide an API key. Provide it in an Authorization header using Bearer auth \
             (i.e. Authorization: Bearer YOUR_KEY).",
        )
    })?;
    // The time that a comparison takes must not say how much of a guess was right.
    if bool::from(given.ct_eq(key.as_bytes())) {
        Ok(())
    } else {
        Err(ApiError::invalid_api_key("Incorrect API key provided."))
    }
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

    fn checked(header: Option<&'static str>) -> Result<(), ApiError> {
        let mut headers = HeaderMap::new();
        if let Some(value) = header {
            headers.insert(header::AUTHORIZATION, HeaderValue::from_static(value));
        }
        check(&headers, "secret")
    }

    #[test]
    fn only_the_whole_key_opens() {
        assert_eq!(checked(Some("Bearer secret")), Ok(()));
        assert_eq!(checked(Some("bearer  secret ")), Ok(()));
        for wrong in ["Bearer secre", "Bearer secrets", "Bearer ", "Bearer", "Basic secret", "secret", ""] {
            let error = checked(Some(wrong)).unwrap_err();
            let (status, _, _, code) = error.parts();
            assert_eq!((status, code), (401, Some("invalid_api_key")), "{wrong}");
        }
        assert!(checked(None).is_err());
    }
}
