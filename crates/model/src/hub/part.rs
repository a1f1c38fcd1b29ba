//! A file on its way into the cache: its lock, its bytes so far, and their hash.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{Read, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use sha2::{Digest, Sha256};

use super::{Progress, failure::Failure, wanted::Wanted};

const LOCK_TRIES: u32 = 6;
const LOCK_WAIT: Duration = Duration::from_secs(1);
pub(super) const BUFFER_BYTES: usize = 1 << 18;

/// Keeps other processes from the same part for as long as it lives. The file stays: to delete it would let two processes
/// hold two locks of one name.
pub(super) struct Lock {
    _file: File,
}

impl Lock {
    pub(super) fn take(path: &Path) -> Result<Self, Failure> {
        let failed = |error| Failure::io(path, &error);
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(path).map_err(failed)?;
        for attempt in 1..=LOCK_TRIES {
            match file.try_lock() {
                Ok(()) => return Ok(Self { _file: file }),
                Err(TryLockError::Error(error)) => return Err(failed(error)),
                Err(TryLockError::WouldBlock) if attempt < LOCK_TRIES => std::thread::sleep(LOCK_WAIT),
                Err(TryLockError::WouldBlock) => (),
            }
        }
        let path = path.display();
        Err(Failure::Final(format!("another process is fetching it (it holds {path}); wait for that one")))
    }
}

/// The beginning of a file, on disk.
pub(super) struct Part {
    path: PathBuf,
    file: File,
    bytes: u64,
    /// Of all bytes so far, where the hub names the file by its hash.
    hash: Option<Sha256>,
    /// Whether some bytes are of an earlier run, which may have left them damaged.
    inherited: bool,
}

impl Part {
    /// Opens the part at `path`, with what an earlier run left of it; `progress` sees that read where it is hashed.
    pub(super) fn open(
        path: PathBuf,
        name: &str,
        wanted: &Wanted,
        progress: &mut dyn Progress,
    ) -> Result<Self, Failure> {
        let opened = OpenOptions::new().read(true).append(true).create(true).open(&path);
        let opened = opened.and_then(|file| Ok((file.metadata()?.len(), file)));
        let (bytes, file) = opened.map_err(|error| Failure::io(&path, &error))?;
        let hash = wanted.sha256().map(|_| Sha256::new());
        let mut part = Self { path, file, bytes, hash, inherited: bytes > 0 };
        if bytes > wanted.size {
            part.restart()?;
        }
        part.hash_inherited(name, progress)?;
        Ok(part)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn is_inherited(&self) -> bool {
        self.inherited
    }

    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.file.write_all(bytes).map_err(|error| Failure::io(&self.path, &error))?;
        self.bytes += bytes.len() as u64;
        if let Some(hash) = &mut self.hash {
            hash.update(bytes);
        }
        Ok(())
    }

    /// Forgets all bytes.
    pub(super) fn restart(&mut self) -> Result<(), Failure> {
        self.file.set_len(0).map_err(|error| Failure::io(&self.path, &error))?;
        (self.bytes, self.inherited) = (0, false);
        self.hash = self.hash.take().map(|_| Sha256::new());
        Ok(())
    }

    /// Makes the complete part the blob that it was to be, if its hash is the one that the hub lists.
    pub(super) fn keep(&mut self, wanted: &Wanted, blob: &Path) -> Result<(), Failure> {
        if let (Some(expected), Some(hash)) = (wanted.sha256(), &self.hash) {
            let found: String = hash.clone().finalize().iter().map(|byte| format!("{byte:02x}")).collect();
            if found != expected {
                return Err(Failure::Damaged(format!("SHA-256: expected {expected}, found {found}")));
            }
        }
        // A blob is believed by its name alone, so its bytes must be on the disk before it has one.
        let kept = self.file.sync_all().and_then(|()| std::fs::rename(&self.path, blob));
        kept.map_err(|error| Failure::io(&self.path, &error))
    }

    /// Leaves nothing that a later run would go on from.
    pub(super) fn discard(self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!("{}: {error}", self.path.display());
        }
    }

    fn hash_inherited(&mut self, name: &str, progress: &mut dyn Progress) -> Result<(), Failure> {
        let Some(hash) = self.hash.as_mut().filter(|_| self.inherited) else { return Ok(()) };
        progress.check(name, self.bytes);
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut left = self.bytes;
        while left > 0 {
            let read = self.file.read(&mut buffer).map_err(|error| Failure::io(&self.path, &error))?;
            if read == 0 {
                let reason = format!("{}: it became shorter while it was read", self.path.display());
                return Err(Failure::Final(reason));
            }
            hash.update(&buffer[..read]);
            left = left.saturating_sub(read as u64);
            progress.advance(read as u64);
        }
        progress.finish();
        Ok(())
    }
}
