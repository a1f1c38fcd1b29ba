//! Answers held to a form: JSON of a schema, a regular expression, one of some texts, a grammar, calls of tools.
//!
//! A [`ConstraintSpec`] says what is asked. [`Grammars`] compiles it, outside the engine's thread and within bounds, into a
//! [`Constraint`], which every answer of a request starts from. Before each step the sampler gets a mask of the tokens that
//! may follow; the mask depends on the request's own tokens alone (Law 2). Where the form is complete and nothing may
//! follow, the answer ends.
//!
//! The grammars are `llguidance`'s; it sees our tokenizer as bytes. Special tokens are no text and so fit no form, save where
//! a client's own grammar names them.

mod compiler;
mod gbnf;
mod schema;
mod tool_calls;

#[cfg(test)]
mod tests;

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use llguidance::Matcher;
use serde_json::Value;

pub use self::{
    compiler::{Grammars, MAX_SOURCE_BYTES},
    tool_calls::{CallRule, FreeText, Function, ToolCalls},
};

/// What an answer must look like.
#[derive(Debug, Clone, PartialEq)]
pub enum ConstraintSpec {
    /// JSON that a schema accepts.
    JsonSchema {
        /// The schema: draft 2020-12, within what `docs/structured-output.md` names.
        schema: Value,
        /// Whether white space may stand between JSON's tokens; without it the JSON is compact.
        white_space: bool,
    },
    /// A text that a regular expression matches from its beginning to its end, in the syntax of Rust's `regex`.
    Regex(String),
    /// One of these texts; not empty.
    Choice(Vec<String>),
    /// A text of a grammar: Lark as `llguidance` knows it, or llama.cpp's GBNF, told apart by `::=`.
    Grammar(String),
    /// A text, or calls of tools.
    ToolCalls(ToolCalls),
}

/// Why a constraint cannot be compiled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConstraintError {
    /// The constraint is wrong, asks for what is not supported, or is too large. For its author.
    #[error("{0}")]
    Invalid(String),
    /// This tokenizer allows no constraints. The author cannot help it.
    #[error("the tokenizer cannot be constrained: {0}")]
    Tokenizer(String),
}

/// A compiled [`ConstraintSpec`]. Cheap to clone.
#[derive(Clone)]
pub struct Constraint(Arc<Compiled>);

struct Compiled {
    /// Never advanced: a matcher that another answer has warmed would meet its limits elsewhere.
    start: Mutex<Matcher>,
    first_mask: Vec<u32>,
}

impl fmt::Debug for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Constraint").finish_non_exhaustive()
    }
}

impl Constraint {
    fn new(start: Matcher) -> Result<Self, ConstraintError> {
        let mut state = AnswerConstraint { matcher: start.deep_clone(), mask: Vec::new() };
        state.compute_mask().map_err(ConstraintError::Invalid)?;
        if let Some(error) = start.get_error() {
            return Err(ConstraintError::Invalid(first_lines(&error)));
        }
        Ok(Self(Arc::new(Compiled { start: Mutex::new(start), first_mask: state.mask })))
    }

    /// The state of an answer that has no tokens yet.
    pub(crate) fn begin(&self) -> AnswerConstraint {
        let start = self.0.start.lock().unwrap_or_else(PoisonError::into_inner);
        AnswerConstraint { matcher: start.deep_clone(), mask: self.0.first_mask.clone() }
    }
}

/// Where one answer stands in its form.
pub(crate) struct AnswerConstraint {
    matcher: Matcher,
    mask: Vec<u32>,
}

impl fmt::Debug for AnswerConstraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AnswerConstraint").finish_non_exhaustive()
    }
}

impl AnswerConstraint {
    /// The tokens that may come next, one bit each, least significant first; the ends of turn are among them where the form
    /// may end here.
    pub(crate) fn mask(&self) -> &[u32] {
        &self.mask
    }

    /// Takes the next token of the answer. `Ok(true)`: the form is complete and nothing may follow. `Err`: the token does not
    /// fit, or the form grew beyond its bounds; the answer cannot go on.
    pub(crate) fn accept(&mut self, id: u32) -> Result<bool, String> {
        self.matcher.consume_token(id).map_err(|error| first_lines(&error.to_string()))?;
        if self.matcher.is_stopped() {
            self.mask.clear();
            return Ok(true);
        }
        self.compute_mask()?;
        Ok(false)
    }

    fn compute_mask(&mut self) -> Result<(), String> {
        let mask = self.matcher.compute_mask_or_eos().map_err(|error| first_lines(&error.to_string()))?;
        self.mask = mask.into();
        Ok(())
    }
}

/// llguidance's messages go on with states and back traces.
fn first_lines(error: &str) -> String {
    const MOST_CHARS: usize = 400;
    let essence = match error.split("\n<").next().unwrap_or_default().trim() {
        "NoExtensionBias" => "no text keeps to it",
        essence => essence,
    };
    essence.chars().take(MOST_CHARS).collect()
}
