//! Conversations to prompts, by the checkpoint's own Jinja template.
//!
//! # Special tokens in what people say
//! A conversation becomes ids in such a way that a special token can only come from the template. The template is rendered
//! twice: as it is, and with each character of the contents that occurs in any special token replaced by a *twin*, a
//! private-use character that occurs nowhere else. Where both renderings agree once the twins are turned back, every such
//! character is known to be the template's or a speaker's, and special tokens are looked for in the twinned rendering,
//! where no speaker can have written one. The text between them, literals and contents together, is encoded with specials
//! as text, so that the ids are those of the whole text wherever the contents hold no special token.
//!
//! Twins keep lengths, white space and emptiness, so a template may trim, slice or count. One that reads the letters
//! themselves (`content.split('</think>')[-1]`) renders differently with twins; then each character is tried alone, and
//! those that the template does not read still tell speakers from template: a special token with any one of them from a
//! speaker is text, and so is one all of whose characters the template reads.

mod contents;
mod jinja;
mod time;

use std::{collections::BTreeMap, time::SystemTime};

use minijinja::{Environment, Value, context};
use serde::{Deserialize, Serialize};

use crate::{
    Checkpoint,
    checkpoint::TokenizerSource,
    tokenizer::{Piece, Specials, Tokenizer},
};

/// The form that dots.llm1 was published with, for checkpoints that bring no template.
const PUBLISHED: &str = "{%- for message in messages -%}\
    {%- if message.role == 'system' -%}<|system|>{{ message.content }}<|endofsystem|>\
    {%- elif message.role == 'user' -%}<|userprompt|>{{ message.content }}<|endofuserprompt|>\
    {%- elif message.role == 'assistant' -%}<|response|>{{ message.content }}<|endofresponse|>\
    {%- else -%}{{ raise_exception('roles are system, user and assistant, not ' ~ message.role) }}\
    {%- endif -%}\
    {%- endfor -%}\
    {%- if add_generation_prompt -%}<|response|>{%- endif -%}";

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user` or `assistant`; templates decide what else they know.
    pub role: String,
    /// What was said.
    pub content: String,
}

impl Message {
    /// What `role` said.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }
}

/// A template that failed, with its line, or a conversation that it refused (`raise_exception`).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TemplateError(pub String);

/// A checkpoint's chat template, compiled.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    /// `bos_token`, `eos_token` and the like, by those names.
    token_texts: BTreeMap<String, String>,
}

impl ChatTemplate {
    /// The checkpoint's own template, or the published dots.llm1 form where it has none.
    pub fn new(checkpoint: &Checkpoint) -> Result<Self, TemplateError> {
        let mut token_texts = BTreeMap::new();
        match &checkpoint.tokenizer {
            Some(TokenizerSource::HuggingFace { config: Some(config), .. }) => {
                for (name, value) in config.as_object().into_iter().flatten() {
                    let text = value.as_str().or_else(|| value["content"].as_str());
                    if let Some(text) = text.filter(|_| name.ends_with("_token")) {
                        token_texts.insert(name.clone(), text.to_owned());
                    }
                }
            }
            Some(TokenizerSource::Gguf { tokens, bos, .. }) => {
                let eos = checkpoint.generation.eos_token_ids.first().copied();
                for (name, id) in [("bos_token", *bos), ("eos_token", eos)] {
                    if let Some(text) = id.and_then(|id| tokens.get(id as usize)) {
                        token_texts.insert(name.into(), text.clone());
                    }
                }
            }
            Some(TokenizerSource::HuggingFace { config: None, .. }) | None => {}
        }
        Self::from_parts(checkpoint.chat_template.as_deref(), token_texts)
    }

    /// A template from its source, or the published form for `None`. `token_texts` are the variables `bos_token`,
    /// `eos_token` and the like.
    pub fn from_parts(source: Option<&str>, token_texts: BTreeMap<String, String>) -> Result<Self, TemplateError> {
        Ok(Self { environment: jinja::compile(source.unwrap_or(PUBLISHED))?, token_texts })
    }

    /// The conversation as one text, ending in the prompt for an answer where `add_generation_prompt`.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String, TemplateError> {
        self.render_at(SystemTime::now(), messages, add_generation_prompt)
    }

    /// The conversation as ids. Special tokens inside contents are text (see the module's documentation). Nothing is put
    /// before the template's own text: templates write their BOS themselves.
    pub fn encode(
        &self,
        tokenizer: &Tokenizer,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<Vec<u32>, TemplateError> {
        // A role is compared, so it cannot be twinned; it is a word, so it cannot hold a special token.
        let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        if let Some(message) = messages.iter().find(|message| !message.role.chars().all(word)) {
            return Err(TemplateError(format!("role: expected a word, found {:?}", message.role)));
        }
        // One moment for all renderings, which are compared.
        let now = SystemTime::now();
        let rendered =
            contents::tainted(tokenizer, messages, |messages| self.render_at(now, messages, add_generation_prompt))?;
        let mut ids = Vec::new();
        let mut run = String::new();
        for piece in tokenizer.split_specials(&rendered.twinned) {
            match piece {
                Piece::Special(id, _) if rendered.trusts(tokenizer.token_bytes(id)) => {
                    tokenizer.encode_into(&std::mem::take(&mut run), Specials::AsText, &mut ids);
                    ids.push(id);
                }
                Piece::Special(_, text) | Piece::Text(text) => rendered.untwin_into(text, &mut run),
            }
        }
        tokenizer.encode_into(&run, Specials::AsText, &mut ids);
        Ok(ids)
    }

    fn render_at(
        &self,
        now: SystemTime,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<String, TemplateError> {
        let messages: Vec<Value> = messages
            .iter()
            .map(|message| context! { role => message.role.as_str(), content => message.content.as_str() })
            .collect();
        let tokens: Value = self
            .token_texts
            .iter()
            .map(|(name, text)| (name.clone(), Value::from(text.as_str())))
            .collect::<BTreeMap<_, _>>()
            .into();
        let variables = context! { messages, add_generation_prompt, tools => (), documents => (), ..tokens };
        jinja::render(&self.environment, now, variables)
    }
}
