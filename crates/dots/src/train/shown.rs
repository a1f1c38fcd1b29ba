//! What is seen of a run while it runs.

use std::path::Path;

use dots_train::{
    recipe::Recipe,
    run::{Event, Made},
};

use crate::{progress::Meter, terminal::say};

/// A progress line, and what happens between the steps.
pub struct Shown<'a> {
    recipe: &'a Recipe,
    meter: Meter,
    steps: u64,
    /// The machine's, in operations a second.
    peak: f64,
}

impl<'a> Shown<'a> {
    pub fn new(recipe: &'a Recipe, steps: u64, peak: f64) -> Self {
        Self { recipe, meter: Meter::new("{bar:20} {pos}/{len}  {msg}  {eta} left", Some(steps)), steps, peak }
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
                if *step == self.steps {
                    self.meter.hasten();
                }
                self.meter.tell(*step, |_| format!("step {step}/{}  {line}", self.steps));
                self.meter.bar.set_message(line);
            }
        }
    }

    fn say(&self, line: &str) {
        self.meter.bar.suspend(|| say(line));
    }
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}
