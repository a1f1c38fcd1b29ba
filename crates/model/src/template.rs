//! Conversations to prompts, by the checkpoint's own Jinja template.

use serde::{Deserialize, Serialize};

use crate::{Checkpoint, tokenizer::Tokenizer};

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user` or `assistant`; templates decide what else they know.
    pub role: String,
    /// What was said.
    pub content: String,
}

/// A template that failed, or a conversation that it refused (`raise_exception`).
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct TemplateError(pub String);

/// A checkpoint's chat template, compiled.
#[derive(Debug)]
pub struct ChatTemplate;

impl ChatTemplate {
    /// The checkpoint's own template, or the published dots.llm1 form where it has none.
    pub fn new(_checkpoint: &Checkpoint) -> Result<Self, TemplateError> {
        todo!()
    }

    /// The conversation as one text, ending in the prompt for an answer where `add_generation_prompt`.
    pub fn render(&self, _messages: &[Message], _add_generation_prompt: bool) -> Result<String, TemplateError> {
        todo!()
    }

    /// The conversation as ids. Special tokens inside contents are text (see the module's documentation).
    pub fn encode(
        &self,
        _tokenizer: &Tokenizer,
        _messages: &[Message],
        _add_generation_prompt: bool,
    ) -> Result<Vec<u32>, TemplateError> {
        todo!()
    }
}
