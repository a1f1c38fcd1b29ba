//! The keys that let requests in.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use ring::digest::{SHA256, digest};
use subtle::{Choice, ConstantTimeEq};

use crate::error::FileError;

/// Largest key file.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Keys, some of them from a file that can be read again. Clones share them.
#[derive(Clone, Default)]
pub struct Keys(Arc<Inner>);

#[derive(Default)]
struct Inner {
    /// Kept through a reload.
    fixed: Vec<Hash>,
    file: Option<PathBuf>,
    from_file: RwLock<Vec<Hash>>,
}

/// SHA-256 of a key. Comparing hashes says nothing of a key's bytes, nor of its length.
type Hash = [u8; 32];

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("file", &self.0.file).finish_non_exhaustive()
    }
}

impl Keys {
    /// These keys and those of `file`: one a line; empty lines and lines that begin with `#` are none.
    pub fn new(keys: &[impl AsRef<str>], file: Option<&Path>) -> Result<Self, FileError> {
        let from_file = file.map(read).transpose()?.unwrap_or_default();
        Ok(Self(Arc::new(Inner {
            fixed: keys.iter().map(|key| hash(key.as_ref().as_bytes())).collect(),
            file: file.map(Path::to_path_buf),
            from_file: RwLock::new(from_file),
        })))
    }

    /// Reads the file again. Where that fails, the keys stay as they were. Gives how many the file has.
    pub fn reload(&self) -> Result<Option<usize>, FileError> {
        let Some(file) = &self.0.file else { return Ok(None) };
        let keys = read(file)?;
        let count = keys.len();
        *self.0.from_file.write().unwrap_or_else(PoisonError::into_inner) = keys;
        Ok(Some(count))
    }

    /// Whether requests need no key.
    pub fn is_open(&self) -> bool {
        self.0.fixed.is_empty() && self.0.file.is_none()
    }

    /// Where `given` is one of the keys, a number that stands for it. Takes the same time whichever it is, and however close
    /// a guess comes.
    pub fn admit(&self, given: &[u8]) -> Option<u64> {
        let given = hash(given);
        let from_file = self.0.from_file.read().unwrap_or_else(PoisonError::into_inner);
        let keys = self.0.fixed.iter().chain(&*from_file);
        let is_one: bool = keys.fold(Choice::from(0), |found, key| found | key.ct_eq(&given)).into();
        is_one.then(|| given.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes)))
    }
}

fn hash(key: &[u8]) -> Hash {
    let mut hash = Hash::default();
    hash.copy_from_slice(digest(&SHA256, key).as_ref());
    hash
}

fn read(path: &Path) -> Result<Vec<Hash>, FileError> {
    let fail = |wrong: String| FileError::new(path, wrong);
    let mut text = String::new();
    let file = fs::File::open(path).map_err(|error| fail(error.to_string()))?;
    io::Read::read_to_string(&mut io::Read::take(file, MAX_FILE_BYTES + 1), &mut text)
        .map_err(|error| fail(error.to_string()))?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(fail(format!("expected at most {MAX_FILE_BYTES} bytes, found more")));
    }
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let keys: Vec<Hash> = lines.map(|key| hash(key.as_bytes())).collect();
    // An empty file must not be taken for a server without a key.
    if keys.is_empty() { Err(fail("expected one key a line, found none".to_owned())) } else { Ok(keys) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_key_is_admitted() {
        let keys = Keys::new(&["secret", "other"], None).unwrap();
        assert!(keys.admit(b"secret").is_some() && keys.admit(b"other").is_some());
        assert_ne!(keys.admit(b"secret"), keys.admit(b"other"));
        for wrong in [&b"secre"[..], b"secrets", b"", b"SECRET", b"secretother"] {
            assert!(keys.admit(wrong).is_none(), "{wrong:?}");
        }
        assert!(!keys.is_open() && Keys::default().is_open());
    }

    #[test]
    fn a_file_is_read_again_and_a_broken_one_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        fs::write(&path, "# ours\n one \n\ntwo\n").unwrap();
        let keys = Keys::new(&["fixed"], Some(&path)).unwrap();
        assert!(
            keys.admit(b"one").is_some()
                && keys.admit(b"two").is_some()
                && keys.admit(b"fixed").is_some()
                && keys.admit(b"# ours").is_none()
        );
        fs::write(&path, "three").unwrap();
        assert_eq!(keys.reload().unwrap(), Some(1));
        assert!(keys.admit(b"three").is_some() && keys.admit(b"fixed").is_some() && keys.admit(b"one").is_none());
        for broken in ["", "# nothing\n", &"x".repeat(2 << 20)] {
            fs::write(&path, broken).unwrap();
            assert!(keys.reload().unwrap_err().to_string().contains("keys: expected"));
            assert!(keys.admit(b"three").is_some() && keys.admit(b"").is_none());
        }
        fs::remove_file(&path).unwrap();
        assert!(keys.reload().is_err() && keys.admit(b"three").is_some());
        assert!(Keys::new(&["fixed"], Some(&path)).is_err(), "a missing file is no server without keys");
    }

    #[test]
    fn keys_do_not_show_when_options_are_printed() {
        assert!(!format!("{:?}", Keys::new(&["secret"], None).unwrap()).contains("secret"));
    }
}
