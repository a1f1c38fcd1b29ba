//! What lies beside a shard and says what it was made from.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use dots_model::{aside, checkpoint::TokenizerSource, hex};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::path_of;
use crate::DataError;

/// Manifests are small; a longer file is something else.
const MOST_BYTES: u64 = 64 << 20;

/// `PREFIX.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// What wrote the shard: `dots 0.1.0`.
    pub made_by: String,
    /// Documents, the skipped ones not counted.
    pub documents: u64,
    /// Ids of all documents.
    pub tokens: u64,
    /// The largest of them; 0 where there are none.
    pub largest_id: u32,
    /// Ids of the tokenizer's vocabulary: one more than its largest.
    pub vocab_size: usize,
    /// [`tokenizer_hash`] of the tokenizer.
    pub tokenizer_sha256: String,
    /// The id that ends each document, where one does.
    pub end_of_document: Option<u32>,
    /// Field of the lines that holds the text.
    pub field: String,
    /// Lines that were skipped because they hold no document.
    pub skipped_lines: u64,
    /// What was read, in order.
    pub inputs: Vec<Input>,
    /// Bytes of `PREFIX.bin`.
    pub bin_bytes: u64,
    /// Its SHA-256.
    pub bin_sha256: String,
    /// SHA-256 of `PREFIX.idx`.
    pub idx_sha256: String,
}

/// A file that a shard was made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    /// Its path, as it was given.
    pub path: String,
    /// Its length.
    pub bytes: u64,
    /// SHA-256 of its bytes as they lie on the disk.
    pub sha256: String,
}

impl Manifest {
    /// The manifest of the shard `prefix`; `None` where there is none, as beside a shard of Megatron's.
    pub fn read(prefix: &Path) -> Result<Option<Self>, DataError> {
        let path = path_of(prefix, "json");
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(DataError::io(path)(error)),
        };
        let mut text = Vec::new();
        file.take(MOST_BYTES).read_to_end(&mut text).map_err(DataError::io(&path))?;
        serde_json::from_slice(&text)
            .map(Some)
            .map_err(|error| DataError::invalid(path, "manifest", "what `dots tokenize` writes", error))
    }
}

/// SHA-256, in hexadecimal, of what decides which ids a text becomes: `tokenizer.json` and, where there is one, what
/// `tokenizer_config.json` says of tokens. A chat template may change without the ids of documents changing.
pub fn tokenizer_hash(source: &TokenizerSource) -> String {
    let mut hasher = Sha256::new();
    match source {
        TokenizerSource::HuggingFace { tokenizer, config, .. } => {
            hasher.update(tokenizer.as_bytes());
            for (key, value) in config.iter().filter_map(|config| config.as_object()).flatten() {
                if key.ends_with("_token") || key.contains("tokens") {
                    hasher.update(format!("\n{key}={value}"));
                }
            }
        }
        TokenizerSource::Gguf { pre, tokens, types, merges, bos, .. } => {
            hasher.update(format!("{pre:?} {tokens:?} {types:?} {merges:?} {bos:?}"));
        }
    }
    hex(&hasher.finalize())
}

/// SHA-256, in hexadecimal, of the file at `path`.
pub(crate) fn hash_file(path: &Path) -> Result<String, DataError> {
    let mut hasher = Sha256::new();
    let read = File::open(path).and_then(|file| aside::read_through(file, |piece| hasher.update(piece)));
    read.map_err(DataError::io(path))?;
    Ok(hex(&hasher.finalize()))
}
