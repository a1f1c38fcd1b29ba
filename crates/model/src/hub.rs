//! Model names to local files: a path, or a name on the hub.

use std::path::PathBuf;

use crate::Error;

/// Watches a download.
pub trait Progress: Send {
    /// A file of `total_bytes` begins, `done_bytes` of it there already.
    fn start(&mut self, file: &str, total_bytes: u64, done_bytes: u64);
    /// More bytes have arrived.
    fn advance(&mut self, bytes: u64);
    /// The file is complete.
    fn finish(&mut self);
}

/// The local folder or file of `model`: an existing path as it is; otherwise a hub name (`owner/name`,
/// `owner/name@revision`, `owner/name:file.gguf`), fetched into the usual cache where it is not there yet.
pub fn resolve(_model: &str, _progress: &mut dyn Progress) -> Result<PathBuf, Error> {
    todo!()
}
