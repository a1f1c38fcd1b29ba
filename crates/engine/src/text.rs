//! The text of an answer, as far as it is certain.

use std::sync::Arc;

use dots_model::tokenizer::{Detokenizer, Tokenizer};

use crate::stop::StopTexts;

/// Text of a stream of ids, whole characters at a time.
pub(crate) trait TextStream: Send {
    fn push(&mut self, id: u32) -> String;
    fn finish(&mut self) -> String;
}

pub(crate) struct TokenizerText {
    tokenizer: Arc<Tokenizer>,
    detokenizer: Detokenizer,
}

impl TokenizerText {
    pub fn new(tokenizer: Arc<Tokenizer>) -> Self {
        Self { tokenizer, detokenizer: Detokenizer::default() }
    }
}

impl TextStream for TokenizerText {
    fn push(&mut self, id: u32) -> String {
        self.detokenizer.push(&self.tokenizer, id)
    }

    fn finish(&mut self) -> String {
        self.detokenizer.finish()
    }
}

/// An answer's text up to its first stop text. Each call gives the text that became certain, and whether a stop ended it.
pub(crate) struct AnswerText {
    stream: Box<dyn TextStream>,
    stops: StopTexts,
}

impl AnswerText {
    pub fn new(stream: Box<dyn TextStream>, stops: Vec<String>) -> Self {
        Self { stream, stops: StopTexts::new(stops) }
    }

    pub fn push(&mut self, id: u32) -> (String, bool) {
        self.stops.push(&self.stream.push(id))
    }

    pub fn finish(&mut self) -> (String, bool) {
        let (text, is_stopped) = self.stops.push(&self.stream.finish());
        (text + &self.stops.flush(), is_stopped)
    }
}
