//! Runs a program that nobody has read, such as one that a model wrote: without network, without other processes, without the
//! user's files, in bounded time, memory and space.
//!
//! The program is one process. A child of ours ([`enter`]) takes every right away from itself, for good, and then becomes the
//! program: its file system is what [`Sandbox::new`] names, to be read, and one empty folder of its own (Landlock); the system calls
//! that it has left neither reach the network nor make a process or a thread, nor signal, trace or wait for another
//! (seccomp); memory, processor time, files and their sizes have limits that it cannot raise; as root it keeps no capability.
//! What it takes of the disk, hidden or not, its parent measures every few hundredths of a second while it is stopped ([`Limits`]
//! says how far past its limit it gets).
//! All of this an ordinary user may do, and root in a container too: no namespace and no daemon is asked for. As there is never a
//! second process, killing the one ends all.
//!
//! What does not hold: that a path exists can be found out (Landlock does not hide names), and the kernel and the processor are
//! shared, with their faults. Where the machine cannot hold the walls, nothing runs: [`SandboxError::NoWalls`] says what is missing.

mod error;
mod job;
mod python;

#[cfg(target_os = "linux")]
mod confine;
#[cfg(target_os = "linux")]
mod folder;
#[cfg(target_os = "linux")]
mod held;
#[cfg(target_os = "linux")]
mod scratch;
#[cfg(target_os = "linux")]
mod supervise;
#[cfg(target_os = "linux")]
mod syscalls;
#[cfg(target_os = "linux")]
mod usage;

use std::path::{Path, PathBuf};

pub use error::SandboxError;
pub use job::{End, Job, Limits, Outcome};
pub use python::Python;

/// The first argument of a process that is to confine itself.
const CONFINE: &str = "__sandbox";

/// Becomes the confined program where this process was started for that, and does nothing otherwise.
///
/// To be called first thing in `main` of every program that runs jobs with [`Sandbox::of_this_program`]: before there is a second
/// thread, which would keep its rights.
pub fn enter() {
    let mut args = std::env::args_os().skip(1);
    if args.next().is_none_or(|first| first != CONFINE) {
        return;
    }
    #[cfg(target_os = "linux")]
    confine::confine(args.next());
    #[cfg(not(target_os = "linux"))]
    std::process::exit(1);
}

/// Where programs run, and what they can read there.
#[derive(Debug, Clone)]
pub struct Sandbox {
    helper: PathBuf,
    readable: Vec<PathBuf>,
}

impl Sandbox {
    /// A sandbox whose helper is this very program, which calls [`enter`].
    ///
    /// # Errors
    /// As [`Sandbox::new`].
    pub fn of_this_program(readable: &[PathBuf]) -> Result<Self, SandboxError> {
        // Names the running program even where its file has been replaced since.
        Self::new(Path::new("/proc/self/exe"), readable)
    }

    /// A sandbox with this helper: a program that calls [`enter`] first. What is below `readable` can be read and run there, beside
    /// the system's programs and libraries.
    ///
    /// # Errors
    /// [`SandboxError::NoWalls`] where this machine cannot isolate a program: tried out once here.
    pub fn new(helper: &Path, readable: &[PathBuf]) -> Result<Self, SandboxError> {
        let sandbox = Self { helper: helper.to_owned(), readable: readable.to_vec() };
        // A job without a program ends when the walls stand.
        sandbox.run(&Job { argv: Vec::new(), ..Job::default() })?;
        Ok(sandbox)
    }

    /// Runs one job to its end, and returns when nothing is left of it: no process and no file.
    ///
    /// Callable from several threads at once; the thread waits for the program.
    ///
    /// # Errors
    /// Where the program could not be started or watched. That it failed, or met a limit, is an [`Outcome`].
    pub fn run(&self, job: &Job) -> Result<Outcome, SandboxError> {
        #[cfg(target_os = "linux")]
        return supervise::run(&self.helper, &self.readable, job);
        #[cfg(not(target_os = "linux"))]
        Err(SandboxError::NoWalls("Landlock and seccomp, which only Linux has".to_owned()))
    }
}
