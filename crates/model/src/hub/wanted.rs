//! What a hub says of a file before it is fetched, and whether what it sends then agrees.

use ureq::http::Method;

use super::{
    client::{Answer, Client, is_redirect, shown, text},
    failure::Failure,
    name::is_file_name,
};

const COMMIT: &str = "x-repo-commit";
const LINKED_ETAG: &str = "x-linked-etag";
const LINKED_SIZE: &str = "x-linked-size";
const CONTENT_LENGTH: &str = "content-length";
const CONTENT_RANGE: &str = "content-range";

/// A file as the hub lists it. It is asked for once: what later answers say of these is checked or not looked at.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) address: String,
    /// The name of its contents, fit to be a file's name.
    pub(super) etag: String,
    pub(super) size: u64,
}

impl Wanted {
    /// Asks the hub for the file at `address`, which must be of `commit`.
    pub(super) fn ask(client: &Client, address: String, commit: &str) -> Result<Self, Failure> {
        // A redirect that has these is the hub's last word: where it leads, to a store of large files, nobody knows them.
        let enough = |answer: &Answer| text(answer, COMMIT).is_some() && text(answer, LINKED_ETAG).is_some();
        let answer = client.ask(&Method::HEAD, &address, None, enough)?;
        let found = text(&answer, COMMIT);
        if found != Some(commit) {
            return Err(client.wrong(COMMIT, commit, &found.map_or("nothing".to_owned(), shown)));
        }
        let etag = text(&answer, LINKED_ETAG).or_else(|| text(&answer, "etag")).unwrap_or_default();
        let etag = etag.strip_prefix("W/").unwrap_or(etag).trim_matches('"');
        if !is_file_name(etag) {
            return Err(client.wrong("etag", "letters, digits, dots, _ and -, no dot first", &shown(etag)));
        }
        let size = match said_size(&answer) {
            Some((field, size)) => size.parse().map_err(|_| client.wrong(field, "a number of bytes", &shown(size)))?,
            None => ask_size(client, &address)?,
        };
        Ok(Self { etag: etag.to_owned(), size, address })
    }

    /// The SHA-256 of the contents in hexadecimal, where the hub names them by it, as it does for all large files.
    ///
    /// Small files, those in git itself, are named by a git object's SHA-1; that one is not checked, since mirrors put other
    /// names of 40 digits in its place.
    pub(super) fn sha256(&self) -> Option<String> {
        let known = self.etag.len() == 64 && self.etag.bytes().all(|byte| byte.is_ascii_hexdigit());
        known.then(|| self.etag.to_ascii_lowercase())
    }

    /// Checks an answer to `Range: bytes=START-`, and returns the bytes of the file that it brings: `start..end`, or `0..end`
    /// where the server knows no ranges.
    pub(super) fn check(&self, client: &Client, answer: &Answer, start: u64) -> Result<(u64, u64), Failure> {
        let (first, end) = match answer.status().as_u16() {
            206 => {
                let range = text(answer, CONTENT_RANGE).unwrap_or_default();
                let expected = || format!("bytes {start}- of {}", self.size);
                match ContentRange::parse(range) {
                    Some(ContentRange { first, end, total }) if first == start && total == self.size => (first, end),
                    _ => return Err(client.wrong(CONTENT_RANGE, &expected(), &shown(range))),
                }
            }
            200 => (0, self.size),
            416 => {
                let reason = format!("{}: expected {} bytes, found no byte {start}", client.page(), self.size);
                return Err(Failure::Damaged(reason));
            }
            _ => return Err(client.wrong("status", "200 or 206", &answer.status().to_string())),
        };
        match text(answer, CONTENT_LENGTH) {
            Some(length) if length.parse() != Ok(end - first) => {
                Err(client.wrong(CONTENT_LENGTH, &(end - first).to_string(), &shown(length)))
            }
            _ => Ok((first, end)),
        }
    }
}

/// The header that says the file's size, and what it says: a redirect's own length is another.
fn said_size(answer: &Answer) -> Option<(&'static str, &str)> {
    let said = |field| text(answer, field).map(|size| (field, size));
    said(LINKED_SIZE).or_else(|| said(CONTENT_LENGTH).filter(|_| !is_redirect(answer.status())))
}

/// The size of a file that the hub did not say: the store's word, which comes with a byte of it.
fn ask_size(client: &Client, address: &str) -> Result<u64, Failure> {
    let answer = client.ask(&Method::GET, address, Some("bytes=0-0"), |_| false)?;
    let range = text(&answer, CONTENT_RANGE).unwrap_or_default();
    let size = ContentRange::parse(range).map(|range| range.total);
    size.ok_or_else(|| client.wrong(CONTENT_RANGE, "bytes 0-0 and the file's size", &shown(range)))
}

/// `bytes FIRST-LAST/TOTAL`.
#[derive(Debug, PartialEq, Eq)]
struct ContentRange {
    first: u64,
    /// One after the last.
    end: u64,
    total: u64,
}

impl ContentRange {
    fn parse(value: &str) -> Option<Self> {
        let (range, total) = value.strip_prefix("bytes ")?.split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let (first, last, total): (u64, u64, u64) = (first.parse().ok()?, last.parse().ok()?, total.parse().ok()?);
        (first <= last && last < total).then(|| Self { first, end: last + 1, total })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_range_lies_within_its_total() {
        assert_eq!(ContentRange::parse("bytes 3-4/9"), Some(ContentRange { first: 3, end: 5, total: 9 }));
        let largest = u64::MAX;
        for wrong in ["", "bytes 3-2/9", "bytes 3-9/9", "bytes 3-4/*", "bytes */9", "3-4/9", "bytes -1-4/9"] {
            assert_eq!(ContentRange::parse(wrong), None, "{wrong}");
        }
        assert_eq!(ContentRange::parse(&format!("bytes 0-{largest}/{largest}")), None);
    }
}
