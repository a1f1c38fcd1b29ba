//! What is run, within which limits, and what came of it.

use std::time::Duration;

/// A program to run once.
#[derive(Debug, Clone, Default)]
pub struct Job {
    /// The program, by its path, and its arguments.
    pub argv: Vec<String>,
    /// Files in the folder that it starts in, by plain names.
    pub files: Vec<(String, Vec<u8>)>,
    /// What it reads from its standard input.
    pub stdin: Vec<u8>,
    /// How much it may take.
    pub limits: Limits,
}

/// How much a program may take. It is one process with one thread, whatever these say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// From start to end, by the clock; of processor time it gets as many whole seconds, rounded up, and one more.
    pub time: Duration,
    /// Memory that it maps, its program and libraries included; at least 64 MiB.
    pub memory_bytes: u64,
    /// Standard output and standard error, each.
    pub output_bytes: usize,
    /// One file.
    pub file_bytes: u64,
    /// All that lies in its folder, and all that it removed there and still holds open or mapped; a removed file that is mapped
    /// counts as `file_bytes`, however small. A folder that cannot be listed is over any limit.
    ///
    /// Measured every few hundredths of a second, the program stopped: it gets past this by what it can write in that time,
    /// and by one system call, which writes at most `file_bytes`.
    pub disk_bytes: u64,
    /// Files and folders in its folder, and those that it removed and holds, counted as often.
    pub files: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            time: Duration::from_secs(10),
            memory_bytes: 512 << 20,
            output_bytes: 1 << 20,
            file_bytes: 16 << 20,
            disk_bytes: 64 << 20,
            files: 1000,
        }
    }
}

/// How a program ended and what it wrote.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// How it ended.
    pub end: End,
    /// Its standard output, at most `output_bytes` of it.
    pub stdout: Vec<u8>,
    /// Its standard error, at most `output_bytes` of it.
    pub stderr: Vec<u8>,
    /// How long it ran, by the clock.
    pub time: Duration,
}

impl Outcome {
    /// Whether it ended by itself and said that all was well.
    pub fn is_success(&self) -> bool {
        self.end == End::Exit(0)
    }
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// By itself, with this status.
    Exit(i32),
    /// By this signal, as one that fails to get memory often does.
    Signal(i32),
    /// Killed: out of time.
    Time,
    /// Killed: it wrote more than `output_bytes`.
    Output,
    /// Killed: it took more than `disk_bytes` or `files`, or hid what it took.
    Disk,
}
