//! Runs the program and keeps what it said.

#![allow(dead_code, reason = "each test file uses its part")]

pub mod fake;

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::Value;

/// Where the program lies.
pub const DOTS: &str = env!("CARGO_BIN_EXE_dots");

/// The program, where nothing of the user's own settings or of the network reaches it.
pub fn dots() -> Command {
    apart(DOTS)
}

/// Any program, such as a shell that starts this one, as apart from both.
pub fn apart(program: &str) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).env("HF_HUB_OFFLINE", "1");
    for (name, _) in std::env::vars_os() {
        if name == "RUST_LOG" || name.to_string_lossy().starts_with("DOTS_") {
            command.env_remove(name);
        }
    }
    command
}

/// What came of the program with `args` in `folder`.
pub fn dots_in(folder: &Path, args: &[&str]) -> Output {
    dots().args(args).current_dir(folder).output().unwrap()
}

/// All that it said.
pub fn text(output: &Output) -> String {
    [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy).concat()
}

/// A file or folder of the small goldens.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/goldens").join(name)
}

/// The texts of a golden, with what follows them.
pub fn golden_cases(name: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(fixture(name).join("golden.json")).unwrap();
    let golden: Value = serde_json::from_str(&text).unwrap();
    golden["cases"].as_array().unwrap().clone()
}

/// A run that ended.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    /// Runs `command` to its end.
    pub fn of(mut command: Command) -> Self {
        command.output().unwrap().into()
    }

    /// Runs `command` with a standard output that nobody reads.
    pub fn with_closed_stdout(mut command: Command) -> Self {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        command.stdout(writer).stderr(Stdio::piped());
        command.spawn().unwrap().wait_with_output().unwrap().into()
    }

    /// The run, which must have gone well.
    #[track_caller]
    pub fn succeeded(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:?}");
        self
    }

    /// The run must have ended with exit code 1 and one message that contains these words.
    #[track_caller]
    pub fn failed_saying(self, words: &[&str]) {
        assert_eq!(self.code, Some(1), "{self:?}");
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        let messages: Vec<&str> = self.stderr.lines().filter(|line| line.starts_with("dots: ")).collect();
        let [message] = messages[..] else { panic!("expected one message, found {messages:?} in {self:?}") };
        for word in words {
            assert!(message.contains(word), "{word:?} is not in {message:?}");
        }
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// Runs `command` with `input` on its standard input.
pub fn ran_with_input(mut command: Command, input: &str) -> Ran {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // A program that fails before it reads closes its end.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap().into()
}
