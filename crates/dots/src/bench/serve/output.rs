//! Files that a run ends with. Whether they can be written is tried before it, so that an hour's run does not end at a folder
//! that is missing; they are written aside and renamed, so that no half of one is ever found.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use anyhow::anyhow;
use dots_model::aside::{Aside, write_with};

/// A file that is yet to be written.
#[derive(Debug)]
pub struct Output {
    path: PathBuf,
}

impl Output {
    /// Tries whether `path` can be written. `flag` is what the user gave it with.
    pub fn try_at(flag: &str, path: &Path) -> anyhow::Result<Self> {
        if path.is_dir() {
            return Err(anyhow!("{flag} {}: expected a file, found a folder", path.display()));
        }
        // Nothing of it stays, for many runs end by a signal.
        Aside::create(path).map(drop).map_err(|error| anyhow!("{flag} {}: {error}", path.display()))?;
        Ok(Self { path: path.to_owned() })
    }

    /// Writes it.
    pub fn write(self, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> anyhow::Result<()> {
        write_with(&self.path, |file| write(file)).map_err(|error| anyhow!("{}: {error}", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_is_there_whole_or_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.json");
        fs::write(&path, "old").unwrap();
        let output = || Output::try_at("--json", &path).unwrap();
        let full = output().write(|out| write!(out, "half").and(Err(io::ErrorKind::StorageFull.into())));
        assert!(full.unwrap_err().to_string().contains("run.json"));
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        output().write(|out| write!(out, "new")).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_missing_folder_is_named_at_once() {
        let error = Output::try_at("--html", Path::new("/no/such/folder/x.html")).unwrap_err().to_string();
        assert!(error.contains("--html /no/such/folder/x.html"), "{error}");
    }
}
