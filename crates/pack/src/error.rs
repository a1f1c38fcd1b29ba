//! Why a checkpoint was not turned into another.

use std::path::PathBuf;

/// What went wrong, with the file that it is about.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The source cannot be read.
    #[error(transparent)]
    Source(#[from] dots_model::Error),
    /// A file cannot be written. What is finished stays.
    #[error("{}: {source}; what is finished stays, and the same command goes on from there", path.display())]
    Write {
        /// The file, under the name that it has while it is written.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file that comes in one piece cannot be written. What bore its name stays.
    #[error("{}: {source}; nothing was exported, and what bore the file's name is as it was", path.display())]
    Export {
        /// The file, under the name that it has while it is written.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// What was asked for would destroy something or make no sense.
    #[error("{}: {reason}", path.display())]
    Refused {
        /// The folder or file.
        path: PathBuf,
        /// Why, and what would be right.
        reason: String,
    },
    /// A recipe that says nothing.
    #[error("{0}")]
    Recipe(String),
}

impl Error {
    /// An [`Error::Refused`].
    pub fn refused(path: impl Into<PathBuf>, reason: impl Into<String>) -> Self {
        Self::Refused { path: path.into(), reason: reason.into() }
    }

    /// An [`Error::Write`].
    pub(crate) fn write(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Write { path, source }
    }

    /// What it means where nothing goes on from what is finished.
    pub(crate) fn of_export(self) -> Self {
        match self {
            Self::Write { path, source } => Self::Export { path, source },
            other => other,
        }
    }
}
