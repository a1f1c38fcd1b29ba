//! Files that are written aside, with the checksums that a later run knows them by.

use std::{
    fs::File,
    io::{self, Write},
    path::Path,
};

use dots_model::aside;

use crate::Error;

/// A file that is being written aside, and hashed meanwhile. Only whole files are gone on from, so what is left of one that cannot
/// be written is removed.
pub struct Aside {
    file: aside::Aside,
    hasher: crc32fast::Hasher,
    bytes: u64,
}

impl Aside {
    /// Begins the file that will be `path`. What an earlier run left of it goes.
    pub fn create(path: &Path) -> Result<Self, Error> {
        let file = aside::Aside::create(path).map_err(Error::write(aside::part_of(path)))?;
        Ok(Self { file, hasher: crc32fast::Hasher::new(), bytes: 0 })
    }

    /// Appends `bytes`.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.file.write_all(bytes).map_err(Error::write(self.file.part()))?;
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
        let Self { mut file, hasher, .. } = self;
        // Synced apart: what fails before it is about the passing name, what fails after it about the other.
        file.sync().map_err(Error::write(file.part()))?;
        let wrong = Error::write(file.path().to_owned());
        file.finish().map_err(wrong)?;
        Ok(hasher.finalize())
    }
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
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io(error)),
    };
    let mut hasher = crc32fast::Hasher::new();
    let bytes = aside::read_through(file, |piece| hasher.update(piece)).map_err(io)?;
    Ok(Some((bytes, hasher.finalize())))
}
