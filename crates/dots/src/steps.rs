//! How far long work is: a bar on a terminal, a line now and then elsewhere.

use std::{
    fs,
    io::{self, IsTerminal, Write},
    path::PathBuf,
    time::{Duration, Instant},
};

use dots_pack::Progress;
use dots_train::DataError;
use indicatif::{ProgressBar, ProgressStyle};

use crate::units;

/// Between two lines where there is no terminal.
const PAUSE: Duration = Duration::from_secs(10);

/// Bytes of all these files.
pub fn bytes_of(files: &[PathBuf]) -> Result<u64, DataError> {
    files.iter().map(|path| Ok(fs::metadata(path).map_err(DataError::io(path))?.len())).sum()
}

/// Shows the progress of work that is called `what` and counted in `unit`.
pub struct Steps {
    what: &'static str,
    unit: &'static str,
    bar: Option<ProgressBar>,
    start: Instant,
    said: Instant,
    total: u64,
    before: u64,
    done: u64,
}

impl Steps {
    /// Nothing is shown until the work starts.
    pub fn new(what: &'static str, unit: &'static str) -> Self {
        let now = Instant::now();
        Self { what, unit, bar: None, start: now, said: now, total: 0, before: 0, done: 0 }
    }

    fn rate(&self) -> String {
        let seconds = self.start.elapsed().as_secs_f64().max(1e-3);
        format!("{} {}/s", units::parameters(((self.done - self.before) as f64 / seconds) as u64), self.unit)
    }

    /// Says how fast it was.
    pub fn end(&self) {
        if self.done > self.before {
            let (count, time) = (units::parameters(self.done - self.before), units::seconds(self.start.elapsed()));
            let _ = writeln!(io::stderr(), "{}: {count} {} in {time}, {}", self.what, self.unit, self.rate());
        }
    }
}

impl Progress for Steps {
    fn start(&mut self, total: u64, done: u64) {
        (self.total, self.before, self.done) = (total, done, done);
        self.start = Instant::now();
        if io::stderr().is_terminal() {
            let style = ProgressStyle::with_template("{prefix} {msg}  {bar:30} {percent} %  {eta} left")
                .unwrap_or_else(|_| ProgressStyle::default_bar());
            let bar = ProgressBar::new(total).with_style(style).with_prefix(self.what);
            bar.set_position(done);
            bar.reset_eta();
            self.bar = Some(bar);
        }
    }

    fn file(&mut self, name: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(name.to_owned());
        }
    }

    fn advance(&mut self, weights: u64) {
        self.done += weights;
        if let Some(bar) = &self.bar {
            bar.set_position(self.done);
        } else if self.said.elapsed() >= PAUSE {
            self.said = Instant::now();
            let percent = 100.0 * self.done as f64 / self.total.max(1) as f64;
            let _ = writeln!(io::stderr(), "{}: {percent:.1} %, {}", self.what, self.rate());
        }
    }

    fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}
