//! One run, one program.

use std::{
    fs::{self, File, TryLockError},
    io::{Read, Seek, Write},
    path::Path,
};

use serde_json::{Value, json};

use super::{RunError, lineage::now};

/// Held while a program works on a run's folder, and says which one. The system lets go of it when the program ends, however it ends.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

impl Lock {
    pub(super) fn take(run: &Path) -> Result<Self, RunError> {
        let path = run.join("lock");
        let io = |source| RunError::Io { path: path.clone(), source };
        let mut file = File::options().create(true).truncate(false).read(true).write(true).open(&path).map_err(io)?;
        match file.try_lock() {
            Ok(()) => {
                let holder = json!({ "pid": std::process::id(), "host": host(), "since": now().round() });
                file.set_len(0).and_then(|()| writeln!(file, "{holder}")).map_err(io)?;
                Ok(Self { _file: file })
            }
            Err(TryLockError::WouldBlock) => Err(RunError::Busy { run: run.to_owned(), holder: holder(&mut file) }),
            Err(TryLockError::Error(source)) => Err(io(source)),
        }
    }
}

/// Who holds a lock, in words, as far as its file says.
fn holder(file: &mut File) -> String {
    let mut text = String::new();
    let read = file.rewind().and_then(|()| file.take(1 << 12).read_to_string(&mut text));
    let holder: Value = read.ok().and_then(|_| serde_json::from_str(&text).ok()).unwrap_or_default();
    let (Some(pid), Some(host)) = (holder["pid"].as_u64(), holder["host"].as_str()) else { return String::new() };
    let minutes = holder["since"].as_f64().map_or(0.0, |since| (now() - since).max(0.0) / 60.0);
    format!(" (process {pid} on {host:?}, for {minutes:.0} minutes)")
}

/// This machine's name; empty where it does not say.
pub(super) fn host() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").or_else(|_| fs::read_to_string("/etc/hostname"));
    name.unwrap_or_default().trim().to_owned()
}
