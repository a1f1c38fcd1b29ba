//! What a response says and calls, item by item as it grows. A whole response grows like a streamed one, so both are the same.

use dots_engine::{Finish, FinishReason, TokenEvent};
use dots_model::template::{Message, ToolCall};
use serde::Serialize;
use serde_json::Value;

use crate::{
    backend::Vocabulary,
    openai::{
        logprobs::{ChatLogprobs, ChatToken},
        tool_parser::{Piece, ToolParser},
        unique_id,
    },
};

const IN_PROGRESS: &str = "in_progress";
const COMPLETED: &str = "completed";
const INCOMPLETE: &str = "incomplete";

/// One thing that the model did.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum OutputItem {
    /// It said something.
    Message(OutputMessage),
    /// It called a function.
    Call(FunctionCall),
}

/// What the model said.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OutputMessage {
    #[serde(rename = "type")]
    kind: &'static str,
    /// Its name in events.
    pub id: String,
    status: &'static str,
    role: &'static str,
    /// Empty until it has grown.
    pub content: Vec<OutputText>,
}

/// Its text.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OutputText {
    #[serde(rename = "type")]
    kind: &'static str,
    annotations: [Value; 0],
    /// Empty unless the request asked.
    pub logprobs: Vec<ChatToken>,
    /// All of it.
    pub text: String,
}

/// What the model called.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FunctionCall {
    #[serde(rename = "type")]
    kind: &'static str,
    /// Its name in events.
    pub id: String,
    /// Its name for the result.
    pub call_id: String,
    /// The function.
    pub name: String,
    /// The text of a JSON object, or of a part where the answer was cut off.
    pub arguments: String,
    status: &'static str,
}

/// What is new.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// An item begins, behind the others.
    Begun(OutputItem),
    /// The last message has more text, of these tokens.
    Text(String, Vec<ChatToken>),
    /// The last call has more arguments.
    Arguments(String),
    /// The last item is complete, or as complete as it will be.
    Ended,
}

/// The items of a response that grows.
#[derive(Debug, Clone, Default)]
pub struct GrowingOutput {
    items: Vec<OutputItem>,
    /// Whether the last item grows.
    is_open: bool,
    /// Finds calls, where the request has tools. Without them the one item is a message, which begins at once.
    parser: Option<ToolParser>,
    logprobs: bool,
    /// Tokens whose text is not certain yet; they go out with it.
    waiting: Vec<TokenEvent>,
}

impl OutputItem {
    /// Its name in events.
    pub fn id(&self) -> &str {
        match self {
            Self::Message(message) => &message.id,
            Self::Call(call) => &call.id,
        }
    }

    fn message() -> Self {
        Self::Message(OutputMessage {
            kind: "message",
            id: format!("msg_{}", unique_id()),
            status: IN_PROGRESS,
            role: "assistant",
            content: Vec::new(),
        })
    }

    fn call(name: String) -> Self {
        Self::Call(FunctionCall {
            kind: "function_call",
            id: format!("fc_{}", unique_id()),
            call_id: format!("call_{}", unique_id()),
            name,
            arguments: String::new(),
            status: IN_PROGRESS,
        })
    }
}

impl OutputText {
    /// A text and its tokens' log-probabilities.
    pub fn new(text: String, logprobs: Vec<ChatToken>) -> Self {
        Self { kind: "output_text", annotations: [], logprobs, text }
    }
}

impl FunctionCall {
    /// `None` where the answer's end cut it off: what has no arguments was not called.
    fn whole(&self) -> Option<ToolCall> {
        let arguments = serde_json::from_str(&self.arguments).ok()?;
        Some(ToolCall { id: self.call_id.clone(), name: self.name.clone(), arguments })
    }
}

impl GrowingOutput {
    /// For a response that may call where `has_tools`, and that lists its tokens with `logprobs`.
    pub fn new(has_tools: bool, logprobs: bool) -> Self {
        Self { parser: has_tools.then(ToolParser::default), logprobs, ..Self::default() }
    }

    /// Before anything has come.
    pub fn begin(&mut self) -> Vec<Change> {
        let mut changes = Vec::new();
        if self.parser.is_none() {
            self.begin_item(OutputItem::message(), &mut changes);
        }
        changes
    }

    /// A token came.
    pub fn token(&mut self, mut token: TokenEvent, vocabulary: &dyn Vocabulary) -> Vec<Change> {
        let text = std::mem::take(&mut token.text);
        if self.logprobs {
            self.waiting.push(token);
        }
        let pieces = self.pieces(&text);
        let mut changes = Vec::new();
        self.grow(pieces, vocabulary, &mut changes);
        changes
    }

    /// Nothing more comes.
    pub fn finish(&mut self, finish: &Finish, vocabulary: &dyn Vocabulary) -> Vec<Change> {
        let mut pieces = self.pieces(&finish.text);
        pieces.extend(self.parser.as_mut().map(ToolParser::finish).unwrap_or_default());
        let mut changes = Vec::new();
        self.grow(pieces, vocabulary, &mut changes);
        // Nothing said is a message too, where nothing was called.
        if self.items.is_empty() {
            self.begin_item(OutputItem::message(), &mut changes);
        }
        if !self.waiting.is_empty() && matches!(self.items.last(), Some(OutputItem::Message(_))) {
            self.say(String::new(), vocabulary, &mut changes);
        }
        self.end_item(finish.reason, &mut changes);
        changes
    }

    /// The items so far.
    pub fn items(&self) -> &[OutputItem] {
        &self.items
    }

    /// All items.
    pub fn into_items(self) -> Vec<OutputItem> {
        self.items
    }

    fn pieces(&mut self, text: &str) -> Vec<Piece> {
        match &mut self.parser {
            Some(parser) => parser.push(text),
            None if text.is_empty() => Vec::new(),
            None => vec![Piece::Text(text.to_owned())],
        }
    }

    fn grow(&mut self, pieces: Vec<Piece>, vocabulary: &dyn Vocabulary, changes: &mut Vec<Change>) {
        for piece in pieces {
            match piece {
                Piece::Text(text) => {
                    if !matches!(self.items.last(), Some(OutputItem::Message(_))) {
                        self.begin_item(OutputItem::message(), changes);
                    }
                    self.say(text, vocabulary, changes);
                }
                Piece::Call(name) => self.begin_item(OutputItem::call(name), changes),
                Piece::Arguments(more) => {
                    if let Some(OutputItem::Call(call)) = self.items.last_mut() {
                        call.arguments.push_str(&more);
                        changes.push(Change::Arguments(more));
                    }
                }
            }
        }
        // A call has no place for its tokens.
        if matches!(self.items.last(), Some(OutputItem::Call(_))) {
            self.waiting.clear();
        }
    }

    fn say(&mut self, text: String, vocabulary: &dyn Vocabulary, changes: &mut Vec<Change>) {
        let logprobs = ChatLogprobs::new(&std::mem::take(&mut self.waiting), vocabulary).content;
        if let Some(OutputItem::Message(message)) = self.items.last_mut() {
            if message.content.is_empty() {
                message.content.push(OutputText::new(String::new(), Vec::new()));
            }
            message.content[0].text.push_str(&text);
            message.content[0].logprobs.extend(logprobs.iter().cloned());
        }
        changes.push(Change::Text(text, logprobs));
    }

    fn begin_item(&mut self, item: OutputItem, changes: &mut Vec<Change>) {
        self.end_item(FinishReason::Stop, changes);
        changes.push(Change::Begun(item.clone()));
        self.items.push(item);
        self.is_open = true;
    }

    /// A message is as complete as its answer, a call as its arguments.
    fn end_item(&mut self, reason: FinishReason, changes: &mut Vec<Change>) {
        if !std::mem::take(&mut self.is_open) {
            return;
        }
        let of = |is_whole: bool| if is_whole { COMPLETED } else { INCOMPLETE };
        match self.items.last_mut() {
            Some(OutputItem::Message(message)) => {
                message.status = of(reason == FinishReason::Stop);
                if message.content.is_empty() {
                    message.content.push(OutputText::new(String::new(), Vec::new()));
                }
            }
            Some(OutputItem::Call(call)) => call.status = of(call.whole().is_some()),
            None => {}
        }
        changes.push(Change::Ended);
    }
}

/// The items as a turn of a conversation.
pub fn as_said(items: &[OutputItem]) -> Message {
    let mut said = Message::new("assistant", "");
    for item in items {
        match item {
            OutputItem::Message(message) => said.content.extend(message.content.iter().map(|part| part.text.as_str())),
            OutputItem::Call(call) => said.tool_calls.extend(call.whole()),
        }
    }
    said
}
