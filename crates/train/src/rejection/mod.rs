//! Rejection sampling: several answers of a model to each problem, of which those that the verifiers accept become chats to learn from.
//!
//! Everything that was sampled is noted in a journal as soon as a problem is done, with its verdict, so that what was rejected can be
//! looked at and work that was stopped goes on. What is kept is computed from the whole journal at the end, in the order of
//! the problems: it is the same after any number of interruptions, on any number of threads.

mod journal;
mod model;
mod problem;
mod report;
pub mod round;

use std::{
    collections::HashSet,
    io::Write,
    path::{Path, PathBuf},
    sync::{
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
        mpsc::sync_channel,
    },
    thread,
};

use dots_model::{aside, template::Message};
use serde_json::{Value, json};

use crate::{
    DataError,
    verify::{Verdict, Verifier},
};

pub use journal::{Done, Sample};
pub use model::EngineModel;
pub use problem::{Problem, Problems};
pub use report::Report;

use journal::Journal;

/// A model that answers problems.
pub trait Model: Sync {
    /// Whether a prompt of these messages leaves room for an answer; else what was expected and what was found.
    fn admits(&self, messages: &[Message]) -> Result<(), (String, String)>;

    /// One answer for each seed. The same seed gives the same answer, whatever runs beside it.
    fn answer(&self, messages: &[Message], seeds: &[u64]) -> Result<Vec<Answer>, String>;
}

/// An answer to a problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// What it says.
    pub text: String,
    /// Tokens generated.
    pub tokens: usize,
    /// Whether it came to its end.
    pub is_finished: bool,
}

/// How much is sampled and kept.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Answers to each problem.
    pub samples: usize,
    /// Most answers to a problem that are kept.
    pub keep: usize,
    /// From which each answer's own seed comes.
    pub seed: u64,
    /// Problems under way at once.
    pub workers: usize,
}

/// How far it is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Progress {
    /// Problems done, those of earlier runs included.
    pub problems: usize,
    /// Their answers.
    pub samples: usize,
    /// Those accepted.
    pub accepted: usize,
}

/// What came of it.
#[derive(Debug)]
pub enum End {
    /// All is written.
    Finished(Report),
    /// It was stopped; the same call goes on.
    Stopped(Progress),
}

/// The files beside `out`: the journal and the report.
pub fn beside(out: &Path) -> (PathBuf, PathBuf) {
    (out.with_extension("samples.jsonl"), out.with_extension("report.json"))
}

/// What is sampled of what.
#[derive(Clone, Copy)]
pub struct Work<'a> {
    /// What is asked.
    pub problems: &'a Problems,
    /// Who answers.
    pub model: &'a dyn Model,
    /// Who judges.
    pub verifier: &'a Verifier,
    /// How much.
    pub settings: Settings,
    /// What the answers depend on beside the settings: the model, how tokens are chosen. A journal of another is refused.
    pub identity: &'a Value,
}

/// Samples, verifies, and writes what is kept to `out`: one `{"messages": […]}` a line, as fine-tuning reads it, with journal and report
/// [`beside`] it. `tell` hears of each problem that is done; `stop` ends it after those under way.
///
/// # Errors
/// Where a file cannot be read or written, a problem does not fit the model, the model fails, or a program cannot be isolated.
pub fn sample(work: Work<'_>, out: &Path, stop: &AtomicBool, tell: &mut dyn FnMut(Progress)) -> Result<End, DataError> {
    let Work { problems, model, settings, identity, .. } = work;
    problems.each(|messages| model.admits(messages))?;
    let (journal_path, report_path) = beside(out);
    // What was sampled has its journal beside it.
    if let Some(foreign) = [out, &report_path].into_iter().find(|path| path.exists() && !journal_path.exists()) {
        let (foreign, journal) = (foreign.display(), journal_path.display());
        return Err(DataError::Refused(format!(
            "{foreign}: exists, and no {journal} says that it was sampled; choose another --out"
        )));
    }
    let identity = json!({
        "problems_sha256": problems.sha256,
        "samples": settings.samples,
        "seed": settings.seed,
        "answers": identity,
    });
    let mut journal = Journal::open(&journal_path, &identity, &problems.list, settings.samples)?;
    let mut progress = journal.progress();
    tell(progress);
    let todo: Vec<&Problem> = problems.list.iter().filter(|problem| !journal.has(problem.line)).collect();
    let next = AtomicUsize::new(0);
    let failed = AtomicBool::new(false);
    let (send, receive) = sync_channel(settings.workers);
    let ended = thread::scope(|scope| {
        for _ in 0..settings.workers.min(todo.len()) {
            let send = send.clone();
            let (next, todo, failed) = (&next, &todo, &failed);
            scope.spawn(move || {
                while !stop.load(Relaxed) && !failed.load(Relaxed) {
                    let Some(problem) = todo.get(next.fetch_add(1, Relaxed)) else { return };
                    if send.send(solve(problem, work)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(send);
        for done in receive {
            let noted = done.and_then(|done| {
                journal.add(&done)?;
                progress.problems += 1;
                progress.samples += done.samples.len();
                progress.accepted += done.accepted();
                tell(progress);
                Ok(())
            });
            if noted.is_err() {
                // The others end with the problem that they are at.
                failed.store(true, Relaxed);
                return noted;
            }
        }
        Ok(())
    });
    ended?;
    if progress.problems < problems.list.len() {
        return Ok(End::Stopped(progress));
    }
    let report = keep(&mut journal, problems, settings, out)?;
    let text = serde_json::to_string_pretty(&report).unwrap_or_default() + "\n";
    aside::write(&report_path, text.as_bytes()).map_err(DataError::io(report_path))?;
    Ok(End::Finished(report))
}

/// Answers one problem and judges the answers.
fn solve(problem: &Problem, work: Work<'_>) -> Result<Done, DataError> {
    let Work { problems, model, verifier, settings, .. } = work;
    let refused =
        |what: String| DataError::Refused(format!("{}: {}: {what}", problems.path.display(), problem.place()));
    let seeds: Vec<u64> =
        (0..settings.samples as u64).map(|nth| mix(mix(settings.seed ^ mix(problem.line)) ^ nth)).collect();
    let answers = model.answer(&problem.messages, &seeds).map_err(refused)?;
    let judged = answers.into_iter().map(|answer| {
        let verdict = match answer.is_finished {
            true => verifier.verify(&problem.check, &answer.text).map_err(|error| refused(error.to_string()))?,
            false => Verdict::Unfinished,
        };
        Ok(Sample { verdict, tokens: answer.tokens, text: answer.text })
    });
    Ok(Done { line: problem.line, samples: judged.collect::<Result<_, DataError>>()? })
}

/// Steele, Lea and Flood's finaliser of SplitMix64: neighbouring numbers become unlike ones.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// Writes the accepted answers, in the order of the problems and then of the samples, each text once.
fn keep(journal: &mut Journal, problems: &Problems, settings: Settings, out: &Path) -> Result<Report, DataError> {
    let mut report = Report::new(settings.samples);
    let written = aside::write_with(out, |file| {
        for problem in &problems.list {
            let done = journal.read(problem.line)?;
            let mut texts = HashSet::new();
            let accepted = done.samples.iter().filter(|sample| sample.verdict == Verdict::Accepted);
            let kept: Vec<&Sample> = accepted
                .filter(|sample| !sample.text.trim().is_empty() && texts.insert(sample.text.trim()))
                .take(settings.keep)
                .collect();
            for sample in &kept {
                let answer = Message::new("assistant", &*sample.text);
                let messages: Vec<&Message> = problem.messages.iter().chain([&answer]).collect();
                serde_json::to_writer(&mut *file, &json!({ "messages": messages }))?;
                file.write_all(b"\n")?;
            }
            report.add(&done, kept.len());
        }
        Ok(())
    });
    written.map_err(DataError::io(out))?;
    Ok(report)
}

#[cfg(test)]
mod tests;
