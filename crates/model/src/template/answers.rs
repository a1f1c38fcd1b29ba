//! Where the answers of a conversation lie in its ids, for whoever learns them.

use std::{ops::Range, time::SystemTime};

use serde_json::Value as Json;

use super::{ChatTemplate, Message, TemplateError, contents, conversation::Conversation};
use crate::tokenizer::{Piece, Specials, Tokenizer};

/// A conversation as ids.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answered {
    /// All of it.
    pub ids: Vec<u32>,
    /// Where in `ids` each answer stands: from behind its prompt through the special token that ends it.
    pub answers: Vec<Range<usize>>,
}

impl ChatTemplate {
    /// The conversation as ids with its answers: what the messages of the role `assistant` say, each from behind the prompt that the
    /// template writes for an answer, through its end token. Texts are cut at both ends, as they are when the model answers; besides,
    /// the ids are those of [`ChatTemplate::encode_with_tools`]. A template that asks for the time is told 1970, so that the same
    /// conversation always has the same ids.
    ///
    /// Refused is a template that writes an earlier turn otherwise once later ones follow, whose prompt for an answer does not begin the
    /// answer, or that ends one with no special token: what was learnt of it would not be what is said to it later.
    pub fn encode_answers(
        &self,
        tokenizer: &Tokenizer,
        messages: &[Message],
        tools: &[Json],
    ) -> Result<Answered, TemplateError> {
        let now = SystemTime::UNIX_EPOCH;
        let conversation = self.checked(tokenizer, messages, tools)?;
        let rendered = contents::tainted(tokenizer, &conversation, |twinned| self.render_at(now, twinned, false))?;
        let mut whole = String::new();
        rendered.untwin_into(&rendered.twinned, &mut whole);
        let of_first = |count: usize, prompt: bool| -> Result<String, TemplateError> {
            let first: Conversation = self.conversation(&messages[..count], tools);
            self.render_at(now, &first, prompt)
        };
        // In characters, which twins keep.
        let mut edges = Vec::new();
        for (nth, _) in messages.iter().enumerate().filter(|(_, message)| message.role == "assistant") {
            let (before, after) = (of_first(nth, true)?, of_first(nth + 1, false)?);
            let place = nth + 1;
            if !after.starts_with(&before) {
                return Err(TemplateError(format!(
                    "message {place}: its prompt does not begin the answer's rendering"
                )));
            }
            if !whole.starts_with(&after) {
                return Err(TemplateError(format!(
                    "message {place}: it is written otherwise once later ones follow it"
                )));
            }
            edges.extend([before.chars().count(), after.chars().count()]);
        }

        let mut cut = Cut { tokenizer, edges: &edges, at: 0, run: String::new(), ids: Vec::new(), places: Vec::new() };
        for piece in tokenizer.split_specials(&rendered.twinned) {
            match piece {
                Piece::Special(id, text) if rendered.trusts(tokenizer.token_bytes(id)) => cut.special(id, text)?,
                Piece::Special(_, text) | Piece::Text(text) => {
                    let mut real = String::new();
                    rendered.untwin_into(text, &mut real);
                    cut.text(&real);
                }
            }
        }
        let (ids, places) = cut.end();
        let mut answers = Vec::with_capacity(places.len() / 2);
        for both in places.chunks_exact(2) {
            let (start, end) = (both[0], both[1]);
            let last = ids[start..end].iter().rposition(|&id| tokenizer.is_special(id)).map(|nth| start + nth + 1);
            // What a template puts behind the end token is never asked of the model.
            let end = last.filter(|&last| tokenizer.decode(&ids[last..end]).trim().is_empty()).ok_or_else(|| {
                TemplateError("an answer: expected a special token at its end, found none".to_owned())
            })?;
            answers.push(start..end);
        }
        Ok(Answered { ids, answers })
    }
}

/// Text on its way to ids, cut at edges.
struct Cut<'a> {
    tokenizer: &'a Tokenizer,
    /// In characters, ascending; those that are still to come.
    edges: &'a [usize],
    /// Characters so far.
    at: usize,
    run: String,
    ids: Vec<u32>,
    /// The id before which each edge lies.
    places: Vec<usize>,
}

impl Cut<'_> {
    fn flush(&mut self) {
        self.tokenizer.encode_into(&std::mem::take(&mut self.run), Specials::AsText, &mut self.ids);
    }

    /// Cuts at the edges that lie here.
    fn edge(&mut self) {
        while let [edge, rest @ ..] = self.edges
            && *edge <= self.at
        {
            self.flush();
            self.places.push(self.ids.len());
            self.edges = rest;
        }
    }

    fn text(&mut self, text: &str) {
        for character in text.chars() {
            self.edge();
            self.run.push(character);
            self.at += 1;
        }
    }

    fn special(&mut self, id: u32, text: &str) -> Result<(), TemplateError> {
        self.edge();
        self.flush();
        self.ids.push(id);
        self.at += text.chars().count();
        match self.edges.first() {
            Some(edge) if *edge < self.at => {
                Err(TemplateError(format!("an answer begins or ends within the special token {text:?}")))
            }
            _ => Ok(()),
        }
    }

    fn end(mut self) -> (Vec<u32>, Vec<usize>) {
        self.edge();
        self.flush();
        (self.ids, self.places)
    }
}
