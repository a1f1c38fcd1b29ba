//! What is known of a run: all its lines, in bounded memory.

use std::collections::BTreeMap;

use super::{
    buckets::{Buckets, Merge, Stat},
    line::{Line, Router, StepLine},
    routers::Routers,
};

/// What a step measures, by the names of `metrics.jsonl`.
pub const SERIES: [&str; 11] = [
    "loss",
    "sequence_loss",
    "learning_rate",
    "batch_tokens",
    "sequence_tokens",
    "gradient_norm",
    "weight_norm",
    "tokens_per_second",
    "flops_per_second",
    "peak_flops_per_second",
    "seconds",
];

/// Buckets of the steps: 6 MB.
const STEPS_KEPT: usize = 1 << 15;

/// Buckets of each source's validation, and most sources.
const VALIDATIONS_KEPT: usize = 4096;
const DOMAINS_KEPT: usize = 64;

/// Most marks of one kind. Of more every second is kept: as many lines on an axis are no marks any more.
const MARKS_KEPT: usize = 1024;

/// What one bucket of steps measured: (series).
#[derive(Debug, Clone, PartialEq)]
pub struct Scalars(pub [Stat; SERIES.len()]);

impl Merge for Scalars {
    fn merge(&mut self, later: &Self) {
        self.0.iter_mut().zip(&later.0).for_each(|(stat, later)| stat.merge(later));
    }
}

/// A place on the axes.
#[derive(Debug, Clone, PartialEq)]
pub struct Mark {
    pub step: u64,
    pub tokens: u64,
    pub name: String,
}

/// A run's lines so far.
pub struct Record {
    pub steps: Buckets<Scalars>,
    pub routers: Option<Routers>,
    pub validation: BTreeMap<String, Buckets<Stat>>,
    /// Where each phase begins.
    pub phases: Vec<Mark>,
    pub checkpoints: Vec<Mark>,
    /// Where the run stood still, or stopped with an error, and went on.
    pub pauses: Vec<Mark>,
    /// When a program went on with the run, while no step follows.
    resumed: Option<f64>,
    /// Why the run stopped, while no step follows.
    pub error: Option<Mark>,
    /// The last step's line.
    pub last: Option<StepLine>,
    /// Lines, good and bad.
    pub lines: u64,
    /// Lines that could not be read, and the first of them: its number and what is wrong with it.
    pub bad_lines: u64,
    pub first_bad: Option<(u64, String)>,
}

impl Default for Record {
    fn default() -> Self {
        Self {
            steps: Buckets::new(STEPS_KEPT),
            routers: None,
            validation: BTreeMap::new(),
            phases: Vec::new(),
            checkpoints: Vec::new(),
            pauses: Vec::new(),
            resumed: None,
            error: None,
            last: None,
            lines: 0,
            bad_lines: 0,
            first_bad: None,
        }
    }
}

impl Record {
    /// Takes the next line; where it cannot be read, counts it.
    pub fn take(&mut self, line: Result<Option<Line>, String>) {
        self.lines += 1;
        let taken = match line {
            Ok(Some(line)) => self.add(line),
            Ok(None) => Ok(()),
            Err(reason) => Err(reason),
        };
        if let Err(reason) = taken {
            self.bad_lines += 1;
            self.first_bad.get_or_insert((self.lines, reason));
        }
    }

    fn add(&mut self, line: Line) -> Result<(), String> {
        match line {
            Line::Step(line) => return self.step(*line),
            Line::Validation { step, tokens, losses } => {
                for (name, loss) in losses {
                    if self.validation.len() >= DOMAINS_KEPT && !self.validation.contains_key(&name) {
                        return Err(format!("`validation`: {name} is one source too many to show"));
                    }
                    let series = self.validation.entry(name).or_insert_with(|| Buckets::new(VALIDATIONS_KEPT));
                    series.cut(step);
                    series.push(step, tokens, Stat::of(Some(loss)));
                }
            }
            Line::Checkpoint { step, name } => {
                self.checkpoints.retain(|mark| mark.step < step);
                let mark = self.mark(step, name);
                keep(&mut self.checkpoints, mark);
            }
            Line::Resumed { step, time } => {
                if self.last.as_ref().is_some_and(|last| step < last.step) {
                    self.cut(step + 1);
                }
                self.resumed = time;
            }
            Line::Error { step, message } => self.error = Some(self.mark(step, message)),
        }
        Ok(())
    }

    fn mark(&self, step: u64, name: String) -> Mark {
        Mark { step, tokens: self.last.as_ref().map_or(0, |last| last.tokens), name }
    }

    fn step(&mut self, mut line: StepLine) -> Result<(), String> {
        let (step, tokens) = (line.step, line.tokens);
        if self.last.as_ref().is_some_and(|last| step <= last.step) {
            self.cut(step);
        }
        // From the end of the last step that counts: what was computed since and lost is part of it.
        let stood = self.resumed.take().zip(self.last.as_ref().and_then(|last| last.time));
        if let Some(error) = self.error.take() {
            keep(&mut self.pauses, error);
        } else if let Some((resumed, before)) = stood {
            keep(&mut self.pauses, Mark { step, tokens, name: format!("{:.0} s", (resumed - before).max(0.0)) });
        }
        if let Some(name) = &line.phase
            && self.phases.last().is_none_or(|phase| phase.name != *name)
        {
            keep(&mut self.phases, Mark { step, tokens, name: name.clone() });
        }
        self.steps.push(step, tokens, scalars(&line));
        let routers: Vec<Router> = std::mem::take(&mut line.routers);
        self.last = Some(line);
        match routers.first() {
            Some(first) => {
                let experts = first.loads.len();
                self.routers.get_or_insert_with(|| Routers::new(&routers, experts)).push(step, tokens, &routers)
            }
            None => Ok(()),
        }
    }

    /// A run that goes on from a checkpoint repeats what came after it.
    fn cut(&mut self, step: u64) {
        self.steps.cut(step);
        if let Some(routers) = &mut self.routers {
            routers.cut(step);
        }
        // A validation and a checkpoint bear the number of the step before them.
        self.validation.values_mut().for_each(|series| series.cut(step));
        for marks in [&mut self.phases, &mut self.checkpoints, &mut self.pauses] {
            marks.retain(|mark| mark.step < step);
        }
    }
}

fn scalars(line: &StepLine) -> Scalars {
    Scalars([
        Stat::of(line.loss),
        Stat::of(line.sequence_loss),
        Stat::of(line.learning_rate),
        Stat::of(line.batch_tokens),
        Stat::of(line.sequence_tokens),
        Stat::of(line.gradient_norm),
        Stat::of(line.weight_norm),
        Stat::of(line.tokens_per_second),
        Stat::of(line.flops_per_second),
        Stat::of(line.peak_flops_per_second),
        Stat::of(line.seconds),
    ])
}

fn keep(marks: &mut Vec<Mark>, mark: Mark) {
    marks.push(mark);
    if marks.len() > MARKS_KEPT {
        let mut index = 0;
        marks.retain(|_| {
            index += 1;
            index % 2 == 1
        });
    }
}

#[cfg(test)]
mod tests {
    use super::{super::line::parse, *};

    fn record(lines: &[&str]) -> Record {
        let mut record = Record::default();
        lines.iter().for_each(|line| record.take(parse(line.as_bytes())));
        record
    }

    fn names(marks: &[Mark]) -> Vec<(u64, &str)> {
        marks.iter().map(|mark| (mark.step, mark.name.as_str())).collect()
    }

    #[test]
    fn a_bad_line_is_counted_and_the_next_one_read() {
        let record = record(&[r#"{"step":1,"loss":3}"#, "{broken", "", r#"{"step":2,"loss":2}"#]);
        assert_eq!((record.lines, record.bad_lines, record.steps.all().len()), (4, 2, 2));
        assert_eq!(record.first_bad.unwrap().0, 2);
    }

    #[test]
    fn a_resume_takes_back_what_it_repeats() {
        let record = record(&[
            r#"{"step":1,"loss":3,"phase":"a"}"#,
            r#"{"step":1,"checkpoint":"first"}"#,
            r#"{"step":2,"loss":9,"phase":"b"}"#,
            r#"{"step":2,"checkpoint":"second"}"#,
            r#"{"step":2,"tokens":0,"validation":{"en":{"loss":3}}}"#,
            r#"{"step":3,"error":"loss is NaN"}"#,
            r#"{"step":2,"loss":2,"phase":"a"}"#,
        ]);
        assert_eq!(record.steps.all().iter().map(|one| one.value.0[0].mean).collect::<Vec<_>>(), [3.0, 2.0]);
        assert_eq!((names(&record.phases), names(&record.checkpoints)), (vec![(1, "a")], vec![(1, "first")]));
        assert_eq!((names(&record.pauses), record.error), (vec![(3, "loss is NaN")], None));
        assert!(record.validation["en"].all().is_empty());
    }

    #[test]
    fn a_run_that_stood_still_shows_where() {
        let step = |step: u64, time: u64| format!(r#"{{"step":{step},"loss":1,"seconds":1,"time":{time}}}"#);
        let resumed = r#"{"step":2,"resumed":{"time":1199.0}}"#;
        // A long validation between two steps is no pause.
        let record = record(&[&step(1, 1000), &step(2, 1300), resumed, &step(3, 1200), &step(4, 1900)]);
        assert_eq!(names(&record.pauses), [(3, "0 s")]);
        let record = self::record(&[&step(1, 1000), &step(2, 1030), resumed, &step(3, 1200)]);
        assert_eq!(names(&record.pauses), [(3, "169 s")]);
    }

    #[test]
    fn marks_stay_few() {
        let mut record = Record::default();
        for step in 0..10_000 {
            record.take(Ok(Some(Line::Checkpoint { step, name: String::new() })));
        }
        assert!(record.checkpoints.len() <= MARKS_KEPT && record.checkpoints[0].step == 0);
    }

    #[test]
    fn sources_stay_few() {
        let mut record = Record::default();
        for step in 0..100 {
            let losses = vec![(format!("source{step}"), 1.0)];
            record.take(Ok(Some(Line::Validation { step, tokens: 0, losses })));
        }
        assert_eq!((record.validation.len(), record.bad_lines), (64, 36));
    }
}
