//! One run, one program.

use std::{
    fs::{File, TryLockError},
    path::{Path, PathBuf},
};

use super::RunError;

/// Held while a program works on a run's folder. The system lets go of it when the program ends, however it ends.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

impl Lock {
    pub(super) fn take(run: &Path) -> Result<Self, RunError> {
        let path: PathBuf = run.join("lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|source| RunError::Io { path: path.clone(), source })?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => Err(RunError::Busy(run.to_owned())),
            Err(TryLockError::Error(source)) => Err(RunError::Io { path, source }),
        }
    }
}
