//! The folder of spilled blocks.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use dots_model::hex;

use super::SpillOptions;
use crate::prefix::BlockName;

const MAGIC: &[u8; 8] = b"dotskv01";
/// Magic, key, name, CRC-32 of the rest.
const HEADER_BYTES: usize = 8 + 32 + 32 + 4;
const SUFFIX: &str = "kv";
/// Suffix of what is being written.
const PART: &str = "part";
/// What was being written and did not grow for so long never will: its writer is gone.
const ABANDONED: Duration = Duration::from_secs(3600);

/// Which blocks are there, and when each was used last.
#[derive(Debug)]
pub(super) struct Files {
    folder: PathBuf,
    key: [u8; 32],
    block_bytes: usize,
    limit: usize,
    used: HashMap<BlockName, u64>,
    by_use: BTreeMap<u64, BlockName>,
    clock: u64,
}

/// Where one block is or will be.
#[derive(Debug)]
pub(super) struct Place {
    path: PathBuf,
    header: [u8; HEADER_BYTES - 4],
    block_bytes: usize,
}

impl Files {
    pub fn open(options: &SpillOptions, block_bytes: usize) -> io::Result<Self> {
        let folder = options.folder.join(hex(&options.key[..8]));
        create_private(&folder)?;
        require_private(&folder)?;
        let file_bytes = (HEADER_BYTES + block_bytes) as u64;
        let mut files = Self {
            folder,
            key: options.key,
            block_bytes,
            limit: usize::try_from(options.limit_bytes / file_bytes).unwrap_or(usize::MAX),
            used: HashMap::new(),
            by_use: BTreeMap::new(),
            clock: 0,
        };
        let mut found = Vec::new();
        for entry in fs::read_dir(&files.folder)? {
            let entry = entry?;
            let path = entry.path();
            let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            let is_ours = path.extension().is_some_and(|suffix| suffix == SUFFIX);
            if path.extension().is_some_and(|suffix| suffix == PART) {
                remove_abandoned(&path);
            }
            let (Some(name), true) = (BlockName::from_hex(stem), is_ours) else { continue };
            let metadata = entry.metadata()?;
            // Another length is a file cut short or another version's.
            if metadata.is_file() && metadata.len() == file_bytes {
                found.push((metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH), name));
            }
        }
        found.sort_unstable();
        found.into_iter().for_each(|(_, name)| files.insert(name));
        Ok(files)
    }

    pub fn contains(&self, name: &BlockName) -> bool {
        self.used.contains_key(name)
    }

    /// Notes that a block was used; false where it is not there.
    pub fn touch(&mut self, name: &BlockName) -> bool {
        let Some(used) = self.used.get_mut(name) else { return false };
        self.clock += 1;
        self.by_use.remove(used);
        *used = self.clock;
        self.by_use.insert(self.clock, *name);
        true
    }

    /// Notes a block that was written, and removes those that are too many.
    pub fn insert(&mut self, name: BlockName) {
        if !self.touch(&name) {
            self.clock += 1;
            self.used.insert(name, self.clock);
            self.by_use.insert(self.clock, name);
        }
        while self.used.len() > self.limit
            && let Some((_, oldest)) = self.by_use.pop_first()
        {
            self.used.remove(&oldest);
            // One that another process removed already is as good as removed.
            let _ = fs::remove_file(self.path(&oldest));
        }
    }

    /// Forgets a block that turned out to be broken, and removes its file.
    pub fn remove(&mut self, name: &BlockName) {
        if let Some(used) = self.used.remove(name) {
            self.by_use.remove(&used);
            let _ = fs::remove_file(self.path(name));
        }
    }

    pub fn place(&self, name: &BlockName) -> io::Result<Place> {
        let mut header = [0; HEADER_BYTES - 4];
        header[..8].copy_from_slice(MAGIC);
        header[8..40].copy_from_slice(&self.key);
        header[40..].copy_from_slice(name.as_bytes());
        Ok(Place { path: self.path(name), header, block_bytes: self.block_bytes })
    }

    fn path(&self, name: &BlockName) -> PathBuf {
        self.folder.join(name.hex()).with_extension(SUFFIX)
    }
}

impl Place {
    /// Writes aside, then renames: under its name a file is whole. Not by `dots_model::aside`, since this is a cache: none waits for the
    /// disk, as a block that a crash broke fails its checksum and is computed anew; two processes may write the same block at once;
    /// and what was said is private from its first byte.
    pub fn write(&self, bytes: &[u8]) -> io::Result<()> {
        let aside = self.path.with_extension(format!("{}.{PART}", std::process::id()));
        let written = private_file(&aside).and_then(|mut file| {
            file.write_all(&self.header)?;
            file.write_all(&crc32fast::hash(bytes).to_le_bytes())?;
            file.write_all(bytes)?;
            fs::rename(&aside, &self.path)
        });
        written.inspect_err(|_| drop(fs::remove_file(&aside)))
    }

    /// Fills `bytes` with the block, once its header and checksum are right.
    pub fn read(&self, bytes: &mut Vec<u8>) -> io::Result<()> {
        let refuse = |what: &str| Err(io::Error::other(format!("{}: {what}", self.path.display())));
        let mut file = File::open(&self.path)?;
        if file.metadata()?.len() != (HEADER_BYTES + self.block_bytes) as u64 {
            return refuse("its length is not that of a block");
        }
        let mut header = [0; HEADER_BYTES];
        file.read_exact(&mut header)?;
        let (said, crc) = header.split_at(HEADER_BYTES - 4);
        if said != self.header {
            return refuse("its header is another block's");
        }
        bytes.resize(self.block_bytes, 0);
        file.read_exact(bytes)?;
        if crc32fast::hash(bytes).to_le_bytes() != crc {
            return refuse("its checksum is wrong");
        }
        // So that what was used last is kept after a restart too; where it cannot be noted, it is not.
        let _ = file.set_modified(SystemTime::now());
        Ok(())
    }
}

/// Blocks tell what was said: nobody else may read them.
#[cfg(unix)]
fn create_private(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

#[cfg(not(unix))]
fn create_private(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)
}

/// Whoever may write here decides what answers are made of.
#[cfg(unix)]
fn require_private(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let metadata = fs::symlink_metadata(folder)?;
    let mode = metadata.permissions().mode() & 0o777;
    let refuse = |found: String| {
        Err(io::Error::other(format!(
            "{}: expected a folder that only its owner writes, found {found}",
            folder.display()
        )))
    };
    match metadata.is_dir() {
        false => refuse("a link".to_owned()),
        true if mode & 0o022 != 0 => refuse(format!("mode {mode:o}")),
        true => Ok(()),
    }
}

#[cfg(not(unix))]
fn require_private(_folder: &Path) -> io::Result<()> {
    Ok(())
}

/// Removes what a process that was killed left half, once it is old: another process may be writing it.
fn remove_abandoned(path: &Path) {
    let modified = fs::symlink_metadata(path).and_then(|metadata| metadata.modified());
    if modified.is_ok_and(|modified| modified.elapsed().is_ok_and(|age| age > ABANDONED)) {
        // What cannot be removed stays, as it would without this.
        let _ = fs::remove_file(path);
    }
}

/// A new file. One of that name is of an earlier process of this number, or a trap that leads to a file elsewhere: it goes.
fn private_file(path: &Path) -> io::Result<File> {
    let _ = fs::remove_file(path);
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}
