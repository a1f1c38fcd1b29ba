//! What a program takes of the disk, counted no further than it may take.

use std::io;

use rustix::{fs::Stat, io::Errno};

use crate::Limits;

/// Bytes and files so far, and the most of each.
pub struct Usage {
    bytes: u64,
    entries: usize,
    limits: Limits,
}

/// Why counting ended early.
#[derive(Debug)]
pub enum Uncounted {
    /// More than the limits, or something that cannot be looked at: a program could hide any amount there.
    Over,
    /// Ours, not the program's: this process has no more files or memory to look with.
    Failed(io::Error),
}

impl Usage {
    pub fn new(limits: Limits) -> Self {
        Self { bytes: 0, entries: 0, limits }
    }

    /// One more file or folder, of at most one file's bytes: what is known of one that nobody may look at.
    pub fn add_unknown(&mut self) -> Result<(), Uncounted> {
        self.add(self.limits.file_bytes)
    }

    /// One more file or folder.
    pub fn add_found(&mut self, found: &Stat) -> Result<(), Uncounted> {
        self.add(u64::try_from(found.st_blocks).unwrap_or(u64::MAX).saturating_mul(512))
    }

    fn add(&mut self, bytes: u64) -> Result<(), Uncounted> {
        self.bytes = self.bytes.saturating_add(bytes);
        self.entries += 1;
        if self.bytes > self.limits.disk_bytes || self.entries > self.limits.files {
            return Err(Uncounted::Over);
        }
        Ok(())
    }
}

impl From<Errno> for Uncounted {
    fn from(error: Errno) -> Self {
        match error {
            Errno::MFILE | Errno::NFILE | Errno::NOMEM => Self::Failed(error.into()),
            _ => Self::Over,
        }
    }
}
