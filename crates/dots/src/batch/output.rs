//! The answers of a batch: each is in the file, whole, before the next.

use std::{
    collections::HashSet,
    fs::{File, OpenOptions, TryLockError},
    hash::{BuildHasher, RandomState},
    io::{self, BufRead, BufReader, Seek, SeekFrom, Write},
    path::Path,
};

use anyhow::{anyhow, bail};
use serde_json::{Value, json};

use super::input::Refused;

/// Names of requests. Only their hashes are kept, 16 bytes each.
#[derive(Default)]
pub struct Names {
    keys: [RandomState; 2],
    hashes: HashSet<(u64, u64)>,
}

impl Names {
    /// Whether `name` is new.
    pub fn insert(&mut self, name: &str) -> bool {
        self.hashes.insert(self.keys.each_ref().map(|key| key.hash_one(name)).into())
    }

    /// Whether `name` was there.
    pub fn contains(&self, name: &str) -> bool {
        self.hashes.contains(&self.keys.each_ref().map(|key| key.hash_one(name)).into())
    }
}

/// A file of answers, open for more.
pub struct Output {
    file: File,
    /// What was answered before: a `custom_id`, or for a line that has none the answer's own `id`.
    pub done: Names,
    /// How many these are.
    pub done_count: usize,
}

impl Output {
    /// Opens the file, or makes it. Half an answer at its end is taken off: whoever wrote it was stopped. A file that ends in
    /// anything else is somebody's, and left as it is.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(path)
            .map_err(|error| anyhow!("{shown}: {error}"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => bail!("{shown}: another run is writing it"),
            // Some file systems have no locks; the file is as good without.
            Err(TryLockError::Error(error)) => tracing::warn!(%error, "{shown}: no lock"),
        }
        let stranger = |line: usize| {
            anyhow!(
                "{shown}: line {line}: expected an answer in OpenAI's batch format, found something else; name another file \
                 for the answers"
            )
        };
        let mut done = Names::default();
        let mut done_count = 0;
        let mut whole_bytes = 0;
        let mut reader = BufReader::new(&mut file);
        let mut line = Vec::new();
        loop {
            line.clear();
            let length = reader.read_until(b'\n', &mut line).map_err(|error| anyhow!("{shown}: {error}"))?;
            if !line.ends_with(b"\n") {
                break;
            }
            whole_bytes += length as u64;
            done_count += 1;
            done.insert(&name(&line).ok_or_else(|| stranger(done_count))?);
        }
        if !line.is_empty() {
            if !is_half_an_answer(&line) {
                return Err(stranger(done_count + 1));
            }
            file.set_len(whole_bytes).map_err(|error| anyhow!("{shown}: {error}"))?;
        }
        file.seek(SeekFrom::End(0)).map_err(|error| anyhow!("{shown}: {error}"))?;
        Ok(Self { file, done, done_count })
    }

    /// Adds an answer.
    pub fn add(&mut self, line: &Line) -> io::Result<()> {
        // One write, so that a run that is stopped leaves at most this line half.
        self.file.write_all(format!("{}\n", line.0).as_bytes())
    }

    /// Waits until all of it is on the disk.
    pub fn finish(self) -> io::Result<()> {
        self.file.sync_all()
    }
}

/// Whether what a file ends in is the beginning of a line as [`Line`] writes it.
fn is_half_an_answer(tail: &[u8]) -> bool {
    let beginning = LINE_BEGINNING.as_bytes();
    tail.starts_with(beginning) || beginning.starts_with(tail)
}

fn name(line: &[u8]) -> Option<String> {
    let value: Value = serde_json::from_slice(line).ok()?;
    let text = |name: &str| Some(value.get(name)?.as_str()?.to_owned());
    text("custom_id").or_else(|| text("id"))
}

/// How each line begins.
const LINE_BEGINNING: &str = "{\"id\":\"batch_req_";

/// One answer in OpenAI's format.
pub struct Line(Value);

/// The name of the answer to a line.
pub fn id(line: usize) -> String {
    format!("batch_req_{line}")
}

impl Line {
    /// What the server said to the request `custom_id` of `line`.
    pub fn answered(line: usize, custom_id: &str, status: u16, body: &[u8]) -> Self {
        let body: Value =
            serde_json::from_slice(body).unwrap_or_else(|_| Value::String(String::from_utf8_lossy(body).into_owned()));
        let id = id(line);
        let response = json!({"status_code": status, "request_id": id, "body": body});
        Self(json!({"id": id, "custom_id": custom_id, "response": response, "error": null}))
    }

    /// Why a line is no request.
    pub fn refused(refused: &Refused) -> Self {
        let error = json!({"code": refused.code, "message": refused.message});
        Self(json!({"id": id(refused.line), "custom_id": null, "response": null, "error": error}))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_an_answer_is_taken_off_and_whole_ones_stay() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.jsonl");
        let mut output = Output::open(&path).unwrap();
        output.add(&Line::answered(1, "a", 200, b"{\"x\": 1}")).unwrap();
        output.add(&Line::refused(&Refused { line: 2, code: "c", message: "m".into() })).unwrap();
        output.finish().unwrap();
        let whole = std::fs::read(&path).unwrap();
        for cut in 0..whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let output = Output::open(&path).unwrap();
            let lines = whole[..cut].iter().filter(|&&byte| byte == b'\n').count();
            assert_eq!(output.done_count, lines);
            assert_eq!(output.done.contains("a"), lines > 0);
            let left = std::fs::read(&path).unwrap();
            assert!(whole.starts_with(&left) && (left.is_empty() || left.ends_with(b"\n")));
        }
        std::fs::write(&path, &whole).unwrap();
        assert!(Output::open(&path).unwrap().done.contains("batch_req_2"));
    }

    #[test]
    fn a_file_of_something_else_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notes.txt");
        std::fs::write(&path, "my notes\nand more").unwrap();
        let error = Output::open(&path).err().unwrap().to_string();
        assert!(error.contains("notes.txt: line 1: expected an answer"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"my notes\nand more");
        for tail in ["my notes", "{", "{\"id\":\"batch_req_1\"}\nand more", "{\"id\":\"chatcmpl-1\""] {
            std::fs::write(&path, tail).unwrap();
            let opened = Output::open(&path);
            if tail == "{" {
                // What an answer begins with, too.
                assert!(opened.is_ok());
                continue;
            }
            let error = opened.err().unwrap().to_string();
            assert!(error.contains("expected an answer in OpenAI's batch format"), "{tail}: {error}");
            assert_eq!(std::fs::read(&path).unwrap(), tail.as_bytes());
        }
    }

    #[test]
    fn two_runs_do_not_write_one_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.jsonl");
        let _first = Output::open(&path).unwrap();
        assert!(Output::open(&path).err().unwrap().to_string().contains("another run"));
    }
}
