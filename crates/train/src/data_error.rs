//! What can be wrong with training data.

use std::{io, path::PathBuf};

/// Data that cannot be used, or written. Each message names the file, the place, what was expected and what was found.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The operating system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file does not say what it must.
    #[error("{}: {place}: expected {expected}, found {found}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The field, document or line.
        place: String,
        /// What would be right.
        expected: String,
        /// What is there.
        found: String,
    },
    /// What was asked for makes no sense, or would destroy something.
    #[error("{0}")]
    Refused(String),
    /// A tokenizer or template that cannot be used.
    #[error(transparent)]
    Model(#[from] dots_model::Error),
}

impl DataError {
    /// A [`DataError::Invalid`] from anything that can be shown.
    pub fn invalid(
        path: impl Into<PathBuf>,
        place: impl Into<String>,
        expected: impl Into<String>,
        found: impl ToString,
    ) -> Self {
        Self::Invalid { path: path.into(), place: place.into(), expected: expected.into(), found: found.to_string() }
    }

    /// A [`DataError::Io`] at `path`.
    pub fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}
