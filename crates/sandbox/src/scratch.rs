//! The folder that a program gets: made before, measured while it runs, taken away after.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use tempfile::TempDir;

use crate::SandboxError;

/// A folder of the program's own, gone when this is dropped.
pub struct Scratch {
    folder: TempDir,
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
        let scratch = Self { folder, path };
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

    /// Whether it holds more than this many bytes or entries. Counts no further than it must: names come from the program.
    pub fn is_over(&self, bytes: u64, entries: usize) -> bool {
        let (mut used, mut seen) = (0u64, 0);
        let mut folders = vec![self.path.clone()];
        while let Some(folder) = folders.pop() {
            // What vanishes or closes while it is looked at takes no space here, or is seen the next time.
            let Ok(listed) = fs::read_dir(&folder) else { continue };
            for entry in listed.flatten() {
                let Ok(metadata) = entry.metadata() else { continue };
                seen += 1;
                used += metadata.blocks() * 512;
                if seen > entries || used > bytes {
                    return true;
                }
                if metadata.is_dir() {
                    folders.push(entry.path());
                }
            }
        }
        false
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // The program is dead, and its folder's shape is its last attack: folders without rights, and nested deeper than a path
        // or a stack is long. What cannot be taken away stays in the temporary folder, where the system cleans up.
        if fs::remove_dir_all(self.folder.path()).is_err() {
            let _ = flatten(&self.path);
        }
    }
}

/// Empties a folder of any depth, by paths of two steps only: what lies in a folder below comes up here first.
fn flatten(root: &Path) -> io::Result<()> {
    let mut moved = 0u64;
    loop {
        let mut found = false;
        for entry in fs::read_dir(root)? {
            found = true;
            let path = entry?.path();
            if !fs::symlink_metadata(&path)?.is_dir() {
                fs::remove_file(&path)?;
                continue;
            }
            fs::set_permissions(&path, PermissionsExt::from_mode(0o700))?;
            for below in fs::read_dir(&path)? {
                let below = below?.path();
                if fs::symlink_metadata(&below)?.is_dir() {
                    // To move a folder is to write in it.
                    fs::set_permissions(&below, PermissionsExt::from_mode(0o700))?;
                    let name = loop {
                        moved += 1;
                        let name = root.join(format!("moved-{moved}"));
                        if fs::symlink_metadata(&name).is_err() {
                            break name;
                        }
                    };
                    fs::rename(&below, name)?;
                } else {
                    fs::remove_file(&below)?;
                }
            }
            fs::remove_dir(&path)?;
        }
        if !found {
            return fs::remove_dir(root);
        }
    }
}

#[cfg(test)]
mod tests {
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
