//! The events of one answer on their way to the client, timed and counted.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use dots_engine::{Event, Failure, Finish, FinishReason};
use futures_core::Stream;

use crate::{
    backend::EventStream,
    context::RequestContext,
    drain::Drain,
    metrics::{Metrics, requests::Answered},
};

/// One answer's events. Where the server's last moment comes first, they end in a failure.
pub struct Observed {
    events: EventStream,
    drain: Arc<Drain>,
    on_cut: Pin<Box<dyn Future<Output = ()> + Send>>,
    metrics: Arc<Metrics>,
    context: Option<Arc<RequestContext>>,
    began: Instant,
    first_token: Option<Instant>,
    last_token: Instant,
    prompt_tokens: usize,
    completion_tokens: usize,
    max_tokens: Option<usize>,
    ended: bool,
}

impl Observed {
    /// Of a request that was submitted just now.
    pub fn new(
        events: EventStream,
        prompt_tokens: usize,
        max_tokens: Option<usize>,
        drain: &Arc<Drain>,
        metrics: &Arc<Metrics>,
    ) -> Self {
        let context = RequestContext::current();
        let began = context.as_ref().map_or_else(Instant::now, |context| context.began);
        Self {
            events,
            on_cut: drain.on_cut(),
            drain: Arc::clone(drain),
            metrics: Arc::clone(metrics),
            context,
            began,
            first_token: None,
            last_token: began,
            prompt_tokens,
            completion_tokens: 0,
            max_tokens,
            ended: false,
        }
    }

    fn token(&mut self) {
        let now = Instant::now();
        self.completion_tokens += 1;
        let requests = &self.metrics.requests;
        requests.token();
        match self.first_token {
            Some(_) => requests.inter_token_latency.observe((now - self.last_token).as_secs_f64()),
            None => {
                self.first_token = Some(now);
                requests.read(self.prompt_tokens);
                requests.time_to_first_token.observe((now - self.began).as_secs_f64());
                if let Some(context) = &self.context {
                    context.outcome().first_token.get_or_insert(now - self.began);
                }
            }
        }
        self.last_token = now;
    }

    fn end(&mut self, reason: &'static str, finish: Option<&Finish>) {
        if self.ended {
            return;
        }
        self.ended = true;
        if let Some(finish) = finish {
            self.completion_tokens = finish.completion_tokens;
        }
        self.metrics.requests.ended(reason);
        if let Some(finish) = finish {
            // What only reads has no first token.
            if self.first_token.is_none() {
                self.metrics.requests.read(self.prompt_tokens);
            }
            let decoding = self.first_token.map(|first| self.last_token - first);
            self.metrics.requests.answered(&Answered {
                finish,
                max_tokens: self.max_tokens,
                latency: self.began.elapsed(),
                decoding,
            });
        }
        if let Some(context) = &self.context {
            let mut outcome = context.outcome();
            outcome.prompt_tokens += self.prompt_tokens;
            outcome.completion_tokens += self.completion_tokens;
            outcome.finish_reason = Some(reason);
        }
    }
}

impl Stream for Observed {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        let this = &mut *self;
        if this.ended {
            return Poll::Ready(None);
        }
        let event = if this.drain.is_cut() {
            Some(Event::Failed(Failure::Stopped))
        } else {
            match this.events.as_mut().poll_next(cx) {
                Poll::Ready(event) => event,
                Poll::Pending if this.on_cut.as_mut().poll(cx).is_ready() => Some(Event::Failed(Failure::Stopped)),
                Poll::Pending => return Poll::Pending,
            }
        };
        match &event {
            Some(Event::Token(_)) => this.token(),
            Some(Event::Finished(finish)) => {
                let reason = match finish.reason {
                    FinishReason::Stop => "stop",
                    FinishReason::Length => "length",
                };
                this.end(reason, Some(finish));
            }
            Some(Event::Prompt(_) | Event::Embedding(_)) => {}
            // The client's own limit, and no fault.
            Some(Event::Failed(Failure::Deadline)) => this.end("abort", None),
            Some(Event::Failed(_)) | None => this.end("error", None),
        }
        Poll::Ready(event)
    }
}

impl Drop for Observed {
    fn drop(&mut self) {
        self.end("abort", None);
    }
}
