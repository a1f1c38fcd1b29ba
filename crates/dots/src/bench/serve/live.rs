//! What is seen while a run goes on: on a terminal a bar, elsewhere a line now and then.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use super::record::Outcome;
use crate::progress::Meter;

/// Between two looks.
const TICK: Duration = Duration::from_millis(200);
/// Over which tokens a second are counted.
const WINDOW: Duration = Duration::from_secs(3);

/// Counts, from anywhere.
#[derive(Debug, Default)]
pub struct Counts {
    running: AtomicU64,
    done: AtomicU64,
    errors: AtomicU64,
    texts: AtomicU64,
}

impl Counts {
    pub fn began(&self) {
        self.running.fetch_add(1, Relaxed);
    }

    /// A chunk of text came: nearly always one token.
    pub fn text(&self) {
        self.texts.fetch_add(1, Relaxed);
    }

    pub fn ended(&self, outcome: &Outcome) {
        self.running.fetch_sub(1, Relaxed);
        self.done.fetch_add(1, Relaxed);
        if matches!(outcome, Outcome::Failed(_)) {
            self.errors.fetch_add(1, Relaxed);
        }
    }
}

/// Shows `counts` until it is aborted.
pub async fn show(counts: Arc<Counts>, total: usize) {
    let mut meter = Meter::new("{bar:30} {pos}/{len} done, {msg}  {elapsed}", Some(total as u64));
    let mut seen = VecDeque::from([(Instant::now(), 0)]);
    let mut tick = tokio::time::interval(TICK);
    loop {
        tick.tick().await;
        let (now, texts) = (Instant::now(), counts.texts.load(Relaxed));
        seen.push_back((now, texts));
        while seen.len() > 2 && now - seen[0].0 > WINDOW {
            seen.pop_front();
        }
        let rate = (texts - seen[0].1) as f64 / (now - seen[0].0).as_secs_f64().max(1e-3);
        let (done, running) = (counts.done.load(Relaxed), counts.running.load(Relaxed));
        let message = format!("{running} running, {} errors, {rate:.0} tokens/s", counts.errors.load(Relaxed));
        meter.tell(done, |_| format!("{done}/{total} done, {message}"));
        meter.bar.set_message(message);
    }
}
