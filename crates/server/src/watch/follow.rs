//! One run's folder, followed on a thread of its own.

use std::{
    io::Read,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, SystemTime},
};

use serde_json::{Map, Value, json};
use tokio::sync::watch;

use super::{
    line::{MAX_LINE_BYTES, parse, shortened},
    record::Record,
    tail::{Read1, Seen, Tail, open},
    view::{self, Detail, Told},
};

/// Between two looks at a file that has not grown.
const PAUSE: Duration = Duration::from_millis(500);

/// Most that is shown of `run.json` and of `recipe.toml`.
const SHOWN_BYTES: u64 = 256 << 10;

/// A run whose last line is younger is taken to be running where nobody can say who holds its lock.
const YOUNG: Duration = Duration::from_secs(60);

/// One run.
pub struct Run {
    folder: PathBuf,
    pub name: String,
    inner: Mutex<Inner>,
}

struct Inner {
    tail: Tail,
    record: Record,
    /// Changes when what was read counts no more.
    epoch: u64,
    bytes: u64,
    modified: Option<SystemTime>,
    is_locked: bool,
    lineage: Value,
    recipe: Value,
    folder_version: u64,
    /// Why the file cannot be read.
    trouble: Option<String>,
}

impl Run {
    pub fn new(folder: &Path) -> Self {
        let name =
            folder.canonicalize().ok().and_then(|folder| Some(folder.file_name()?.to_string_lossy().into_owned()));
        let tail = Tail::new(folder.join("metrics.jsonl"), MAX_LINE_BYTES);
        let inner = Inner {
            tail,
            record: Record::default(),
            epoch: 0,
            bytes: 0,
            modified: None,
            is_locked: false,
            lineage: Value::Null,
            recipe: Value::Null,
            folder_version: 0,
            trouble: None,
        };
        Self {
            folder: folder.to_owned(),
            name: shortened(&name.unwrap_or_else(|| folder.display().to_string()), 120),
            inner: Mutex::new(inner),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads a piece; whether there may be more.
    fn read(&self) -> (bool, bool) {
        let mut inner = self.inner();
        let Inner { tail, record, .. } = &mut *inner;
        let seen = tail.read(|line| match line {
            Read1::Line(line) => record.take(parse(line)),
            Read1::TooLong => record.take(Err(format!("longer than {MAX_LINE_BYTES} bytes"))),
        });
        let trouble = seen.as_ref().err().map(ToString::to_string);
        let is_new = trouble != inner.trouble;
        inner.trouble = trouble;
        match seen {
            Ok(Seen::More) => (true, true),
            Ok(Seen::Anew) => {
                (inner.record, inner.epoch) = (Record::default(), inner.epoch + 1);
                (true, true)
            }
            Ok(Seen::Same | Seen::Nothing) | Err(_) => (false, is_new),
        }
    }

    /// Looks at what lies beside the metrics; whether something changed.
    fn look(&self) -> bool {
        let metadata = std::fs::metadata(self.folder.join("metrics.jsonl")).ok();
        let is_locked = is_locked(&self.folder.join("lock"));
        let text = |name: &str| {
            let mut text = String::new();
            open(&self.folder.join(name)).ok()??.take(SHOWN_BYTES).read_to_string(&mut text).ok()?;
            Some(text)
        };
        let lineage = text("run.json").and_then(|text| serde_json::from_str(&text).ok()).unwrap_or(Value::Null);
        let recipe = text("recipe.toml").map_or(Value::Null, Value::from);
        let mut inner = self.inner();
        let before = (inner.is_locked, inner.folder_version);
        inner.bytes = metadata.as_ref().map_or(0, std::fs::Metadata::len);
        inner.modified = metadata.and_then(|metadata| metadata.modified().ok());
        inner.is_locked = is_locked;
        if (&lineage, &recipe) != (&inner.lineage, &inner.recipe) {
            (inner.lineage, inner.recipe) = (lineage, recipe);
            inner.folder_version += 1;
        }
        before != (inner.is_locked, inner.folder_version)
    }

    /// Reads all that there is now.
    pub fn read_all(&self) {
        self.look();
        while self.read().0 {}
    }

    /// What a page with this behind it does not know yet.
    pub fn news(&self, told: &mut Told, detail: Detail) -> Map<String, Value> {
        let inner = self.inner();
        let is_anew = told.begins(inner.epoch);
        let mut news = view::news(&inner.record, told, detail);
        let mut head = view::head(&inner.record);
        let age = inner.modified.and_then(|modified| modified.elapsed().ok());
        let is_young = age.is_some_and(|age| age < YOUNG);
        let state = match (&inner.record.error, inner.is_locked || is_young) {
            _ if inner.record.lines == 0 && inner.bytes == 0 => "waiting",
            (Some(_), _) => "failed",
            (None, true) => "running",
            (None, false) => "stopped",
        };
        head.insert("state".to_owned(), json!(state));
        head.insert("age".to_owned(), json!(age.map(|age| age.as_secs())));
        head.insert("read".to_owned(), json!([inner.tail.offset(), inner.bytes]));
        head.insert("trouble".to_owned(), json!(inner.trouble));
        news.insert("head".to_owned(), Value::Object(head));
        news.insert("name".to_owned(), json!(self.name));
        news.insert("anew".to_owned(), json!(is_anew));
        if told.wants_folder(inner.folder_version) {
            news.insert("lineage".to_owned(), inner.lineage.clone());
            news.insert("recipe".to_owned(), inner.recipe.clone());
        }
        news
    }

    /// What lies between two steps.
    pub fn between(&self, from: u64, to: u64) -> Map<String, Value> {
        view::between(&self.inner().record, from, to, view::LIVE)
    }
}

/// Follows a run until nobody holds it any more; counts up for each change.
pub fn follow(run: &Weak<Run>, version: &watch::Sender<u64>) {
    while let Some(run) = run.upgrade() {
        let looked = run.look();
        let (is_more, is_new) = run.read();
        drop(run);
        if looked || is_new {
            version.send_modify(|version| *version += 1);
        }
        if !is_more {
            std::thread::sleep(PAUSE);
        }
    }
}

/// Whether a process holds the lock. The system is asked for its list: to try the lock would be to hold it for a moment, in
/// which a run that starts would find it taken.
#[cfg(target_os = "linux")]
fn is_locked(lock: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let Ok(inode) = std::fs::metadata(lock).map(|metadata| metadata.ino()) else { return false };
    let mut locks = String::new();
    let Ok(file) = std::fs::File::open("/proc/locks") else { return false };
    // Device numbers there are not always those that `stat` tells, so the file's number has to do.
    let end = format!(":{inode}");
    file.take(1 << 20).read_to_string(&mut locks).is_ok()
        && locks
            .lines()
            .any(|line| line.split_whitespace().any(|word| word.matches(':').count() == 2 && word.ends_with(&end)))
}

#[cfg(not(target_os = "linux"))]
fn is_locked(_lock: &Path) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_told_as_its_folder_has_it() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("run.json"), r#"{"parent":"a"}"#).unwrap();
        let run = Run::new(folder.path());
        run.read_all();
        let mut told = Told::default();
        let news = run.news(&mut told, view::LIVE);
        assert_eq!((&news["head"]["state"], &news["lineage"]["parent"]), (&json!("waiting"), &json!("a")));
        std::fs::write(folder.path().join("metrics.jsonl"), "{\"step\":1,\"loss\":2}\n{\"step\":2,\"er").unwrap();
        run.read_all();
        let news = run.news(&mut told, view::LIVE);
        assert_eq!((&news["head"]["state"], &news["head"]["step"]), (&json!("running"), &json!(1)));
        assert!(news.get("lineage").is_none(), "it was told");
        std::fs::write(folder.path().join("metrics.jsonl"), "{\"step\":1,\"error\":\"x\"}\n").unwrap();
        run.read_all();
        let news = run.news(&mut told, view::LIVE);
        assert_eq!((&news["head"]["state"], &news["anew"]), (&json!("failed"), &json!(true)));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_held_lock_is_seen_without_being_taken() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        assert!(!is_locked(&path));
        let file = std::fs::File::create(&path).unwrap();
        assert!(!is_locked(&path));
        file.try_lock().unwrap();
        assert!(is_locked(&path));
        drop(file);
        assert!(!is_locked(&path));
    }
}
