//! The engine as a model that answers problems.

use std::sync::Arc;

use dots_engine::{Engine, Event, Events, FinishReason, Request};
use dots_model::{
    template::{ChatTemplate, Message},
    tokenizer::Tokenizer,
};

use super::{Answer, Model};

/// A model in this process.
pub struct EngineModel {
    /// What runs it, with a queue that is never full.
    pub engine: Engine,
    /// Its tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    /// How its conversations are written.
    pub template: ChatTemplate,
    /// Longest sequence, prompt and answer together, in tokens.
    pub context: usize,
    /// How tokens are chosen, and what ends an answer; prompt, seed and `max_tokens` are each answer's own.
    pub request: Request,
    /// Most tokens of an answer.
    pub max_tokens: usize,
}

impl EngineModel {
    fn prompt(&self, messages: &[Message]) -> Result<Vec<u32>, String> {
        self.template.encode(&self.tokenizer, messages, true).map_err(|error| error.to_string())
    }
}

/// Whether the prompt of these messages leaves room for an answer in a sequence of `context` tokens; else what was expected and found.
pub fn leaves_room(
    messages: &[Message],
    template: &ChatTemplate,
    tokenizer: &Tokenizer,
    context: usize,
) -> Result<(), (String, String)> {
    let prompt = (template.encode(tokenizer, messages, true))
        .map_err(|error| ("messages that the template takes".to_owned(), error.to_string()))?;
    if prompt.is_empty() || prompt.len() >= context {
        let expected = format!("a prompt of 1 to {} tokens, less than the context", context.saturating_sub(1));
        return Err((expected, prompt.len().to_string()));
    }
    Ok(())
}

impl Model for EngineModel {
    fn admits(&self, messages: &[Message]) -> Result<(), (String, String)> {
        leaves_room(messages, &self.template, &self.tokenizer, self.context)
    }

    fn answer(&self, messages: &[Message], seeds: &[u64]) -> Result<Vec<Answer>, String> {
        let prompt = self.prompt(messages)?;
        let max_tokens = self.max_tokens.min(self.context.saturating_sub(prompt.len()));
        let submit = |&seed: &u64| {
            let mut request = Request { prompt: prompt.clone(), max_tokens: Some(max_tokens), ..self.request.clone() };
            request.sampling.seed = Some(seed);
            self.engine.submit(request).map_err(|error| error.to_string())
        };
        // All at once: they share the prompt's cache and the engine's steps.
        let running: Vec<Events> = seeds.iter().map(submit).collect::<Result<_, String>>()?;
        running.into_iter().map(collect).collect()
    }
}

fn collect(mut events: Events) -> Result<Answer, String> {
    let mut text = String::new();
    loop {
        match events.blocking_next() {
            Some(Event::Token(token)) => text += &token.text,
            Some(Event::Finished(finish)) => {
                text += &finish.text;
                let is_finished = finish.reason == FinishReason::Stop;
                return Ok(Answer { text, tokens: finish.completion_tokens, is_finished });
            }
            Some(Event::Failed(failure)) => return Err(failure.to_string()),
            Some(Event::Prompt(_) | Event::Embedding(_)) => {}
            None => return Err("the engine has stopped".to_owned()),
        }
    }
}
