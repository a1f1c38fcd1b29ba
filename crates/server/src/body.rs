//! Reading what a client sends, up to a limit.

use std::{future::poll_fn, pin::Pin};

use axum::{
    body::{Body, Bytes},
    extract::Request,
    http::{HeaderMap, header},
};
use futures_core::Stream;
use serde_json::{Map, Value};

use crate::error::{ApiError, quoted};

/// Largest body that is read.
pub const LIMIT_BYTES: usize = 8 << 20;

/// A body over the limit is still taken off the wire up to this size, since most clients read an answer only after they
/// have sent everything, and see a reset otherwise.
const DRAIN_BYTES: usize = 64 << 20;

/// The bytes of a request that says that it brings JSON.
pub async fn read(request: Request) -> Result<Bytes, ApiError> {
    // A page of another site can send `text/plain` and forms to a server on localhost without asking; JSON it cannot.
    require_json(request.headers())?;
    // Who waits for `100 Continue` has sent nothing yet and need not.
    if request.headers().contains_key(header::EXPECT) && declared_bytes(request.headers()) > Some(LIMIT_BYTES as u64) {
        return Err(ApiError::body_too_large(LIMIT_BYTES));
    }
    read_limited(request.into_body()).await
}

/// A body as a JSON object. Nesting deeper than 128 is refused by the parser.
pub fn parse(body: &[u8]) -> Result<Map<String, Value>, ApiError> {
    match serde_json::from_slice(body) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(ApiError::bad_request("The request's body must be a JSON object.")),
        Err(error) => Err(ApiError::bad_request(format!("We could not parse the JSON body of your request: {error}."))),
    }
}

fn require_json(headers: &HeaderMap) -> Result<(), ApiError> {
    let given = headers.get(header::CONTENT_TYPE).map(|value| String::from_utf8_lossy(value.as_bytes()));
    let essence = given.as_deref().and_then(|value| value.split(';').next()).unwrap_or("").trim().to_ascii_lowercase();
    if essence == "application/json" {
        return Ok(());
    }
    let found = match &given {
        Some(value) => format!("'{}'", quoted(value)),
        None => "none".to_owned(),
    };
    Err(ApiError::bad_request(format!("Expected the header 'Content-Type: application/json', found {found}.")))
}

fn declared_bytes(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

async fn read_limited(body: Body) -> Result<Bytes, ApiError> {
    let mut stream = body.into_data_stream();
    let mut kept = Vec::new();
    let mut seen_bytes = 0_usize;
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut stream).poll_next(cx)).await {
        let frame = frame.map_err(|_| ApiError::bad_request("The request's body ended early."))?;
        seen_bytes = seen_bytes.saturating_add(frame.len());
        if seen_bytes <= LIMIT_BYTES {
            kept.extend_from_slice(&frame);
        } else {
            kept = Vec::new();
            if seen_bytes > DRAIN_BYTES {
                break;
            }
        }
    }
    if seen_bytes > LIMIT_BYTES { Err(ApiError::body_too_large(LIMIT_BYTES)) } else { Ok(kept.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_one_json_object_is_refused() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let cases: [&[u8]; 9] = [
            b"",
            b"{",
            b"{\"a\":1",
            b"[]",
            b"\"text\"",
            b"{\"a\":NaN}",
            b"{\"a\":1e999}",
            b"{\"a\":\"\xff\xfe\"}",
            deep.as_bytes(),
        ];
        for body in cases {
            assert_eq!(parse(body).unwrap_err().parts().0, 400, "{}", quoted(&String::from_utf8_lossy(body)));
        }
        assert!(parse(b"{\"a\": {\"b\": []}}").is_ok());
    }
}
