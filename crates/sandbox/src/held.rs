//! What a stopped program holds of the disk though no folder shows it: files that it removed and keeps open or mapped.
//!
//! The list is whole: a file without a name lives as long as a descriptor, a mapping, a working folder or the running program itself
//! refers to it, and those are what `/proc` shows. What else could keep one is refused: a descriptor in flight on a socket
//! (`sendmsg`), `io_uring`, asynchronous I/O.

use std::{
    collections::BTreeSet,
    ffi::CStr,
    fs::File,
    io::{self, BufRead, BufReader},
    os::fd::OwnedFd,
    path::Path,
};

use rustix::{
    fs::{AtFlags, CWD, Dir, Mode, OFlags, openat, statat},
    io::Errno,
    process::Pid,
};

use crate::usage::{Uncounted, Usage};

/// More of `/proc/PID/maps` is not read: it has 65,530 lines at most, but each may name a path as long as the tree is deep.
const MOST_MAPS_BYTES: u64 = 16 << 20;

/// Counts what the process holds without a name. It is stopped; `folder` is the one that it may write in.
pub fn measure(process: Pid, folder: &Path, usage: &mut Usage) -> Result<(), Uncounted> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let process = openat(CWD, format!("/proc/{process}"), flags | OFlags::DIRECTORY, Mode::empty())?;
    measure_open(&process, usage)?;
    let maps = openat(&process, c"maps", flags, Mode::empty())?;
    measure_mapped(BufReader::new(File::from(maps)), folder, usage)
}

fn measure_open(process: &OwnedFd, usage: &mut Usage) -> Result<(), Uncounted> {
    let mut counted = BTreeSet::new();
    let mut count = |folder: &OwnedFd, name: &CStr| -> Result<(), Uncounted> {
        // Through the link, which leads to the file whether it has a name or not.
        let found = statat(folder, name, AtFlags::empty())?;
        if found.st_nlink == 0 && counted.insert((found.st_dev, found.st_ino)) {
            usage.add_found(&found)?;
        }
        Ok(())
    };
    count(process, c"exe")?;
    count(process, c"cwd")?;
    let open = openat(process, c"fd", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    for entry in Dir::read_from(&open)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            count(&open, entry.file_name())?;
        }
    }
    Ok(())
}

/// Only root may ask for a mapped file's size once its name is gone, so each counts as the largest that one can be. Files from
/// elsewhere, such as libraries that an update replaces, are not the program's.
fn measure_mapped(maps: impl BufRead, folder: &Path, usage: &mut Usage) -> Result<(), Uncounted> {
    // By its own name, which is drawn at random: the folders above may be mounted in a second place.
    let Some(name) = folder.file_name() else { return Err(Uncounted::Over) };
    let folder = [b"/", name.as_encoded_bytes(), b"/"].concat();
    let mut counted = BTreeSet::new();
    let mut maps = maps.take(MOST_MAPS_BYTES);
    let mut line = Vec::new();
    loop {
        line.clear();
        if maps.read_until(b'\n', &mut line).map_err(uncounted)? == 0 {
            return if maps.limit() == 0 { Err(Uncounted::Over) } else { Ok(()) };
        }
        // `7f2c8a000000-7f2c8a001000 r--p 00000000 fe:00 1234    /tmp/dots-sandbox-x/name (deleted)`: device and number name a file.
        let is_ours = line.windows(folder.len()).any(|part| part == folder);
        if is_ours && line.ends_with(b" (deleted)\n") {
            let file: Vec<Vec<u8>> = line.split(|&byte| byte == b' ').skip(3).take(2).map(<[u8]>::to_vec).collect();
            if counted.insert(file) {
                usage.add_unknown()?;
            }
        }
    }
}

fn uncounted(error: io::Error) -> Uncounted {
    Errno::from_io_error(&error).map_or(Uncounted::Failed(error), Uncounted::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Limits;

    fn is_over(maps: &str, limits: Limits) -> bool {
        measure_mapped(maps.as_bytes(), Path::new("/tmp/dots-sandbox-x"), &mut Usage::new(limits)).is_err()
    }

    #[test]
    fn a_mapped_file_without_a_name_counts_once_as_the_largest_and_only_if_it_is_the_programs() {
        let limits = Limits { file_bytes: 10, disk_bytes: 10, ..Limits::default() };
        let line =
            |inode: u32, path: &str| format!("7f2c8a000000-7f2c8a001000 r--p 00000000 fe:00 {inode}      {path}\n");
        let one = line(1, "/tmp/dots-sandbox-x/a b (deleted)");
        assert!(!is_over(&one.repeat(3), limits), "one file, mapped three times");
        assert!(is_over(&(one.clone() + &line(2, "/mnt/tmp/dots-sandbox-x/d/#2 (deleted)")), limits));
        for other in ["/tmp/dots-sandbox-x/kept", "/usr/lib/libc.so.6 (deleted)", "/dev/zero (deleted)", "[heap]"] {
            assert!(!is_over(&(one.clone() + &line(3, other)), limits), "{other}");
        }
        assert!(is_over(&line(4, &"d/".repeat(9 << 20)), limits), "too long to be read");
    }
}
