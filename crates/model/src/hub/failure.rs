//! Why a request or a download ended early, and what may follow. Each holds its reason for the user.

/// Told apart by what another attempt could change.
#[derive(Debug)]
pub(super) enum Failure {
    /// The connection's fault, or a hub's that is busy: another attempt may go on where this one stopped.
    Break(String),
    /// The bytes that are there cannot be the file's beginning: only another download from byte 0 may do better.
    Damaged(String),
    /// Another attempt would end as this one did.
    Final(String),
}

impl Failure {
    /// The operating system refused something at `path`.
    pub(super) fn io(path: &std::path::Path, error: &std::io::Error) -> Self {
        Self::Final(format!("{}: {error}", path.display()))
    }
}
