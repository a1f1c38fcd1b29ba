//! Spans of finished requests, sent to an OpenTelemetry collector: OTLP over HTTP, in JSON.
//!
//! Written here, since the `opentelemetry` crates would bring twenty more, a second HTTP client among them, for what is one
//! POST of a documented shape.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant, SystemTime},
};

use axum::http::Method;
use serde_json::{Value, json};

use crate::context::{Outcome, RequestContext};

/// Spans that wait to be sent; beyond them spans are dropped and counted, and requests never wait.
const MAX_WAITING: usize = 2048;
const MAX_BATCH: usize = 256;
const BATCH_EVERY: Duration = Duration::from_secs(2);
const POST_TIMEOUT: Duration = Duration::from_secs(5);

/// One request, finished.
#[derive(Debug, Clone)]
pub struct Span(Value);

impl Span {
    /// With the attributes that OpenTelemetry's conventions for HTTP servers and for generative models name.
    pub fn of(
        context: &RequestContext,
        outcome: &Outcome,
        method: &Method,
        route: &str,
        status: u16,
        elapsed: Duration,
    ) -> Self {
        let text = |key: &str, value: &str| json!({"key": key, "value": {"stringValue": value}});
        // 64-bit numbers are strings in protobuf's JSON.
        let number = |key: &str, value: u64| json!({"key": key, "value": {"intValue": value.to_string()}});
        let mut attributes = vec![
            text("http.request.method", method.as_str()),
            text("http.route", route),
            number("http.response.status_code", status.into()),
            text("gen_ai.request.id", &context.id),
            number("gen_ai.usage.input_tokens", outcome.prompt_tokens as u64),
            number("gen_ai.usage.output_tokens", outcome.completion_tokens as u64),
        ];
        if let Some(first) = outcome.first_token {
            let seconds = json!({"doubleValue": first.as_secs_f64()});
            attributes.push(json!({"key": "gen_ai.latency.time_to_first_token", "value": seconds}));
        }
        if let Some(reason) = outcome.finish_reason {
            attributes.push(text("gen_ai.response.finish_reason", reason));
        }
        let nanos = |at: SystemTime| at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_nanos());
        Self(json!({
            "traceId": context.trace.trace_id,
            "spanId": context.trace.span_id,
            "parentSpanId": context.trace.parent_id.as_deref().unwrap_or(""),
            "name": format!("{method} {route}"),
            // A server's span.
            "kind": 2,
            "startTimeUnixNano": nanos(context.began_at).to_string(),
            "endTimeUnixNano": nanos(context.began_at + elapsed).to_string(),
            "attributes": attributes,
            "status": if status >= 500 { json!({"code": 2}) } else { json!({}) },
        }))
    }
}

/// Sends spans from a thread of its own. Clones share it; the last one sends what is left.
#[derive(Debug, Clone)]
pub struct Exporter(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    spans: Mutex<Option<SyncSender<Span>>>,
    dropped: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Without its sender the thread ends, after one more POST at most.
        *self.spans.get_mut().unwrap_or_else(PoisonError::into_inner) = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Exporter {
    /// To the collector at `endpoint`, `http://127.0.0.1:4318` say; `/v1/traces` goes after it unless it is there.
    pub fn start(endpoint: &str) -> Result<Self, String> {
        if !endpoint.starts_with("http://") && !endpoint.starts_with("https://") {
            return Err(format!("expected an address as http://127.0.0.1:4318, found {endpoint:?}"));
        }
        let endpoint = endpoint.trim_end_matches('/');
        let url = if endpoint.ends_with("/v1/traces") { endpoint.to_owned() } else { format!("{endpoint}/v1/traces") };
        let (spans, waiting) = sync_channel(MAX_WAITING);
        let dropped = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&dropped);
        let thread = std::thread::Builder::new()
            .name("dots-otlp".to_owned())
            .spawn(move || export(&url, &waiting, &counted))
            .map_err(|error| format!("no thread for it: {error}"))?;
        Ok(Self(Arc::new(Inner { spans: Mutex::new(Some(spans)), dropped, thread: Some(thread) })))
    }

    /// Never waits.
    pub fn send(&self, span: Span) {
        let spans = self.0.spans.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Err(TrySendError::Full(_))) = spans.as_ref().map(|spans| spans.try_send(span)) {
            self.0.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn export(url: &str, waiting: &Receiver<Span>, dropped: &AtomicU64) {
    let agent: ureq::Agent = ureq::Agent::config_builder().timeout_global(Some(POST_TIMEOUT)).build().into();
    let mut is_failing = false;
    while let Some(batch) = next_batch(waiting) {
        let count = batch.len();
        let sent = agent.post(url).header("content-type", "application/json").send(body(batch));
        match sent {
            Ok(_) => is_failing = false,
            // Said once, and again only after it went well in between.
            Err(error) => {
                if !is_failing {
                    tracing::warn!(url, %error, "spans are lost");
                }
                is_failing = true;
                dropped.fetch_add(count as u64, Ordering::Relaxed);
            }
        }
    }
    let dropped = dropped.load(Ordering::Relaxed);
    if dropped > 0 {
        tracing::warn!(url, dropped, "spans were lost");
    }
}

/// Waits for a first span and gives it the company of those that follow soon; `None` once no more can come.
fn next_batch(waiting: &Receiver<Span>) -> Option<Vec<Value>> {
    let mut batch = vec![waiting.recv().ok()?.0];
    let until = Instant::now() + BATCH_EVERY;
    while batch.len() < MAX_BATCH {
        match waiting.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(span) => batch.push(span.0),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
        }
    }
    Some(batch)
}

fn body(spans: Vec<Value>) -> String {
    let resource = json!({"attributes": [
        {"key": "service.name", "value": {"stringValue": "dots"}},
        {"key": "service.version", "value": {"stringValue": env!("CARGO_PKG_VERSION")}},
    ]});
    let scope = json!({"name": "dots-server", "version": env!("CARGO_PKG_VERSION")});
    json!({"resourceSpans": [{"resource": resource, "scopeSpans": [{"scope": scope, "spans": spans}]}]}).to_string()
}
