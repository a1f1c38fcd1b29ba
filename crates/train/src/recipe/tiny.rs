//! What recipes of tests have in common.

use std::path::Path;

use super::Recipe;

/// A recipe of a tiny model, which integration tests have too; `rest` says what it learns from, and how.
pub(crate) fn tiny(rest: &str) -> Recipe {
    let text = format!("{}{rest}", include_str!("../../tests/support/tiny.toml"));
    Recipe::parse(&text, Path::new("tiny.toml")).unwrap()
}
