//! Which address leads where.

mod chat;
mod completions;
mod documents;
mod embeddings;
mod messages;
mod models;
mod responses;
mod score;
mod status;
mod tokens;

use std::{sync::Arc, time::Instant};

use axum::{
    Router,
    http::{Method, Uri},
    middleware,
    routing::{get, post},
};
use dots_engine::{Request, RoutingOf, constraint::Constraint};
use serde::Serialize;
use tokio::sync::Semaphore;

use crate::{
    App,
    answer::{Choices, Shared},
    anthropic, auth,
    constraints::{self, Form},
    cors, drain,
    error::ApiError,
    local_names::{self, LocalNames},
    openai::generation::{AboutPrompt, Generation, check_answers_listed, check_routing},
    page, track,
    words::Words,
};

/// Requests at least this long are parsed and tokenised on a thread of their own: a small one takes less time than the
/// way there.
pub const OFF_RUNTIME_BYTES: usize = 16 << 10;

/// Long requests that are read at once. Tokenising takes some hundred bytes for each of a text's, a gigabyte for the longest
/// body: what waits here waits with its body only.
const LONG_AT_ONCE: usize = 2;

static LONG: Semaphore = Semaphore::const_new(LONG_AT_ONCE);

/// All routes; with `local_names` for who calls the server by one of them.
pub fn router(app: Arc<App>, local_names: Option<LocalNames>) -> Router {
    let work = Router::new()
        .route("/v1/chat/completions", post(chat::create))
        .route("/v1/completions", post(completions::create))
        .route("/v1/embeddings", post(embeddings::create))
        .route("/v1/score", post(score::create))
        .route("/tokenize", post(tokens::tokenize))
        .route("/detokenize", post(tokens::detokenize))
        .route("/tokenizer_info", get(tokens::info))
        .route("/v1/responses", post(responses::create))
        .route("/v1/messages", post(messages::create))
        .route("/v1/messages/count_tokens", post(messages::count_tokens))
        .route("/v1/models", get(models::list))
        // Names have slashes: `rednote-hilab/dots.llm1.inst`.
        .route("/v1/models/{*name}", get(models::retrieve))
        .route_layer(middleware::from_fn_with_state(Arc::clone(&app), drain::admit));
    let behind_the_key = work
        // What was answered can be read, and what runs be cancelled, while the server stops.
        .route("/v1/responses/{id}", get(responses::retrieve).delete(responses::delete))
        .route("/v1/responses/{id}/cancel", post(responses::cancel))
        .route("/v1/responses/{id}/input_items", get(responses::input_items))
        // The last one named is asked first.
        .route_layer(middleware::from_fn_with_state(Arc::clone(&app), auth::require_key));
    let router = Router::new()
        .merge(behind_the_key)
        .merge(page::routes())
        .route("/health", get(status::health))
        .route("/ready", get(status::ready))
        .route("/metrics", get(status::metrics))
        .route("/version", get(status::version))
        .route("/openapi.json", get(documents::openapi))
        .route("/docs", get(documents::docs))
        .fallback(async |method: Method, uri: Uri| ApiError::unknown_url(&method, &uri))
        .method_not_allowed_fallback(async |method: Method, uri: Uri| ApiError::method_not_allowed(&method, &uri));
    let router = match local_names {
        Some(names) => router.layer(middleware::from_fn_with_state(Arc::new(names), local_names::ask)),
        None => router,
    };
    router
        .layer(middleware::from_fn_with_state(Arc::clone(&app), cors::share))
        .layer(middleware::from_fn(anthropic::error::reshape))
        .layer(middleware::from_fn_with_state(Arc::clone(&app), track::follow))
        .with_state(app)
}

/// Runs `work` over a request of `bytes` bytes where it does not hold up other requests.
async fn off_runtime<T: Send + 'static>(
    bytes: usize,
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    if bytes < OFF_RUNTIME_BYTES {
        return work();
    }
    let place = LONG.acquire().await;
    let work = move || {
        // Given back when the work ends, not when the client hangs up.
        let _place = place;
        work()
    };
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        tracing::error!(%error, "reading a request failed");
        Err(ApiError::internal("The request could not be read. The reason is in the server's log."))
    })
}

/// Tokens of a request that has no answer but what is told of its prompts.
#[derive(Serialize, Default)]
struct PromptUsage {
    prompt_tokens: usize,
    total_tokens: usize,
}

/// What a token of a prompt that waits takes, with its text, about.
const TOKEN_BYTES: usize = 16;

/// A request that was checked and tokenised.
struct Job {
    /// Under which name the model answers.
    model: String,
    /// Not empty.
    prompts: Vec<Vec<u32>>,
    /// The field that held them.
    prompt_param: &'static str,
    generation: Generation,
    logprobs: Option<usize>,
    /// The field that asked for them.
    logprobs_param: &'static str,
    about_prompt: AboutPrompt,
    /// What every answer must look like, until it is compiled.
    form: Option<Form>,
    constraint: Option<Constraint>,
    /// After which it is not needed any more.
    deadline: Option<Instant>,
}

impl Job {
    /// Answers that will come.
    fn choices(&self) -> usize {
        self.prompts.len() * self.generation.n
    }

    /// Compiles what every answer must look like.
    async fn compile(&mut self, app: &Arc<App>) -> Result<(), ApiError> {
        if let Some(form) = self.form.take() {
            let bytes = self.prompts.iter().map(Vec::len).sum::<usize>() * TOKEN_BYTES;
            self.constraint = Some(constraints::compile(app, form, bytes, self.deadline).await?);
        }
        Ok(())
    }

    /// Refuses lists that would be too long for one answer, where every choice takes the tokens that it may.
    fn check_lists(&self, app: &App, default_max_tokens: Option<usize>) -> Result<(), ApiError> {
        let longest = self.generation.max_tokens.or(default_max_tokens).unwrap_or(usize::MAX);
        let context = app.backend.context_tokens();
        let of_answer = |prompt: &Vec<u32>| longest.min(context.saturating_sub(prompt.len()));
        let answer_tokens = self.prompts.iter().map(of_answer).sum::<usize>() * self.generation.n;
        let prompt_tokens = self.prompts.iter().map(Vec::len).sum::<usize>() * self.generation.n;
        // What is streamed is sent token by token.
        if let (Some(alternatives), None) = (self.logprobs, self.generation.stream) {
            check_answers_listed(alternatives, answer_tokens, self.logprobs_param)?;
        }
        match self.about_prompt.routing {
            true => check_routing(prompt_tokens + answer_tokens, app.backend.experts_per_token()),
            false => Ok(()),
        }
    }

    /// Queues every choice. Where one is refused, those before it are dropped and so stopped.
    fn submit(&self, app: &App, default_max_tokens: Option<usize>) -> Result<Choices, ApiError> {
        let scheduling = &self.generation.scheduling;
        scheduling.check(app.options.allows_priority)?;
        self.check_lists(app, default_max_tokens)?;
        let Words { bad_words, breakers } = Words::of(&self.generation, &*app.backend);
        let mut streams = Vec::with_capacity(self.choices());
        for prompt in &self.prompts {
            // A default never makes a request too long: it takes what room is left.
            let room = app.backend.context_tokens().saturating_sub(prompt.len()).max(1);
            let max_tokens = self.generation.max_tokens.or(default_max_tokens.map(|tokens| tokens.min(room)));
            app.metrics.requests.asked(self.generation.n);
            for i in 0..self.generation.n {
                let mut sampling = self.generation.sampling_of(i);
                sampling.bad_words = bad_words.clone();
                sampling.dry.breakers = breakers.clone();
                let request = Request {
                    prompt: prompt.clone(),
                    sampling,
                    max_tokens,
                    stop: self.generation.stop.clone(),
                    stop_token_ids: self.generation.stop_token_ids.clone(),
                    ignore_eos: self.generation.ignore_eos,
                    min_tokens: self.generation.min_tokens,
                    include_stop: self.generation.include_stop,
                    show_special_tokens: self.generation.show_special_tokens,
                    logprobs: self.logprobs,
                    constraint: self.constraint.clone(),
                    // What is found about a prompt is the same for all of its answers.
                    prompt_logprobs: self.about_prompt.logprobs.filter(|_| i == 0),
                    routing: match (self.about_prompt.routing, i) {
                        (false, _) => RoutingOf::Nothing,
                        (true, 0) => RoutingOf::All,
                        (true, _) => RoutingOf::Answer,
                    },
                    priority: scheduling.priority,
                    cache_salt: scheduling.cache_salt.clone(),
                    deadline: self.deadline,
                    ..Request::default()
                };
                let stream = app.submit(request).map_err(|error| ApiError::refused(&error, self.prompt_param))?;
                streams.push(stream);
            }
        }
        let AboutPrompt { logprobs, routing } = self.about_prompt;
        Ok(Choices::sharing_prompts(streams, self.generation.n, Shared { list: logprobs.is_some(), routing }))
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering::SeqCst},
        time::Duration,
    };

    use super::*;

    #[tokio::test]
    async fn long_requests_are_read_a_few_at_once() {
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let readers: Vec<_> = (0..8)
            .map(|_| {
                let (now, most) = (Arc::clone(&now), Arc::clone(&most));
                tokio::spawn(off_runtime(OFF_RUNTIME_BYTES, move || {
                    most.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
                    std::thread::sleep(Duration::from_millis(10));
                    now.fetch_sub(1, SeqCst);
                    Ok(())
                }))
            })
            .collect();
        for reader in readers {
            assert!(reader.await.unwrap().is_ok());
        }
        assert!(most.load(SeqCst) <= LONG_AT_ONCE, "{most:?}");
    }
}
