//! The text of an answer, as far as it is certain.

use std::sync::Arc;

use dots_model::tokenizer::{Detokenizer, Tokenizer};

use crate::{request::Request, stop::StopTexts};

/// Text of a stream of ids, whole characters at a time.
pub(crate) trait TextStream: Send {
    /// From here on special tokens have their text, too.
    fn show_special_tokens(&mut self);
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
    fn show_special_tokens(&mut self) {
        self.detokenizer = Detokenizer::with_special_tokens();
    }

    fn push(&mut self, id: u32) -> String {
        self.detokenizer.push(&self.tokenizer, id)
    }

    fn finish(&mut self) -> String {
        self.detokenizer.finish()
    }
}

/// An answer's text up to its first stop text. Each call gives the text that became certain, and the stop text that ended it.
pub(crate) struct AnswerText {
    stream: Box<dyn TextStream>,
    stops: StopTexts,
    includes_stop: bool,
    tokens: usize,
    min_tokens: usize,
}

impl AnswerText {
    /// Takes the request's stop texts.
    pub fn new(mut stream: Box<dyn TextStream>, request: &mut Request) -> Self {
        if request.show_special_tokens {
            stream.show_special_tokens();
        }
        let includes_stop = request.include_stop;
        let stops = StopTexts::new(std::mem::take(&mut request.stop), includes_stop);
        Self { stream, stops, includes_stop, tokens: 0, min_tokens: request.min_tokens }
    }

    pub fn push(&mut self, id: u32) -> (String, Option<String>) {
        self.tokens += 1;
        self.stops.push(&self.stream.push(id), self.tokens > self.min_tokens)
    }

    /// As [`Self::push`] for the id that ends the answer, which has text only where the stop belongs to the answer.
    pub fn push_end(&mut self, id: u32) -> (String, Option<String>) {
        if self.includes_stop { self.push(id) } else { Default::default() }
    }

    pub fn finish(&mut self) -> (String, Option<String>) {
        let (text, stop) = self.stops.push(&self.stream.finish(), self.tokens > self.min_tokens);
        (text + &self.stops.flush(), stop)
    }
}
