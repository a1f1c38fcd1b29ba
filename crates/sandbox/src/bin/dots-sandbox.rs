//! Runs one program in the sandbox, with its usual limits: to see what a program can do there.

use std::{
    io::{self, Read, Write},
    process::ExitCode,
};

use dots_sandbox::{End, Job, Sandbox};

fn main() -> ExitCode {
    dots_sandbox::enter();
    let argv: Vec<String> = std::env::args().skip(1).collect();
    if argv.is_empty() {
        eprintln!("Usage: dots-sandbox PROGRAM [ARGUMENTS]...");
        return ExitCode::from(2);
    }
    match run(argv) {
        Ok(End::Exit(code)) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
        Ok(end) => {
            eprintln!("dots-sandbox: {end:?}");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("dots-sandbox: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(argv: Vec<String>) -> Result<End, Box<dyn std::error::Error>> {
    let mut stdin = Vec::new();
    if !io::IsTerminal::is_terminal(&io::stdin()) {
        // As much as a job's memory, and no more.
        io::stdin().take(512 << 20).read_to_end(&mut stdin)?;
    }
    let outcome = Sandbox::of_this_program(&[])?.run(&Job { argv, stdin, ..Job::default() })?;
    io::stdout().write_all(&outcome.stdout)?;
    io::stderr().write_all(&outcome.stderr)?;
    Ok(outcome.end)
}
