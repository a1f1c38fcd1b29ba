//! The folder that a program gets: made before, measured while it runs, taken away after.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use rustix::process::Pid;
use tempfile::TempDir;

use crate::{
    Limits, SandboxError, folder, held,
    usage::{Uncounted, Usage},
};

/// A folder of the program's own, gone when this is dropped.
pub struct Scratch {
    /// Tries once more to take the folder away, where that failed.
    _folder: TempDir,
    path: PathBuf,
}

impl Scratch {
    /// A new folder with these files. Names are plain: nothing is written anywhere else.
    pub fn new(files: &[(String, Vec<u8>)]) -> Result<Self, SandboxError> {
        let wrong = |path: &Path, source| SandboxError::Scratch { path: path.to_owned(), source };
        let folder = tempfile::Builder::new()
            .prefix("dots-sandbox-")
            .tempdir()
            .map_err(|error| wrong(&std::env::temp_dir(), error))?;
        let path = folder.path().canonicalize().map_err(|error| wrong(folder.path(), error))?;
        let scratch = Self { _folder: folder, path };
        for (name, bytes) in files {
            if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
                return Err(SandboxError::Job(format!("a file of a job: expected a plain name, found {name:?}")));
            }
            let path = scratch.path.join(name);
            fs::write(&path, bytes).map_err(|error| wrong(&path, error))?;
        }
        Ok(scratch)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether more lies in it, or is held without a name by its process (unless that is dead), than these limits allow.
    ///
    /// The process is stopped or dead. Running, it could move things from where the count has not been to where it has.
    ///
    /// # Errors
    /// Where this process has no more open files or memory to count with.
    pub fn is_over(&self, limits: Limits, process: Option<Pid>) -> io::Result<bool> {
        let mut usage = Usage::new(limits);
        let counted = folder::measure(&self.path, &mut usage)
            .and_then(|()| process.map_or(Ok(()), |process| held::measure(process, &self.path, &mut usage)));
        match counted {
            Ok(()) => Ok(false),
            Err(Uncounted::Over) => Ok(true),
            Err(Uncounted::Failed(error)) => Err(error),
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // The program is dead, and its folder's shape is its last attack: folders without rights, and nested deeper than a path
        // or a stack is long. What cannot be taken away stays in the temporary folder, where the system cleans up.
        let _ = folder::remove(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_folder_deeper_than_a_path_is_long_and_without_rights_goes_too() {
        let scratch = Scratch::new(&[("kept".to_owned(), b"x".to_vec())]).unwrap();
        let root = scratch.path().to_owned();
        // From the inside out, as no path reaches the innermost at once.
        let chain = root.join("chain");
        fs::create_dir(&chain).unwrap();
        for _ in 0..2200 {
            let outer = root.join("outer");
            fs::create_dir(&outer).unwrap();
            fs::rename(&chain, outer.join("d")).unwrap();
            fs::rename(&outer, &chain).unwrap();
        }
        fs::set_permissions(&chain, PermissionsExt::from_mode(0o000)).unwrap();
        drop(scratch);
        assert!(!root.exists());
    }

    #[test]
    fn a_file_of_a_job_lands_nowhere_else() {
        for name in ["../x", "/etc/x", "a/b", "", ".", ".."] {
            assert!(matches!(Scratch::new(&[(name.to_owned(), Vec::new())]), Err(SandboxError::Job(_))), "{name:?}");
        }
    }
}
