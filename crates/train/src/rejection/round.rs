//! Rejection sampling as a part of a run: where a phase begins that learns from problems, the model that the phases before it made is
//! asked them, and what the verifiers accept is what the phase learns.
//!
//! What was sampled lies in the run's folder, a file for each phase and source with its journal and report beside it. It follows from the
//! checkpoint, the recipe and its seed, so it is the same however often it was interrupted; its hash is noted as that of any data.

use std::path::{Path, PathBuf};

use dots_model::{checkpoint::TokenizerSource, template::ChatTemplate, tokenizer::Tokenizer};

use super::{Problems, beside, model::leaves_room};
use crate::{
    DataError,
    order::key,
    recipe::{Phase, Recipe, Sampling, Source},
};

const FOLDER: &str = "samples";

/// What the phases of a run have sampled so far.
#[derive(Debug, Clone, Default)]
pub struct Sampled {
    /// The run's; none of a recipe that is no run.
    run: Option<PathBuf>,
    /// Phases whose samples count; those of later ones are another run's.
    phases: usize,
}

impl Sampled {
    /// All that lies in a run's folder.
    pub fn of_run(folder: &Path) -> Self {
        Self::of_first(folder, usize::MAX)
    }

    /// What the first `phases` phases of a run sampled.
    pub(crate) fn of_first(folder: &Path, phases: usize) -> Self {
        Self { run: Some(folder.to_owned()), phases }
    }

    /// The chats that phase `nth` sampled of a source; `None` while it has not, or not to the end.
    pub fn find(&self, nth: usize, phase: &str, source: &str) -> Option<PathBuf> {
        let path = path(self.run.as_deref()?, phase, source);
        // The report is written last.
        (nth < self.phases && beside(&path).1.is_file()).then_some(path)
    }

    /// Every file of what these phases sampled, chats, journal and report, by its name in a run's folder.
    pub(crate) fn files(&self, recipe: &Recipe) -> Vec<(PathBuf, PathBuf)> {
        let found = recipe.phases.iter().enumerate().flat_map(|(nth, phase)| {
            problems_of(recipe, phase).filter_map(move |(source, _)| {
                let found = self.find(nth, &phase.name, source)?;
                let (journal, report) = beside(&found);
                let place = path(Path::new(""), &phase.name, source);
                let (journal_place, report_place) = beside(&place);
                Some([(found, place), (journal, journal_place), (report, report_place)])
            })
        });
        found.flatten().collect()
    }
}

/// Where a phase's samples of a source lie in a run's folder.
pub fn path(run: &Path, phase: &str, source: &str) -> PathBuf {
    // A source's name has no dot: no two pairs share a file.
    run.join(FOLDER).join(format!("{phase}.{source}.jsonl"))
}

/// What a phase's samples of a source are called among the data of a run: no source has a slash in its name.
pub(crate) fn name(phase: &str, source: &str) -> String {
    format!("{phase}/{source}")
}

/// Whether data of that name were sampled by the run itself.
pub(crate) fn is_sampled(name: &str) -> bool {
    name.contains('/')
}

/// The problems that a phase learns from, by source.
pub fn problems_of<'a>(recipe: &'a Recipe, phase: &'a Phase) -> impl Iterator<Item = (&'a str, &'a Sampling)> {
    phase.mixture.keys().filter_map(|source| match recipe.sources.get(source) {
        Some(Source::Problems(sampling)) => Some((source.as_str(), sampling)),
        _ => None,
    })
}

/// Reads the problems of a phase's source, and holds them to the sequences that it learns from.
pub fn problems(recipe: &Recipe, phase: &Phase, sampling: &Sampling) -> Result<Problems, DataError> {
    let problems = Problems::read(&sampling.problems)?;
    let template = ChatTemplate::of_folder(&recipe.tokenizer)?;
    let tokenizer = Tokenizer::new(&TokenizerSource::of_folder(&recipe.tokenizer)?)?;
    problems.each(|messages| leaves_room(messages, &template, &tokenizer, phase.sequence_tokens))?;
    Ok(problems)
}

/// The seed that a phase's answers come from.
pub fn seed(recipe: &Recipe, phase: &str, source: &str) -> u64 {
    key(recipe.seed, 0, &format!("{} sampled", name(phase, source)))
}
