//! Every request's name, span, access line and count.

use std::{
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
};

use axum::{
    body::{Body, Bytes, HttpBody},
    extract::{MatchedPath, Request, State},
    http::{HeaderValue, Method, StatusCode},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http_body::{Frame, SizeHint};
use tracing::{Instrument, Span};

use crate::{
    App,
    context::{REQUEST_ID, RequestContext, TRACEPARENT},
    error::{ApiError, Refusal, quoted},
    listen::Peer,
    otlp,
};

/// What a client that hung up before its answer is written down as; nginx' number for it.
const HUNG_UP: u16 = 499;

/// Asked so often that their lines and spans would hide the others.
const QUIET: [&str; 5] = ["/health", "/ready", "/metrics", "/version", "/page/{file}"];

/// Gives a request its context and follows its answer to the last byte.
pub async fn follow(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let context = Arc::new(RequestContext::of(request.headers()));
    // A span that even a filter for errors keeps, so that every line says which request it is about.
    let span = tracing::error_span!("request", id = context.id, trace_id = context.trace.trace_id);
    let access = Access {
        app: Arc::clone(&app),
        context: Arc::clone(&context),
        span: span.clone(),
        method: request.method().clone(),
        path: quoted(request.uri().path()),
        route: request.extensions().get().map(|route: &MatchedPath| route.as_str().into()),
        peer: request.extensions().get().copied(),
        status: HUNG_UP,
        refusal: None,
        is_whole: false,
    };
    request.extensions_mut().insert(app.options.limits);
    request.extensions_mut().insert(Arc::clone(&context));
    let answer = or_panicked(context.scope(next.run(request))).instrument(span);
    let mut response = answer.await.unwrap_or_else(|_| {
        // The panic itself has been printed.
        ApiError::internal("The request failed on the server. The reason is in the server's log.").into_response()
    });
    access.follow(&mut response);
    response
}

/// A request that makes its handler panic gets an answer like any other, and ends nobody else's.
pub async fn or_panicked<T>(work: impl Future<Output = T>) -> std::thread::Result<T> {
    let mut work = pin!(work);
    poll_fn(|cx| {
        // What was half changed belongs to this request and is dropped with it; what is shared is behind locks that say so.
        match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(cx))) {
            Ok(polled) => polled.map(Ok),
            Err(panic) => Poll::Ready(Err(panic)),
        }
    })
    .await
}

/// What is known of a request when it is over, however it ends: its line is written when this is dropped.
struct Access {
    app: Arc<App>,
    context: Arc<RequestContext>,
    span: Span,
    method: Method,
    path: String,
    route: Option<Arc<str>>,
    peer: Option<Peer>,
    status: u16,
    refusal: Option<&'static str>,
    is_whole: bool,
}

impl Access {
    fn follow(mut self, response: &mut Response) {
        self.status = response.status().as_u16();
        self.refusal = response.extensions().get().map(|&Refusal(code)| code);
        for (name, value) in [(REQUEST_ID, &self.context.id), (TRACEPARENT, &self.context.trace.to_string())] {
            // Both are of safe characters.
            if let Ok(value) = HeaderValue::from_str(value) {
                response.headers_mut().insert(name, value);
            }
        }
        let body = std::mem::take(response.body_mut());
        *response.body_mut() = Body::new(Followed { body, access: self });
    }
}

impl Drop for Access {
    fn drop(&mut self) {
        self.context.release();
        let elapsed = self.context.began.elapsed();
        let route = self.route.as_deref().unwrap_or("unmatched");
        self.app.metrics.http.answered(route, self.status, self.refusal);
        let outcome = self.context.outcome();
        let hung_up = (!self.is_whole).then_some("client_closed");
        let reason = hung_up.or(self.refusal).or(outcome.finish_reason).unwrap_or("done");
        let ms = elapsed.as_millis() as u64;
        let peer = self.peer.map(|Peer(peer)| peer.to_string());
        let (prompt_tokens, completion_tokens) = (outcome.prompt_tokens, outcome.completion_tokens);
        let (method, path, status) = (self.method.as_str(), self.path.as_str(), self.status);
        self.span.in_scope(|| {
            if QUIET.contains(&route) {
                tracing::debug!(target: "dots_server::access", peer, method, path, status, ms);
            } else {
                tracing::info!(
                    target: "dots_server::access",
                    peer, method, path, status, ms, prompt_tokens, completion_tokens, reason
                );
            }
        });
        let is_told = self.context.trace.sampled && !QUIET.contains(&route);
        if let Some(traces) = self.app.options.traces.as_ref().filter(|_| is_told) {
            traces.send(otlp::Span::of(&self.context, &outcome, &self.method, route, self.status, elapsed));
        }
    }
}

/// A body on its way out.
struct Followed {
    body: Body,
    access: Access,
}

impl HttpBody for Followed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        let frame = this.access.span.in_scope(|| Pin::new(&mut this.body).poll_frame(cx));
        // A body of known length is not asked again after its last piece.
        this.access.is_whole = matches!(frame, Poll::Ready(None)) || this.body.is_end_stream();
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        // One that is empty is never asked at all, nor is one whose request was HEAD.
        let is_empty = self.body.is_end_stream() || self.access.method == Method::HEAD;
        self.access.is_whole |= is_empty || self.access.status == StatusCode::NO_CONTENT.as_u16();
    }
}
