//! The server's end: work that runs goes on to its end, or to the last moment that was allowed; none begins.

use std::{pin::Pin, sync::Arc};

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use tokio::sync::watch;

use crate::{App, context::RequestContext, error::ApiError};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Serving,
    Draining,
    Cut,
}

/// How far the end has come, and what still runs.
#[derive(Debug)]
pub struct Drain {
    stage: watch::Sender<Stage>,
    running: watch::Sender<usize>,
}

impl Default for Drain {
    fn default() -> Self {
        Self { stage: watch::Sender::new(Stage::Serving), running: watch::Sender::new(0) }
    }
}

/// One request that does work; it has ended when this is dropped.
#[derive(Debug)]
pub struct Work(Arc<Drain>);

impl Drop for Work {
    fn drop(&mut self) {
        self.0.running.send_modify(|running| *running -= 1);
    }
}

impl Drain {
    /// No new work from here on.
    pub fn begin(&self) {
        self.advance(Stage::Draining);
    }

    /// What still runs ends now.
    pub fn cut(&self) {
        self.advance(Stage::Cut);
    }

    fn advance(&self, stage: Stage) {
        self.stage.send_modify(|now| *now = stage.max(*now));
    }

    /// Whether the server was asked to stop.
    pub fn has_begun(&self) -> bool {
        *self.stage.borrow() >= Stage::Draining
    }

    /// Whether what runs must end.
    pub fn is_cut(&self) -> bool {
        *self.stage.borrow() == Stage::Cut
    }

    /// Completes when what runs must end.
    pub fn on_cut(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let mut stage = self.stage.subscribe();
        Box::pin(async move {
            // Without its sender the server is gone, and all of it with it.
            let _ = stage.wait_for(|stage| *stage == Stage::Cut).await;
        })
    }

    /// Requests that do work.
    pub fn running(&self) -> usize {
        *self.running.borrow()
    }

    /// Completes when none does.
    pub async fn idle(&self) {
        let _ = self.running.subscribe().wait_for(|running| *running == 0).await;
    }

    /// Work that begins; none once the server was asked to stop.
    pub fn work(self: &Arc<Self>) -> Option<Work> {
        // Counted first, so that whoever waits for the last one does not miss this one.
        self.running.send_modify(|running| *running += 1);
        let work = Work(Arc::clone(self));
        (!self.has_begun()).then_some(work)
    }
}

/// Lets work begin, and holds it to be running until its answer has been sent; 503 once the server was asked to stop.
pub async fn admit(State(app): State<Arc<App>>, request: Request, next: Next) -> Result<Response, ApiError> {
    let work = app.drain.work().ok_or_else(ApiError::stopping)?;
    if let Some(context) = request.extensions().get::<Arc<RequestContext>>() {
        context.holds(work);
    }
    Ok(next.run(request).await)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_that_began_is_waited_for_and_none_begins_after() {
        let drain = Arc::new(Drain::default());
        let (one, two) = (drain.work().unwrap(), drain.work().unwrap());
        drain.begin();
        assert!(drain.work().is_none() && drain.running() == 2 && !drain.is_cut());
        let waiting = tokio::spawn({
            let drain = Arc::clone(&drain);
            async move { drain.idle().await }
        });
        drop(one);
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(two);
        waiting.await.unwrap();
        let cut = drain.on_cut();
        drain.cut();
        cut.await;
        drain.begin();
        assert!(drain.is_cut(), "there is no way back");
    }
}
