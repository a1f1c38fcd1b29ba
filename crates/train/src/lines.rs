//! JSON lines of files that may hold anything.

use std::{
    io::{BufRead, BufReader, Read},
    path::Path,
};

use serde_json::Value;

use crate::{DataError, compressed::Compressed, shards::Input};

/// Longest line: a book has a few MB.
const MAX_LINE_BYTES: u64 = 256 << 20;

/// The lines of one file, which gzip or zstd may have packed.
pub(crate) struct Lines<'a> {
    path: &'a Path,
    reader: BufReader<Compressed>,
    number: u64,
}

impl<'a> Lines<'a> {
    /// Opens the file.
    pub fn open(path: &'a Path) -> Result<Self, DataError> {
        let file = Compressed::open(path).map_err(DataError::io(path))?;
        Ok(Self { path, reader: BufReader::with_capacity(1 << 20, file), number: 0 })
    }

    /// The file.
    pub fn path(&self) -> &'a Path {
        self.path
    }

    /// The line that was read last, from 1.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The place of the line that was read last.
    pub fn place(&self) -> String {
        format!("line {}", self.number)
    }

    /// Bytes of the file that were read.
    pub fn bytes(&self) -> u64 {
        self.reader.get_ref().bytes_read()
    }

    /// The next line that is not blank, into `line`; its length with its end, 0 where the file ends. Blank lines are passed over.
    pub fn next(&mut self, line: &mut Vec<u8>) -> Result<u64, DataError> {
        loop {
            line.clear();
            let read = (&mut self.reader).take(MAX_LINE_BYTES + 1).read_until(b'\n', line);
            let read = read.map_err(DataError::io(self.path))? as u64;
            if read == 0 {
                return Ok(0);
            }
            self.number += 1;
            if read > MAX_LINE_BYTES {
                let expected = format!("at most {MAX_LINE_BYTES} bytes");
                return Err(DataError::invalid(self.path, self.place(), expected, "more"));
            }
            if !line.iter().all(u8::is_ascii_whitespace) {
                return Ok(read);
            }
        }
    }

    /// What was read, once all was.
    pub fn input(self) -> Input {
        let file = self.reader.get_ref();
        Input { path: self.path.display().to_string(), bytes: file.bytes_read(), sha256: file.sha256() }
    }
}

/// What was expected of a line, and what was found.
pub(crate) type Wrong = (String, String);

/// The object on a line.
pub(crate) fn object(line: &[u8]) -> Result<Value, Wrong> {
    let value: Value = serde_json::from_slice(line).map_err(|error| ("a JSON object".to_owned(), error.to_string()))?;
    match value {
        Value::Object(_) => Ok(value),
        _ => Err(("a JSON object".to_owned(), "another type".to_owned())),
    }
}

/// The text in an object's field, which is taken out.
pub(crate) fn text(object: &mut Value, field: &str) -> Result<String, Wrong> {
    match object.get_mut(field).map(Value::take) {
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err((format!("a text in its field `{field}`"), "another type".to_owned())),
        None => Err((format!("a field `{field}`"), "none; --field names another".to_owned())),
    }
}
