//! Shards, mapped.

use std::{
    ops::Range,
    path::{Path, PathBuf},
};

use bytes::Bytes;

use super::{HEADER_BYTES, IdType, MAGIC, Manifest, VERSION, manifest::hash_file, path_of};
use crate::DataError;

/// A shard of documents. Its index was checked whole when it was opened; ids are checked against the vocabulary as they are read.
#[derive(Debug)]
pub struct Shard {
    prefix: PathBuf,
    ids: Bytes,
    id_type: IdType,
    index: Index,
    manifest: Option<Manifest>,
}

/// `PREFIX.idx`, whose tables lie where they were mapped: they stand at odd addresses, and would take twelve bytes a document.
#[derive(Debug)]
struct Index {
    bytes: Bytes,
    sequences: usize,
    documents: usize,
}

impl Index {
    fn length(&self, sequence: usize) -> i32 {
        let at = HEADER_BYTES + 4 * sequence;
        i32::from_le_bytes(array(&self.bytes[at..at + 4]))
    }

    fn pointer(&self, sequence: usize) -> i64 {
        let at = HEADER_BYTES + 4 * self.sequences + 8 * sequence;
        i64::from_le_bytes(array(&self.bytes[at..at + 8]))
    }

    /// The first sequence of a document; of the one after the last, the number of sequences.
    fn first(&self, document: usize) -> i64 {
        let at = HEADER_BYTES + 12 * self.sequences + 8 * document;
        i64::from_le_bytes(array(&self.bytes[at..at + 8]))
    }
}

/// `bytes` must be as long as the array.
fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(bytes);
    array
}

impl Shard {
    /// Opens `PREFIX.bin` and `PREFIX.idx` and checks every number of the index, and the manifest where there is one. Takes time and no
    /// memory by the number of documents.
    pub fn open(prefix: &Path) -> Result<Self, DataError> {
        let (idx, bin) = (path_of(prefix, "idx"), path_of(prefix, "bin"));
        let index = map(&idx)?;
        let ids = map(&bin)?;
        let (id_type, index) = check_index(&idx, index, &bin, ids.len())?;
        let manifest = Manifest::read(prefix)?;
        let shard = Self { prefix: prefix.to_owned(), ids, id_type, index, manifest };
        if let Some(manifest) = &shard.manifest {
            let wrong = |place: &str, expected: u64, found: u64| {
                let expected = format!("{expected}, as its manifest {} says", path_of(prefix, "json").display());
                DataError::invalid(&bin, place, expected, found)
            };
            if manifest.tokens != shard.tokens() {
                return Err(wrong("tokens", manifest.tokens, shard.tokens()));
            }
            if manifest.documents != shard.documents() as u64 {
                return Err(wrong("documents", manifest.documents, shard.documents() as u64));
            }
        }
        Ok(shard)
    }

    /// Path without its ending.
    pub fn prefix(&self) -> &Path {
        &self.prefix
    }

    /// Documents.
    pub fn documents(&self) -> usize {
        self.index.documents
    }

    /// Ids of all documents.
    pub fn tokens(&self) -> u64 {
        (self.ids.len() / self.id_type.bytes()) as u64
    }

    /// How ids are written.
    pub fn id_type(&self) -> IdType {
        self.id_type
    }

    /// What the shard was made from, where that is known.
    pub fn manifest(&self) -> Option<&Manifest> {
        self.manifest.as_ref()
    }

    /// Where a document's ids stand among all of the shard's. `document` must be below [`Shard::documents`].
    fn span(&self, document: usize) -> Range<usize> {
        let start_of = |document: usize| {
            let sequence = self.index.first(document) as usize;
            if sequence == self.index.sequences { self.ids.len() } else { self.index.pointer(sequence) as usize }
        };
        start_of(document) / self.id_type.bytes()..start_of(document + 1) / self.id_type.bytes()
    }

    /// Ids of a document. `document` must be below [`Shard::documents`].
    pub fn document_tokens(&self, document: usize) -> u64 {
        self.span(document).len() as u64
    }

    /// Appends ids `range` of a document, which must lie within it. An id that is not below `vocab_size` is an error, and
    /// `ids` then ends before it.
    pub fn read(
        &self,
        document: usize,
        range: Range<u64>,
        vocab_size: usize,
        ids: &mut Vec<u32>,
    ) -> Result<(), DataError> {
        let start = self.span(document).start;
        let bytes = self.id_type.bytes();
        let span = (start + range.start as usize) * bytes..(start + range.end as usize) * bytes;
        let before = ids.len();
        self.id_type.decode(&self.ids[span], ids);
        match ids[before..].iter().position(|&id| id as usize >= vocab_size) {
            None => Ok(()),
            Some(nth) => {
                let found = ids[before + nth];
                ids.truncate(before + nth);
                Err(DataError::invalid(
                    path_of(&self.prefix, "bin"),
                    format!("document {document}, id {}", range.start + nth as u64),
                    format!("an id below {vocab_size}, the size of the vocabulary"),
                    found as i32,
                ))
            }
        }
    }

    /// Finds an id that is not below `vocab_size`. Where the manifest says that there is none, nothing is read; else the whole shard is.
    pub fn check_ids(&self, vocab_size: usize) -> Result<(), DataError> {
        if self.manifest.as_ref().is_some_and(|manifest| (manifest.largest_id as usize) < vocab_size) {
            return Ok(());
        }
        let mut ids = Vec::new();
        for document in 0..self.documents() {
            let tokens = self.document_tokens(document);
            for start in (0..tokens).step_by(1 << 20) {
                ids.clear();
                self.read(document, start..tokens.min(start + (1 << 20)), vocab_size, &mut ids)?;
            }
        }
        Ok(())
    }

    /// SHA-256 of the ids' file: the manifest's where there is one, else computed, which reads the whole shard.
    pub fn hash(&self) -> Result<String, DataError> {
        match &self.manifest {
            Some(manifest) => Ok(manifest.bin_sha256.clone()),
            None => hash_file(&path_of(&self.prefix, "bin")),
        }
    }
}

/// Maps a plain file; an empty one is no bytes, as the ids of a shard without any are. What another process does to the file later
/// cannot break more than a read: ids are checked whenever they are read, and the index, which is checked once, is only ever used to
/// slice, which is checked again.
fn map(path: &Path) -> Result<Bytes, DataError> {
    match std::fs::metadata(path).map_err(DataError::io(path))? {
        metadata if metadata.is_file() && metadata.len() == 0 => Ok(Bytes::new()),
        _ => Ok(dots_model::checkpoint::map(path)?),
    }
}

fn check_index(idx: &Path, bytes: Bytes, bin: &Path, bin_bytes: usize) -> Result<(IdType, Index), DataError> {
    let invalid = |place: &str, expected: String, found: String| DataError::invalid(idx, place, expected, found);
    if bytes.len() < HEADER_BYTES {
        return Err(invalid("header", format!("{HEADER_BYTES} bytes"), format!("{} bytes", bytes.len())));
    }
    if bytes[..9] != MAGIC[..] {
        return Err(invalid("header", "an index of Megatron's, `MMIDIDX`".into(), format!("{:?}", &bytes[..9])));
    }
    let number = |at: usize| u64::from_le_bytes(array(&bytes[at..at + 8]));
    if number(9) != VERSION {
        return Err(invalid("version", VERSION.to_string(), number(9).to_string()));
    }
    let Some(id_type) = IdType::of_code(bytes[17]) else {
        return Err(invalid("type of ids", "8 (u16) or 4 (i32)".into(), bytes[17].to_string()));
    };
    let (sequences, entries) = (number(18), number(26));
    // In u128, since the counts are a stranger's.
    let expected = HEADER_BYTES as u128 + 12 * u128::from(sequences) + 8 * u128::from(entries);
    let found = bytes.len() as u128;
    // Megatron writes a byte a sequence more into shards of several modes.
    if found != expected && found != expected + u128::from(sequences) {
        return Err(invalid(
            "length",
            format!("{expected} bytes for {sequences} sequences and {entries} ends of documents"),
            format!("{found} bytes"),
        ));
    }
    let Some(documents) = entries.checked_sub(1) else {
        return Err(invalid("documents", "a table that begins with 0".into(), "an empty one".into()));
    };
    // Both are below the file's length, so they fit.
    let index = Index { bytes, sequences: sequences as usize, documents: documents as usize };
    let mut pointer = 0i64;
    for sequence in 0..index.sequences {
        let length = index.length(sequence);
        if length < 0 {
            return Err(invalid(&format!("length of sequence {sequence}"), "0 or more".into(), length.to_string()));
        }
        if index.pointer(sequence) != pointer {
            return Err(invalid(
                &format!("pointer of sequence {sequence}"),
                format!("{pointer}, where the one before ends"),
                index.pointer(sequence).to_string(),
            ));
        }
        // Sequences times 4 GiB at most: below 2^62.
        pointer += i64::from(length) * id_type.bytes() as i64;
    }
    if pointer as u64 != bin_bytes as u64 {
        return Err(DataError::invalid(
            bin,
            "length",
            format!("{pointer} bytes, as {} says", idx.display()),
            format!("{bin_bytes} bytes"),
        ));
    }
    let mut before = 0;
    for document in 0..=index.documents {
        let first = index.first(document);
        let wanted = match document {
            0 => 0..=0,
            _ if document == index.documents => index.sequences as i64..=index.sequences as i64,
            _ => before..=index.sequences as i64,
        };
        if !wanted.contains(&first) {
            let expected = match (wanted.start(), wanted.end()) {
                (start, end) if start == end => start.to_string(),
                (start, end) => format!("{start} to {end}"),
            };
            return Err(invalid(&format!("first sequence of document {document}"), expected, first.to_string()));
        }
        before = first;
    }
    Ok((id_type, index))
}
