//! Token shards in Megatron's format: `PREFIX.bin` holds the ids of all documents, one after the other, and `PREFIX.idx` says
//! where each begins (Megatron-Core's `indexed_dataset.py`). Megatron and NeMo train on what is written here, and shards of
//! theirs are read.
//!
//! | bytes of `.idx` | |
//! | --- | --- |
//! | 9 | `MMIDIDX\0\0` |
//! | 8 | version, 1 |
//! | 1 | type of the ids: 8 is u16, 4 is i32 |
//! | 8 | sequences n |
//! | 8 | entries of the last table, documents + 1 |
//! | 4 n | ids of each sequence, i32 |
//! | 8 n | byte of `.bin` at which it begins, i64 |
//! | 8 (documents + 1) | number of the sequence with which each document begins, i64, and n at the end |
//!
//! All numbers are little-endian. A sequence is a sentence to those who cut documents into some, and a whole document to everybody
//! else; here it is always a document. Beside the two lies `PREFIX.json`, which Megatron does not read: [`Manifest`].

mod manifest;
mod read;
#[cfg(test)]
mod tests;
mod write;

use std::path::{Path, PathBuf};

pub(crate) use self::manifest::hash_file;
pub use self::{
    manifest::{Input, Manifest, tokenizer_hash},
    read::Shard,
    write::ShardWriter,
};

const MAGIC: &[u8; 9] = b"MMIDIDX\0\0";
const VERSION: u64 = 1;
const HEADER_BYTES: usize = 9 + 8 + 1 + 8 + 8;

/// How an id is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdType {
    /// In two bytes, for vocabularies below 65,500 ids.
    U16,
    /// In four.
    I32,
}

impl IdType {
    /// What Megatron takes for a vocabulary of this size (`DType.optimal_dtype`).
    pub fn for_vocabulary(vocab_size: usize) -> Self {
        if vocab_size < 65_500 { Self::U16 } else { Self::I32 }
    }

    /// Bytes of an id.
    pub fn bytes(self) -> usize {
        match self {
            Self::U16 => 2,
            Self::I32 => 4,
        }
    }

    fn code(self) -> u8 {
        match self {
            Self::U16 => 8,
            Self::I32 => 4,
        }
    }

    fn of_code(code: u8) -> Option<Self> {
        match code {
            8 => Some(Self::U16),
            4 => Some(Self::I32),
            _ => None,
        }
    }

    /// The ids that `bytes` hold; a negative one becomes one beyond any vocabulary.
    fn decode(self, bytes: &[u8], ids: &mut Vec<u32>) {
        match self {
            Self::U16 => ids.extend(bytes.chunks_exact(2).map(|id| u32::from(u16::from_le_bytes([id[0], id[1]])))),
            Self::I32 => ids.extend(bytes.chunks_exact(4).map(|id| u32::from_le_bytes([id[0], id[1], id[2], id[3]]))),
        }
    }
}

/// `PREFIX.bin`, `PREFIX.idx` or `PREFIX.json`: the ending is added, since a prefix may hold dots.
pub fn path_of(prefix: &Path, ending: &str) -> PathBuf {
    let mut name = prefix.as_os_str().to_owned();
    name.push(".");
    name.push(ending);
    name.into()
}
