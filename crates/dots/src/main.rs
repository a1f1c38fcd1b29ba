//! `dots`: the command line of the dots.llm1 house. Each command is a file; what they share is beside them.

mod answer;
mod batch;
mod bench;
mod chat;
mod cli;
mod compare;
mod complete;
mod experts;
mod export;
mod flags;
mod inside;
mod inspect;
mod load;
mod log;
mod memory;
mod open_files;
mod pack;
mod plan;
mod progress;
mod published;
mod runtime;
mod serve;
mod signals;
mod steps;
mod table;
mod terminal;
mod text;
mod tokenize;
mod tokenizer;
mod train;
mod transcript;
mod units;
mod version;
mod watch;

use std::{
    io::{self, ErrorKind, Write},
    process::ExitCode,
};

use cli::{Cli, Command};
use load::NoModel;

fn main() -> ExitCode {
    // Before there is a second thread: a process that was started to confine itself never comes back from here.
    dots_sandbox::enter();
    let cli = match cli::parse(std::env::args_os()) {
        Ok(Some(cli)) => cli,
        Ok(None) => return ExitCode::SUCCESS,
        Err(error) => return report(&error),
    };
    let format = match &cli.command {
        Some(Command::Serve(args)) => Some(args.watch.log_format),
        _ => None,
    };
    let _log = log::start(format);
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report(&error),
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        Some(Command::Batch(args)) => batch::run(args),
        Some(Command::Bench(args)) => bench::run(args),
        Some(Command::Chat(args)) => chat::run(args),
        Some(Command::Compare(args)) => compare::run(args),
        Some(Command::Complete(args)) => complete::run(args),
        Some(Command::Experts(args)) => experts::run(args),
        Some(Command::Export(args)) => export::run(args),
        Some(Command::Inspect(args)) => inspect::run(args),
        Some(Command::Pack(args)) => pack::run(args),
        Some(Command::Serve(args)) => serve::run(args),
        Some(Command::Tokenize(args)) => tokenize::run(args),
        Some(Command::Tokenizer(args)) => tokenizer::run(args),
        Some(Command::Train(args)) => train::run(args),
        Some(Command::Watch(args)) => watch::run(args),
        None => Ok(write!(io::stdout(), "{}", cli::how_to_get_a_model(inside::is_there()))?),
    }
}

/// Says once on stderr what went wrong. 2 is a wrong call, 1 everything else.
fn report(error: &anyhow::Error) -> ExitCode {
    // Only writes to standard output give a bare io::Error: whoever read it has seen enough (`dots inspect M | head`).
    if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe) {
        return ExitCode::SUCCESS;
    }
    let wrong_call = error.is::<NoModel>();
    let more = if wrong_call { cli::how_to_get_a_model(inside::is_there()) } else { String::new() };
    // The outermost message has the facts already; nothing is left to say if stderr is gone too.
    let _ = writeln!(io::stderr(), "dots: {}", terminal::clean(&error.to_string()));
    let _ = write!(io::stderr(), "{more}");
    ExitCode::from(if wrong_call { 2 } else { 1 })
}
