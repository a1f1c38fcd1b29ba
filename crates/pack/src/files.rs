//! Files that are whole where they bear their name.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use crate::Error;

/// A file that is being written under its name with `.part` after it, and hashed meanwhile.
pub struct Aside {
    path: PathBuf,
    part: PathBuf,
    file: File,
    hasher: crc32fast::Hasher,
    bytes: u64,
}

impl Aside {
    /// Begins the file that will be `path`. What an earlier run left of it is written over.
    pub fn create(path: &Path) -> Result<Self, Error> {
        let part = part_of(path);
        let file = File::create(&part).map_err(Error::write(&part))?;
        Ok(Self { path: path.to_owned(), part, file, hasher: crc32fast::Hasher::new(), bytes: 0 })
    }

    /// Appends `bytes`.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.file.write_all(bytes).map_err(Error::write(&self.part))?;
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Bytes written.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Puts the file on the disk and under its name. Returns its checksum.
    pub fn finish(self) -> Result<u32, Error> {
        self.file.sync_all().map_err(Error::write(&self.part))?;
        drop(self.file);
        fs::rename(&self.part, &self.path).map_err(Error::write(&self.path))?;
        sync_folder(&self.path)?;
        Ok(self.hasher.finalize())
    }
}

/// The name under which `path` is written.
pub fn part_of(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    path.with_file_name(name)
}

/// Writes a small file whole.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let mut file = Aside::create(path)?;
    file.write(bytes)?;
    file.finish().map(drop)
}

/// Size and CRC-32 of the file at `path`; `None` where there is none.
pub fn hash(path: &Path) -> Result<Option<(u64, u32)>, Error> {
    let io = |source| Error::Source(dots_model::Error::io(path, source));
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io(error)),
    };
    let mut hasher = crc32fast::Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    let mut bytes = 0;
    loop {
        let read = io::Read::read(&mut file, &mut buffer).map_err(io)?;
        if read == 0 {
            return Ok(Some((bytes, hasher.finalize())));
        }
        hasher.update(&buffer[..read]);
        bytes += read as u64;
    }
}

/// A rename is on the disk when its folder is.
fn sync_folder(path: &Path) -> Result<(), Error> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match File::open(folder).and_then(|folder| folder.sync_all()) {
        Ok(()) => Ok(()),
        // Not every system lets a folder be synced, and none loses the file's bytes by it.
        Err(error) if matches!(error.kind(), io::ErrorKind::Unsupported | io::ErrorKind::InvalidInput) => Ok(()),
        Err(error) => Err(Error::write(folder)(error)),
    }
}
