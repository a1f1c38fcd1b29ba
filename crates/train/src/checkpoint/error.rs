//! What can go wrong with a checkpoint of a run.

use std::{io, path::PathBuf};

/// A checkpoint that was not written or cannot be read. The others are as they were.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The operating system refused; a full disk, say.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file does not say what it must.
    #[error("{}: {field}: expected {expected}, found {found}", path.display())]
    Wrong {
        /// The file.
        path: PathBuf,
        /// The key, tensor or property.
        field: String,
        /// What would be right.
        expected: String,
        /// What is there.
        found: String,
    },
}

impl CheckpointError {
    /// An [`CheckpointError::Io`] at `path`, for `map_err`.
    pub(super) fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }

    /// An [`CheckpointError::Wrong`] from anything that can be shown.
    pub(super) fn wrong(
        path: impl Into<PathBuf>,
        field: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        Self::Wrong { path: path.into(), field: field.into(), expected: expected.into(), found: found.into() }
    }
}
