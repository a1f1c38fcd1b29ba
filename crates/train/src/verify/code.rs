//! Whether a program passes tests, by running it in the sandbox.

use std::time::Duration;

use dots_model::hex;
use dots_sandbox::{End, Limits, Outcome, Python, SandboxError};
use serde_json::Value;

use super::Verdict;

/// Most tests of a problem: each of those that feed a program is a run of its own.
pub const MOST_TESTS: usize = 200;

/// What a program must do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tests {
    /// Python that runs after the program, in its names, and raises where it is wrong (`assert add(1, 2) == 3`).
    Python(String),
    /// Whole runs: what the program reads, and what it must write.
    Runs(Vec<Run>),
}

/// One run of a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Its standard input.
    pub input: String,
    /// What it must write: the same lines, whatever spaces end them and blank lines end it.
    pub output: String,
}

impl Tests {
    /// Tests as a problem has them: Python as one text or as a list of texts, or a list of `{"input": …, "output": …}`. Else what was
    /// expected.
    pub fn of(value: &Value) -> Result<Self, String> {
        const EXPECTED: &str = "Python as a text, or a list of texts or of {\"input\": …, \"output\": …}, not empty";
        let expected = || EXPECTED.to_owned();
        if let Some(text) = value.as_str().filter(|text| !text.trim().is_empty()) {
            return Ok(Self::Python(text.to_owned()));
        }
        let list = value.as_array().filter(|list| !list.is_empty()).ok_or_else(expected)?;
        if list.len() > MOST_TESTS {
            return Err(format!("at most {MOST_TESTS} tests"));
        }
        if let Some(texts) = list.iter().map(Value::as_str).collect::<Option<Vec<_>>>() {
            return Ok(Self::Python(texts.join("\n")));
        }
        let runs = list.iter().map(|run| {
            Some(Run { input: run.get("input")?.as_str()?.to_owned(), output: run.get("output")?.as_str()?.to_owned() })
        });
        runs.collect::<Option<Vec<_>>>().map(Self::Runs).ok_or_else(expected)
    }

    /// Runs the program that an answer holds.
    pub(super) fn verify(&self, answer: &str, python: &Python, limits: Limits) -> Result<Verdict, SandboxError> {
        let Some(program) = program(answer) else { return Ok(Verdict::NoAnswer) };
        match self {
            Self::Python(tests) => verify_python(program, tests, python, limits),
            Self::Runs(runs) => {
                for run in runs {
                    let outcome = python.run(program, run.input.as_bytes(), limits)?;
                    if !outcome.is_success() {
                        return Ok(of_end(&outcome));
                    }
                    if !same_lines(&String::from_utf8_lossy(&outcome.stdout), &run.output) {
                        return Ok(Verdict::Failed);
                    }
                }
                Ok(Verdict::Accepted)
            }
        }
    }
}

/// Runs program and tests in one process, which says at its end that it came there: a program that leaves early with status 0
/// has passed nothing. The word is new each time, and gone from standard input before the program begins. A program that looks
/// through the interpreter's memory for it would find it; nothing within one process keeps it from that.
fn verify_python(program: &str, tests: &str, python: &Python, limits: Limits) -> Result<Verdict, SandboxError> {
    const RUNNER: &str = "\
import json as _json, os as _os, sys as _sys
def _run():
    program, tests, word = _json.loads(_sys.stdin.read())
    names = {'__name__': '__main__'}
    exec(compile(program, 'program', 'exec'), names)
    exec(compile(tests, 'tests', 'exec'), names)
    _sys.stdout.flush()
    _os.write(1, word.encode())
_run()
";
    let word = word()?;
    let input = Value::from(vec![program, tests, &word]).to_string();
    let outcome = python.run(RUNNER, input.as_bytes(), limits)?;
    if outcome.is_success() && outcome.stdout.ends_with(word.as_bytes()) {
        return Ok(Verdict::Accepted);
    }
    Ok(of_end(&outcome))
}

fn word() -> Result<String, SandboxError> {
    use std::io::Read;
    let mut random = [0u8; 16];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut random)?;
    Ok(hex(&random))
}

fn of_end(outcome: &Outcome) -> Verdict {
    match outcome.end {
        End::Time => Verdict::Time,
        End::Output | End::Disk => Verdict::TooMuch,
        End::Exit(_) | End::Signal(_) => Verdict::Failed,
    }
}

/// The limits of a run of tests: little time, so that a loop without end costs little.
pub fn limits(time: Duration) -> Limits {
    Limits { time, ..Limits::default() }
}

/// The last block of Python in an answer, or the whole answer where it has no block.
fn program(answer: &str) -> Option<&str> {
    let mut found = None;
    let mut rest = answer;
    let mut any = false;
    while let Some((_, after)) = rest.split_once("```") {
        any = true;
        let Some((tag, body)) = after.split_once('\n') else { break };
        // A block that never closes was cut off.
        let Some((block, after)) = body.split_once("```") else { break };
        if matches!(tag.trim().to_ascii_lowercase().as_str(), "" | "python" | "python3" | "py") {
            found = Some(block);
        }
        rest = after;
    }
    found.or((!any).then_some(answer)).filter(|program| !program.trim().is_empty())
}

fn same_lines(found: &str, expected: &str) -> bool {
    let lines = |text: &str| -> Vec<String> {
        let mut lines: Vec<String> = text.lines().map(|line| line.trim_end().to_owned()).collect();
        while lines.last().is_some_and(String::is_empty) {
            lines.pop();
        }
        lines
    };
    lines(found) == lines(expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_of_an_answer_is_its_last_block_that_closes() {
        for (answer, expected) in [
            ("x = 1", Some("x = 1")),
            ("Here:\n```python\na\n```\nor\n```py\nb\n```\nRun:\n```bash\npython x.py\n```", Some("b\n")),
            ("```\na\n```", Some("a\n")),
            ("```python\nnever closed", None),
            ("```rust\nfn main() {}\n```", None),
            ("  ", None),
        ] {
            assert_eq!(program(answer), expected, "{answer}");
        }
    }

    #[test]
    fn tests_have_three_forms_and_no_fourth() {
        let of = |text: &str| Tests::of(&serde_json::from_str(text).unwrap());
        assert_eq!(of(r#""assert f(1) == 2""#), Ok(Tests::Python("assert f(1) == 2".to_owned())));
        assert_eq!(of(r#"["assert a", "assert b"]"#), Ok(Tests::Python("assert a\nassert b".to_owned())));
        let run = Run { input: "1\n".to_owned(), output: "2\n".to_owned() };
        assert_eq!(of(r#"[{"input": "1\n", "output": "2\n"}]"#), Ok(Tests::Runs(vec![run])));
        for wrong in ["[]", "\"\"", "3", "{}", r#"[{"input": "1"}]"#, r#"["a", {"input": "", "output": ""}]"#] {
            assert!(of(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn lines_are_compared_without_the_spaces_at_their_ends() {
        assert!(same_lines("1 2 \n3\n\n", "1 2\n3"));
        assert!(!same_lines("1  2", "1 2"));
        assert!(!same_lines("", "1"));
    }
}
