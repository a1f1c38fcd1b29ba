//! Bytes from disk: small texts read whole, large files mapped.

use std::{fs::File, io::Read, path::Path};

use bytes::Bytes;

use crate::Error;

/// Maps a plain file for reading. An empty file is refused here, as no format has one.
pub fn map(path: &Path) -> Result<Bytes, Error> {
    let file = open(path)?;
    let length = file.metadata().map_err(|source| Error::io(path, source))?.len();
    if length == 0 {
        return Err(Error::invalid(path, "file", "a checkpoint", "0 bytes"));
    }
    // SAFETY: the mapping is private and read-only, and lives as long as the `Bytes` that own it. What cannot be ruled
    // out is another process shortening the file, which ends this one with SIGBUS, or writing to it, which changes
    // weights; both are in the nature of serving 80 GB without copying them. All that is read from the mapping as
    // structure is checked before use, and weights of any value are only ever computed with.
    #[allow(unsafe_code, reason = "mapping is the one way to load 80 GB without copying them")]
    let map = unsafe { memmap2::Mmap::map(&file) }.map_err(|source| Error::io(path, source))?;
    Ok(Bytes::from_owner(map))
}

/// The text of `path`, which may take `limit_bytes` at most. `None` where there is no such file.
pub(super) fn read_text(path: &Path, limit_bytes: u64) -> Result<Option<String>, Error> {
    let file = match open(path) {
        Ok(file) => file,
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(limit_bytes.saturating_add(1)).read_to_end(&mut bytes).map_err(|source| Error::io(path, source))?;
    text(path, bytes, limit_bytes).map(Some)
}

/// What stands in `path` as text, which may take `limit_bytes` at most.
pub(super) fn text(path: &Path, bytes: Vec<u8>, limit_bytes: u64) -> Result<String, Error> {
    if bytes.len() as u64 > limit_bytes {
        return Err(Error::invalid(path, "file", format!("at most {limit_bytes} bytes"), "more"));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Error::invalid(path, "file", "UTF-8", format!("other bytes at {at}"))
    })
}

/// Opens a plain file. Whatever else bears the name is refused first: opening a pipe would wait for its writer.
fn open(path: &Path) -> Result<File, Error> {
    let metadata = std::fs::metadata(path).map_err(|source| Error::io(path, source))?;
    if !metadata.is_file() {
        let found = if metadata.is_dir() { "a folder" } else { "something else" };
        return Err(Error::invalid(path, "file", "a plain file", found));
    }
    File::open(path).map_err(|source| Error::io(path, source))
}
