//! How far long work is, as it is shown: a bar on a terminal, a line now and then elsewhere.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::terminal::say;

/// Between two lines where there is no bar.
const PAUSE: Duration = Duration::from_secs(10);
/// Between two drawings of a bar that shows the time, where a step takes longer.
const TICK: Duration = Duration::from_millis(200);

/// A bar and what is said in its place. The bar is gone once this is dropped.
pub struct Meter {
    /// It counts everywhere and is seen on a terminal only.
    pub bar: ProgressBar,
    /// When a line was last; `None` where the next one need not wait.
    said: Option<Instant>,
}

impl Meter {
    /// A bar of this template (indicatif's); `total` is `None` where it cannot be known.
    pub fn new(template: &str, total: Option<u64>) -> Self {
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr()).with_style(style);
        Self { bar, said: Some(Instant::now()) }
    }

    /// So many were done before, which tells nothing about how fast it is.
    pub fn after(self, done: u64) -> Self {
        self.bar.set_position(done);
        self.bar.reset_eta();
        self
    }

    /// Its time goes on between its steps.
    pub fn ticking(self) -> Self {
        self.bar.enable_steady_tick(TICK);
        self
    }

    /// So many are done. Where no bar is seen, says `words` of it if the last ones are long enough ago.
    pub fn tell(&mut self, position: u64, words: impl FnOnce(&ProgressBar) -> String) {
        self.bar.set_position(position);
        if self.bar.is_hidden() && self.said.is_none_or(|said| said.elapsed() >= PAUSE) {
            self.said = Some(Instant::now());
            say(&words(&self.bar));
        }
    }

    /// So many more are done; else as [`Self::tell`].
    pub fn advance(&mut self, by: u64, words: impl FnOnce(&ProgressBar) -> String) {
        self.tell(self.bar.position() + by, words);
    }

    /// The next words are said whenever they come, as the last ones should be.
    pub fn hasten(&mut self) {
        self.said = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_no_bar_is_seen_words_wait_for_a_pause_and_the_last_ones_for_nothing() {
        let mut meter = Meter { bar: ProgressBar::hidden(), said: Some(Instant::now()) };
        let mut positions = Vec::new();
        let mut words = |bar: &ProgressBar| {
            positions.push(bar.position());
            format!("{} done", bar.position())
        };
        meter.tell(1, &mut words);
        meter.said = Instant::now().checked_sub(PAUSE);
        meter.advance(2, &mut words);
        meter.advance(1, &mut words);
        meter.hasten();
        meter.tell(5, &mut words);
        meter.tell(6, &mut words);
        assert_eq!(positions, [3, 5]);
    }
}
