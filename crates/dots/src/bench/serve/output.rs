//! Files that a run ends with. They are begun before it, so that an hour's run does not end at a folder that is missing, and
//! written aside and renamed, so that no half of one is ever found.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use anyhow::anyhow;

/// A file that is yet to be written.
#[derive(Debug)]
pub struct Output {
    path: PathBuf,
    part: PathBuf,
    file: File,
}

impl Output {
    /// Takes the place of `path`. `flag` is what the user gave it with.
    pub fn begin(flag: &str, path: &Path) -> anyhow::Result<Self> {
        let mut part = path.as_os_str().to_owned();
        part.push(".part");
        let part = PathBuf::from(part);
        if path.is_dir() {
            return Err(anyhow!("{flag} {}: expected a file, found a folder", path.display()));
        }
        let file = File::create(&part).map_err(|error| anyhow!("{flag} {}: {error}", path.display()))?;
        Ok(Self { path: path.to_owned(), part, file })
    }

    /// Writes it.
    pub fn finish(mut self, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> anyhow::Result<()> {
        let mut out = BufWriter::new(&mut self.file);
        let written = write(&mut out).and_then(|()| out.flush());
        drop(out);
        written
            .and_then(|()| self.file.sync_all())
            .and_then(|()| fs::rename(&self.part, &self.path))
            .map_err(|error| anyhow!("{}: {error}", self.path.display()))
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        // After `finish` it is gone.
        let _ = fs::remove_file(&self.part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_there_whole_or_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.json");
        fs::write(&path, "old").unwrap();
        drop(Output::begin("--json", &path).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        Output::begin("--json", &path).unwrap().finish(|out| write!(out, "new")).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_missing_folder_is_named_at_once() {
        let error = Output::begin("--html", Path::new("/no/such/folder/x.html")).unwrap_err().to_string();
        assert!(error.contains("--html /no/such/folder/x.html"), "{error}");
    }
}
