//! An answer's text, cut into what is said and what is called.
//!
//! The answer was held to the form of `dots_engine::constraint::ToolCalls`; a call that was cut off by the answer's end keeps
//! what there is of it.

use dots_model::template::tools::{CALL_CLOSE, CALL_OPEN};

/// A stretch of an answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Piece {
    /// Something said.
    Text(String),
    /// A call begins: the function's name.
    Call(String),
    /// More of the last call's arguments.
    Arguments(String),
}

/// One call, whole.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// The function.
    pub name: String,
    /// Its arguments as JSON.
    pub arguments: String,
}

/// What stands before a call's name and behind it.
const BEFORE_NAME: &str = "{\"name\": \"";
const AFTER_NAME: &str = "\", \"arguments\": ";

/// Cuts a text that comes bit by bit.
#[derive(Debug, Clone, Default)]
pub struct ToolParser {
    state: State,
    /// What is not certain yet.
    held: String,
    calls: usize,
}

#[derive(Debug, Clone, Copy, Default)]
enum State {
    #[default]
    Text,
    /// Behind `<tool_call>`.
    Head,
    Arguments {
        depth: usize,
        in_string: bool,
        is_escaped: bool,
    },
    /// Behind the arguments.
    Tail,
}

enum Head {
    Unfinished,
    /// The name, and where the arguments begin.
    Call(String, usize),
    NoCall,
}

impl ToolParser {
    /// The pieces that `text` made certain.
    pub fn push(&mut self, text: &str) -> Vec<Piece> {
        self.held.push_str(text);
        let mut pieces = Vec::new();
        while self.step(&mut pieces) {}
        pieces
    }

    /// What was held back, once no more text comes.
    pub fn finish(&mut self) -> Vec<Piece> {
        let held = std::mem::take(&mut self.held);
        let text = match std::mem::take(&mut self.state) {
            // The line's end between two calls is nothing said.
            State::Text if self.calls > 0 && held.trim().is_empty() => return Vec::new(),
            State::Text => held,
            State::Head => CALL_OPEN.to_owned() + &held,
            State::Arguments { .. } | State::Tail => return Vec::new(),
        };
        if text.is_empty() { Vec::new() } else { vec![Piece::Text(text)] }
    }

    /// Calls that have begun.
    pub fn calls(&self) -> usize {
        self.calls
    }

    /// Whether there may be more to cut.
    fn step(&mut self, pieces: &mut Vec<Piece>) -> bool {
        match self.state {
            State::Text => {
                let found = self.held.find(CALL_OPEN);
                let certain = found.unwrap_or_else(|| self.held.len() - begun(&self.held, CALL_OPEN));
                // White space before a call is the call's.
                let text = self.held[..certain].trim_end();
                if !text.is_empty() {
                    pieces.push(Piece::Text(text.to_owned()));
                }
                let taken = found.map_or(text.len(), |at| at + CALL_OPEN.len());
                self.held.drain(..taken);
                if found.is_some() {
                    self.state = State::Head;
                }
                found.is_some()
            }
            State::Head => match head(&self.held) {
                Head::Unfinished => false,
                Head::Call(name, arguments) => {
                    self.held.drain(..arguments);
                    self.calls += 1;
                    pieces.push(Piece::Call(name));
                    self.state = State::Arguments { depth: 0, in_string: false, is_escaped: false };
                    true
                }
                Head::NoCall => {
                    pieces.push(Piece::Text(CALL_OPEN.to_owned()));
                    self.state = State::Text;
                    true
                }
            },
            State::Arguments { mut depth, mut in_string, mut is_escaped } => {
                let mut end = None;
                for (at, byte) in self.held.bytes().enumerate() {
                    match byte {
                        _ if is_escaped => is_escaped = false,
                        b'\\' if in_string => is_escaped = true,
                        b'"' => in_string = !in_string,
                        b'{' | b'[' if !in_string => depth += 1,
                        b'}' | b']' if !in_string => {
                            depth = depth.saturating_sub(1);
                            if depth == 0 {
                                end = Some(at + 1);
                                break;
                            }
                        }
                        _ => {}
                    }
                }
                let rest = self.held.split_off(end.unwrap_or(self.held.len()));
                let arguments = std::mem::replace(&mut self.held, rest);
                if !arguments.is_empty() {
                    pieces.push(Piece::Arguments(arguments));
                }
                self.state = match end {
                    Some(_) => State::Tail,
                    None => State::Arguments { depth, in_string, is_escaped },
                };
                end.is_some()
            }
            State::Tail => {
                let Some(at) = self.held.find(CALL_CLOSE) else { return false };
                self.held.drain(..at + CALL_CLOSE.len());
                self.state = State::Text;
                true
            }
        }
    }
}

/// A whole answer's text: what was said, and the calls.
pub fn parse(text: &str) -> (String, Vec<Call>) {
    let mut parser = ToolParser::default();
    let mut pieces = parser.push(text);
    pieces.extend(parser.finish());
    let (mut said, mut calls) = (String::new(), Vec::<Call>::new());
    for piece in pieces {
        match piece {
            Piece::Text(text) => said.push_str(&text),
            Piece::Call(name) => calls.push(Call { name, arguments: String::new() }),
            Piece::Arguments(more) => {
                if let Some(call) = calls.last_mut() {
                    call.arguments.push_str(&more);
                }
            }
        }
    }
    (said, calls)
}

/// Bytes at the end of `text` that begin `tag`.
fn begun(text: &str, tag: &str) -> usize {
    (1..tag.len()).rev().find(|&bytes| text.ends_with(&tag[..bytes])).unwrap_or(0)
}

fn head(held: &str) -> Head {
    let skip = held.len() - held.trim_start().len();
    let behind = |at: usize, expected: &str| match &held[at..] {
        rest if rest.starts_with(expected) => Some(at + expected.len()),
        _ => None,
    };
    let unfinished = |at: usize, expected: &str| expected.starts_with(&held[at..]);
    let Some(name_at) = behind(skip, BEFORE_NAME) else {
        return if unfinished(skip, BEFORE_NAME) { Head::Unfinished } else { Head::NoCall };
    };
    let Some(name_bytes) = held[name_at..].find('"') else { return Head::Unfinished };
    let name_end = name_at + name_bytes;
    match behind(name_end, AFTER_NAME) {
        Some(arguments) => Head::Call(held[name_at..name_end].to_owned(), arguments),
        None if unfinished(name_end, AFTER_NAME) => Head::Unfinished,
        None => Head::NoCall,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &str = "Let me look. \n<tool_call>\n{\"name\": \"get\", \"arguments\": {\"a\": [1, {\"b\": \"}\\\"]\"}]}}\n</tool_call>\n\
        <tool_call>\n{\"name\": \"put\", \"arguments\": {}}\n</tool_call>";

    fn call(name: &str, arguments: &str) -> Call {
        Call { name: name.to_owned(), arguments: arguments.to_owned() }
    }

    /// The pieces of `text` that comes `bytes` bytes at a time, neighbours of one kind joined.
    fn pieces(text: &str, bytes: usize) -> Vec<Piece> {
        let mut parser = ToolParser::default();
        let mut all: Vec<Piece> = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let end = (bytes..=rest.len()).find(|&end| rest.is_char_boundary(end)).unwrap_or(rest.len());
            all.extend(parser.push(&rest[..end]));
            rest = &rest[end..];
        }
        all.extend(parser.finish());
        all.into_iter().fold(Vec::new(), |mut joined, piece| {
            match (joined.last_mut(), piece) {
                (Some(Piece::Text(before)), Piece::Text(text)) => before.push_str(&text),
                (Some(Piece::Arguments(before)), Piece::Arguments(text)) => before.push_str(&text),
                (_, piece) => joined.push(piece),
            }
            joined
        })
    }

    #[test]
    fn an_answer_is_what_was_said_and_what_is_called() {
        let (said, calls) = parse(TWO);
        assert_eq!(said, "Let me look.");
        assert_eq!(calls, [call("get", "{\"a\": [1, {\"b\": \"}\\\"]\"}]}"), call("put", "{}")]);
        assert_eq!(parse(" plain < text <tool \n"), (" plain < text <tool \n".to_owned(), vec![]));
        assert_eq!(parse(""), (String::new(), vec![]));
    }

    #[test]
    fn a_stream_has_the_same_pieces_however_it_is_cut() {
        for text in
            [TWO, "中文 <tool_call", "a\n\n<tool_call>x", "<<tool_call>\n{\"name\": \"f\", \"arguments\": {\"中\": 1"]
        {
            let whole = pieces(text, text.len().max(1));
            for bytes in 1..12 {
                assert_eq!(pieces(text, bytes), whole, "{text:?} by {bytes}");
            }
        }
    }

    #[test]
    fn arguments_come_as_they_grow() {
        let mut parser = ToolParser::default();
        assert_eq!(parser.push("<tool_call>\n{\"name\": \"f\", \"argu"), []);
        assert_eq!(parser.push("ments\": {\"a"), [Piece::Call("f".into()), Piece::Arguments("{\"a".into())]);
        assert_eq!(parser.push("\": \"\\"), [Piece::Arguments("\": \"\\".into())]);
        assert_eq!(parser.push("\"}\"}}\n</tool"), [Piece::Arguments("\"}\"}".into())]);
        assert_eq!((parser.push("_call>"), parser.finish(), parser.calls()), (vec![], vec![], 1));
    }

    #[test]
    fn a_call_that_was_cut_off_keeps_what_there_is() {
        assert_eq!(
            parse("<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": \"b"),
            ("".into(), vec![call("f", "{\"a\": \"b")])
        );
        assert_eq!(parse("x <tool_call>\n{\"name\": \"f").0, "x<tool_call>\n{\"name\": \"f");
    }
}
