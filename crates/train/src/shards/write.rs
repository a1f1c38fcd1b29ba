//! Shards, written aside.

use std::{
    fs::{self, File},
    io::{self, BufReader, BufWriter, Read, Write},
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

use super::{IdType, MAGIC, Manifest, VERSION, hex, path_of};
use crate::DataError;

/// Writes a shard document by document. Nothing stands under the shard's names before [`ShardWriter::finish`]: then the ids, then the
/// index, then the manifest are renamed, so that what can be opened is whole. A run that was stopped leaves only files that end
/// in `.part`, which the next one writes over.
#[derive(Debug)]
pub struct ShardWriter {
    prefix: PathBuf,
    id_type: IdType,
    vocab_size: usize,
    ids: Part,
    /// Lengths of the documents, on the disk, since there may be billions.
    lengths: Part,
    documents: u64,
    tokens: u64,
    largest_id: u32,
    buffer: Vec<u8>,
}

impl ShardWriter {
    /// Begins the shard `prefix` for ids below `vocab_size`. Files of that name are refused, unless `replace`.
    pub fn create(prefix: &Path, vocab_size: usize, replace: bool) -> Result<Self, DataError> {
        for ending in ["bin", "idx", "json"] {
            let path = path_of(prefix, ending);
            if !replace && path.exists() {
                return Err(DataError::Refused(format!(
                    "{}: exists; choose another name, or say --replace to write it anew",
                    path.display()
                )));
            }
        }
        if let Some(folder) = prefix.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs::create_dir_all(folder).map_err(DataError::io(folder))?;
        }
        Ok(Self {
            prefix: prefix.to_owned(),
            id_type: IdType::for_vocabulary(vocab_size),
            vocab_size,
            ids: Part::create(path_of(prefix, "bin.part"))?,
            lengths: Part::create(path_of(prefix, "lengths.part"))?,
            documents: 0,
            tokens: 0,
            largest_id: 0,
            buffer: Vec::new(),
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
        let wrong = |place, expected, found| Err(DataError::invalid(&self.ids.path, place, expected, found));
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
        self.lengths.sync()?;
        let idx = self.write_index()?;
        manifest.documents = self.documents;
        manifest.tokens = self.tokens;
        manifest.largest_id = self.largest_id;
        manifest.bin_bytes = self.tokens * self.id_type.bytes() as u64;
        manifest.bin_sha256 = bin_sha256;
        manifest.idx_sha256 = idx;
        let mut json = Part::create(path_of(&self.prefix, "json.part"))?;
        let text = serde_json::to_vec_pretty(&manifest).map_err(io::Error::from).map_err(DataError::io(&json.path))?;
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
        for ending in ["bin", "idx", "json"] {
            let (part, path) = (path_of(&self.prefix, &format!("{ending}.part")), path_of(&self.prefix, ending));
            fs::rename(&part, &path).map_err(DataError::io(&path))?;
        }
        let lengths = path_of(&self.prefix, "lengths.part");
        fs::remove_file(&lengths).map_err(DataError::io(lengths))?;
        sync_folder(&self.prefix)?;
        Ok(manifest)
    }

    /// Returns the SHA-256 of `PREFIX.idx.part`.
    fn write_index(&self) -> Result<String, DataError> {
        let mut index = Part::create(path_of(&self.prefix, "idx.part"))?;
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
        index.sync()
    }

    fn each_length(&self, mut see: impl FnMut([u8; 4]) -> Result<(), DataError>) -> Result<(), DataError> {
        let path = &self.lengths.path;
        let mut file = BufReader::with_capacity(1 << 16, File::open(path).map_err(DataError::io(path))?);
        for _ in 0..self.documents {
            let mut length = [0; 4];
            file.read_exact(&mut length).map_err(DataError::io(path))?;
            see(length)?;
        }
        Ok(())
    }
}

/// A file under its passing name, hashed while it is written.
#[derive(Debug)]
struct Part {
    path: PathBuf,
    file: BufWriter<File>,
    hasher: Sha256,
}

impl Part {
    fn create(path: PathBuf) -> Result<Self, DataError> {
        let file = File::create(&path).map_err(DataError::io(&path))?;
        Ok(Self { path, file: BufWriter::with_capacity(1 << 18, file), hasher: Sha256::new() })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), DataError> {
        self.hasher.update(bytes);
        self.file.write_all(bytes).map_err(DataError::io(&self.path))
    }

    /// Puts it on the disk. Returns its SHA-256.
    fn sync(&mut self) -> Result<String, DataError> {
        self.file.flush().map_err(DataError::io(&self.path))?;
        self.file.get_ref().sync_all().map_err(DataError::io(&self.path))?;
        Ok(hex(&std::mem::take(&mut self.hasher).finalize()))
    }
}

/// A rename is on the disk when its folder is; not every system lets a folder be synced, and none loses the files' bytes by it.
fn sync_folder(prefix: &Path) -> Result<(), DataError> {
    let folder = prefix.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match File::open(folder).and_then(|folder| folder.sync_all()) {
        Err(error) if !matches!(error.kind(), io::ErrorKind::Unsupported | io::ErrorKind::InvalidInput) => {
            Err(DataError::io(folder)(error))
        }
        _ => Ok(()),
    }
}
