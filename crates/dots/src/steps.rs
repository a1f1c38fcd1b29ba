//! How far work is that counts bytes, weights or tokens, and how fast it was.

use std::{fs, path::PathBuf, time::Instant};

use dots_pack::Progress;
use dots_train::DataError;

use crate::{progress::Meter, terminal::say, units};

/// Bytes of all these files.
pub fn bytes_of(files: &[PathBuf]) -> Result<u64, DataError> {
    files.iter().map(|path| Ok(fs::metadata(path).map_err(DataError::io(path))?.len())).sum()
}

/// Shows the progress of work that is called `what` and counted in `unit`.
pub struct Steps {
    what: &'static str,
    unit: &'static str,
    /// While the work goes on.
    meter: Option<Meter>,
    start: Instant,
    total: u64,
    before: u64,
    done: u64,
}

impl Steps {
    /// Nothing is shown until the work starts.
    pub fn new(what: &'static str, unit: &'static str) -> Self {
        Self { what, unit, meter: None, start: Instant::now(), total: 0, before: 0, done: 0 }
    }

    /// The work begins: `total` units, of which `done` were done before.
    pub fn start(&mut self, total: u64, done: u64) {
        (self.total, self.before, self.done) = (total, done, done);
        self.start = Instant::now();
        let meter = Meter::new("{prefix} {msg}  {bar:30} {percent} %  {eta} left", Some(total));
        meter.bar.set_prefix(self.what);
        self.meter = Some(meter.after(done));
    }

    /// So many units more are done.
    pub fn advance(&mut self, units: u64) {
        self.done += units;
        let (what, rate) = (self.what, self.rate());
        let percent = 100.0 * self.done as f64 / self.total.max(1) as f64;
        if let Some(meter) = &mut self.meter {
            meter.tell(self.done, |_| format!("{what}: {percent:.1} %, {rate}"));
        }
    }

    fn rate(&self) -> String {
        let seconds = self.start.elapsed().as_secs_f64().max(1e-3);
        format!("{} {}/s", units::parameters(((self.done - self.before) as f64 / seconds) as u64), self.unit)
    }

    /// Says how fast it was.
    pub fn end(&mut self) {
        self.meter = None;
        if self.done > self.before {
            let (count, time) = (units::parameters(self.done - self.before), units::seconds(self.start.elapsed()));
            say(&format!("{}: {count} {} in {time}, {}", self.what, self.unit, self.rate()));
        }
    }
}

impl Progress for Steps {
    fn start(&mut self, total: u64, done: u64) {
        self.start(total, done);
    }

    fn file(&mut self, name: &str) {
        if let Some(meter) = &self.meter {
            meter.bar.set_message(name.to_owned());
        }
    }

    fn advance(&mut self, weights: u64) {
        self.advance(weights);
    }

    fn finish(&mut self) {
        self.meter = None;
    }
}
