//! The files of a checkpoint: those of a folder, or those that a program brings in itself.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde_json::Value;

use super::{files, json};
use crate::Error;

/// A file that a program brings in itself: its name and its bytes.
pub type File = (&'static str, &'static [u8]);

/// Where a checkpoint's files are.
#[derive(Clone, Copy)]
pub(super) struct Folder<'a> {
    /// The folder, or what stands for one in messages.
    path: &'a Path,
    /// The files, where they are not on disk.
    inside: Option<&'a [File]>,
}

impl<'a> Folder<'a> {
    /// The folder at `path`.
    pub(super) fn on_disk(path: &'a Path) -> Self {
        Self { path, inside: None }
    }

    /// These files and no others.
    pub(super) fn inside(path: &'a Path, files: &'a [File]) -> Self {
        Self { path, inside: Some(files) }
    }

    pub(super) fn path(&self) -> &'a Path {
        self.path
    }

    /// The path of the file of that name, for messages.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Whether there is a file of that name.
    pub(super) fn holds(&self, name: &str) -> bool {
        match self.inside {
            Some(files) => files.iter().any(|(file, _)| *file == name),
            None => self.file(name).exists(),
        }
    }

    /// The text of a file, which may take `limit_bytes` at most. `None` where there is no such file.
    pub(super) fn read_text(&self, name: &str, limit_bytes: u64) -> Result<Option<String>, Error> {
        let Some(files) = self.inside else { return files::read_text(&self.file(name), limit_bytes) };
        let found = files.iter().find(|(file, _)| *file == name);
        found.map(|(_, bytes)| files::text(&self.file(name), bytes.to_vec(), limit_bytes)).transpose()
    }

    /// The object in a JSON file. `None` where there is no such file.
    pub(super) fn read_json(&self, name: &str, limit_bytes: u64) -> Result<Option<Value>, Error> {
        let Some(text) = self.read_text(name, limit_bytes)? else { return Ok(None) };
        json::parse(&self.file(name), &text).map(Some)
    }

    /// The bytes of a file, mapped or, of one inside, where they are: nothing is copied.
    pub(super) fn map(&self, name: &str) -> Result<Bytes, Error> {
        let Some(files) = self.inside else { return files::map(&self.file(name)) };
        match files.iter().find(|(file, _)| *file == name) {
            Some((_, bytes)) => Ok(Bytes::from_static(bytes)),
            None => Err(Error::invalid(self.file(name), "file", "one that the program brings", "none of that name")),
        }
    }
}
