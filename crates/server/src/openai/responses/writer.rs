//! A response as events: it is created, its message begins, grows and ends, and it is complete.

use std::{collections::VecDeque, sync::Arc};

use dots_engine::{Finish, TokenEvent};
use dots_model::template::Message;
use serde::Serialize;

use super::{
    object::{OutputMessage, OutputText, Response},
    store::Stored,
};
use crate::{
    App,
    error::ApiError,
    openai::{
        logprobs::{ChatLogprobs, ChatToken},
        to_json,
    },
    sse::{Sent, Writer},
};

/// Writes a response's events, and keeps the response at its end where the request wants it kept.
pub struct ResponseWriter {
    app: Arc<App>,
    response: Response,
    message: OutputMessage,
    /// What was said before; `Some` where the conversation is to be kept.
    conversation: Option<Vec<Message>>,
    logprobs: bool,
    text: String,
    /// Of all tokens whose text has gone out.
    listed: Vec<ChatToken>,
    /// Tokens whose text is not certain yet; they go out with it.
    waiting: Vec<TokenEvent>,
    sequence_number: usize,
}

#[derive(Serialize)]
struct Event<T> {
    #[serde(rename = "type")]
    kind: &'static str,
    sequence_number: usize,
    #[serde(flatten)]
    rest: T,
}

#[derive(Serialize)]
struct OfResponse<'a> {
    response: &'a Response,
}

#[derive(Serialize)]
struct OfItem<'a> {
    output_index: usize,
    item: &'a OutputMessage,
}

#[derive(Serialize)]
struct OfPart<'a> {
    item_id: &'a str,
    output_index: usize,
    content_index: usize,
    part: &'a OutputText,
}

#[derive(Serialize)]
struct OfText<'a> {
    item_id: &'a str,
    output_index: usize,
    content_index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    delta: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    logprobs: &'a [ChatToken],
}

impl ResponseWriter {
    /// For `response`, which has begun. `conversation` is what was said before it, where it is to be kept.
    pub(crate) fn new(app: Arc<App>, response: Response, conversation: Option<Vec<Message>>, logprobs: bool) -> Self {
        Self {
            app,
            response,
            message: OutputMessage::begun(),
            conversation,
            logprobs,
            text: String::new(),
            listed: Vec::new(),
            waiting: Vec::new(),
            sequence_number: 0,
        }
    }

    fn delta(&mut self, text: &str, sent: &mut VecDeque<Sent>) {
        if text.is_empty() && self.waiting.is_empty() {
            return;
        }
        let tokens = std::mem::take(&mut self.waiting);
        let logprobs = ChatLogprobs::new(&tokens, &*self.app.backend).content;
        let rest = OfText {
            item_id: &self.message.id,
            output_index: 0,
            content_index: 0,
            delta: Some(text),
            text: None,
            logprobs: &logprobs,
        };
        send(&mut self.sequence_number, sent, "response.output_text.delta", rest);
        self.text.push_str(text);
        self.listed.extend(logprobs);
    }
}

fn send<T: Serialize>(sequence_number: &mut usize, sent: &mut VecDeque<Sent>, kind: &'static str, rest: T) {
    let data = to_json(&Event { kind, sequence_number: *sequence_number, rest });
    *sequence_number += 1;
    sent.push_back(Sent { event: Some(kind), data });
}

impl Writer for ResponseWriter {
    fn begin(&mut self, sent: &mut VecDeque<Sent>) {
        let (number, response) = (&mut self.sequence_number, &self.response);
        send(number, sent, "response.created", OfResponse { response });
        send(number, sent, "response.in_progress", OfResponse { response });
        send(number, sent, "response.output_item.added", OfItem { output_index: 0, item: &self.message });
        let part = &OutputText::new(String::new(), Vec::new());
        let rest = OfPart { item_id: &self.message.id, output_index: 0, content_index: 0, part };
        send(number, sent, "response.content_part.added", rest);
    }

    fn token(&mut self, _choice: usize, mut token: TokenEvent, sent: &mut VecDeque<Sent>) {
        let text = std::mem::take(&mut token.text);
        if self.logprobs {
            self.waiting.push(token);
        }
        if !text.is_empty() {
            self.delta(&text, sent);
        }
    }

    fn finish(&mut self, _choice: usize, finish: &Finish, sent: &mut VecDeque<Sent>) {
        self.delta(&finish.text, sent);
        let text = OutputText::new(std::mem::take(&mut self.text), std::mem::take(&mut self.listed));
        let message = self.message.clone().with(text.clone());
        self.response.end(message, finish);

        let number = &mut self.sequence_number;
        let rest = OfText {
            item_id: &self.message.id,
            output_index: 0,
            content_index: 0,
            delta: None,
            text: Some(&text.text),
            logprobs: &text.logprobs,
        };
        send(number, sent, "response.output_text.done", rest);
        let rest = OfPart { item_id: &self.message.id, output_index: 0, content_index: 0, part: &text };
        send(number, sent, "response.content_part.done", rest);
        if let Some(item) = self.response.message() {
            send(number, sent, "response.output_item.done", OfItem { output_index: 0, item });
        }
        if let Some(mut conversation) = self.conversation.take() {
            conversation.push(Message::new("assistant", text.text));
            let json = to_json(&self.response);
            self.app.responses.put(self.response.id.clone(), Stored { json, conversation });
        }
    }

    fn end(&mut self, sent: &mut VecDeque<Sent>) {
        let kind = self.response.last_event();
        send(&mut self.sequence_number, sent, kind, OfResponse { response: &self.response });
    }

    fn fail(&mut self, error: &ApiError, sent: &mut VecDeque<Sent>) {
        self.response.fail(error.message());
        let rest = OfResponse { response: &self.response };
        send(&mut self.sequence_number, sent, "response.failed", rest);
    }
}
