//! The lines of a batch: OpenAI's format, read one at a time.

use std::io::{self, BufRead};

use serde_json::Value;

/// Longest line. The server takes bodies of 8 MiB.
const MAX_LINE_BYTES: usize = 9 << 20;

/// One request.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// Its 1-based line.
    pub line: usize,
    /// The client's name for it.
    pub custom_id: String,
    /// The address, without its host.
    pub url: String,
    /// JSON.
    pub body: Vec<u8>,
}

/// Why a line is no request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Its 1-based line.
    pub line: usize,
    /// A word for programs.
    pub code: &'static str,
    /// What is wrong, with what was expected and what was found.
    pub message: String,
}

/// Reads requests line by line. Empty lines are none.
pub struct Lines<R> {
    reader: R,
    line: usize,
}

impl<R: BufRead> Lines<R> {
    pub fn new(reader: R) -> Self {
        Self { reader, line: 0 }
    }

    /// The next request, or what is wrong with it; `None` at the end.
    pub fn next(&mut self) -> io::Result<Option<Result<Job, Refused>>> {
        let mut bytes = Vec::new();
        loop {
            bytes.clear();
            let length = self.read_line(&mut bytes)?;
            if length == 0 {
                return Ok(None);
            }
            self.line += 1;
            if length > MAX_LINE_BYTES {
                let message = format!("expected at most {MAX_LINE_BYTES} bytes, found {length}");
                return Ok(Some(Err(self.refused("line_too_long", message))));
            }
            if !bytes.trim_ascii().is_empty() {
                return Ok(Some(self.parse(&bytes)));
            }
        }
    }

    /// Reads a line, of which no more is kept than is allowed, and gives its length, its end included.
    fn read_line(&mut self, kept: &mut Vec<u8>) -> io::Result<usize> {
        let mut length = 0;
        loop {
            let buffer = self.reader.fill_buf()?;
            let (taken, ended) = match buffer.iter().position(|&byte| byte == b'\n') {
                Some(at) => (at + 1, true),
                None => (buffer.len(), buffer.is_empty()),
            };
            if length + taken <= MAX_LINE_BYTES {
                kept.extend_from_slice(&buffer[..taken]);
            }
            self.reader.consume(taken);
            length += taken;
            if ended {
                return Ok(length);
            }
        }
    }

    fn refused(&self, code: &'static str, message: String) -> Refused {
        Refused { line: self.line, code, message: format!("line {}: {message}", self.line) }
    }

    fn parse(&self, bytes: &[u8]) -> Result<Job, Refused> {
        let invalid = |message: String| self.refused("invalid_line", message);
        let mut value: Value =
            serde_json::from_slice(bytes).map_err(|error| invalid(format!("expected JSON: {error}")))?;
        let object = value.as_object_mut().ok_or_else(|| invalid("expected an object".to_owned()))?;
        let text = |name: &str| match object.get(name) {
            Some(Value::String(text)) if !text.is_empty() => Ok(text.clone()),
            Some(found) => Err(invalid(format!("{name}: expected a text, found {}", short(&found.to_string())))),
            None => Err(invalid(format!("{name}: expected a text, found none"))),
        };
        let custom_id = text("custom_id")?;
        let method = text("method")?;
        if method != "POST" {
            return Err(invalid(format!("method: expected POST, found {}", short(&method))));
        }
        let url = text("url")?;
        // A name in the address could lead to another server's.
        if !url.starts_with("/v1/") {
            return Err(invalid(format!("url: expected an address from /v1/ on, found {}", short(&url))));
        }
        let body = match object.get("body") {
            Some(body @ Value::Object(_)) => body,
            Some(found) => {
                return Err(invalid(format!("body: expected an object, found {}", short(&found.to_string()))));
            }
            None => return Err(invalid("body: expected an object, found none".to_owned())),
        };
        if !matches!(body.get("stream"), None | Some(Value::Null | Value::Bool(false))) {
            return Err(invalid("body.stream: expected false, as there is nobody to read a stream".to_owned()));
        }
        Ok(Job { line: self.line, custom_id, url, body: body.to_string().into_bytes() })
    }
}

/// A stranger's text, short enough for a message.
fn short(text: &str) -> String {
    match text.char_indices().nth(60) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &[u8]) -> Vec<Result<Job, Refused>> {
        let mut lines = Lines::new(io::BufReader::with_capacity(7, text));
        std::iter::from_fn(|| lines.next().unwrap()).collect()
    }

    const GOOD: &str = r#"{"custom_id":"a","method":"POST","url":"/v1/completions","body":{"prompt":"x"}}"#;

    #[test]
    fn lines_are_requests_whatever_their_ends() {
        let text = format!("{GOOD}\r\n\n  \n{}", GOOD.replace("\"a\"", "\"b\""));
        let jobs: Vec<_> = all(text.as_bytes()).into_iter().map(Result::unwrap).collect();
        let ids: Vec<_> = jobs.iter().map(|job| (job.line, job.custom_id.as_str())).collect();
        assert_eq!(ids, [(1, "a"), (4, "b")]);
        assert_eq!((jobs[0].url.as_str(), jobs[0].body.as_slice()), ("/v1/completions", &br#"{"prompt":"x"}"#[..]));
    }

    #[test]
    fn what_is_no_request_is_named_with_its_line_and_the_next_is_read() {
        for (wrong, word) in [
            ("{", "JSON"),
            ("[]", "object"),
            ("\u{0}", "JSON"),
            (r#"{"method":"POST","url":"/v1/x","body":{}}"#, "custom_id"),
            (r#"{"custom_id":7,"method":"POST","url":"/v1/x","body":{}}"#, "custom_id"),
            (r#"{"custom_id":"a","method":"GET","url":"/v1/x","body":{}}"#, "method"),
            (r#"{"custom_id":"a","method":"POST","url":"http://x/v1/x","body":{}}"#, "url"),
            (r#"{"custom_id":"a","method":"POST","url":"/v1/x"}"#, "body"),
            (r#"{"custom_id":"a","method":"POST","url":"/v1/x","body":"x"}"#, "body"),
            (r#"{"custom_id":"a","method":"POST","url":"/v1/x","body":{"stream":true}}"#, "stream"),
        ] {
            let lines = all(format!("\n{wrong}\n{GOOD}\n").as_bytes());
            let refused = lines[0].as_ref().unwrap_err();
            assert!(refused.message.contains(word) && refused.message.starts_with("line 2: "), "{refused:?}");
            assert!(lines[1].is_ok() && lines.len() == 2);
        }
    }

    #[test]
    fn a_line_too_long_is_passed_over() {
        let lines = all(format!("{}\n{GOOD}", "x".repeat(MAX_LINE_BYTES)).as_bytes());
        assert_eq!(lines[0].as_ref().unwrap_err().code, "line_too_long");
        assert!(lines[1].is_ok() && lines.len() == 2);
    }
}
