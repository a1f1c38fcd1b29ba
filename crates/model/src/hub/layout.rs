//! Where a cache keeps what: the layout of `huggingface_hub` for Python, so that either finds what the other fetched.
//!
//! Contents lie once under `blobs/ETAG`; `snapshots/COMMIT/` holds a commit's files as links to them, and `refs/REVISION`
//! says which commit a branch or a tag meant. A file on its way is `blobs/ETAG.part`, held by `blobs/ETAG.lock`: these two
//! are as the Rust crate `hf-hub` has them, with which other programs fill the same cache.

use std::{
    io,
    path::{Path, PathBuf},
};

/// One repository's folder in the cache. What it makes paths of must be safe as such.
pub(super) struct Layout {
    folder: PathBuf,
}

impl Layout {
    pub(super) fn new(cache: &Path, repository: &str) -> Self {
        Self { folder: cache.join(format!("models--{}", repository.replace('/', "--"))) }
    }

    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    pub(super) fn blob(&self, etag: &str) -> PathBuf {
        self.folder.join("blobs").join(etag)
    }

    pub(super) fn part(&self, etag: &str) -> PathBuf {
        self.blob(&format!("{etag}.part"))
    }

    pub(super) fn lock(&self, etag: &str) -> PathBuf {
        self.blob(&format!("{etag}.lock"))
    }

    /// The commit that `revision` meant when it was last noted.
    pub(super) fn commit_of(&self, revision: &str) -> Option<String> {
        let text = std::fs::read_to_string(self.folder.join("refs").join(revision)).ok()?;
        Some(text.trim().to_owned())
    }

    /// Notes that `revision` means `commit`. Says with the error which file it was.
    pub(super) fn note(&self, revision: &str, commit: &str) -> Result<(), (PathBuf, io::Error)> {
        // What needs no note is not written: a cache may be on a disk that cannot be written to.
        if revision == commit || self.commit_of(revision).as_deref() == Some(commit) {
            return Ok(());
        }
        let path = self.folder.join("refs").join(revision);
        // A revision with slashes has folders of its own.
        let folder = path.parent().unwrap_or(&self.folder);
        let aside = self.folder.join(format!("ref.{}.part", std::process::id()));
        let written = std::fs::create_dir_all(folder)
            .and_then(|()| std::fs::write(&aside, commit))
            .and_then(|()| std::fs::rename(&aside, &path));
        written.map_err(|error| (path, error))
    }
}

/// Makes `pointer`, the place of `file` in a snapshot, lead to `blob`.
pub(super) fn link(blob: &Path, pointer: &Path, file: &str) -> io::Result<()> {
    if let Some(folder) = pointer.parent() {
        std::fs::create_dir_all(folder)?;
    }
    // A link whose blob somebody deleted is in the way of the new one.
    if pointer.symlink_metadata().is_ok() && !pointer.exists() {
        std::fs::remove_file(pointer)?;
    }
    match make_link(blob, pointer, file) {
        // Another program made it first.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && pointer.exists() => Ok(()),
        made => made,
    }
}

/// Relative, so that a cache may be moved: out of the file's folders, the commit's and `snapshots`.
#[cfg(unix)]
fn make_link(blob: &Path, pointer: &Path, file: &str) -> io::Result<()> {
    let up = "../".repeat(file.split('/').count() + 1);
    let name = blob.file_name().unwrap_or_default();
    std::os::unix::fs::symlink(Path::new(&up).join("blobs").join(name), pointer)
}

#[cfg(not(unix))]
fn make_link(blob: &Path, pointer: &Path, _file: &str) -> io::Result<()> {
    std::fs::hard_link(blob, pointer)
}
