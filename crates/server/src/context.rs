//! What is known of the request under way, for its log lines, its metrics and its span.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use axum::http::{HeaderMap, HeaderValue};

use crate::{drain::Work, openai::unique_id, trace_context::TraceContext};

/// The header that names a request.
pub const REQUEST_ID: &str = "x-request-id";
/// The header that names a trace.
pub const TRACEPARENT: &str = "traceparent";

/// Longest name that a client may give its request.
const MAX_ID_BYTES: usize = 128;

tokio::task_local! {
    static CURRENT: Arc<RequestContext>;
}

/// One request.
#[derive(Debug)]
pub struct RequestContext {
    /// The client's name for it, or one of ours.
    pub id: String,
    /// Where in the client's trace it stands.
    pub trace: TraceContext,
    /// When its head had come.
    pub began: Instant,
    /// The same by the clock on the wall.
    pub began_at: SystemTime,
    outcome: Mutex<Outcome>,
}

/// What came of a request so far.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Tokens of prompts, a prompt once for each of its answers.
    pub prompt_tokens: usize,
    /// Tokens generated.
    pub completion_tokens: usize,
    /// From the request's head to the first token.
    pub first_token: Option<Duration>,
    /// How the last of its answers ended.
    pub finish_reason: Option<&'static str>,
    /// Whose key came with it: each has a fair share of the engine.
    pub tenant: u64,
    work: Option<Work>,
}

impl RequestContext {
    /// Of a request with these headers.
    pub fn of(headers: &HeaderMap) -> Self {
        let given = headers.get(REQUEST_ID).and_then(|id| id.to_str().ok()).filter(|id| is_safe(id));
        Self {
            id: given.map_or_else(|| format!("req_{}", unique_id()), str::to_owned),
            trace: TraceContext::under(headers.get(TRACEPARENT).map(HeaderValue::as_bytes)),
            began: Instant::now(),
            began_at: SystemTime::now(),
            outcome: Mutex::default(),
        }
    }

    /// What is known so far.
    pub fn outcome(&self) -> MutexGuard<'_, Outcome> {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The request does work until [`Self::release`].
    pub fn holds(&self, work: Work) {
        self.outcome().work = Some(work);
    }

    /// The request's answer has been sent, or nobody wants it any more.
    pub fn release(&self) {
        self.outcome().work = None;
    }

    /// The request that the running task answers.
    pub fn current() -> Option<Arc<Self>> {
        CURRENT.try_with(Arc::clone).ok()
    }

    /// Whose key came with the request that the running task answers; 0 where nobody is asked for one.
    pub fn current_tenant() -> u64 {
        Self::current().map_or(0, |context| context.outcome().tenant)
    }

    /// Runs `work` as part of this request.
    pub async fn scope<T>(self: Arc<Self>, work: impl Future<Output = T>) -> T {
        CURRENT.scope(self, work).await
    }
}

/// A name that is safe in a log, a header and a file's name.
fn is_safe(id: &str) -> bool {
    (1..=MAX_ID_BYTES).contains(&id.len())
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id_of(given: &str) -> String {
        let headers = HeaderMap::from_iter([(REQUEST_ID.parse().unwrap(), HeaderValue::from_str(given).unwrap())]);
        RequestContext::of(&headers).id
    }

    #[test]
    fn a_client_names_its_request_where_the_name_is_safe() {
        assert_eq!(id_of("run-7:a_b.c"), "run-7:a_b.c");
        for unsafe_name in ["", "a b", "a\tb", "../x", "\"", "é", &"x".repeat(129)] {
            let id = id_of(unsafe_name);
            assert!(id.starts_with("req_") && id.len() == 36, "{unsafe_name}: {id}");
        }
    }
}
