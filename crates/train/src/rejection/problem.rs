//! Problems: a conversation to answer, and what makes the answer right.

use std::path::{Path, PathBuf};

use dots_model::template::Message;
use serde::Deserialize as _;
use serde_json::Value;

use crate::{
    DataError,
    lines::Lines,
    verify::{Check, code::Tests},
};

/// One problem.
#[derive(Debug, Clone)]
pub struct Problem {
    /// Its line in the file, from 1.
    pub line: u64,
    /// What is asked; the last of it is the user's.
    pub messages: Vec<Message>,
    /// What makes an answer right.
    pub check: Check,
}

impl Problem {
    /// As errors name it.
    pub fn place(&self) -> String {
        format!("line {}", self.line)
    }
}

/// The problems of a file.
#[derive(Debug, Clone)]
pub struct Problems {
    /// The file.
    pub path: PathBuf,
    /// Of its bytes.
    pub sha256: String,
    /// In its order; not empty.
    pub list: Vec<Problem>,
}

impl Problems {
    /// Reads `{"messages": […], "answer": …}` or `{"messages": […], "tests": …}` from each line; other keys are the user's own. Blank
    /// lines are passed over.
    pub fn read(path: &Path) -> Result<Self, DataError> {
        let mut lines = Lines::open(path)?;
        let (mut list, mut line) = (Vec::new(), Vec::new());
        while lines.next(&mut line)? > 0 {
            let (messages, check) = problem(&line).map_err(|wrong| {
                DataError::invalid(path, format!("{}: {}", lines.place(), wrong.field), wrong.expected, wrong.found)
            })?;
            list.push(Problem { line: lines.number(), messages, check });
        }
        if list.is_empty() {
            return Err(DataError::invalid(path, "problems", "at least one", "none"));
        }
        Ok(Self { path: path.to_owned(), sha256: lines.input().sha256, list })
    }

    /// Holds each to `admits`, which says what was expected and what was found; the first that it does not admit is named with its line.
    pub(super) fn each(&self, admits: impl Fn(&[Message]) -> Result<(), (String, String)>) -> Result<(), DataError> {
        self.list.iter().try_for_each(|problem| {
            let invalid = |(expected, found)| DataError::invalid(&self.path, problem.place(), expected, found);
            admits(&problem.messages).map_err(invalid)
        })
    }

    /// Whether any has tests to run a program against.
    pub fn have_tests(&self) -> bool {
        self.list.iter().any(|problem| matches!(problem.check, Check::Tests(_)))
    }
}

struct Wrong {
    field: &'static str,
    expected: String,
    found: String,
}

fn problem(line: &[u8]) -> Result<(Vec<Message>, Check), Wrong> {
    let wrong = |field, expected: &str, found: String| Wrong { field, expected: expected.to_owned(), found };
    let value: Value =
        serde_json::from_slice(line).map_err(|error| wrong("problem", "an object of JSON", error.to_string()))?;
    let messages = Vec::<Message>::deserialize(value.get("messages").unwrap_or(&Value::Null))
        .map_err(|error| wrong("messages", "a list of {\"role\": …, \"content\": …}", error.to_string()))?;
    match messages.last() {
        Some(last) if last.role == "user" || last.role == "tool" => {}
        last => {
            let found = last.map_or("none".to_owned(), |last| format!("one of {:?}", last.role));
            return Err(wrong("messages", "a last one of the user, to be answered", found));
        }
    }
    const EITHER: &str = "one of answer and tests";
    let check = match (value.get("answer"), value.get("tests")) {
        (Some(answer), None) => {
            let text = match answer {
                Value::String(text) => text.clone(),
                Value::Number(number) => number.to_string(),
                other => return Err(wrong("answer", "a text or a number", short(other))),
            };
            Check::of_answer(&text).ok_or_else(|| wrong("answer", "a text that is not blank", format!("{text:?}")))?
        }
        (None, Some(tests)) => {
            Check::Tests(Tests::of(tests).map_err(|expected| wrong("tests", &expected, short(tests)))?)
        }
        (None, None) => return Err(wrong("answer", EITHER, "neither".to_owned())),
        (Some(_), Some(_)) => return Err(wrong("answer", EITHER, "both".to_owned())),
    };
    Ok((messages, check))
}

/// The beginning of a value, for a message.
fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
