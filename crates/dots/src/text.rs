//! The beginning of a text file, no more of it than is wanted.

use std::{fs::File, io::Read, path::Path};

use anyhow::{anyhow, bail};

use crate::units;

/// More than tokens have on average in any language.
const TOKEN_BYTES: u64 = 64;
/// Most bytes of a text that is taken whole: more than a model reads in a day, and a tokenizer takes a hundred times as much memory.
const MOST_BYTES: u64 = 16 << 20;

/// As much of the text in `path` as surely holds its first `tokens` tokens; all of it where no number is given.
pub fn beginning(path: &Path, tokens: Option<usize>) -> anyhow::Result<String> {
    let most = tokens.map_or(MOST_BYTES, |tokens| TOKEN_BYTES.saturating_mul(tokens as u64));
    let wrong = |error| anyhow!("{}: {error}", path.display());
    let mut bytes = Vec::new();
    // One more says whether there is more. The file's own length says nothing where it is a pipe.
    File::open(path).map_err(wrong)?.take(most.saturating_add(1)).read_to_end(&mut bytes).map_err(wrong)?;
    let cut = bytes.len() as u64 > most;
    if cut && tokens.is_none() {
        let most = units::bytes(most);
        bail!("{}: expected at most {most} of text, found more; --tokens takes its beginning", path.display());
    }
    if cut {
        bytes.pop();
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(text),
        // Nothing is wrong with a character that was cut through.
        Err(error) if cut && error.utf8_error().error_len().is_none() => {
            let end = error.utf8_error().valid_up_to();
            let mut bytes = error.into_bytes();
            bytes.truncate(end);
            String::from_utf8(bytes).map_err(|error| anyhow!("{}: {error}", path.display()))
        }
        Err(error) => {
            let at = error.utf8_error().valid_up_to();
            bail!("{}: expected text in UTF-8, found other bytes at {at}", path.display())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn of(content: &[u8], tokens: Option<usize>) -> anyhow::Result<String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("text");
        fs::write(&path, content).unwrap();
        beginning(&path, tokens)
    }

    #[test]
    fn no_more_is_read_than_the_tokens_asked_for_may_take() {
        let text = "한".repeat(100);
        assert_eq!(of(text.as_bytes(), Some(1)).unwrap(), "한".repeat(21), "64 bytes, and no half of a character");
        assert_eq!(of(text.as_bytes(), Some(5)).unwrap(), text);
        assert_eq!(of(text.as_bytes(), Some(usize::MAX)).unwrap(), text);
    }

    #[test]
    fn a_text_that_is_too_long_is_refused_with_what_would_do() {
        let text = vec![b'a'; MOST_BYTES as usize + 1];
        let error = of(&text, None).unwrap_err().to_string();
        assert!(error.contains("at most 16.0 MiB"), "{error}");
        assert_eq!(of(&text[1..], None).unwrap().len(), MOST_BYTES as usize);
        assert_eq!(of(&text, Some(2)).unwrap().len(), 128);
    }

    #[test]
    fn what_is_no_text_is_refused() {
        for tokens in [None, Some(4)] {
            let error = of(b"ab\xff cd", tokens).unwrap_err().to_string();
            assert!(error.contains("UTF-8") && error.contains("at 2"), "{error}");
            assert!(of("한".as_bytes().split_last().unwrap().1, tokens).is_err());
        }
    }
}
