//! How tokens are chosen.

use std::sync::Arc;

use clap::{Args, builder::NonEmptyStringValueParser};
use dots_engine::{Breakers, DEFAULT_BREAKERS, Dry, SamplingParams};
use dots_model::{checkpoint::GenerationDefaults, tokenizer::Tokenizer};

use super::count;

/// How tokens are chosen. What is not named here is as the checkpoint's `generation_config.json` says.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Sampling (where a flag is missing, the checkpoint's own value counts)")]
pub struct SamplingArgs {
    /// 0 always takes the likeliest token
    #[arg(long, value_name = "T", allow_negative_numbers = true, value_parser = number::<0, 100>)]
    pub temperature: Option<f32>,
    /// Keep the likeliest tokens up to this probability together
    #[arg(long, value_name = "P", allow_negative_numbers = true, value_parser = share)]
    pub top_p: Option<f32>,
    /// Keep this many of the likeliest tokens; 0 keeps all
    #[arg(long, value_name = "K")]
    pub top_k: Option<usize>,
    /// Drop tokens less probable than this share of the likeliest
    #[arg(long, value_name = "P", allow_negative_numbers = true, value_parser = number::<0, 1>)]
    pub min_p: Option<f32>,
    /// Keep the tokens nearest to the expected surprise up to this probability together
    #[arg(long, visible_alias = "typical", value_name = "P", allow_negative_numbers = true, value_parser = share)]
    pub typical_p: Option<f32>,
    /// How often the likeliest tokens are excluded, all but the last of them
    #[arg(long, value_name = "P", allow_negative_numbers = true, value_parser = number::<0, 1>)]
    pub xtc_probability: Option<f32>,
    /// From which probability on a token counts among them [default: 0.1]
    #[arg(long, value_name = "P", allow_negative_numbers = true, value_parser = number::<0, 1>)]
    pub xtc_threshold: Option<f32>,
    /// Makes going on with a repetition less likely: this times BASE to the power of what it is longer than allowed
    #[arg(long, value_name = "X", allow_negative_numbers = true, value_parser = number::<0, 100>)]
    pub dry_multiplier: Option<f32>,
    /// [default: 1.75]
    #[arg(long, value_name = "BASE", allow_negative_numbers = true, value_parser = number::<1, 100>)]
    pub dry_base: Option<f32>,
    /// Longest repetition that may be gone on with for nothing, in tokens [default: 2]
    #[arg(long, value_name = "TOKENS")]
    pub dry_allowed_length: Option<usize>,
    /// How far back repetitions are looked for, in tokens [default: 64]
    #[arg(long, value_name = "TOKENS")]
    pub dry_penalty_last_n: Option<usize>,
    /// A text that no repetition reaches across; may be given several times [default: newline, colon, quote and star]
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, value_parser = NonEmptyStringValueParser::new())]
    pub dry_sequence_breaker: Vec<String>,
    /// Above 1 makes tokens that were there before less likely
    #[arg(long, value_name = "R", allow_negative_numbers = true, value_parser = positive)]
    pub repetition_penalty: Option<f32>,
    /// Taken once from a token that was generated before, -2 to 2
    #[arg(long, value_name = "X", allow_negative_numbers = true, value_parser = number::<-2, 2>)]
    pub presence_penalty: Option<f32>,
    /// Taken from a token for each time that it was generated, -2 to 2
    #[arg(long, value_name = "X", allow_negative_numbers = true, value_parser = number::<-2, 2>)]
    pub frequency_penalty: Option<f32>,
    /// The same seed gives the same answer
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Most tokens of an answer [default: up to the context's end]
    #[arg(long, value_name = "N", value_parser = count)]
    pub max_tokens: Option<usize>,
    /// A text that ends the answer and is left out of it; may be given several times
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, value_parser = NonEmptyStringValueParser::new())]
    pub stop: Vec<String>,
}

impl SamplingArgs {
    /// The user's values over the authors', the authors' over none.
    pub fn over(&self, authors: &GenerationDefaults) -> SamplingParams {
        let below = SamplingParams::from_authors(authors);
        SamplingParams {
            temperature: self.temperature.unwrap_or(below.temperature),
            top_p: self.top_p.unwrap_or(below.top_p),
            top_k: self.top_k.unwrap_or(below.top_k),
            min_p: self.min_p.unwrap_or(below.min_p),
            typical_p: self.typical_p.unwrap_or(below.typical_p),
            xtc_probability: self.xtc_probability.unwrap_or(below.xtc_probability),
            xtc_threshold: self.xtc_threshold.unwrap_or(below.xtc_threshold),
            repetition_penalty: self.repetition_penalty.unwrap_or(below.repetition_penalty),
            presence_penalty: self.presence_penalty.unwrap_or(below.presence_penalty),
            frequency_penalty: self.frequency_penalty.unwrap_or(below.frequency_penalty),
            seed: self.seed,
            dry: Dry {
                multiplier: self.dry_multiplier.unwrap_or(below.dry.multiplier),
                base: self.dry_base.unwrap_or(below.dry.base),
                allowed_length: self.dry_allowed_length.unwrap_or(below.dry.allowed_length),
                penalty_last_n: self.dry_penalty_last_n.unwrap_or(below.dry.penalty_last_n),
                breakers: below.dry.breakers,
            },
            ..below
        }
    }

    /// What no repetition reaches across.
    pub fn breakers(&self, tokenizer: &Arc<Tokenizer>) -> Option<Arc<Breakers>> {
        let texts = self.dry_sequence_breaker.iter().map(String::as_str);
        let defaults = DEFAULT_BREAKERS.into_iter().filter(|_| self.dry_sequence_breaker.is_empty());
        self.dry_multiplier.map(|_| Arc::new(Breakers::new(texts.chain(defaults), Arc::clone(tokenizer) as _)))
    }
}

/// A number from `LEAST` to `MOST`; not-a-number is in no range.
fn number<const LEAST: i32, const MOST: i32>(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(number) if (LEAST as f32..=MOST as f32).contains(&number) => Ok(number),
        _ => Err(format!("expected a number from {LEAST} to {MOST}")),
    }
}

/// A number above 0, up to 1.
fn share(text: &str) -> Result<f32, String> {
    number::<0, 1>(text)
        .ok()
        .filter(|number| *number > 0.0)
        .ok_or_else(|| "expected a number above 0, up to 1".to_owned())
}

/// A finite number above 0.
fn positive(text: &str) -> Result<f32, String> {
    text.parse::<f32>()
        .ok()
        .filter(|number| number.is_finite() && *number > 0.0)
        .ok_or_else(|| "expected a number above 0".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_users_values_lie_over_the_authors() {
        let defaults = GenerationDefaults { temperature: Some(0.7), top_p: Some(0.8), ..Default::default() };
        let user = SamplingArgs { top_p: Some(0.5), ..Default::default() };
        let sampling = user.over(&defaults);
        assert_eq!((sampling.temperature, sampling.top_p, sampling.top_k), (0.7, 0.5, 0));
    }

    #[test]
    fn authors_who_do_not_sample_get_greedy_until_the_user_names_a_temperature() {
        let defaults =
            GenerationDefaults { temperature: Some(0.7), do_sample: Some(false), ..GenerationDefaults::default() };
        assert_eq!(SamplingArgs::default().over(&defaults).temperature, 0.0);
        let user = SamplingArgs { temperature: Some(0.3), ..Default::default() };
        assert_eq!(user.over(&defaults).temperature, 0.3);
    }
}
