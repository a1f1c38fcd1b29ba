//! Where an answer says what it comes to.
//!
//! The last `\boxed{…}` counts before the last phrase such as "the answer is", and that before the last number of all.

use super::{number::Number, plain::plain};

/// Phrases behind which the final answer stands, in small letters.
const PHRASES: [&str; 20] = [
    "answer is",
    "answer:",
    "answer =",
    "answer：",
    "answer**:",
    "answer:**",
    "####",
    "答案是",
    "答案为",
    "答案為",
    "答案:",
    "答案：",
    "答えは",
    "答え:",
    "答え：",
    "정답은",
    "정답:",
    "정답：",
    "답은",
    "답:",
];

/// A final answer is short: no more of one is looked at, whatever a model writes.
const MOST_BYTES: usize = 4096;

/// The number that an answer comes to.
pub fn number(answer: &str) -> Option<Number> {
    if let Some(boxed) = boxed(answer) {
        return Number::parse(boxed);
    }
    match phrase(answer) {
        Some(said) => Number::first(said),
        None => Number::last(&answer[answer.ceil_char_boundary(answer.len().saturating_sub(MOST_BYTES))..]),
    }
}

/// The text that an answer comes to, as [`plain_text`]; its last line where nothing marks it.
pub fn text(answer: &str) -> Option<String> {
    let last_line = || answer.lines().rev().find(|line| !line.trim().is_empty()).map(beginning);
    let found = boxed(answer).or_else(|| phrase(answer)).or_else(last_line)?;
    Some(plain_text(found)).filter(|text| !text.is_empty())
}

/// A text by which two are compared: without markup, case, and the spaces and points around it.
pub fn plain_text(text: &str) -> String {
    let text = plain(text).replace(['{', '}'], "");
    let words: Vec<String> = text.split_whitespace().map(str::to_lowercase).collect();
    let text = words.join(" ");
    let text = text.trim_matches(['.', ' ', ':', '"', '\'']);
    // The letter of a choice.
    match text.strip_prefix('(').and_then(|text| text.strip_suffix(')')) {
        Some(letter) if letter.chars().count() == 1 => letter.to_owned(),
        _ => text.to_owned(),
    }
}

/// What the last `\boxed{…}` holds: nothing where its braces do not close.
fn boxed(answer: &str) -> Option<&str> {
    let (start, word) = ["\\boxed{", "\\fbox{"]
        .iter()
        .filter_map(|word| Some((answer.rfind(word)?, word)))
        .max_by_key(|found| found.0)?;
    let within = beginning(&answer[start + word.len()..]);
    let mut depth = 1;
    for (at, character) in within.char_indices() {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(&within[..at]);
        }
    }
    Some("")
}

/// What stands behind the last phrase, to the end of its line, or on the next that says anything.
fn phrase(answer: &str) -> Option<&str> {
    // ASCII only, so that places stay.
    let lower = answer.to_ascii_lowercase();
    let end = PHRASES.iter().filter_map(|phrase| Some(lower.rfind(phrase)? + phrase.len())).max()?;
    answer[end..]
        .lines()
        .map(|line| line.trim().trim_start_matches([':', '：', '*', ' ']))
        .find(|line| !line.is_empty())
}

fn beginning(text: &str) -> &str {
    &text[..text.floor_char_boundary(MOST_BYTES)]
}
