//! Rejection sampling between two phases of a run.

use std::{path::Path, sync::atomic::AtomicBool};

use dots_train::{
    cpu::Options,
    recipe::Recipe,
    rejection::round::{Sampled, path, problems, problems_of, seed},
};

use super::sample::{Asked, answers, verifier};
use crate::{
    flags::{engine::EngineArgs, sampling::SamplingArgs},
    terminal::say,
};

/// Answers under way at once. It changes none of them.
const CONCURRENCY: usize = 32;

/// Reads all problems that are yet to be asked, and looks for what judges them: a line mistyped is found before the first step and not
/// after the last.
pub fn check(recipe: &Recipe, sampled: &Sampled) -> anyhow::Result<()> {
    for (nth, phase) in recipe.phases.iter().enumerate() {
        for (source, sampling) in problems_of(recipe, phase) {
            if sampled.find(nth, &phase.name, source).is_none() {
                verifier(&problems(recipe, phase, sampling)?, None, sampling.test_seconds)?;
            }
        }
    }
    Ok(())
}

/// Asks `model` what a phase learns from, into the run's `folder`; whether it came to the end. Where it was stopped, it goes on.
pub fn sample(
    recipe: &Recipe,
    phase: usize,
    model: &Path,
    folder: &Path,
    options: &Options,
    stop: &AtomicBool,
) -> anyhow::Result<bool> {
    let phase = &recipe.phases[phase];
    for (source, sampling) in problems_of(recipe, phase) {
        let problems = problems(recipe, phase, sampling)?;
        let verifier = verifier(&problems, None, sampling.test_seconds)?;
        let out = path(folder, &phase.name, source);
        if let Some(parent) = out.parent() {
            std::fs::create_dir_all(parent)?;
        }
        let (count, name) = (problems.list.len(), &phase.name);
        say(&format!("{name}: {} answers of {} to each of {count} problems", sampling.samples, model.display()));
        let chosen = SamplingArgs {
            temperature: Some(sampling.temperature as f32),
            top_p: Some(sampling.top_p as f32),
            // All that a checkpoint's generation_config.json might say otherwise.
            top_k: Some(0),
            min_p: Some(0.0),
            repetition_penalty: Some(1.0),
            seed: Some(seed(recipe, name, source)),
            max_tokens: Some(sampling.max_tokens),
            ..SamplingArgs::default()
        };
        let asked = Asked {
            model: &model.display().to_string(),
            // Before the first step it is the start, whose own may be others.
            config: Some(&recipe.model.config),
            sampling: &chosen,
            // What is longer than a sequence could not be learnt.
            engine: &EngineArgs::plain(options.threads, phase.sequence_tokens),
            samples: sampling.samples,
            keep: sampling.keep,
            concurrency: CONCURRENCY,
            test_seconds: sampling.test_seconds,
            out: &out,
        };
        if answers(&problems, &verifier, asked, stop)?.is_some() {
            return Ok(false);
        }
    }
    Ok(true)
}
