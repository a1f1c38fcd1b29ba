//! What the routes ask of the rooms below. [`Served`] answers in earnest; in tests a script does.

use std::pin::Pin;

use dots_engine::{
    Breakers, Event, Request, Stats, SubmitError,
    constraint::{Constraint, ConstraintError, ConstraintSpec},
};
use dots_model::{
    checkpoint::GenerationDefaults,
    template::{Message, TemplateError},
    tokenizer::Specials,
};
use futures_core::Stream;
use serde_json::Value;

use crate::Served;

/// The events of one request. Dropping it stops the generation.
pub type EventStream = Pin<Box<dyn Stream<Item = Event> + Send>>;

/// Tokens by their ids.
pub trait Vocabulary {
    /// The bytes that `id` stands for; the token's own text for a special one.
    fn token_bytes(&self, id: u32) -> Vec<u8>;

    /// Whether `id` is a special token, which no answer's text shows.
    fn is_special(&self, id: u32) -> bool;
}

/// Tokenizer, template and engine, as the routes see them.
pub trait Backend: Vocabulary + Send + Sync {
    /// The authors' sampling settings.
    fn defaults(&self) -> &GenerationDefaults;

    /// Longest sequence, prompt and completion together.
    fn context_tokens(&self) -> usize;

    /// Ids that exist: one more than the largest.
    fn vocab_size(&self) -> usize;

    /// Experts that a token takes in all layers together.
    fn experts_per_token(&self) -> usize;

    /// Ids that end a turn.
    fn eos_token_ids(&self) -> &[u32];

    /// Ids of a text in which special tokens are parsed.
    fn encode_text(&self, text: &str) -> Vec<u32>;

    /// Ids of a text inside a prompt: none before it or after it that stand for no text.
    fn encode_piece(&self, text: &str, specials: Specials) -> Vec<u32>;

    /// What finds `texts` in tokens, for DRY.
    fn dry_breakers(&self, texts: Vec<String>) -> Breakers;

    /// Ids of a conversation in which `tools` may be called, special tokens in its contents being text; they end in the
    /// prompt for an answer where `add_generation_prompt`.
    fn encode_chat(
        &self,
        messages: &[Message],
        tools: &[Value],
        add_generation_prompt: bool,
    ) -> Result<Vec<u32>, TemplateError>;

    /// Compiles what an answer must look like. Takes its time: not for the runtime's threads.
    fn compile(&self, spec: &ConstraintSpec) -> Result<Constraint, ConstraintError>;

    /// Text of `ids`.
    fn decode(&self, ids: &[u32]) -> String;

    /// Whether requests can still be answered.
    fn is_running(&self) -> bool;

    /// What the engine is busy with.
    fn stats(&self) -> Stats;

    /// Queues a request.
    fn submit(&self, request: Request) -> Result<EventStream, SubmitError>;
}

impl Vocabulary for Served {
    fn token_bytes(&self, id: u32) -> Vec<u8> {
        self.tokenizer.token_bytes(id).to_vec()
    }

    fn is_special(&self, id: u32) -> bool {
        self.tokenizer.is_special(id)
    }
}

impl Backend for Served {
    fn defaults(&self) -> &GenerationDefaults {
        &self.defaults
    }

    fn context_tokens(&self) -> usize {
        self.engine.options().max_model_len
    }

    fn vocab_size(&self) -> usize {
        self.tokenizer.vocab_size()
    }

    fn experts_per_token(&self) -> usize {
        self.experts_per_token
    }

    fn eos_token_ids(&self) -> &[u32] {
        &self.engine.options().eos_token_ids
    }

    fn encode_text(&self, text: &str) -> Vec<u32> {
        self.tokenizer.encode(text, Specials::Parse)
    }

    fn encode_piece(&self, text: &str, specials: Specials) -> Vec<u32> {
        let mut ids = Vec::new();
        self.tokenizer.encode_into(text, specials, &mut ids);
        ids
    }

    fn dry_breakers(&self, texts: Vec<String>) -> Breakers {
        Breakers::new(texts, self.tokenizer.clone())
    }

    fn encode_chat(
        &self,
        messages: &[Message],
        tools: &[Value],
        add_generation_prompt: bool,
    ) -> Result<Vec<u32>, TemplateError> {
        self.template.encode_with_tools(&self.tokenizer, messages, tools, add_generation_prompt)
    }

    fn compile(&self, spec: &ConstraintSpec) -> Result<Constraint, ConstraintError> {
        self.grammars.compile(spec)
    }

    fn decode(&self, ids: &[u32]) -> String {
        self.tokenizer.decode(ids)
    }

    fn is_running(&self) -> bool {
        self.engine.is_running()
    }

    fn stats(&self) -> Stats {
        self.engine.stats()
    }

    fn submit(&self, request: Request) -> Result<EventStream, SubmitError> {
        Ok(Box::pin(self.engine.submit(request)?))
    }
}
