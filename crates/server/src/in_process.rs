//! The server without a socket, for whoever is in the same process.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{Request, header},
};
use tower::ServiceExt;

use crate::{App, Served, ServerOptions, routes};

/// Answers requests as the server would over HTTP.
#[derive(Clone)]
pub struct InProcess {
    router: Arc<Router>,
}

/// What the server answered.
#[derive(Debug, Clone)]
pub struct Reply {
    /// HTTP's status.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
    /// When to come back, where the server says so.
    pub retry_after: Option<Duration>,
}

impl InProcess {
    /// A server over `served`. Calls pass every guard that a client's would, so a key in `options` lets none of them in.
    pub fn new(options: ServerOptions, served: Served) -> Self {
        Self { router: Arc::new(routes::router(App::new(options, Box::new(served)), None)) }
    }

    /// Sends a JSON body to `path` and waits for the whole answer. `None` where `path` is no address.
    pub async fn post(&self, path: &str, body: Vec<u8>) -> Option<Reply> {
        let request =
            Request::post(path).header(header::CONTENT_TYPE, "application/json").body(Body::from(body)).ok()?;
        let Ok(response) = Router::clone(&self.router).oneshot(request).await;
        let status = response.status().as_u16();
        let retry_after =
            response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let retry_after = retry_after.map(Duration::from_secs);
        // What the server makes fits its memory, and no answer of the server's own breaks off.
        let body = to_bytes(response.into_body(), usize::MAX).await.ok()?;
        Some(Reply { status, body: body.into(), retry_after })
    }
}
