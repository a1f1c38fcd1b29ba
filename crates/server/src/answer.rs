//! What the engine says about the choices of one request, gathered.

use std::{
    collections::VecDeque,
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll},
};

use dots_engine::{Event, Failure, Finish, PromptList, TokenEvent};

use crate::{backend::EventStream, error::ApiError};

/// What only the first choice of a prompt was asked, since it is the same for all of them.
#[derive(Debug, Clone, Copy, Default)]
pub struct Shared {
    /// The log-probabilities of the prompt's tokens.
    pub list: bool,
    /// The experts of the prompt's tokens.
    pub routing: bool,
}

/// The events of all choices as they come, none of them starved by another. Dropping it stops them all.
pub struct Choices {
    running: Vec<(usize, EventStream)>,
    /// The one that is asked first, next time.
    turn: usize,
    choices_per_prompt: usize,
    /// Of each prompt: whether its list is still to come, of its first choice and for all of them. Until then the others wait.
    awaited: Vec<bool>,
    /// Of each prompt: how its first choice ended, with the experts of the prompt's tokens, where they were asked for. Until
    /// then the others that have ended wait in `ended`.
    firsts: Option<Vec<Option<Arc<Finish>>>>,
    ended: Vec<(usize, Finish)>,
    /// What the first choice was told, for the others.
    told: VecDeque<(usize, Event)>,
}

impl Choices {
    /// Choice `i` is `streams[i]`.
    pub fn new(streams: Vec<EventStream>) -> Self {
        Self {
            running: streams.into_iter().enumerate().collect(),
            turn: 0,
            choices_per_prompt: 1,
            awaited: Vec::new(),
            firsts: None,
            ended: Vec::new(),
            told: VecDeque::new(),
        }
    }

    /// As [`Self::new`], of `choices_per_prompt` choices to a prompt, of which only the first was asked about the prompt: what
    /// it is told goes to all of them. The list of log-probabilities comes to each before anything else, and the experts of
    /// the prompt's tokens with each one's end, no earlier than the first's.
    pub fn sharing_prompts(streams: Vec<EventStream>, choices_per_prompt: usize, shared: Shared) -> Self {
        let prompts = streams.len().div_ceil(choices_per_prompt);
        let awaited = vec![shared.list; prompts];
        let firsts = (shared.routing && choices_per_prompt > 1).then(|| vec![None; prompts]);
        Self { choices_per_prompt, awaited, firsts, ..Self::new(streams) }
    }

    /// Whether the choice must not be asked yet.
    fn waits(&self, choice: usize) -> bool {
        let is_first = choice.is_multiple_of(self.choices_per_prompt);
        !is_first && self.awaited.get(choice / self.choices_per_prompt) == Some(&true)
    }

    /// Notes what a prompt's first choice was told.
    fn share(&mut self, choice: usize, event: &Event) {
        if !choice.is_multiple_of(self.choices_per_prompt) {
            return;
        }
        if let Some(awaited) = self.awaited.get_mut(choice / self.choices_per_prompt)
            && std::mem::take(awaited)
            && let Event::Prompt(list) = event
        {
            let others = choice + 1..choice + self.choices_per_prompt;
            self.told.extend(others.map(|other| (other, Event::Prompt(list.clone()))));
        }
    }

    /// Gives an answer's end the experts of its prompt's tokens; `None` where they are not known yet and it waits for them.
    fn complete(&mut self, choice: usize, finish: Finish) -> Option<Event> {
        let Some(firsts) = &mut self.firsts else { return Some(Event::Finished(finish)) };
        let prompt = choice / self.choices_per_prompt;
        if choice.is_multiple_of(self.choices_per_prompt) {
            let first = &*firsts[prompt].insert(Arc::new(finish.clone()));
            for (other, finish) in self.ended.extract_if(.., |(other, _)| *other / self.choices_per_prompt == prompt) {
                self.told.push_back((other, Event::Finished(with_prompt_of(first, finish))));
            }
            return Some(Event::Finished(finish));
        }
        match &firsts[prompt] {
            Some(first) => Some(Event::Finished(with_prompt_of(first, finish))),
            None => {
                self.ended.push((choice, finish));
                None
            }
        }
    }

    /// The next event and its choice; `None` when every choice has ended.
    pub fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<(usize, Event)>> {
        if let Some(told) = self.told.pop_front() {
            return Poll::Ready(Some(told));
        }
        let mut asked = 0;
        while asked < self.running.len() {
            let at = (self.turn + asked) % self.running.len();
            asked += 1;
            if self.waits(self.running[at].0) {
                continue;
            }
            let (choice, stream) = &mut self.running[at];
            let choice = *choice;
            if let Poll::Ready(event) = stream.as_mut().poll_next(cx) {
                let event = event.unwrap_or(Event::Failed(Failure::Stopped));
                if matches!(event, Event::Finished(_) | Event::Failed(_)) {
                    drop(self.running.remove(at));
                    self.turn = at;
                } else {
                    self.turn = at + 1;
                }
                self.share(choice, &event);
                let event = match event {
                    Event::Finished(finish) => self.complete(choice, finish),
                    event => Some(event),
                };
                match event {
                    Some(event) => return Poll::Ready(Some((choice, event))),
                    // The others, from the first one on.
                    None => asked = 0,
                }
            }
        }
        if self.running.is_empty() { Poll::Ready(None) } else { Poll::Pending }
    }
}

/// How an answer ended, with the experts of its prompt's tokens, which only the `first` answer to that prompt was asked for,
/// before those of its own. As it was where nobody asked.
fn with_prompt_of(first: &Finish, mut finish: Finish) -> Finish {
    if let (Some(of_all), Some(own)) = (&first.routing, &mut finish.routing) {
        let computed = first.prompt_tokens + first.completion_tokens.saturating_sub(1);
        let width = of_all.experts.len() / computed.max(1);
        let prompt = &of_all.experts[..first.prompt_tokens * width];
        own.experts.splice(..0, prompt.iter().copied());
        own.layers.clone_from(&of_all.layers);
    }
    finish
}

/// One complete choice.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// All of its text.
    pub text: String,
    /// Its tokens, in order.
    pub tokens: Vec<TokenEvent>,
    /// The prompt's log-probabilities, where the request asked; else empty.
    pub prompt: PromptList,
    /// The prompt's embedding, where the request asked; else empty.
    pub embedding: Vec<f32>,
    /// How it ended.
    pub finish: Finish,
}

/// What has come of a choice.
#[derive(Clone, Default)]
struct Growing {
    tokens: Vec<TokenEvent>,
    prompt: PromptList,
    embedding: Vec<f32>,
}

/// Waits until `count` choices are complete.
pub async fn collect(mut choices: Choices, count: usize) -> Result<Vec<Answer>, ApiError> {
    let mut growing = vec![Growing::default(); count];
    let mut answers = vec![None; count];
    while let Some((choice, event)) = poll_fn(|cx| choices.poll_event(cx)).await {
        match event {
            Event::Token(token) => growing[choice].tokens.push(token),
            Event::Finished(finish) => {
                let Growing { tokens, prompt, embedding } = std::mem::take(&mut growing[choice]);
                let mut text: String = tokens.iter().map(|token: &TokenEvent| token.text.as_str()).collect();
                text.push_str(&finish.text);
                answers[choice] = Some(Answer { text, tokens, prompt, embedding, finish });
            }
            Event::Failed(failure) => return Err(failed(&failure)),
            Event::Prompt(prompt) => growing[choice].prompt = prompt,
            Event::Embedding(embedding) => growing[choice].embedding = embedding,
        }
    }
    answers.into_iter().collect::<Option<_>>().ok_or_else(|| failed(&Failure::Stopped))
}

/// The engine's reason goes into the log; the client learns that it is not to blame, unless it set the deadline itself.
pub fn failed(failure: &Failure) -> ApiError {
    match failure {
        Failure::Deadline => return ApiError::deadline(),
        Failure::Stopped => return ApiError::stopping(),
        Failure::Form(reason) => return ApiError::form_failed(reason),
        Failure::Step(_) => {}
    }
    tracing::error!(%failure, "a generation failed");
    ApiError::internal("The generation failed on the server. The reason is in the server's log.")
}

/// Tokens read and written, as OpenAI counts them: a prompt counts once, however many choices it has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Usage {
    prompt_tokens: usize,
    completion_tokens: usize,
    total_tokens: usize,
    prompt_tokens_details: PromptDetails,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
struct PromptDetails {
    /// Of the prompts' tokens, those that did not have to be computed.
    cached_tokens: usize,
}

impl Usage {
    /// Adds a choice that has ended. `choices_per_prompt` is `n`.
    pub fn add(&mut self, choice: usize, choices_per_prompt: usize, finish: &Finish) {
        if choice.is_multiple_of(choices_per_prompt) {
            self.prompt_tokens += finish.prompt_tokens;
            self.prompt_tokens_details.cached_tokens += finish.cached_tokens;
        }
        self.completion_tokens += finish.completion_tokens;
        self.total_tokens = self.prompt_tokens + self.completion_tokens;
    }

    /// Of complete choices.
    pub fn of(answers: &[Answer], choices_per_prompt: usize) -> Self {
        let mut usage = Self::default();
        for (choice, answer) in answers.iter().enumerate() {
            usage.add(choice, choices_per_prompt, &answer.finish);
        }
        usage
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use dots_engine::PromptToken;
    use futures_core::Stream;

    use super::*;

    /// Events that are there once the gate is open.
    struct Gated {
        gate: Arc<AtomicBool>,
        events: VecDeque<Event>,
    }

    impl Stream for Gated {
        type Item = Event;

        fn poll_next(mut self: std::pin::Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Option<Event>> {
            if self.gate.load(std::sync::atomic::Ordering::SeqCst) {
                Poll::Ready(self.events.pop_front())
            } else {
                Poll::Pending
            }
        }
    }

    fn token(id: u32) -> Event {
        Event::Token(TokenEvent { id, text: String::new(), logprobs: None })
    }

    fn list(id: u32) -> Event {
        Event::Prompt(Arc::from([None, Some(PromptToken { id, logprob: -1.0, rank: 0, top: Vec::new() })]))
    }

    fn stream(gate: &Arc<AtomicBool>, events: impl IntoIterator<Item = Event>) -> EventStream {
        Box::pin(Gated { gate: Arc::clone(gate), events: events.into_iter().collect() })
    }

    /// Which choices said something and what, until nothing more comes.
    fn come(choices: &mut Choices) -> Vec<(usize, Event)> {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        std::iter::from_fn(|| match choices.poll_event(&mut cx) {
            Poll::Ready(event) => event,
            Poll::Pending => None,
        })
        .collect()
    }

    #[test]
    fn choices_of_one_prompt_share_its_list_and_each_has_it_first() {
        let (open, first, second) = (Arc::new(AtomicBool::new(true)), Arc::default(), Arc::default());
        let end = || Event::Finished(Finish::default());
        let streams = vec![
            stream(&first, [list(7), token(0), end()]),
            stream(&open, [token(1), end()]),
            stream(&second, [list(8), end()]),
            stream(&open, [token(3), end()]),
        ];
        let mut choices = Choices::sharing_prompts(streams, 2, Shared { list: true, routing: false });
        assert_eq!(come(&mut choices), [], "no choice speaks before its prompt's list");
        second.store(true, std::sync::atomic::Ordering::SeqCst);
        let told = come(&mut choices);
        let of = |told: &[(usize, Event)], choice| -> Vec<_> {
            told.iter().filter(|told| told.0 == choice).map(|told| told.1.clone()).collect()
        };
        assert_eq!((told.len(), of(&told, 2)), (5, vec![list(8), end()]));
        assert_eq!(of(&told, 3), [list(8), token(3), end()]);
        let shared =
            told.iter().filter_map(|(_, event)| if let Event::Prompt(list) = event { Some(list) } else { None });
        let shared: Vec<_> = shared.collect();
        assert!(Arc::ptr_eq(shared[0], shared[1]), "one list, not two");
        first.store(true, std::sync::atomic::Ordering::SeqCst);
        let told = come(&mut choices);
        assert_eq!((of(&told, 0), of(&told, 1)), (vec![list(7), token(0), end()], vec![list(7), token(1), end()]));
        assert_eq!(choices.poll_event(&mut Context::from_waker(std::task::Waker::noop())), Poll::Ready(None));
    }
}
