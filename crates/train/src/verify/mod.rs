//! Whether an answer is right, by rules rather than by opinion.
//!
//! A number is compared exactly ([`number`]), a text by its letters, a program by running it against tests in the sandbox
//! ([`code`]). Where it is not clear what an answer says, it is rejected: a right answer lost costs a sample, a wrong one kept is
//! learnt.

pub mod code;
mod digits;
pub mod final_answer;
pub mod number;
mod numerals;
mod plain;

use dots_sandbox::{Limits, Python, SandboxError};
use serde::{Deserialize, Serialize};

use code::Tests;
use number::Number;

/// What makes an answer right.
#[derive(Debug, Clone)]
pub enum Check {
    /// Its final answer is this number.
    Number(Number),
    /// Its final answer is this text, whatever the case, the spaces and the markup.
    Text(String),
    /// Its program passes these tests.
    Tests(Tests),
}

impl Check {
    /// For an expected answer: as a number where it is one, with a unit or without, else as a text. None where it is blank.
    pub fn of_answer(expected: &str) -> Option<Self> {
        let text = final_answer::plain_text(expected);
        if text.is_empty() {
            return None;
        }
        Some(Number::parse(expected).map_or(Self::Text(text), Self::Number))
    }
}

/// What was found about an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It is right.
    Accepted,
    /// It ran out of tokens before its end.
    Unfinished,
    /// It holds no final answer, or no program.
    NoAnswer,
    /// Its final answer is another.
    Wrong,
    /// Its program failed a test, or by itself.
    Failed,
    /// Its program ran out of time.
    Time,
    /// Its program wrote too much.
    TooMuch,
}

impl Verdict {
    /// All there are, the accepted first.
    pub const ALL: [Self; 7] =
        [Self::Accepted, Self::Unfinished, Self::NoAnswer, Self::Wrong, Self::Failed, Self::Time, Self::TooMuch];

    /// As people read it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Unfinished => "unfinished",
            Self::NoAnswer => "no answer",
            Self::Wrong => "wrong",
            Self::Failed => "failed a test",
            Self::Time => "out of time",
            Self::TooMuch => "wrote too much",
        }
    }
}

/// Decides about answers. Programs need a Python; the rest does not.
#[derive(Debug, Clone, Default)]
pub struct Verifier {
    /// What runs programs.
    pub python: Option<Python>,
    /// What each run of a program may take.
    pub limits: Limits,
}

impl Verifier {
    /// What is to be said about this answer.
    ///
    /// # Errors
    /// Where a program could not be run, which says nothing about the answer.
    pub fn verify(&self, check: &Check, answer: &str) -> Result<Verdict, SandboxError> {
        match check {
            Check::Number(expected) => Ok(final_answer::number(answer).map_or(Verdict::NoAnswer, |found| {
                if found.same(expected) { Verdict::Accepted } else { Verdict::Wrong }
            })),
            Check::Text(expected) => Ok(final_answer::text(answer).map_or(Verdict::NoAnswer, |found| {
                if found == *expected { Verdict::Accepted } else { Verdict::Wrong }
            })),
            Check::Tests(tests) => match &self.python {
                Some(python) => tests.verify(answer, python, self.limits),
                None => Err(SandboxError::NoPython("none was given to run programs with".to_owned())),
            },
        }
    }
}

#[cfg(test)]
mod tests;
