//! What can be wrong with a recipe.

use std::{fmt, path::PathBuf};

/// Where a setting stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In a file, at a line, counted from 1, where one can be named.
    File(PathBuf, Option<usize>),
    /// In a `--set key=value`.
    Set,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path, Some(line)) => write!(f, "{}:{line}", path.display()),
            Self::File(path, None) => write!(f, "{}", path.display()),
            Self::Set => f.write_str("--set"),
        }
    }
}

/// A recipe that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RecipeError {
    /// The operating system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// No TOML.
    #[error("{place}: {message}")]
    Syntax {
        /// Where.
        place: Place,
        /// What the parser says.
        message: String,
    },
    /// A key that no recipe has.
    #[error("{place}: {key}: unknown key; {advice}")]
    Unknown {
        /// Where.
        place: Place,
        /// The key, from the top, its parts joined by dots.
        key: String,
        /// The nearest known key, or all of them.
        advice: String,
    },
    /// A value that makes no sense, alone or beside the others.
    #[error("{place}: {key}: expected {expected}, found {found}")]
    Wrong {
        /// Where.
        place: Place,
        /// The key, from the top, its parts joined by dots.
        key: String,
        /// What would be right.
        expected: String,
        /// What is there.
        found: String,
    },
    /// The checkpoint that `model.start` names cannot be read.
    #[error("model.start: {0}")]
    Start(#[from] dots_model::Error),
}
