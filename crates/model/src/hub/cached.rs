//! What the cache holds of a repository.

use std::path::{Path, PathBuf};

use super::{
    Source,
    layout::Layout,
    name::{HubName, is_file_name},
};

/// Folders within a snapshot are read to this depth.
const MAX_DEPTH: usize = 3;

/// One commit's files, as far as they are there.
pub(super) struct Cached {
    folder: PathBuf,
    files: Vec<String>,
}

impl Cached {
    /// The commit that the revision meant when it was fetched, or the one that it is.
    pub(super) fn new(cache: &Path, name: &HubName) -> Result<Self, String> {
        let layout = Layout::new(cache, &name.repository);
        let commit = layout.commit_of(&name.revision).filter(|commit| is_file_name(commit));
        let folder = layout.snapshot(commit.as_deref().unwrap_or(&name.revision));
        if !folder.is_dir() {
            return Err(format!("{} of it is not in the cache at {}", name.revision, cache.display()));
        }
        let mut files = Vec::new();
        list(&folder, "", MAX_DEPTH, &mut files);
        Ok(Self { folder, files })
    }
}

impl Source for Cached {
    fn files(&self) -> &[String] {
        &self.files
    }

    fn get(&mut self, file: &str) -> Result<PathBuf, String> {
        let path = self.folder.join(file);
        match path.exists() {
            true => Ok(path),
            false => Err(format!("{file} is not in the cache")),
        }
    }
}

fn list(folder: &Path, prefix: &str, depth: usize, files: &mut Vec<String>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        let (path, name) = (entry.path(), format!("{prefix}{name}"));
        if path.is_file() {
            files.push(name);
        } else if depth > 0 && path.is_dir() {
            list(&path, &format!("{name}/"), depth - 1, files);
        }
    }
}
