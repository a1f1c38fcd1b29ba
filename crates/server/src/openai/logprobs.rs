//! Log-probabilities in OpenAI's two shapes.

use std::{collections::BTreeMap, sync::Arc};

use dots_engine::{PromptToken, TokenEvent};
use serde::{Serialize, Serializer, ser::SerializeStruct};

use crate::backend::Vocabulary;

/// What stands for a probability of zero, since JSON has no infinity.
const LOWEST: f32 = -9999.0;

/// A chat's `logprobs`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ChatLogprobs {
    /// Token by token.
    pub content: Vec<ChatToken>,
    refusal: Option<String>,
}

/// One token's.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ChatToken {
    #[serde(flatten)]
    chosen: Alternative,
    top_logprobs: Vec<Alternative>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Alternative {
    token: String,
    logprob: f32,
    bytes: Vec<u8>,
}

impl ChatLogprobs {
    /// Of `tokens`, in order.
    pub fn new(tokens: &[TokenEvent], vocabulary: &dyn Vocabulary) -> Self {
        let alternative = |id: u32, logprob: f32| {
            let bytes = vocabulary.token_bytes(id);
            Alternative { token: shown(&bytes), logprob: logprob.max(LOWEST), bytes }
        };
        let content = tokens.iter().filter_map(|token| {
            let logprobs = token.logprobs.as_ref()?;
            Some(ChatToken {
                chosen: alternative(token.id, logprobs.logprob),
                top_logprobs: logprobs.top.iter().map(|&(id, logprob)| alternative(id, logprob)).collect(),
            })
        });
        Self { content: content.collect(), refusal: None }
    }
}

/// A plain completion's `logprobs`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CompletionLogprobs {
    /// Of the prompt that the answer begins with: one list for all answers that begin with it.
    echoed: Arc<Columns>,
    answer: Columns,
}

/// Tokens side by side, one entry of each list a token.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Columns {
    tokens: Vec<String>,
    /// `None` for the first token of a prompt: nothing comes before it.
    token_logprobs: Vec<Option<f32>>,
    top_logprobs: Vec<Option<ByToken>>,
    text_offset: Vec<usize>,
}

/// `{token: logprob}`, best first.
#[derive(Debug, Clone, Default, PartialEq)]
struct ByToken(Vec<(String, f32)>);

impl Serialize for ByToken {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(token, logprob)| (token, logprob)))
    }
}

impl Serialize for CompletionLogprobs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (echoed, answer) = (&*self.echoed, &self.answer);
        let mut shape = serializer.serialize_struct("CompletionLogprobs", 4)?;
        shape.serialize_field("tokens", &Joined(&echoed.tokens, &answer.tokens))?;
        shape.serialize_field("token_logprobs", &Joined(&echoed.token_logprobs, &answer.token_logprobs))?;
        shape.serialize_field("top_logprobs", &Joined(&echoed.top_logprobs, &answer.top_logprobs))?;
        shape.serialize_field("text_offset", &Joined(&echoed.text_offset, &answer.text_offset))?;
        shape.end()
    }
}

/// Two lists as one.
struct Joined<'a, T>(&'a [T], &'a [T]);

impl<T: Serialize> Serialize for Joined<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().chain(self.1))
    }
}

impl CompletionLogprobs {
    /// Of an answer's `tokens`, in order, behind those of the prompt that it begins with. `offset` is where the first of the
    /// answer's begins in the text, in characters, and is moved to where the next will begin.
    pub fn new(echoed: Arc<Columns>, tokens: &[TokenEvent], vocabulary: &dyn Vocabulary, offset: &mut usize) -> Self {
        let mut answer = Columns::default();
        for token in tokens {
            let Some(logprobs) = &token.logprobs else { continue };
            answer.push(token.id, logprobs.logprob, &logprobs.top, vocabulary, *offset);
            if !vocabulary.is_special(token.id) {
                *offset += characters_begun(&vocabulary.token_bytes(token.id));
            }
        }
        Self { echoed, answer }
    }
}

impl Columns {
    /// Of a prompt. `prompt` are the ids, `found` what was asked about each; special tokens count for the offsets where
    /// `shows_specials`, as they do in a text that was given. `offset` is moved behind the prompt.
    pub fn of_prompt(
        prompt: &[u32],
        found: &[Option<PromptToken>],
        shows_specials: bool,
        vocabulary: &dyn Vocabulary,
        offset: &mut usize,
    ) -> Self {
        let mut shape = Self::default();
        for (i, &id) in prompt.iter().enumerate() {
            match found.get(i).and_then(Option::as_ref) {
                Some(token) => shape.push(id, token.logprob, &token.top, vocabulary, *offset),
                None => {
                    shape.tokens.push(name(id, vocabulary));
                    shape.token_logprobs.push(None);
                    shape.top_logprobs.push(None);
                    shape.text_offset.push(*offset);
                }
            }
            if shows_specials || !vocabulary.is_special(id) {
                *offset += characters_begun(&vocabulary.token_bytes(id));
            }
        }
        shape
    }

    fn push(&mut self, id: u32, logprob: f32, top: &[(u32, f32)], vocabulary: &dyn Vocabulary, offset: usize) {
        let chosen = (name(id, vocabulary), logprob.max(LOWEST));
        let mut top: Vec<_> = top.iter().map(|&(id, logprob)| (name(id, vocabulary), logprob.max(LOWEST))).collect();
        // Two ids of one text would be one key twice.
        let mut seen = std::collections::HashSet::new();
        top.retain(|(name, _)| seen.insert(name.clone()));
        if !seen.contains(&chosen.0) {
            top.push(chosen.clone());
        }
        self.tokens.push(chosen.0);
        self.token_logprobs.push(Some(chosen.1));
        self.top_logprobs.push(Some(ByToken(top)));
        self.text_offset.push(offset);
    }
}

fn name(id: u32, vocabulary: &dyn Vocabulary) -> String {
    let bytes = vocabulary.token_bytes(id);
    if std::str::from_utf8(&bytes).is_ok() { shown(&bytes) } else { format!("bytes:{}", shown(&bytes)) }
}

/// A prompt's log-probabilities in vLLM's shape: for each token but the first, `{id: {logprob, rank, decoded_token}}` of the
/// token itself and of the best in its place. One list for all answers that show it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PromptLogprobs(Arc<[Option<BTreeMap<u32, Ranked>>]>);

impl Serialize for PromptLogprobs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter())
    }
}

/// One token's.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Ranked {
    logprob: f32,
    /// From 1 on.
    rank: usize,
    decoded_token: String,
}

impl PromptLogprobs {
    /// `found` in vLLM's shape.
    pub fn new(found: &[Option<PromptToken>], vocabulary: &dyn Vocabulary) -> Self {
        let ranked = |id: u32, logprob: f32, rank: usize| {
            (id, Ranked { logprob: logprob.max(LOWEST), rank, decoded_token: shown(&vocabulary.token_bytes(id)) })
        };
        let one = |token: &PromptToken| {
            let best = token.top.iter().enumerate().map(|(i, &(id, logprob))| ranked(id, logprob, i + 1));
            best.chain([ranked(token.id, token.logprob, token.rank + 1)]).collect()
        };
        Self(found.iter().map(|token| token.as_ref().map(one)).collect())
    }

    /// Whether nobody asked for it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A token as text; one that is only a part of a character as its bytes, `\xe4\xbd`, which is how OpenAI writes it.
pub fn shown(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect(),
    }
}

/// Characters whose first byte is among `bytes`: over whole texts this counts characters, however tokens cut them.
fn characters_begun(bytes: &[u8]) -> usize {
    bytes.iter().filter(|&&byte| byte & 0b1100_0000 != 0b1000_0000).count()
}

#[cfg(test)]
mod tests {
    use dots_engine::TokenLogprobs;
    use serde_json::json;

    use super::*;

    struct Words;

    impl Vocabulary for Words {
        fn token_bytes(&self, id: u32) -> Vec<u8> {
            match id {
                1 => "你".as_bytes()[..2].to_vec(),
                2 => "你".as_bytes()[2..].to_vec(),
                9 => b"<|end|>".to_vec(),
                _ => b"a".to_vec(),
            }
        }

        fn is_special(&self, id: u32) -> bool {
            id == 9
        }
    }

    fn token(id: u32, logprob: f32, top: &[(u32, f32)]) -> TokenEvent {
        TokenEvent { id, text: String::new(), logprobs: Some(TokenLogprobs { logprob, top: top.to_vec() }) }
    }

    #[test]
    fn a_chat_lists_tokens_and_their_bytes() {
        let tokens = [token(0, -0.1, &[(0, -0.1), (1, f32::NEG_INFINITY)]), token(1, -0.5, &[])];
        let shape = crate::openai::to_json(&ChatLogprobs::new(&tokens, &Words));
        let expected = r#"{"content":[{"token":"a","logprob":-0.1,"bytes":[97],"top_logprobs":[{"token":"a","logprob":-0.1,"bytes":[97]},{"token":"\\xe4\\xbd","logprob":-9999.0,"bytes":[228,189]}]},{"token":"\\xe4\\xbd","logprob":-0.5,"bytes":[228,189],"top_logprobs":[]}],"refusal":null}"#;
        assert_eq!(shape, expected);
    }

    #[test]
    fn offsets_count_the_texts_characters_however_tokens_cut_them() {
        let mut offset = 0;
        let tokens = [token(0, -1.0, &[]), token(1, -2.0, &[])];
        let first = CompletionLogprobs::new(Arc::default(), &tokens, &Words, &mut offset).answer;
        let rest = [token(2, -3.0, &[]), token(9, -4.0, &[]), token(0, -5.0, &[])];
        let second = CompletionLogprobs::new(Arc::default(), &rest, &Words, &mut offset).answer;
        assert_eq!((first.text_offset, second.text_offset, offset), (vec![0, 1], vec![2, 2, 2], 3));
    }

    #[test]
    fn the_chosen_token_is_among_the_best_once() {
        let tokens = [token(0, -1.0, &[(0, -1.0), (3, -1.5)]), token(0, -9.0, &[(2, -0.5)])];
        let shape = CompletionLogprobs::new(Arc::default(), &tokens, &Words, &mut 0);
        let shape = serde_json::to_value(shape).unwrap();
        assert_eq!(shape["top_logprobs"], json!([{"a": -1.0}, {"bytes:\\xa0": -0.5, "a": -9.0}]));
        assert_eq!(shape["tokens"], json!(["a", "a"]));
    }
}
