//! Files that are hashed while they are written, and looked through before they are believed.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use dots_model::aside;
use serde_json::{Value, json};

use super::CheckpointError;

/// Bytes written at once.
const PIECE_BYTES: usize = 1 << 20;

/// A file being written into a folder that gets its name, all of it at once, when it is whole.
pub(super) struct Hashed {
    path: PathBuf,
    file: BufWriter<File>,
    hasher: crc32fast::Hasher,
    bytes: u64,
}

impl Hashed {
    pub(super) fn create(path: &Path) -> Result<Self, CheckpointError> {
        let file = File::create(path).map_err(CheckpointError::io(path))?;
        let file = BufWriter::with_capacity(PIECE_BYTES, file);
        Ok(Self { path: path.to_owned(), file, hasher: crc32fast::Hasher::new(), bytes: 0 })
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), CheckpointError> {
        self.file.write_all(bytes).map_err(CheckpointError::io(&self.path))?;
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Puts the file on the disk. Returns what [`check`] holds it to.
    pub(super) fn finish(self) -> Result<Value, CheckpointError> {
        let io = CheckpointError::io(&self.path);
        match self.file.into_inner().map_err(|error| error.into_error()).and_then(|file| file.sync_all()) {
            Ok(()) => Ok(json!({ "bytes": self.bytes, "crc32": self.hasher.finalize() })),
            Err(error) => Err(io(error)),
        }
    }
}

/// Writes a small file whole.
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<Value, CheckpointError> {
    let mut file = Hashed::create(path)?;
    file.write(bytes)?;
    file.finish()
}

/// Whether the file at `path` has the size and checksum that were noted when it was written.
pub(super) fn check(path: &Path, noted: &Value) -> Result<(), CheckpointError> {
    let file = File::open(path).map_err(CheckpointError::io(path))?;
    let bytes = file.metadata().map_err(CheckpointError::io(path))?.len();
    if noted["bytes"].as_u64() != Some(bytes) {
        return Err(CheckpointError::wrong(path, "length", format!("{} bytes", noted["bytes"]), format!("{bytes}")));
    }
    let mut hasher = crc32fast::Hasher::new();
    aside::read_through(file, |piece| hasher.update(piece)).map_err(CheckpointError::io(path))?;
    let found = hasher.finalize();
    if noted["crc32"].as_u64() != Some(found.into()) {
        return Err(CheckpointError::wrong(path, "crc32", noted["crc32"].to_string(), found.to_string()));
    }
    Ok(())
}

/// Puts on the disk which files a folder has.
pub(super) fn sync_folder(path: &Path) -> Result<(), CheckpointError> {
    aside::sync_folder(path).map_err(CheckpointError::io(path))
}

/// Gives a folder that is on the disk its name.
pub(super) fn rename(part: &Path, path: &Path) -> Result<(), CheckpointError> {
    aside::rename(part, path).map_err(CheckpointError::io(path))
}
