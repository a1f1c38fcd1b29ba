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
//!
//! # Tools
//! A template that speaks of tools in the form of `<tool_call>` is given them. Any other is given the conversation with the
//! tools written into its texts (see [`tools`]), so that the answers have one form whatever the checkpoint.

mod answers;
mod contents;
mod conversation;
mod jinja;
mod time;
pub mod tools;

use std::{collections::BTreeMap, path::Path, time::SystemTime};

use minijinja::{Environment, Value, context};
use serde_json::Value as Json;

use crate::{
    Checkpoint, Error,
    checkpoint::{self, TokenizerSource},
    tokenizer::{Piece, Specials, Tokenizer},
};

pub use self::{
    answers::Answered,
    conversation::{Message, ToolCall},
};

use self::conversation::Conversation;

/// The form that dots.llm1 was published with, for checkpoints that bring no template.
pub const PUBLISHED: &str = "{%- for message in messages -%}\
    {%- if message.role == 'system' -%}<|system|>{{ message.content }}<|endofsystem|>\
    {%- elif message.role == 'user' -%}<|userprompt|>{{ message.content }}<|endofuserprompt|>\
    {%- elif message.role == 'assistant' -%}<|response|>{{ message.content }}<|endofresponse|>\
    {%- else -%}{{ raise_exception('roles are system, user and assistant, not ' ~ message.role) }}\
    {%- endif -%}\
    {%- endfor -%}\
    {%- if add_generation_prompt -%}<|response|>{%- endif -%}";

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
    /// Whether it says itself how tools are called, in the form of [`tools`].
    knows_tools: bool,
}

impl ChatTemplate {
    /// The checkpoint's own template, or the published dots.llm1 form where it has none.
    pub fn new(checkpoint: &Checkpoint) -> Result<Self, TemplateError> {
        let mut token_texts = BTreeMap::new();
        match &checkpoint.tokenizer {
            Some(source @ TokenizerSource::HuggingFace { .. }) => token_texts = named_tokens(source),
            Some(TokenizerSource::Gguf { tokens, bos, .. }) => {
                let eos = checkpoint.generation.eos_token_ids.first().copied();
                for (name, id) in [("bos_token", *bos), ("eos_token", eos)] {
                    if let Some(text) = id.and_then(|id| tokens.get(id as usize)) {
                        token_texts.insert(name.into(), text.clone());
                    }
                }
            }
            None => {}
        }
        Self::from_parts(checkpoint.chat_template.as_deref(), token_texts)
    }

    /// The template in a tokenizer's `folder`, or the published form where it has none.
    pub fn of_folder(folder: &Path) -> Result<Self, Error> {
        let source = checkpoint::chat_template(folder)?;
        let token_texts = named_tokens(&TokenizerSource::of_folder(folder)?);
        Self::from_parts(source.as_deref(), token_texts)
            .map_err(|error| Error::invalid(folder, "chat_template", "a template that can be read", error.to_string()))
    }

    /// A template from its source, or the published form for `None`. `token_texts` are the variables `bos_token`,
    /// `eos_token` and the like.
    pub fn from_parts(source: Option<&str>, token_texts: BTreeMap<String, String>) -> Result<Self, TemplateError> {
        let source = source.unwrap_or(PUBLISHED);
        Ok(Self { environment: jinja::compile(source)?, token_texts, knows_tools: tools::are_known_to(source) })
    }

    /// The conversation as one text, ending in the prompt for an answer where `add_generation_prompt`.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String, TemplateError> {
        self.render_with_tools(messages, &[], add_generation_prompt)
    }

    /// As [`Self::render`], for a model that may call `tools`, each `{"type": "function", "function": {...}}`.
    pub fn render_with_tools(
        &self,
        messages: &[Message],
        tools: &[Json],
        add_generation_prompt: bool,
    ) -> Result<String, TemplateError> {
        self.render_at(SystemTime::now(), &self.conversation(messages, tools), add_generation_prompt)
    }

    /// Whether the template itself says how tools are called; else the texts do.
    pub fn knows_tools(&self) -> bool {
        self.knows_tools
    }

    fn conversation(&self, messages: &[Message], tools: &[Json]) -> Conversation {
        match self.knows_tools {
            true => Conversation { messages: messages.to_vec(), tools: tools.to_vec() },
            false => Conversation { messages: tools::in_text(messages, tools), tools: Vec::new() },
        }
    }

    /// The conversation, where nothing in it that is no content can hold a special token.
    fn checked(
        &self,
        tokenizer: &Tokenizer,
        messages: &[Message],
        tools: &[Json],
    ) -> Result<Conversation, TemplateError> {
        // A role is compared, so it cannot be twinned; it is a word, so it cannot hold a special token.
        if let Some(message) = messages.iter().find(|message| !conversation::is_word(&message.role)) {
            return Err(TemplateError(format!("role: expected a word, found {:?}", message.role)));
        }
        let conversation = self.conversation(messages, tools);
        conversation.check_keys(tokenizer)?;
        Ok(conversation)
    }

    /// The conversation as ids. Special tokens inside contents are text (see the module's documentation). Nothing is put
    /// before the template's own text: templates write their BOS themselves.
    pub fn encode(
        &self,
        tokenizer: &Tokenizer,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<Vec<u32>, TemplateError> {
        self.encode_with_tools(tokenizer, messages, &[], add_generation_prompt)
    }

    /// As [`Self::encode`], for a model that may call `tools`, each `{"type": "function", "function": {...}}`. What stands in
    /// tools and calls is a speaker's text like any content; a key of their JSON that holds a special token is refused, since
    /// a template must be able to read keys.
    pub fn encode_with_tools(
        &self,
        tokenizer: &Tokenizer,
        messages: &[Message],
        tools: &[Json],
        add_generation_prompt: bool,
    ) -> Result<Vec<u32>, TemplateError> {
        let conversation = self.checked(tokenizer, messages, tools)?;
        // One moment for all renderings, which are compared.
        let now = SystemTime::now();
        let rendered =
            contents::tainted(tokenizer, &conversation, |twinned| self.render_at(now, twinned, add_generation_prompt))?;
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
        conversation: &Conversation,
        add_generation_prompt: bool,
    ) -> Result<String, TemplateError> {
        let (messages, tools) = (conversation.messages_value(), conversation.tools_value());
        let tokens: Value = self
            .token_texts
            .iter()
            .map(|(name, text)| (name.clone(), Value::from(text.as_str())))
            .collect::<BTreeMap<_, _>>()
            .into();
        let variables = context! { messages, add_generation_prompt, tools, documents => (), ..tokens };
        jinja::render(&self.environment, now, variables)
    }
}

/// `bos_token`, `eos_token` and the like, as `tokenizer_config.json` names them.
fn named_tokens(source: &TokenizerSource) -> BTreeMap<String, String> {
    let TokenizerSource::HuggingFace { config: Some(config), .. } = source else { return BTreeMap::new() };
    let text = |value: &Json| value.as_str().or_else(|| value["content"].as_str()).map(str::to_owned);
    let named = config.as_object().into_iter().flatten().filter(|(name, _)| name.ends_with("_token"));
    named.filter_map(|(name, value)| Some((name.clone(), text(value)?))).collect()
}
