//! Where documents, chats and problems come from.

use std::{collections::BTreeMap, path::PathBuf};

use super::{MOST, error::RecipeError, is_name, section::Section};

/// Where documents or chats come from.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    /// Token shards: prefixes of a `.bin` and an `.idx` file each.
    Shards(Vec<PathBuf>),
    /// JSONL files of chats (`messages`).
    Chats(Vec<PathBuf>),
    /// Problems, whose chats the model being trained writes itself.
    Problems(Sampling),
}

/// Problems, and how they are answered: each phase that learns from them samples answers from the model that the phases before it made,
/// and learns those that the verifiers accept (rejection-sampling fine-tuning).
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// JSONL file of problems: see [`crate::rejection::Problems`].
    pub problems: PathBuf,
    /// Answers to each problem.
    pub samples: usize,
    /// Most answers to a problem that are kept.
    pub keep: usize,
    /// Temperature that they are sampled at.
    pub temperature: f64,
    /// Probability that the likeliest tokens are kept up to.
    pub top_p: f64,
    /// Most tokens of an answer.
    pub max_tokens: usize,
    /// What one run of a program may take.
    pub test_seconds: u64,
}

/// Most answers to a problem: as many as an engine may hold at once.
const MOST_SAMPLES: u64 = 1024;

pub fn read(top: &mut Section<'_>) -> Result<BTreeMap<String, Source>, RecipeError> {
    let mut all = top.section("sources")?;
    let mut sources = BTreeMap::new();
    for (name, mut section) in all.named()? {
        if !is_name(name) || name.contains('.') {
            return Err(all.wrong(name, "a name of letters, digits, '-' and '_'", Some(format!("{name:?}"))));
        }
        let found = (section.paths("shards")?, section.paths("chats")?, section.text("problems")?);
        let source = match found {
            (Some(prefixes), None, None) => Source::Shards(prefixes),
            (None, Some(files), None) => Source::Chats(files),
            (None, None, Some(problems)) => Source::Problems(read_sampling(&mut section, problems)?),
            (None, None, None) => {
                return Err(section.wrong(
                    "shards",
                    "prefixes of shards, or files as chats, or a file of problems",
                    None,
                ));
            }
            _ => {
                let (name, found) = if found.1.is_some() { ("chats", "both") } else { ("problems", "more of them") };
                return Err(section.wrong(name, "shards or chats or problems", Some(found.to_owned())));
            }
        };
        section.finish(&[("files", "chats"), ("messages", "chats"), ("n", "samples")])?;
        sources.insert(name.to_owned(), source);
    }
    if sources.is_empty() || sources.len() > MOST {
        return Err(top.wrong("sources", format!("1 to {MOST} sources"), Some(sources.len().to_string())));
    }
    Ok(sources)
}

fn read_sampling(section: &mut Section<'_>, problems: String) -> Result<Sampling, RecipeError> {
    if problems.is_empty() {
        return Err(section.wrong("problems", "a path that is not empty", None));
    }
    let share = |number: f64| number > 0.0 && number <= 1.0;
    Ok(Sampling {
        problems: problems.into(),
        samples: section.whole("samples", 1..=MOST_SAMPLES)?.unwrap_or(8) as usize,
        keep: section.whole("keep", 1..=MOST_SAMPLES)?.unwrap_or(4) as usize,
        temperature: section
            .real("temperature", "a number above 0, up to 100", |number| number > 0.0 && number <= 100.0)?
            .unwrap_or(1.0),
        top_p: section.real("top_p", "a number above 0, up to 1", share)?.unwrap_or(1.0),
        max_tokens: section.count("max_tokens", 1)?.unwrap_or(1024) as usize,
        test_seconds: section.whole("test_seconds", 1..=3600)?.unwrap_or(5),
    })
}
