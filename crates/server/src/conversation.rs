//! Conversations to prompts.

use dots_model::{template::Message, tokenizer::Specials};
use serde_json::Value;

use crate::{backend::Backend, error::ApiError};

/// What a prompt asks for after the last message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// An answer.
    Answer,
    /// The rest of the last message.
    Continue,
    /// Nothing: the conversation alone.
    Nothing,
}

/// Ids of a conversation in which `tools` may be called. `param` is the field that held it.
pub fn encode(
    backend: &dyn Backend,
    messages: &[Message],
    tools: &[Value],
    ending: Ending,
    param: &str,
) -> Result<Vec<u32>, ApiError> {
    // A template refuses what it has no form for, as roles out of turn: the conversation is the client's.
    let refused = |error| ApiError::invalid(param, "invalid_value", format!("The chat template refused: {error}"));
    match (ending, messages) {
        // The prompt for an answer is what stands before the answer's text, in every template that has one.
        (Ending::Continue, [before @ .., begun]) => {
            let mut ids = backend.encode_chat(before, tools, true).map_err(refused)?;
            ids.extend(backend.encode_piece(&begun.content, Specials::AsText));
            Ok(ids)
        }
        _ => backend.encode_chat(messages, tools, ending == Ending::Answer).map_err(refused),
    }
}
