//! Files that are whole where they bear their name: written under another one, put on the disk, renamed; and read through later,
//! to see whether they still are what they were.
//!
//! Errors are the system's and name no file: whoever calls knows which one the user asked for.

use std::{
    fs::{self, File, TryLockError},
    io::{self, BufWriter, Read, Write},
    path::{Path, PathBuf},
};

/// Bytes that wait to be written.
const BUFFER_BYTES: usize = 1 << 18;
/// Bytes read at once.
const PIECE_BYTES: usize = 1 << 20;

/// A file that is being written under a passing name, beside the one that it will bear. Dropped before [`Aside::finish`], it is
/// removed, and what bore the name stays as it was. It is locked meanwhile: of two programs that write one file the second is refused
/// ([`io::ErrorKind::ResourceBusy`]), where else the first to end would give the name to the other's half.
#[derive(Debug)]
pub struct Aside {
    path: PathBuf,
    part: PathBuf,
    file: BufWriter<File>,
    is_renamed: bool,
}

impl Aside {
    /// Begins the file that will be `path`, as [`part_of`] names it. What an earlier run left under that name goes: it is not
    /// opened, since it may be a link that leads to a file elsewhere.
    pub fn create(path: &Path) -> io::Result<Self> {
        let part = part_of(path);
        remove_left(&part)?;
        Self::create_new(path, part)
    }

    /// Begins the file that will be `path` under the name `part` in the same folder, which nothing may bear yet.
    pub fn create_new(path: &Path, part: PathBuf) -> io::Result<Self> {
        let file = File::create_new(&part)?;
        // Between these two calls another program may have taken it for left behind, and removed it.
        if !lock(&file) || !is_named(&file, &part) {
            return Err(busy());
        }
        let file = BufWriter::with_capacity(BUFFER_BYTES, file);
        Ok(Self { path: path.to_owned(), part, file, is_renamed: false })
    }

    /// The name that it will bear.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where it lies until then.
    pub fn part(&self) -> &Path {
        &self.part
    }

    /// Puts on the disk what was written so far.
    pub fn sync(&mut self) -> io::Result<()> {
        self.file.flush()?;
        self.file.get_ref().sync_all()
    }

    /// Puts the file on the disk and under its name, in the place of what bore it. A link of that name is replaced itself, and what
    /// it leads to stays as it was.
    pub fn finish(mut self) -> io::Result<()> {
        self.sync()?;
        fs::rename(&self.part, &self.path)?;
        // From here on the passing name is anybody's.
        self.is_renamed = true;
        sync_folder(folder_of(&self.path))
    }
}

impl Write for Aside {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        if !self.is_renamed {
            // Whatever went wrong before is the error to tell; the next run removes what stays.
            let _ = fs::remove_file(&self.part);
        }
    }
}

/// A file that is there to be locked: it goes with the lock, which the system lets go of when the program ends, however it ends.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    _file: File,
}

impl Lock {
    /// The lock of the file `path`; `None` where another program holds it.
    pub fn take(path: &Path) -> io::Result<Option<Self>> {
        loop {
            let file = File::options().create(true).truncate(false).write(true).open(path)?;
            if !lock(&file) {
                return Ok(None);
            }
            // Whoever held it may have removed it after it was opened here: then it keeps nobody out any more.
            if is_named(&file, path) {
                return Ok(Some(Self { path: path.to_owned(), _file: file }));
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // While it is held. One that stays is taken by the next program.
        let _ = fs::remove_file(&self.path);
    }
}

/// Removes what a run that ended left under a passing name.
fn remove_left(part: &Path) -> io::Result<()> {
    loop {
        match fs::symlink_metadata(part) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            // What can be opened may be somebody's who still writes it. What cannot, and a link, are nobody's.
            Ok(metadata) if metadata.is_file() => {
                if let Ok(file) = File::open(part) {
                    if !lock(&file) {
                        return Err(busy());
                    }
                    // Whoever held it may have given it its name, and another come after.
                    if !is_named(&file, part) {
                        continue;
                    }
                    return fs::remove_file(part);
                }
            }
            _ => {}
        }
        return fs::remove_file(part);
    }
}

/// Whether the lock is to be had. Where files cannot be locked, nobody is kept out, and nobody held up either.
fn lock(file: &File) -> bool {
    !matches!(file.try_lock(), Err(TryLockError::WouldBlock))
}

fn busy() -> io::Error {
    io::Error::new(io::ErrorKind::ResourceBusy, "another run is writing it")
}

/// Whether `path` names this very file, and not one that came after it.
fn is_named(file: &File, path: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let id = |metadata: &fs::Metadata| (metadata.dev(), metadata.ino());
        matches!((file.metadata(), fs::metadata(path)), (Ok(file), Ok(named)) if id(&file) == id(&named))
    }
    // Elsewhere a file that is open cannot be removed.
    #[cfg(not(unix))]
    {
        let _ = (file, path);
        true
    }
}

/// The name under which `path` is written: its own and `.part`.
pub fn part_of(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    path.with_file_name(name)
}

/// Writes a small file whole, or leaves the one of that name as it was.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_with(path, |file| file.write_all(bytes))
}

/// Writes a file whole by `write`, or where that fails leaves the one of that name as it was.
pub fn write_with(path: &Path, write: impl FnOnce(&mut Aside) -> io::Result<()>) -> io::Result<()> {
    let mut file = Aside::create(path)?;
    write(&mut file)?;
    file.finish()
}

/// Renames a file or folder, whose contents are on the disk, for good: a crash does not undo it.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    sync_folder(folder_of(to))
}

/// Puts on the disk which names a folder has: those in it are on the disk when it is.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    match File::open(folder).and_then(|folder| folder.sync_all()) {
        // Not every system lets a folder be opened or synced, nor every folder whoever may write into it; the bytes of its files are
        // on the disk all the same.
        Err(error) if !is_refusal(error.kind()) => Err(error),
        _ => Ok(()),
    }
}

fn is_refusal(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::Unsupported | io::ErrorKind::InvalidInput | io::ErrorKind::PermissionDenied)
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Shows all of `file` to `see`, a piece at a time. Returns how many bytes there were.
pub fn read_through(mut file: impl Read, mut see: impl FnMut(&[u8])) -> io::Result<u64> {
    let mut piece = vec![0; PIECE_BYTES];
    let mut bytes = 0;
    loop {
        match file.read(&mut piece) {
            Ok(0) => return Ok(bytes),
            Ok(read) => {
                see(&piece[..read]);
                bytes += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }

    fn old_file(folder: &Path) -> PathBuf {
        let path = folder.join("run.json");
        fs::write(&path, "old").unwrap();
        path
    }

    #[test]
    fn a_file_is_replaced_whole_and_not_before_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = old_file(folder.path());
        let long = vec![b'n'; 3 * BUFFER_BYTES + 1];
        let mut file = Aside::create(&path).unwrap();
        file.write_all(&long).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(folder.path()), ["run.json", "run.json.part"]);
        file.finish().unwrap();
        assert!(fs::read(&path).unwrap() == long);
        assert_eq!(names(folder.path()), ["run.json"]);
    }

    #[test]
    fn a_file_that_is_not_finished_leaves_the_old_one_and_no_part() {
        let folder = tempfile::tempdir().unwrap();
        let path = old_file(folder.path());
        let mut file = Aside::create(&path).unwrap();
        file.write_all(b"half").unwrap();
        file.sync().unwrap();
        drop(file);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(folder.path()), ["run.json"]);
    }

    #[test]
    fn an_error_leaves_the_old_file_and_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = old_file(folder.path());
        let full = |file: &mut Aside| file.write_all(b"half").and(Err(io::ErrorKind::StorageFull.into()));
        assert_eq!(write_with(&path, full).unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(folder.path()), ["run.json"]);
        assert_eq!(write(&folder.path().join("none/x"), b"new").unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_name_that_cannot_be_taken_leaves_no_part() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("folder");
        fs::create_dir(&path).unwrap();
        assert!(write(&path, b"new").is_err());
        assert_eq!(names(folder.path()), ["folder"]);
    }

    #[test]
    fn what_a_killed_run_left_is_written_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.json");
        fs::write(part_of(&path), "a longer half").unwrap();
        write(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(names(folder.path()), ["run.json"]);
    }

    #[test]
    fn a_passing_name_that_must_be_free_and_is_not_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let theirs = folder.path().join("theirs");
        fs::write(&theirs, "theirs").unwrap();
        let error = Aside::create_new(&folder.path().join("run.json"), theirs.clone()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&theirs).unwrap(), b"theirs");
    }

    #[test]
    fn of_two_that_write_one_file_the_second_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = old_file(folder.path());
        let mut first = Aside::create(&path).unwrap();
        first.write_all(b"first").unwrap();
        let error = Aside::create(&path).unwrap_err();
        assert_eq!(
            (error.kind(), error.to_string().as_str()),
            (io::ErrorKind::ResourceBusy, "another run is writing it")
        );
        first.finish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"first");
        write(&path, b"second").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
    }

    #[test]
    fn a_lock_is_held_by_one_and_leaves_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock.part");
        let lock = Lock::take(&path).unwrap().unwrap();
        assert!(Lock::take(&path).unwrap().is_none());
        drop(lock);
        assert!(names(folder.path()).is_empty());
        // What a program that was killed leaves.
        fs::write(&path, "").unwrap();
        drop(Lock::take(&path).unwrap().unwrap());
        assert!(names(folder.path()).is_empty());
    }

    #[cfg(unix)]
    #[test]
    fn no_link_is_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (path, precious) = (folder.path().join("run.json"), folder.path().join("precious"));
        fs::write(&precious, "mine").unwrap();
        for trap in [path.clone(), part_of(&path)] {
            std::os::unix::fs::symlink(&precious, &trap).unwrap();
            write(&path, b"new").unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"new");
            assert_eq!(fs::read(&precious).unwrap(), b"mine");
            assert!(path.symlink_metadata().unwrap().is_file());
        }
    }

    #[test]
    fn a_renamed_folder_is_under_its_new_name() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("x.part")).unwrap();
        rename(&folder.path().join("x.part"), &folder.path().join("x")).unwrap();
        assert_eq!(names(folder.path()), ["x"]);
    }

    #[test]
    fn a_name_alone_lies_in_the_folder_that_the_program_runs_in() {
        assert_eq!(folder_of(Path::new("x")), Path::new("."));
        assert_eq!(folder_of(Path::new("runs/x")), Path::new("runs"));
        sync_folder(folder_of(Path::new("x"))).unwrap();
        assert_eq!(sync_folder(Path::new("/no/such/folder")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn all_of_a_file_is_shown_in_its_order() {
        struct Halting<'a>(&'a [u8], bool);
        impl Read for Halting<'_> {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                self.1 = !self.1;
                if self.1 { Err(io::ErrorKind::Interrupted.into()) } else { self.0.read(buffer) }
            }
        }
        let whole: Vec<u8> = (0..2 * PIECE_BYTES + 3).map(|at| (at % 251) as u8).collect();
        let mut seen = Vec::new();
        let bytes = read_through(Halting(&whole, false), |piece| seen.extend_from_slice(piece)).unwrap();
        assert_eq!(bytes, whole.len() as u64);
        assert!(seen == whole);
    }
}
