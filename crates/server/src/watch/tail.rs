//! Follows a file of lines that another program appends to, cuts and writes anew.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::PathBuf,
};

/// Read at once.
const CHUNK_BYTES: usize = 256 << 10;

/// What is compared of the last bytes that were read, to see a file that was cut and has grown past them since.
const SEAM_BYTES: usize = 256;

/// The place up to which a file was read.
pub struct Tail {
    path: PathBuf,
    max_line_bytes: usize,
    /// Where the next byte to read is.
    offset: u64,
    /// The last bytes before it.
    seam: Vec<u8>,
    /// A line whose end has not been written.
    line: Vec<u8>,
    /// Its line is longer than it may be: the rest of it is passed over.
    is_too_long: bool,
}

/// What came of a look at the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// It is not there, or is no file.
    Nothing,
    /// Nothing new.
    Same,
    /// New bytes; there may be more.
    More,
    /// It is another one than before: what was read of it counts no more, and reading begins at its start.
    Anew,
}

/// One line, or the place of one that was too long.
pub enum Read1<'a> {
    /// Without its end.
    Line(&'a [u8]),
    /// Passed over.
    TooLong,
}

impl Tail {
    /// Begins at the file's start, and passes over longer lines.
    pub fn new(path: PathBuf, max_line_bytes: usize) -> Self {
        Self { path, max_line_bytes, offset: 0, seam: Vec::new(), line: Vec::new(), is_too_long: false }
    }

    /// Bytes that were read.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Reads the next piece and gives each line that it completes.
    pub fn read(&mut self, mut each: impl FnMut(Read1<'_>)) -> io::Result<Seen> {
        let mut file = match open(&self.path)? {
            Some(file) => file,
            None if self.offset == 0 => return Ok(Seen::Nothing),
            None => return Ok(self.begin_anew()),
        };
        if !self.continues(&mut file)? {
            return Ok(self.begin_anew());
        }
        let mut chunk = Vec::new();
        file.take(CHUNK_BYTES as u64).read_to_end(&mut chunk)?;
        if chunk.is_empty() {
            return Ok(Seen::Same);
        }
        self.offset += chunk.len() as u64;
        self.remember(&chunk);
        let mut rest = chunk.as_slice();
        while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
            self.hold(&rest[..end]);
            match std::mem::take(&mut self.is_too_long) {
                true => each(Read1::TooLong),
                false => each(Read1::Line(&self.line)),
            }
            self.line.clear();
            rest = &rest[end + 1..];
        }
        self.hold(rest);
        Ok(Seen::More)
    }

    /// Whether what was read is still there; leaves the file at the next byte.
    fn continues(&self, file: &mut File) -> io::Result<bool> {
        if file.metadata()?.len() < self.offset {
            return Ok(false);
        }
        file.seek(SeekFrom::Start(self.offset - self.seam.len() as u64))?;
        let mut found = vec![0; self.seam.len()];
        match file.read_exact(&mut found) {
            Ok(()) => Ok(found == self.seam),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn begin_anew(&mut self) -> Seen {
        (self.offset, self.is_too_long) = (0, false);
        self.seam.clear();
        self.line.clear();
        Seen::Anew
    }

    fn remember(&mut self, chunk: &[u8]) {
        self.seam.extend_from_slice(&chunk[chunk.len().saturating_sub(SEAM_BYTES)..]);
        let surplus = self.seam.len().saturating_sub(SEAM_BYTES);
        self.seam.drain(..surplus);
    }

    fn hold(&mut self, part: &[u8]) {
        self.is_too_long |= self.line.len() + part.len() > self.max_line_bytes;
        match self.is_too_long {
            true => self.line = Vec::new(),
            false => self.line.extend_from_slice(part),
        }
    }
}

/// The file, where there is one: a pipe or a device would keep the reader waiting.
pub fn open(path: &std::path::Path) -> io::Result<Option<File>> {
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => Ok(Some(File::open(path)?)),
        Ok(_) => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write};

    use super::*;

    struct Followed {
        tail: Tail,
        path: PathBuf,
        _folder: tempfile::TempDir,
    }

    impl Followed {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("metrics.jsonl");
            Self { tail: Tail::new(path.clone(), 100), path, _folder: folder }
        }

        fn append(&self, text: &str) {
            let mut file = fs::OpenOptions::new().append(true).create(true).open(&self.path).unwrap();
            file.write_all(text.as_bytes()).unwrap();
        }

        fn read(&mut self) -> (Seen, Vec<String>) {
            let mut lines = Vec::new();
            let seen = self.tail.read(|line| match line {
                Read1::Line(line) => lines.push(String::from_utf8_lossy(line).into_owned()),
                Read1::TooLong => lines.push("too long".to_owned()),
            });
            (seen.unwrap(), lines)
        }
    }

    #[test]
    fn a_line_is_read_once_it_is_whole() {
        let mut file = Followed::new();
        assert_eq!(file.read().0, Seen::Nothing);
        file.append("one\ntw");
        assert_eq!(file.read(), (Seen::More, vec!["one".to_owned()]));
        assert_eq!(file.read(), (Seen::Same, vec![]));
        file.append("o\n\nthree");
        assert_eq!(file.read(), (Seen::More, vec!["two".to_owned(), String::new()]));
    }

    #[test]
    fn a_file_that_was_cut_is_read_from_its_start() {
        let mut file = Followed::new();
        file.append("one\ntwo\nthree\n");
        file.read();
        fs::write(&file.path, "one\n").unwrap();
        assert_eq!(file.read(), (Seen::Anew, vec![]));
        assert_eq!(file.read(), (Seen::More, vec!["one".to_owned()]));
        // Cut, and longer than before when it is looked at again.
        fs::write(&file.path, "six\nseven\neight\n").unwrap();
        assert_eq!(file.read().0, Seen::Anew);
        assert_eq!(file.read().1, ["six", "seven", "eight"]);
        fs::remove_file(&file.path).unwrap();
        assert_eq!(file.read().0, Seen::Anew);
        assert_eq!(file.read().0, Seen::Nothing);
    }

    #[test]
    fn a_line_without_end_takes_no_memory() {
        let mut file = Followed::new();
        for _ in 0..50 {
            file.append(&"x".repeat(90));
            file.read();
            assert!(file.tail.line.capacity() <= 200);
        }
        file.append("\nshort\n");
        assert_eq!(file.read().1, ["too long", "short"]);
    }

    #[test]
    fn what_is_no_file_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        assert!(open(folder.path()).unwrap().is_none());
        assert!(open(std::path::Path::new("/dev/zero")).unwrap().is_none());
    }
}
