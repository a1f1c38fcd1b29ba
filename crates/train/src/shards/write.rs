//! Shards, written aside.

use std::{
    fs::{self, File},
    io::{self, BufReader, Read, Write},
    path::{Path, PathBuf},
};

use dots_model::{
    aside::{Aside, Lock, part_of},
    hex,
};
use sha2::{Digest, Sha256};

use super::{IdType, MAGIC, Manifest, VERSION, path_of};
use crate::DataError;

/// Writes a shard document by document. Nothing stands under the shard's names before [`ShardWriter::finish`]: then the ids, then the
/// index, then the manifest are renamed, so that what can be opened is whole. Dropped before, it leaves nothing; killed, it leaves only
/// files that end in `.part`, which the next run removes.
#[derive(Debug)]
pub struct ShardWriter {
    prefix: PathBuf,
    id_type: IdType,
    vocab_size: usize,
    ids: Part,
    /// Lengths of the documents, on the disk, since there may be billions. Never finished: they go when the index is written.
    lengths: Part,
    documents: u64,
    tokens: u64,
    largest_id: u32,
    buffer: Vec<u8>,
    /// Last, so that it is let go of last.
    _lock: Lock,
}

impl ShardWriter {
    /// Begins the shard `prefix` for ids below `vocab_size`. Files of that name are refused, unless `replace`, and so is a second
    /// program that writes them.
    pub fn create(prefix: &Path, vocab_size: usize, replace: bool) -> Result<Self, DataError> {
        let is_free = || if replace { Ok(()) } else { check_free(prefix) };
        is_free()?;
        if let Some(folder) = prefix.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs::create_dir_all(folder).map_err(DataError::io(folder))?;
        }
        // A file of its own: those of the shard are renamed while it is held.
        let lock = path_of(prefix, "lock.part");
        let lock = Lock::take(&lock).map_err(DataError::io(&lock))?.ok_or_else(|| {
            let prefix = prefix.display();
            DataError::Refused(format!(
                "{prefix}: another program writes this shard; wait for it, or choose another name"
            ))
        })?;
        // Whoever held the lock a moment ago may have finished it.
        is_free()?;
        Ok(Self {
            prefix: prefix.to_owned(),
            id_type: IdType::for_vocabulary(vocab_size),
            vocab_size,
            ids: Part::create(&path_of(prefix, "bin"))?,
            lengths: Part::create(&path_of(prefix, "lengths"))?,
            documents: 0,
            tokens: 0,
            largest_id: 0,
            buffer: Vec::new(),
            _lock: lock,
        })
    }

    /// Documents so far.
    pub fn documents(&self) -> u64 {
        self.documents
    }

    /// Their ids.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Appends a document, which must have fewer than 2³¹ ids.
    pub fn add(&mut self, document: &[u32]) -> Result<(), DataError> {
        let wrong = |place, expected, found| Err(DataError::invalid(self.ids.file.part(), place, expected, found));
        let place = format!("document {}", self.documents);
        let Ok(length) = i32::try_from(document.len()) else {
            return wrong(place, format!("at most {} ids", i32::MAX), document.len().to_string());
        };
        if let Some(id) = document.iter().find(|id| **id as usize >= self.vocab_size) {
            return wrong(place, format!("ids below {}", self.vocab_size), id.to_string());
        }
        self.buffer.clear();
        match self.id_type {
            // Below 65,500, as the vocabulary is.
            IdType::U16 => self.buffer.extend(document.iter().flat_map(|&id| (id as u16).to_le_bytes())),
            IdType::I32 => self.buffer.extend(document.iter().flat_map(|&id| id.to_le_bytes())),
        }
        self.ids.write(&self.buffer)?;
        self.lengths.write(&length.to_le_bytes())?;
        self.documents += 1;
        self.tokens += document.len() as u64;
        self.largest_id = document.iter().copied().fold(self.largest_id, u32::max);
        Ok(())
    }

    /// Writes the index and the manifest and gives all three their names. Of `manifest`, what only the writer knows is filled in:
    /// counts, sizes and hashes. Returns it.
    pub fn finish(mut self, mut manifest: Manifest) -> Result<Manifest, DataError> {
        let bin_sha256 = self.ids.sync()?;
        let mut index = self.write_index()?;
        manifest.documents = self.documents;
        manifest.tokens = self.tokens;
        manifest.largest_id = self.largest_id;
        manifest.bin_bytes = self.tokens * self.id_type.bytes() as u64;
        manifest.bin_sha256 = bin_sha256;
        manifest.idx_sha256 = index.sync()?;
        let mut json = Part::create(&path_of(&self.prefix, "json"))?;
        let text = serde_json::to_vec_pretty(&manifest).map_err(|error| json.wrong()(error.into()))?;
        json.write(&text)?;
        json.write(b"\n")?;
        json.sync()?;
        // The old manifest and index go first: a crash between two renames must not leave an index beside ids of another shard.
        for ending in ["json", "idx"] {
            let path = path_of(&self.prefix, ending);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(DataError::io(path)(error)),
                _ => {}
            }
        }
        for part in [self.ids, index, json] {
            part.finish()?;
        }
        Ok(manifest)
    }

    /// `PREFIX.idx`, under its passing name.
    fn write_index(&mut self) -> Result<Part, DataError> {
        self.lengths.flush()?;
        let mut index = Part::create(&path_of(&self.prefix, "idx"))?;
        index.write(MAGIC)?;
        index.write(&VERSION.to_le_bytes())?;
        index.write(&[self.id_type.code()])?;
        index.write(&self.documents.to_le_bytes())?;
        index.write(&(self.documents + 1).to_le_bytes())?;
        self.each_length(|length| index.write(&length))?;
        let mut pointer = 0i64;
        self.each_length(|length| {
            index.write(&pointer.to_le_bytes())?;
            pointer += i64::from(i32::from_le_bytes(length)) * self.id_type.bytes() as i64;
            Ok(())
        })?;
        for document in 0..=self.documents {
            index.write(&document.to_le_bytes())?;
        }
        Ok(index)
    }

    fn each_length(&self, mut see: impl FnMut([u8; 4]) -> Result<(), DataError>) -> Result<(), DataError> {
        let path = self.lengths.file.part();
        let mut file = BufReader::with_capacity(1 << 16, File::open(path).map_err(DataError::io(path))?);
        for _ in 0..self.documents {
            let mut length = [0; 4];
            file.read_exact(&mut length).map_err(DataError::io(path))?;
            see(length)?;
        }
        Ok(())
    }
}

/// Refuses to write over a shard.
fn check_free(prefix: &Path) -> Result<(), DataError> {
    let mut paths = ["bin", "idx", "json"].iter().map(|ending| path_of(prefix, ending));
    match paths.find(|path| path.exists()) {
        None => Ok(()),
        Some(path) => Err(DataError::Refused(format!(
            "{}: exists; choose another name, or say --replace to write it anew",
            path.display()
        ))),
    }
}

/// A file under its passing name, hashed while it is written.
#[derive(Debug)]
struct Part {
    file: Aside,
    hasher: Sha256,
}

impl Part {
    /// Begins the file that will be `path`.
    fn create(path: &Path) -> Result<Self, DataError> {
        let file = Aside::create(path).map_err(DataError::io(part_of(path)))?;
        Ok(Self { file, hasher: Sha256::new() })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), DataError> {
        self.hasher.update(bytes);
        self.file.write_all(bytes).map_err(|source| self.wrong()(source))
    }

    /// Lets those who open it read what was written.
    fn flush(&mut self) -> Result<(), DataError> {
        self.file.flush().map_err(|source| self.wrong()(source))
    }

    /// Puts it on the disk. Returns its SHA-256.
    fn sync(&mut self) -> Result<String, DataError> {
        self.file.sync().map_err(|source| self.wrong()(source))?;
        Ok(hex(&std::mem::take(&mut self.hasher).finalize()))
    }

    /// Gives it its name, once it is on the disk.
    fn finish(self) -> Result<(), DataError> {
        let path = self.file.path().to_owned();
        self.file.finish().map_err(DataError::io(path))
    }

    fn wrong(&self) -> impl FnOnce(io::Error) -> DataError + use<> {
        DataError::io(self.file.part().to_owned())
    }
}
