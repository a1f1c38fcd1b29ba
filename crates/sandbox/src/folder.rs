//! Trees of folders that a stranger made, measured and taken away.
//!
//! They are walked by handles, and one folder is open at a time: no path is too long, no link is followed, and depth costs neither
//! stack nor open files. Whoever made the tree is stopped or dead meanwhile, so it holds still, and `..` leads where the walk came
//! from.

use std::{
    ffi::{CStr, CString},
    os::fd::OwnedFd,
    path::Path,
};

use rustix::{
    fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, chmodat, openat, statat, unlinkat},
    io::Errno,
};

use crate::usage::{Uncounted, Usage};

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Counts everything below `root`. A folder that cannot be listed is over any limit; what is gone since it was listed (a cleaner
/// of temporary folders may come by) takes nothing.
pub fn measure(root: &Path, usage: &mut Usage) -> Result<(), Uncounted> {
    let mut place = Place::new(root)?;
    // Folders seen and not yet entered, each with the depth of the one that it lies in.
    let mut seen: Vec<(usize, CString)> = Vec::new();
    loop {
        for name in place.names()? {
            let name = name?;
            let Some(found) = unless_gone(place.find(&name))? else { continue };
            usage.add_found(&found)?;
            if is_folder(&found) {
                seen.push((place.depth, name));
            }
        }
        loop {
            let Some((depth, name)) = seen.pop() else { return Ok(()) };
            place.climb_to(depth)?;
            if unless_gone(place.enter(&name))?.is_some() {
                break;
            }
        }
    }
}

/// Takes away `root` and all below it, whatever rights its folders were left with.
pub fn remove(root: &Path) -> Result<(), Errno> {
    struct Seen {
        depth: usize,
        name: CString,
        is_entered: bool,
    }
    let mut place = Place::new(root)?;
    // A folder stays here until all below it is gone.
    let mut seen: Vec<Seen> = Vec::new();
    loop {
        // All names first: what a listing shows of a folder that changes meanwhile is nowhere promised.
        for name in place.names()?.collect::<Result<Vec<_>, _>>()? {
            if is_folder(&place.find(&name)?) {
                chmodat(&place.folder, &name, Mode::RWXU, AtFlags::empty())?;
                seen.push(Seen { depth: place.depth, name, is_entered: false });
            } else {
                unlinkat(&place.folder, &name, AtFlags::empty())?;
            }
        }
        loop {
            let Some(last) = seen.last_mut() else { return unlinkat(CWD, root, AtFlags::REMOVEDIR) };
            place.climb_to(last.depth)?;
            if !last.is_entered {
                last.is_entered = true;
                place.enter(&last.name)?;
                break;
            }
            unlinkat(&place.folder, &last.name, AtFlags::REMOVEDIR)?;
            seen.pop();
        }
    }
}

/// The one open folder of a walk, so many below the root.
struct Place {
    folder: OwnedFd,
    depth: usize,
}

impl Place {
    fn new(root: &Path) -> Result<Self, Errno> {
        Ok(Self { folder: openat(CWD, root, FOLDER, Mode::empty())?, depth: 0 })
    }

    fn names(&self) -> Result<impl Iterator<Item = Result<CString, Errno>> + use<>, Errno> {
        let names = Dir::read_from(&self.folder)?.map(|entry| entry.map(|entry| entry.file_name().to_owned()));
        Ok(names.filter(|name| !matches!(name.as_deref().map(CStr::to_bytes), Ok(b"." | b".."))))
    }

    fn find(&self, name: &CStr) -> Result<Stat, Errno> {
        statat(&self.folder, name, AtFlags::SYMLINK_NOFOLLOW)
    }

    fn enter(&mut self, name: &CStr) -> Result<(), Errno> {
        self.folder = openat(&self.folder, name, FOLDER, Mode::empty())?;
        self.depth += 1;
        Ok(())
    }

    fn climb_to(&mut self, depth: usize) -> Result<(), Errno> {
        while self.depth > depth {
            self.folder = openat(&self.folder, c"..", FOLDER, Mode::empty())?;
            self.depth -= 1;
        }
        Ok(())
    }
}

fn is_folder(found: &Stat) -> bool {
    FileType::from_raw_mode(found.st_mode).is_dir()
}

fn unless_gone<T>(result: Result<T, Errno>) -> Result<Option<T>, Errno> {
    match result {
        Err(Errno::NOENT) => Ok(None),
        other => other.map(Some),
    }
}
