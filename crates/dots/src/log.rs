//! Log lines to standard error, from a thread of their own: a server goes on when nobody reads its words.

use std::{
    io::{self, Write},
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    time::Duration,
};

use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

use crate::{serve::LogFormat, terminal};

/// Lines that wait to be written; beyond them lines are lost.
const MAX_WAITING: usize = 4096;

/// Longest wait, at the end, for a standard error that takes no more.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Writes what waits when it is dropped.
pub struct Guard(SyncSender<Line>);

enum Line {
    Text(Vec<u8>),
    /// All before it has been written.
    Last(SyncSender<()>),
}

impl Drop for Guard {
    fn drop(&mut self) {
        let (written, all) = sync_channel(1);
        if self.0.try_send(Line::Last(written)).is_ok() {
            let _ = all.recv_timeout(LAST_LINES);
        }
    }
}

/// Begins to log: warnings and worse, of a server (`format` is given) also one line a request, unless `DOTS_LOG` (or
/// `RUST_LOG`) says otherwise.
pub fn start(format: Option<LogFormat>) -> Guard {
    let default = if format.is_some() { "warn,dots_server=info" } else { "warn" };
    let filter = ["DOTS_LOG", "RUST_LOG"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
        .unwrap_or_else(|| default.to_owned());
    let (lines, waiting) = sync_channel(MAX_WAITING);
    // Without the thread nothing is logged, and nothing waits.
    let _ = std::thread::Builder::new().name("dots-log".to_owned()).spawn(move || write(&waiting));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(filter))
        .with_ansi(terminal::Style::stderr().is_on())
        .with_writer(Lines(lines.clone()));
    match format.unwrap_or(LogFormat::Text) {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().flatten_event(true).with_span_list(false).init(),
    }
    Guard(lines)
}

fn write(waiting: &Receiver<Line>) {
    let mut stderr = io::stderr();
    while let Ok(line) = waiting.recv() {
        match line {
            // A closed standard error is no reason to stop.
            Line::Text(text) => drop(stderr.write_all(&text)),
            Line::Last(written) => drop(written.try_send(())),
        }
    }
}

/// Hands lines over, and loses them rather than wait.
#[derive(Clone)]
struct Lines(SyncSender<Line>);

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let _ = self.0.try_send(Line::Text(line.to_vec()));
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_nobody_takes_are_lost_and_hold_nobody_up() {
        let (lines, waiting) = sync_channel(2);
        for _ in 0..10 {
            assert_eq!(Lines(lines.clone()).write(b"line").unwrap(), 4);
        }
        let began = std::time::Instant::now();
        drop(Guard(lines));
        assert!(began.elapsed() < LAST_LINES, "a full queue is not waited for");
        assert_eq!(waiting.iter().count(), 2);
    }
}
