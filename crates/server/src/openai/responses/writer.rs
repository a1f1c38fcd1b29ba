//! A response as events: it is created, its messages and calls begin, grow and end one after another, and it is complete.

use std::{collections::VecDeque, sync::Arc};

use dots_engine::{Finish, TokenEvent};
use dots_model::template::Message;
use serde::Serialize;

use super::{
    object::Response,
    output::{Change, FunctionCall, GrowingOutput, OutputItem, OutputMessage, OutputText, as_said},
    store::Stored,
};
use crate::{
    App,
    context::RequestContext,
    error::ApiError,
    openai::{logprobs::ChatToken, to_json},
    sse::{Sent, Writer},
};

/// Writes a response's events, and keeps the response at its end where the request wants it kept.
pub struct ResponseWriter {
    app: Arc<App>,
    /// Who may read it afterwards.
    tenant: u64,
    response: Response,
    output: GrowingOutput,
    /// What was said before; `Some` where the conversation is to be kept.
    conversation: Option<Vec<Message>>,
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
    item: &'a OutputItem,
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

#[derive(Serialize)]
struct OfArguments<'a> {
    item_id: &'a str,
    output_index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    delta: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    arguments: Option<&'a str>,
}

impl ResponseWriter {
    /// For `response`, which has begun, and what it will say. `conversation` is what was said before it, where it is to be
    /// kept.
    pub(crate) fn new(
        app: Arc<App>,
        response: Response,
        output: GrowingOutput,
        conversation: Option<Vec<Message>>,
    ) -> Self {
        Self { app, tenant: RequestContext::current_tenant(), response, output, conversation, sequence_number: 0 }
    }

    /// `begun` items had begun before these changes.
    fn send(&mut self, begun: usize, changes: Vec<Change>, sent: &mut VecDeque<Sent>) {
        let (number, items) = (&mut self.sequence_number, self.output.items());
        let mut begun = begun;
        for change in changes {
            let output_index = match change {
                Change::Begun(_) => begun,
                _ => begun.saturating_sub(1),
            };
            let item_id = items[output_index].id();
            match change {
                Change::Begun(item) => {
                    begun += 1;
                    send(number, sent, "response.output_item.added", OfItem { output_index, item: &item });
                    if let OutputItem::Message(_) = item {
                        let part = &OutputText::new(String::new(), Vec::new());
                        let rest = OfPart { item_id, output_index, content_index: 0, part };
                        send(number, sent, "response.content_part.added", rest);
                    }
                }
                Change::Text(text, logprobs) => {
                    let (delta, logprobs) = (Some(text.as_str()), logprobs.as_slice());
                    let rest = OfText { item_id, output_index, content_index: 0, delta, text: None, logprobs };
                    send(number, sent, "response.output_text.delta", rest);
                }
                Change::Arguments(more) => {
                    let delta = Some(more.as_str());
                    let rest = OfArguments { item_id, output_index, delta, name: None, arguments: None };
                    send(number, sent, "response.function_call_arguments.delta", rest);
                }
                Change::Ended => {
                    let item = &items[output_index];
                    send_whole(number, sent, output_index, item);
                    send(number, sent, "response.output_item.done", OfItem { output_index, item });
                }
            }
        }
    }
}

/// What an item came to.
fn send_whole(number: &mut usize, sent: &mut VecDeque<Sent>, output_index: usize, item: &OutputItem) {
    match item {
        OutputItem::Message(OutputMessage { id: item_id, content, .. }) => {
            for (content_index, part) in content.iter().enumerate() {
                let (text, logprobs) = (Some(part.text.as_str()), part.logprobs.as_slice());
                let rest = OfText { item_id, output_index, content_index, delta: None, text, logprobs };
                send(number, sent, "response.output_text.done", rest);
                let rest = OfPart { item_id, output_index, content_index, part };
                send(number, sent, "response.content_part.done", rest);
            }
        }
        OutputItem::Call(FunctionCall { id: item_id, name, arguments, .. }) => {
            let (name, arguments) = (Some(name.as_str()), Some(arguments.as_str()));
            let rest = OfArguments { item_id, output_index, delta: None, name, arguments };
            send(number, sent, "response.function_call_arguments.done", rest);
        }
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
        let changes = self.output.begin();
        self.send(0, changes, sent);
    }

    fn token(&mut self, _choice: usize, token: TokenEvent, sent: &mut VecDeque<Sent>) {
        let begun = self.output.items().len();
        let changes = self.output.token(token, &*self.app.backend);
        self.send(begun, changes, sent);
    }

    fn finish(&mut self, _choice: usize, finish: &Finish, sent: &mut VecDeque<Sent>) {
        let begun = self.output.items().len();
        let changes = self.output.finish(finish, &*self.app.backend);
        self.send(begun, changes, sent);
        let items = std::mem::take(&mut self.output).into_items();
        let said = as_said(&items);
        self.response.end(items, finish);
        if let Some(conversation) = self.conversation.take() {
            let (json, said, answer) = (to_json(&self.response), Arc::new(conversation), Some(said));
            let stored = Stored { json, said, answer, background: false };
            self.app.responses.put(self.tenant, self.response.id.clone(), stored);
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
