//! What is seen of a run while it runs.

use std::{
    io::{self, IsTerminal, Write},
    path::Path,
    time::{Duration, Instant},
};

use dots_train::{
    recipe::Recipe,
    run::{Event, Made},
};
use indicatif::{ProgressBar, ProgressStyle};

use crate::terminal::say;

/// Between two lines where there is no terminal.
const PAUSE: Duration = Duration::from_secs(10);

/// A progress line, and what happens between the steps.
pub struct Shown<'a> {
    recipe: &'a Recipe,
    bar: Option<ProgressBar>,
    steps: u64,
    /// The machine's, in operations a second.
    peak: f64,
    said: Instant,
}

impl<'a> Shown<'a> {
    pub fn new(recipe: &'a Recipe, steps: u64, peak: f64) -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{bar:20} {pos}/{len}  {msg}  {eta} left")
                .unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::new(steps).with_style(style)
        });
        Self { recipe, bar, steps, peak, said: Instant::now() }
    }

    pub fn tell(&mut self, event: &Event<'_>) {
        match event {
            Event::Resumed(path) => self.say(&format!("Going on from {}.", name(path))),
            Event::Broken(error) => self.say(&format!("passed over: {error}")),
            Event::Validated(source, loss) => self.say(&format!("validation on {source}: {loss:.4}")),
            Event::Checkpoint(path) => self.say(&format!("wrote {}", name(path))),
            Event::Step(made) => {
                let Made { step, at, report, .. } = made;
                let done = made.flops_per_second();
                let line = format!(
                    "{}  loss {:.4}  lr {:.2e}  norm {:.2}  {:.0} tokens/s  {:.0} GFLOP/s, {:.0} % of peak",
                    self.recipe.phases[at.phase].name,
                    report.loss,
                    at.dials.learning_rate,
                    report.gradient_norm,
                    made.tokens_per_second(),
                    done / 1e9,
                    100.0 * done / self.peak,
                );
                match &self.bar {
                    Some(bar) => {
                        bar.set_position(*step);
                        bar.set_message(line);
                    }
                    None if self.said.elapsed() >= PAUSE || *step == self.steps => {
                        self.said = Instant::now();
                        say(&format!("step {step}/{}  {line}", self.steps));
                    }
                    None => {}
                }
            }
        }
    }

    fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| say(line)),
            None => say(line),
        }
    }

    pub fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        // What was said last is seen before the program ends.
        let _ = io::stderr().flush();
    }
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}
