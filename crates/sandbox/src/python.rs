//! The Python that runs a model's programs.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{Job, Limits, Outcome, Sandbox, SandboxError};

/// An interpreter of Python 3, in a sandbox that can read its libraries.
#[derive(Debug, Clone)]
pub struct Python {
    sandbox: Sandbox,
    executable: String,
}

impl Python {
    /// `python`, or else the `python3` of `PATH`, in a sandbox whose helper is `helper`, or else this very program.
    ///
    /// The interpreter is asked where it lies, outside of the sandbox: it is the user's own.
    ///
    /// # Errors
    /// Where there is none, where its libraries lie such that the sandbox would show all of a user's files, or as [`Sandbox::new`].
    pub fn new(python: Option<&Path>, helper: Option<&Path>) -> Result<Self, SandboxError> {
        const ASK: &str = "import sys; print(sys.executable, sys.prefix, sys.base_prefix, sep='\\n')";
        let python = python.unwrap_or(Path::new("python3"));
        let wrong = |what: String| SandboxError::NoPython(format!("{}: {what}", python.display()));
        let asked = Command::new(python).args(["-I", "-c", ASK]).stdin(Stdio::null()).output();
        let asked = asked.map_err(|error| wrong(format!("{error}; install Python 3, or name another")))?;
        let text = String::from_utf8_lossy(&asked.stdout);
        let mut lines = text.lines();
        let (Some(executable), Some(prefix), Some(base), true) =
            (lines.next(), lines.next(), lines.next(), asked.status.success())
        else {
            return Err(wrong("expected a Python 3 that says where it lies".to_owned()));
        };
        // Through its links, as a virtual environment's interpreter is one.
        let real = Path::new(executable).canonicalize().map_err(|error| wrong(format!("{executable}: {error}")))?;
        let mut readable = vec![PathBuf::from(prefix), PathBuf::from(base)];
        readable.dedup();
        let home = std::env::home_dir();
        for path in &readable {
            let shows_all = path.parent().is_none() || home.as_ref().is_some_and(|home| home.starts_with(path));
            if shows_all && path != Path::new("/usr") {
                return Err(wrong(format!("its libraries lie in {}, with the user's files", path.display())));
            }
        }
        readable.push(real);
        let sandbox = match helper {
            Some(helper) => Sandbox::new(helper, &readable),
            None => Sandbox::of_this_program(&readable),
        }?;
        Ok(Self { sandbox, executable: executable.to_owned() })
    }

    /// Runs a program of one file.
    ///
    /// # Errors
    /// As [`Sandbox::run`].
    pub fn run(&self, program: &str, stdin: &[u8], limits: Limits) -> Result<Outcome, SandboxError> {
        const FILE: &str = "program.py";
        self.sandbox.run(&Job {
            // Isolated from variables and the user's packages; writes no bytecode.
            argv: [&self.executable, "-I", "-B", FILE].map(str::to_owned).to_vec(),
            files: vec![(FILE.to_owned(), program.as_bytes().to_vec())],
            stdin: stdin.to_vec(),
            limits,
        })
    }
}
