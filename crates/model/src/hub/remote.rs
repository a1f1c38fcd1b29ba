//! A repository on the hub, fetched file by file into the cache.
//!
//! `hf-hub` resumes: bytes go to `blobs/ETAG.part`, and a request for the rest is appended. Around it stand the cases that
//! it gets wrong: its own retries start again from byte 0 when a resumed connection breaks before its first byte, and then
//! append the whole file to the part; a complete part is asked for byte N of N, which every server refuses; a file that
//! came short or long is kept; and a file whose contents are in the cache from another commit is fetched again.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use hf_hub::{
    Cache, Repo, RepoType,
    api::sync::{Api, ApiBuilder, ApiError, ApiRepo},
};

use super::{
    Hub, Progress, Source,
    name::{HubName, is_safe_path},
};

/// Breaks in a row, without a byte between them, after which a download is given up.
const MAX_BREAKS: u32 = 5;
const FIRST_WAIT: Duration = Duration::from_millis(250);

/// One commit of a repository, and who watches.
pub(super) struct Remote<'a> {
    commit: Commit,
    progress: &'a mut dyn Progress,
}

struct Commit {
    api: Api,
    repo: ApiRepo,
    cache: Cache,
    pinned: Repo,
    named: Repo,
    hash: String,
    files: Vec<String>,
    page: String,
}

impl<'a> Remote<'a> {
    /// Asks the hub which commit the revision means now and what files it has. All files are then taken from that commit,
    /// so that an update in the midst of a download mixes nothing.
    pub(super) fn connect(hub: &Hub, name: &HubName, progress: &'a mut dyn Progress) -> Result<Self, String> {
        let endpoint = hub.endpoint.trim_end_matches('/').to_owned();
        let page = format!("{endpoint}/{}", name.repository);
        let cache = Cache::new(hub.cache.clone());
        let builder = ApiBuilder::from_cache(cache.clone()).with_token(hub.token.clone()).with_endpoint(endpoint);
        let api = builder
            .with_user_agent("dots", env!("CARGO_PKG_VERSION"))
            .build()
            .map_err(|error| explain(&page, &error))?;
        let repo = |revision: &str| Repo::with_revision(name.repository.clone(), RepoType::Model, revision.to_owned());
        let named = repo(&name.revision);
        let info = api.repo(named.clone()).info().map_err(|error| explain(&page, &error))?;
        if info.sha.is_empty() || !info.sha.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(format!("{page} names no commit but {:?}", info.sha));
        }
        let pinned = repo(&info.sha);
        // Files of other names cannot belong to a model and would need care as paths.
        let files = info.siblings.into_iter().map(|file| file.rfilename).filter(|file| is_safe_path(file)).collect();
        let repo = api.repo(pinned.clone());
        Ok(Self { commit: Commit { api, repo, cache, pinned, named, hash: info.sha, files, page }, progress })
    }

    /// Notes the commit under the revision's name, now that its files are there: the cache is then enough by itself.
    pub(super) fn finish(self) -> Result<(), String> {
        let Commit { cache, named, hash, .. } = self.commit;
        cache.repo(named).create_ref(&hash).map_err(|error| format!("{}: {error}", cache.path().display()))
    }
}

impl Commit {
    /// Gets `file` once, going on where an earlier attempt ended.
    fn attempt(&self, file: &str, pointer: &Path, watch: Watch<'_>) -> Result<(), ApiError> {
        let metadata = self.api.metadata(&self.repo.url(file))?;
        let (etag, size) = (metadata.etag(), metadata.size() as u64);
        // Both become paths.
        if !is_safe_path(etag) || etag.contains('/') {
            return Err(ApiError::InvalidHeader("etag"));
        }
        if metadata.commit_hash() != self.hash {
            return Err(ApiError::InvalidHeader("x-repo-commit"));
        }
        let blob = self.cache.repo(self.pinned.clone()).blob_path(etag);
        if length(&blob) == Some(size) {
            return Ok(link(&blob, pointer, file)?);
        }
        let part = blob.with_extension("part");
        match length(&part) {
            Some(bytes) if bytes > size => std::fs::remove_file(&part)?,
            // One byte is left to ask for.
            Some(bytes) if bytes == size && size > 0 => {
                std::fs::OpenOptions::new().write(true).open(&part)?.set_len(size - 1)?;
            }
            _ => (),
        }
        let fetched = self.repo.download_with_progress(file, watch)?;
        if length(&fetched) != Some(size) {
            std::fs::remove_file(&fetched)?;
            std::fs::remove_file(&blob)?;
            let reason = format!("{file} came with another length than {size} bytes");
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, reason).into());
        }
        Ok(())
    }
}

impl Source for Remote<'_> {
    fn files(&self) -> &[String] {
        &self.commit.files
    }

    fn get(&mut self, file: &str) -> Result<PathBuf, String> {
        let commit = &self.commit;
        if !commit.files.iter().any(|other| other == file) {
            return Err(format!("{} has no {file}", commit.page));
        }
        let pointer = commit.cache.repo(commit.pinned.clone()).pointer_path(&commit.hash).join(file);
        if pointer.exists() {
            return Ok(pointer);
        }
        let mut fetched = Fetched { file: file.to_owned(), ..Fetched::default() };
        let mut breaks = 0;
        loop {
            let before = fetched.bytes;
            let watch = Watch { progress: &mut *self.progress, fetched: &mut fetched, total: None };
            let Err(error) = commit.attempt(file, &pointer, watch) else { return Ok(pointer) };
            breaks = if fetched.bytes > before { 1 } else { breaks + 1 };
            if is_final(&error) || breaks > MAX_BREAKS {
                return Err(format!("{file}: {}", explain(&commit.page, &error)));
            }
            tracing::warn!("{file}: {error}; going on");
            std::thread::sleep(FIRST_WAIT * 2_u32.pow(breaks - 1));
        }
    }
}

/// How far a file has come, over all attempts.
#[derive(Default)]
struct Fetched {
    file: String,
    started: bool,
    bytes: u64,
}

/// One attempt's progress as `hf-hub` tells it: the size, then the bytes that were there, then those that come.
struct Watch<'a> {
    progress: &'a mut dyn Progress,
    fetched: &'a mut Fetched,
    /// The size, until the bytes that were there are known.
    total: Option<u64>,
}

impl hf_hub::api::Progress for Watch<'_> {
    fn init(&mut self, size: usize, _file: &str) {
        self.total = Some(size as u64);
    }

    fn update(&mut self, bytes: usize) {
        let bytes = bytes as u64;
        match self.total.take() {
            None => {
                self.fetched.bytes += bytes;
                self.progress.advance(bytes);
            }
            Some(total) if !self.fetched.started => {
                self.fetched.started = true;
                self.progress.start(&self.fetched.file, total, bytes);
            }
            Some(_) => (), // what an earlier attempt has told
        }
    }

    fn finish(&mut self) {
        self.progress.finish();
    }
}

/// Whether another attempt would end as this one did.
fn is_final(error: &ApiError) -> bool {
    match error {
        ApiError::RequestError(error) => match **error {
            ureq::Error::StatusCode(status) => (400..500).contains(&status) && !matches!(status, 408 | 429),
            ureq::Error::Io(_) | ureq::Error::Timeout(_) | ureq::Error::HostNotFound => false,
            _ => true,
        },
        ApiError::IoError(error) => {
            use std::io::ErrorKind::{NotFound, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
            matches!(error.kind(), NotFound | PermissionDenied | QuotaExceeded | ReadOnlyFilesystem | StorageFull)
        }
        _ => true,
    }
}

/// What went wrong, and what to do.
fn explain(page: &str, error: &ApiError) -> String {
    match error {
        ApiError::RequestError(request) => match **request {
            ureq::Error::StatusCode(401 | 403) => {
                format!(
                    "{page} is private or gated: accept its terms there, and set HF_TOKEN to a token that may read it"
                )
            }
            ureq::Error::StatusCode(404) => {
                format!("{page} has no such repository or revision, or shows it only to those who set HF_TOKEN")
            }
            _ => format!("{page}: {request}; run this again to go on where it stopped"),
        },
        ApiError::LockAcquisition(path) => {
            format!("another process is fetching it (it holds {}); wait for that one", path.display())
        }
        _ => format!("{page}: {error}; run this again to go on where it stopped"),
    }
}

fn length(path: &Path) -> Option<u64> {
    std::fs::metadata(path).ok().map(|metadata| metadata.len())
}

/// Makes `pointer`, the place of `file` in a snapshot, lead to `blob`, which is in the cache already.
fn link(blob: &Path, pointer: &Path, file: &str) -> std::io::Result<()> {
    if let Some(folder) = pointer.parent() {
        std::fs::create_dir_all(folder)?;
    }
    // Relative, so that a cache may be moved: out of the file's folders, the commit's and `snapshots`.
    #[cfg(unix)]
    {
        let up = "../".repeat(file.split('/').count() + 1);
        let name = blob.file_name().unwrap_or_default();
        std::os::unix::fs::symlink(Path::new(&up).join("blobs").join(name), pointer)
    }
    #[cfg(not(unix))]
    {
        let _ = file;
        std::fs::hard_link(blob, pointer)
    }
}
