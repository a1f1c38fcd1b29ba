//! Why a program was not run.

use std::{io, path::PathBuf};

/// A program that was not run, or could not be watched.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// This machine cannot isolate a program. Nothing ran.
    #[error("code cannot be isolated here, so none is run: {0}")]
    NoWalls(String),
    /// The program itself could not be started.
    #[error("{program}: {reason}")]
    NoProgram {
        /// What was to be run.
        program: String,
        /// Why it was not.
        reason: String,
    },
    /// A job that makes no sense.
    #[error("{0}")]
    Job(String),
    /// No Python was found.
    #[error("python: {0}")]
    NoPython(String),
    /// The folder that a program gets.
    #[error("{}: {source}", path.display())]
    Scratch {
        /// The folder, or a file in it.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Watching the program failed.
    #[error("watching a program: {0}")]
    Watch(#[from] io::Error),
}
