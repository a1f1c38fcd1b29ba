//! What each input of a matrix counts for, learnt by running the model over a text.
//!
//! An error in a weight becomes an error of the output in proportion to the activation that it meets, so its square counts for
//! the mean square of that activation over a text, as in llama.cpp's importance matrices. For an expert the text is what was
//! routed to it.

use std::collections::HashMap;

use dots_model::{
    Checkpoint,
    cpu::observe::observe,
    observer::{Input, Observer},
    tokenizer::{Specials, Tokenizer},
};
use serde_json::{Value, json};

use crate::{
    Error,
    progress::Progress,
    recipe::{Role, role},
};

/// Tokens of the whole layer that an expert's own are mixed with: an expert that saw few follows the layer's mean.
const PRIOR_TOKENS: f64 = 32.0;

/// Share of a matrix's mean importance that every column has, whatever the text: no text shows all.
const FLOOR: f32 = 0.02;

/// Mean squares of activations.
#[derive(Debug, Default)]
pub struct Calibration {
    sums: HashMap<(usize, Input), Sum>,
    /// What was run over, for the record.
    text: Value,
    layers: usize,
}

#[derive(Debug, Default)]
struct Sum {
    rows: u64,
    /// `(cols)`: sums of squares.
    squares: Vec<f32>,
}

impl Observer for Calibration {
    fn row(&mut self, layer: usize, input: Input, x: &[f32]) {
        let sum = self.sums.entry((layer, input)).or_default();
        sum.rows += 1;
        sum.squares.resize(x.len(), 0.0);
        for (sum, x) in sum.squares.iter_mut().zip(x) {
            *sum += x * x;
        }
    }
}

impl Calibration {
    /// Runs `checkpoint` over the first `most_tokens` tokens of `text` in f32.
    pub fn run(
        checkpoint: &Checkpoint,
        text: &str,
        most_tokens: usize,
        threads: usize,
        progress: &mut dyn Progress,
    ) -> Result<Self, Error> {
        let source = checkpoint.tokenizer.as_ref().ok_or_else(|| {
            let expected = "a tokenizer, without which no text can be read";
            dots_model::Error::invalid(&checkpoint.path, "tokenizer", expected, "none")
        })?;
        let mut tokens = Tokenizer::new(source)?.encode(text, Specials::AsText);
        tokens.truncate(most_tokens);
        if tokens.is_empty() {
            return Err(Error::Recipe("the text to calibrate with is empty".to_owned()));
        }
        let crc32 = format!("{:08x}", crc32fast::hash(text.as_bytes()));
        let text = json!({ "crc32": crc32, "tokens": tokens.len(), "arithmetic": "exact" });
        let mut calibration = Self { text, layers: checkpoint.config.num_hidden_layers, ..Self::default() };
        progress.start(tokens.len() as u64, 0);
        observe(checkpoint, &tokens, threads, &mut calibration, |_, read| progress.advance(read as u64))?;
        progress.finish();
        Ok(calibration)
    }

    /// What was run over, for `dots.json`.
    pub fn describe(&self) -> Value {
        self.text.clone()
    }

    /// What each column of the matrix of that published name counts for, 1 on average; empty where all count alike: where
    /// nothing is known, and in the embedding, whose columns nothing multiplies.
    pub fn importance(&self, name: &str) -> Vec<f32> {
        let Some((role, layer)) = role(name) else { return Vec::new() };
        let expert = || name.split_once(".experts.").and_then(|(_, rest)| rest.split_once('.')?.0.parse().ok());
        let (layer, own, prior) = match role {
            Role::Embedding => return Vec::new(),
            Role::Head => (self.layers, Input::Head, None),
            Role::QueryKey | Role::Value => (layer, Input::Attention, None),
            Role::Output => (layer, Input::Output, None),
            Role::GateUp => (layer, Input::Mlp, None),
            Role::Down => (layer, Input::Down, None),
            Role::ExpertGateUp => {
                let Some(expert) = expert() else { return Vec::new() };
                (layer, Input::Expert(expert), self.mean(|at| at == (layer, Input::Mlp)))
            }
            Role::ExpertDown => {
                let Some(expert) = expert() else { return Vec::new() };
                let all = |(l, input): (usize, Input)| l == layer && matches!(input, Input::ExpertDown(_));
                (layer, Input::ExpertDown(expert), self.mean(all))
            }
        };
        let own = self.sums.get(&(layer, own));
        let mut importance: Vec<f32> = match (own, prior) {
            (None, None) => return Vec::new(),
            (None, Some(prior)) => prior,
            (Some(own), None) => own.squares.clone(),
            (Some(own), Some(prior)) => {
                let mixed = |(sum, prior): (&f32, &f32)| f64::from(*sum) + PRIOR_TOKENS * f64::from(*prior);
                own.squares
                    .iter()
                    .zip(&prior)
                    .map(|both| (mixed(both) / (own.rows as f64 + PRIOR_TOKENS)) as f32)
                    .collect()
            }
        };
        let mean = importance.iter().sum::<f32>() / importance.len().max(1) as f32;
        if !(mean.is_normal() && mean.is_sign_positive()) {
            return Vec::new();
        }
        importance.iter_mut().for_each(|x| *x = (*x / mean + FLOOR) / (1.0 + FLOOR));
        importance
    }

    /// The mean over all rows at these places.
    fn mean(&self, at: impl Fn((usize, Input)) -> bool) -> Option<Vec<f32>> {
        let (mut rows, mut squares) = (0, Vec::new());
        let mut places: Vec<_> = self.sums.iter().filter(|(place, _)| at(**place)).collect();
        places.sort_unstable_by_key(|(place, _)| **place); // a sum of floats depends on its order
        for (_, sum) in places {
            rows += sum.rows;
            squares.resize(sum.squares.len(), 0.0_f32);
            squares.iter_mut().zip(&sum.squares).for_each(|(all, one)| *all += one);
        }
        (rows > 0).then(|| squares.into_iter().map(|sum| sum / rows as f32).collect())
    }
}
