//! What was sampled, problem by problem, as it comes: a line of JSON each, behind one that says of what.

use std::{
    collections::{HashMap, HashSet},
    fs::{File, OpenOptions, TryLockError},
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Problem, Progress};
use crate::{DataError, verify::Verdict};

/// Longest line: all answers to one problem.
const MAX_LINE_BYTES: u64 = 1 << 30;

/// One answer with its verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// What was found about it.
    pub verdict: Verdict,
    /// Tokens of it.
    pub tokens: usize,
    /// What it says.
    pub text: String,
}

/// A problem that is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// Its line.
    pub line: u64,
    /// Its answers, in the order of their seeds.
    pub samples: Vec<Sample>,
}

impl Done {
    /// How many were accepted.
    pub fn accepted(&self) -> usize {
        self.samples.iter().filter(|sample| sample.verdict == Verdict::Accepted).count()
    }
}

/// The journal, open and locked against a second program.
pub struct Journal {
    path: PathBuf,
    file: File,
    /// Where each problem's line begins.
    places: HashMap<u64, u64>,
    end: u64,
    progress: Progress,
}

impl Journal {
    /// Opens or begins it. A last line that was cut short is cut off.
    pub fn open(path: &Path, identity: &Value, problems: &[Problem], samples: usize) -> Result<Self, DataError> {
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let file = open.map_err(DataError::io(path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(DataError::Refused(format!("{}: another program samples into it", path.display())));
            }
            Err(TryLockError::Error(error)) => return Err(DataError::io(path)(error)),
        }
        let mut journal =
            Self { path: path.to_owned(), file, places: HashMap::new(), end: 0, progress: Progress::default() };
        journal.read_all(identity, problems, samples)?;
        Ok(journal)
    }

    fn read_all(&mut self, identity: &Value, problems: &[Problem], samples: usize) -> Result<(), DataError> {
        let path = self.path.clone();
        let known: HashSet<u64> = problems.iter().map(|problem| problem.line).collect();
        let mut reader = BufReader::new(&self.file);
        let (mut line, mut end, mut number) = (Vec::new(), 0u64, 0u64);
        loop {
            line.clear();
            let read = reader.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut line);
            read.map_err(DataError::io(&path))?;
            // Cut short by whatever ended the program: only a whole line counts.
            if line.last() != Some(&b'\n') {
                break;
            }
            number += 1;
            let place = format!("line {number}");
            if number == 1 {
                let found: Value = serde_json::from_slice(&line)
                    .map_err(|error| DataError::invalid(&path, &place, "what was sampled", error))?;
                differs(&path, identity, &found)?;
            } else {
                let done: Done = serde_json::from_slice(&line)
                    .map_err(|error| DataError::invalid(&path, &place, "a problem with its samples", error))?;
                if !known.contains(&done.line) || done.samples.len() != samples {
                    let found = format!("{} of line {}", done.samples.len(), done.line);
                    return Err(DataError::invalid(&path, place, format!("{samples} samples of a problem"), found));
                }
                if self.places.insert(done.line, end).is_none() {
                    self.progress.problems += 1;
                    self.progress.samples += done.samples.len();
                    self.progress.accepted += done.accepted();
                }
            }
            end += line.len() as u64;
        }
        // A first line that was cut short is the beginning of ours, or somebody's file.
        if number == 0 && !format!("{identity}\n").as_bytes().starts_with(&line) {
            let found = "a file that does not begin so";
            return Err(DataError::invalid(&path, "line 1", format!("what was sampled, {identity}"), found));
        }
        self.end = end;
        self.file.set_len(end).map_err(DataError::io(&path))?;
        if number == 0 {
            self.append(&identity.to_string())?;
        }
        Ok(())
    }

    pub fn progress(&self) -> Progress {
        self.progress
    }

    pub fn has(&self, line: u64) -> bool {
        self.places.contains_key(&line)
    }

    /// Notes a problem.
    pub fn add(&mut self, done: &Done) -> Result<(), DataError> {
        let text = serde_json::to_string(done).map_err(|error| DataError::io(&self.path)(error.into()))?;
        self.places.insert(done.line, self.end);
        self.append(&text)
    }

    /// In one write, so that a line is whole or is the last.
    fn append(&mut self, text: &str) -> Result<(), DataError> {
        let line = format!("{text}\n");
        let written = self.file.seek(SeekFrom::Start(self.end)).and_then(|_| self.file.write_all(line.as_bytes()));
        written.map_err(DataError::io(&self.path))?;
        self.end += line.len() as u64;
        Ok(())
    }

    /// What was noted of a problem.
    pub fn read(&mut self, line: u64) -> io::Result<Done> {
        let place = self.places.get(&line).ok_or_else(|| io::Error::other(format!("line {line} is not done")))?;
        self.file.seek(SeekFrom::Start(*place))?;
        let mut text = Vec::new();
        BufReader::new((&self.file).take(MAX_LINE_BYTES)).read_until(b'\n', &mut text)?;
        Ok(serde_json::from_slice(&text)?)
    }
}

/// Refuses a journal of something else, and says of what.
fn differs(path: &Path, expected: &Value, found: &Value) -> Result<(), DataError> {
    if expected == found {
        return Ok(());
    }
    let key = expected.as_object().and_then(|keys| keys.iter().find(|(key, value)| found.get(key) != Some(value)));
    let (key, value) = key.map_or(("", expected), |(key, value)| (key.as_str(), value));
    let found = found.get(key).unwrap_or(found);
    Err(DataError::Refused(format!(
        "{}: {key}: expected {value}, as asked for, found {found}, of which its samples are; name another --out, or take the file away",
        path.display()
    )))
}
