//! A repository on the hub, fetched file by file into the cache.
//!
//! No answer of the hub is trusted twice: a file's name in the cache and its size come from one answer, which is checked
//! (`wanted`), and its bytes must fit them. What is there of a file is never asked for again, whether this run or an earlier
//! one was broken off, unless its hash says that it is not the file's.

use std::{
    io::Read,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;
use ureq::http::Method;

use super::{
    Hub, Progress, Source,
    client::{Client, OTHER_HUB, shown},
    failure::Failure,
    layout::{Layout, link},
    name::{HubName, is_file_name, is_safe_path},
    part::{BUFFER_BYTES, Lock, Part},
    wanted::Wanted,
};

/// Breaks in a row, without a byte between them, after which a download is given up.
const MAX_BREAKS: u32 = 5;
const FIRST_WAIT: Duration = Duration::from_millis(250);
/// A listing of 200,000 files.
const LISTING_LIMIT_BYTES: u64 = 32 << 20;

/// One commit of a repository, and who watches.
pub(super) struct Remote<'a> {
    client: Client,
    layout: Layout,
    revision: String,
    commit: String,
    files: Vec<String>,
    progress: &'a mut dyn Progress,
}

/// What the hub says of a revision, as far as it is needed.
#[derive(Deserialize)]
struct Listing {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

impl<'a> Remote<'a> {
    /// Asks the hub which commit the revision means now and what files it has. All files are then taken from that commit,
    /// so that an update in the midst of a download mixes nothing.
    pub(super) fn connect(hub: &Hub, name: &HubName, progress: &'a mut dyn Progress) -> Result<Self, String> {
        let endpoint = hub.endpoint.trim_end_matches('/');
        let client = Client::new(hub, format!("{endpoint}/{}", name.repository))?;
        let revision = name.revision.replace('/', "%2F");
        let address = format!("{endpoint}/api/models/{}/revision/{revision}", name.repository);
        let listing = list(&client, &address).map_err(|failure| match failure {
            Failure::Break(reason) => format!("{reason}; run this again once the hub can be reached"),
            Failure::Damaged(reason) | Failure::Final(reason) => reason,
        })?;
        let commit = listing.sha;
        if !is_file_name(&commit) || !commit.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(format!("{} names no commit but {}", client.page(), shown(&commit)));
        }
        // Files of other names cannot belong to a model and would need care as paths.
        let files = listing.siblings.into_iter().map(|file| file.rfilename).filter(|file| is_safe_path(file)).collect();
        let layout = Layout::new(&hub.cache, &name.repository);
        Ok(Self { client, layout, revision: name.revision.clone(), commit, files, progress })
    }

    /// Notes the commit under the revision's name, now that its files are there: the cache is then enough by itself.
    pub(super) fn finish(self) -> Result<(), String> {
        self.layout.note(&self.revision, &self.commit).map_err(|(path, error)| format!("{}: {error}", path.display()))
    }

    /// Asks what `file` is, again where the connection breaks.
    fn ask(&self, file: &str) -> Result<Wanted, Failure> {
        let mut patience = Patience::default();
        loop {
            let address = format!("{}/resolve/{}/{file}", self.client.page(), self.commit);
            match Wanted::ask(&self.client, address, &self.commit) {
                Err(Failure::Break(reason)) => patience.wait(file, reason, 0)?,
                asked => return asked,
            }
        }
    }

    /// Brings the contents of `file` to `blob`, going on where an earlier run or a broken connection ended.
    fn fetch(&mut self, file: &str, wanted: &Wanted, blob: &Path) -> Result<(), Failure> {
        let mut part = Part::open(self.layout.part(&wanted.etag), file, wanted, self.progress)?;
        let mut patience = Patience { farthest: part.bytes(), ..Patience::default() };
        self.progress.start(file, wanted.size, part.bytes());
        loop {
            let fetched = self.receive(file, wanted, &mut part).and_then(|()| part.keep(wanted, blob));
            match fetched {
                Err(Failure::Break(reason)) => patience.wait(file, reason, part.bytes())?,
                Err(Failure::Damaged(reason)) if part.is_inherited() => {
                    tracing::warn!("{file}: {reason}; what an earlier run left of it is fetched anew");
                    patience = Patience::default();
                    self.restart(file, wanted, &mut part)?;
                }
                Err(Failure::Damaged(reason)) => {
                    part.discard();
                    return Err(Failure::Final(format!("{reason}; nothing of it was kept: {OTHER_HUB}")));
                }
                Err(failure) => return Err(failure),
                Ok(()) => {
                    self.progress.finish();
                    return Ok(());
                }
            }
        }
    }

    /// Asks once for what `part` lacks.
    fn receive(&mut self, file: &str, wanted: &Wanted, part: &mut Part) -> Result<(), Failure> {
        if part.bytes() == wanted.size {
            return Ok(());
        }
        let start = part.bytes();
        let answer = self.client.ask(&Method::GET, &wanted.address, Some(&format!("bytes={start}-")), |_| false)?;
        let (first, end) = wanted.check(&self.client, &answer, start)?;
        if first < start {
            self.restart(file, wanted, part)?;
        }
        let mut body = answer.into_body().into_reader();
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let read = match body.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) => return Err(Failure::Break(format!("{}: {error}", self.client.page()))),
            };
            if read as u64 > end - part.bytes() {
                let reason = format!("{}: expected {end} bytes, found more", self.client.page());
                return Err(Failure::Damaged(reason));
            }
            part.append(&buffer[..read])?;
            self.progress.advance(read as u64);
        }
        match part.bytes() == wanted.size {
            true => Ok(()),
            false => {
                let reason = format!("{}: it ended at byte {} of {}", self.client.page(), part.bytes(), wanted.size);
                Err(Failure::Break(reason))
            }
        }
    }

    fn restart(&mut self, file: &str, wanted: &Wanted, part: &mut Part) -> Result<(), Failure> {
        part.restart()?;
        self.progress.start(file, wanted.size, 0);
        Ok(())
    }

    /// Makes `pointer` lead to the contents of `file`, fetched where no other commit had them.
    fn bring(&mut self, file: &str, pointer: &Path) -> Result<(), Failure> {
        let wanted = self.ask(file)?;
        let blob = self.layout.blob(&wanted.etag);
        let io = |error: std::io::Error| Failure::io(&blob, &error);
        if let Some(folder) = blob.parent() {
            std::fs::create_dir_all(folder).map_err(io)?;
        }
        let _lock = Lock::take(&self.layout.lock(&wanted.etag))?;
        if length(&blob) != Some(wanted.size) {
            self.fetch(file, &wanted, &blob)?;
        }
        link(&blob, pointer, file).map_err(|error| Failure::io(pointer, &error))
    }
}

impl Source for Remote<'_> {
    fn files(&self) -> &[String] {
        &self.files
    }

    fn get(&mut self, file: &str) -> Result<PathBuf, String> {
        if !self.files.iter().any(|other| other == file) {
            return Err(format!("{} has no {file}", self.client.page()));
        }
        let pointer = self.layout.snapshot(&self.commit).join(file);
        if !pointer.exists() {
            self.bring(file, &pointer).map_err(|failure| match failure {
                Failure::Break(reason) => format!("{file}: {reason}; run this again to go on where it stopped"),
                Failure::Damaged(reason) | Failure::Final(reason) => format!("{file}: {reason}"),
            })?;
        }
        Ok(pointer)
    }
}

/// How often a connection broke since it last brought something new.
#[derive(Default)]
struct Patience {
    breaks: u32,
    /// The most bytes that were there at a break. Bytes that came again, as from a server without ranges, are no progress.
    farthest: u64,
}

impl Patience {
    /// Waits before another attempt, or gives up with `reason`.
    fn wait(&mut self, file: &str, reason: String, bytes: u64) -> Result<(), Failure> {
        self.breaks = if bytes > self.farthest { 1 } else { self.breaks + 1 };
        self.farthest = self.farthest.max(bytes);
        if self.breaks > MAX_BREAKS {
            return Err(Failure::Break(reason));
        }
        tracing::warn!("{file}: {reason}; going on");
        std::thread::sleep(FIRST_WAIT * 2_u32.pow(self.breaks - 1));
        Ok(())
    }
}

fn list(client: &Client, address: &str) -> Result<Listing, Failure> {
    let answer = client.ask(&Method::GET, address, None, |_| false)?;
    let text = answer.into_body().into_with_config().limit(LISTING_LIMIT_BYTES).read_to_vec();
    let text = text.map_err(|error| match error {
        ureq::Error::BodyExceedsLimit(limit) => client.wrong("listing", &format!("at most {limit} bytes"), "more"),
        error => Failure::Break(format!("{}: {error}", client.page())),
    })?;
    serde_json::from_slice(&text)
        .map_err(|error| client.wrong("listing", "JSON with sha and siblings", &error.to_string()))
}

fn length(path: &Path) -> Option<u64> {
    std::fs::metadata(path).ok().map(|metadata| metadata.len())
}
