//! Reading what a client sends, up to a limit.

use std::{future::poll_fn, pin::Pin, time::Duration};

use axum::{
    body::{Body, Bytes},
    extract::Request,
    http::{HeaderMap, header},
};
use futures_core::Stream;
use serde_json::{Map, Value};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, timeout_at},
};

use crate::{
    error::{ApiError, quoted},
    options::{Limits, PROGRESS_BYTES},
};

/// A body over the limit is still taken off the wire up to this size beyond it, since most clients read an answer only after
/// they have sent everything, and see a reset otherwise.
const DRAIN_BYTES: usize = 56 << 20;

/// Bodies of more than [`PROGRESS_BYTES`] that are held at once, by all clients together: the rest is told to come again, since
/// thousands of connections could otherwise hold thousands of the longest.
const LONG_AT_ONCE: usize = 64;

static LONG: Semaphore = Semaphore::const_new(LONG_AT_ONCE);

/// A body, and the place that a long one has as long as it is held.
struct Held {
    bytes: Vec<u8>,
    _place: Option<SemaphorePermit<'static>>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// The bytes of a request that says that it brings JSON.
pub async fn read(request: Request) -> Result<Bytes, ApiError> {
    // A page of another site can send `text/plain` and forms to a server on localhost without asking; JSON it cannot.
    require_json(request.headers())?;
    let limits = request.extensions().get::<Limits>().copied().unwrap_or_default();
    // Who waits for `100 Continue` has sent nothing yet and need not.
    if request.headers().contains_key(header::EXPECT)
        && declared_bytes(request.headers()) > Some(limits.body_bytes as u64)
    {
        return Err(ApiError::body_too_large(limits.body_bytes));
    }
    read_limited(request.into_body(), limits.body_bytes, limits.read, &LONG).await
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

async fn read_limited(
    body: Body,
    limit_bytes: usize,
    patience: Duration,
    places: &'static Semaphore,
) -> Result<Bytes, ApiError> {
    let mut stream = body.into_data_stream();
    let mut kept = Vec::new();
    let mut place = None;
    let mut refusal = None;
    let mut seen_bytes = 0_usize;
    // A client that sends a byte now and then holds its place no longer than one that sends nothing.
    let mut deadline = Instant::now() + patience;
    let mut next_mark = PROGRESS_BYTES;
    loop {
        let frame = timeout_at(deadline, poll_fn(|cx| Pin::new(&mut stream).poll_next(cx))).await;
        let Some(frame) = frame.map_err(|_| ApiError::too_slow(patience.as_secs()))? else { break };
        let frame = frame.map_err(|_| ApiError::bad_request("The request's body ended early."))?;
        seen_bytes = seen_bytes.saturating_add(frame.len());
        if seen_bytes >= next_mark {
            next_mark = seen_bytes.saturating_add(PROGRESS_BYTES);
            deadline = Instant::now() + patience;
        }
        if seen_bytes > limit_bytes {
            refusal = Some(ApiError::body_too_large(limit_bytes));
        } else if seen_bytes > PROGRESS_BYTES && place.is_none() && refusal.is_none() {
            match places.try_acquire() {
                Ok(free) => place = Some(free),
                Err(_) => refusal = Some(ApiError::busy("The server reads as many long requests as it can.")),
            }
        }
        if refusal.is_none() {
            kept.extend_from_slice(&frame);
        } else {
            (kept, place) = (Vec::new(), None);
            if seen_bytes.saturating_sub(limit_bytes) > DRAIN_BYTES {
                break;
            }
        }
    }
    refusal.map_or_else(|| Ok(Bytes::from_owner(Held { bytes: kept, _place: place })), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn long_bodies_are_held_a_few_at_once_and_short_ones_always() {
        static PLACES: Semaphore = Semaphore::const_new(1);
        let read = |bytes: usize| read_limited(Body::from(vec![b' '; bytes]), 1 << 20, Duration::from_secs(9), &PLACES);
        let held = read(PROGRESS_BYTES + 1).await.unwrap();
        let refused = read(PROGRESS_BYTES + 1).await.unwrap_err();
        assert_eq!(refused.parts().0, 503);
        assert_eq!(read(PROGRESS_BYTES).await.unwrap().len(), PROGRESS_BYTES);
        assert_eq!(read((1 << 20) + 1).await.unwrap_err().parts().0, 413);
        drop(held);
        assert_eq!(read(1 << 20).await.unwrap().len(), 1 << 20);
    }

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
