//! What can be wrong with a checkpoint.

use std::path::PathBuf;

/// A checkpoint that cannot be used. Each message names the file, the field, what was expected and what was found.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file does not say what it must.
    #[error("{}: {field}: expected {expected}, found {found}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The key, tensor or header field.
        field: String,
        /// What would be right.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A hub name could not be resolved or fetched.
    #[error("{name}: {reason}")]
    Hub {
        /// The name as given.
        name: String,
        /// What went wrong and what to do.
        reason: String,
    },
    /// A batch breaks the executor's contract.
    #[error("batch: {0}")]
    Batch(String),
    /// The machine cannot hold what was asked for.
    #[error("{0}")]
    Memory(String),
}

impl Error {
    /// An [`Error::Invalid`] from anything that can be shown.
    pub fn invalid(
        path: impl Into<PathBuf>,
        field: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        Self::Invalid { path: path.into(), field: field.into(), expected: expected.into(), found: found.into() }
    }

    /// An [`Error::Io`] at `path`.
    pub fn io(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Self::Io { path: path.into(), source }
    }
}
