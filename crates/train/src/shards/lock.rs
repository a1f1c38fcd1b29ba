//! One shard, one program.

use std::{
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
};

use super::path_of;
use crate::DataError;

/// Held while a shard is written. The system lets go of it when the program ends, however it ends.
#[derive(Debug)]
pub(super) struct Lock {
    path: PathBuf,
    _file: File,
}

impl Lock {
    /// A second program is refused. The file has a name of its own: those of the shard are renamed while they are held.
    pub(super) fn take(prefix: &Path) -> Result<Self, DataError> {
        let path = path_of(prefix, "lock.part");
        loop {
            let open = File::options().create(true).truncate(false).write(true).open(&path);
            let file = open.map_err(DataError::io(&path))?;
            match file.try_lock() {
                Ok(()) if lies_at(&file, &path) => return Ok(Self { path, _file: file }),
                // Whoever held it removed it between the two: it keeps nobody out any more.
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    let prefix = prefix.display();
                    return Err(DataError::Refused(format!(
                        "{prefix}: another program writes this shard; wait for it, or choose another name"
                    )));
                }
                Err(TryLockError::Error(error)) => return Err(DataError::io(path)(error)),
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // While it is held. One that stays is taken by the next program.
        let _ = fs::remove_file(&self.path);
    }
}

/// Whether `path` still leads to this very file.
#[cfg(unix)]
fn lies_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let place = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    matches!((file.metadata().map(place), fs::metadata(path).map(place)), (Ok(file), Ok(path)) if file == path)
}

/// Elsewhere a file that is open keeps its name.
#[cfg(not(unix))]
fn lies_at(_file: &File, _path: &Path) -> bool {
    true
}
