//! How long prompts and answers are.

use std::{fmt, str::FromStr};

use super::random::{Purpose, Random};

/// Tokens of one request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Length {
    pub prompt_tokens: usize,
    pub output_tokens: usize,
}

/// `--lengths`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lengths {
    /// As the conversations of ShareGPT are long, prompt and answer together at most `total`.
    ShareGpt { total: usize },
    /// All alike.
    Fixed(Length),
    /// Every length from the first to the second equally often.
    Uniform { prompt: (usize, usize), output: (usize, usize) },
}

/// Longest prompt or answer that can be asked for: more than any server holds, and a bound on what is made here.
const MOST_TOKENS: usize = 1 << 20;

/// A lognormal distribution of lengths, by its median and the standard deviation of its logarithm.
struct LogNormal {
    median: f64,
    sigma: f64,
}

/// First questions like those of ShareGPT: meant to be close to what papers on serving report of them, not fitted to the data. Cut
/// as vLLM cuts them, below, their mean is 155.
const PROMPTS: LogNormal = LogNormal { median: 74.0, sigma: 1.82 };
/// Their answers, in the same way.
const OUTPUTS: LogNormal = LogNormal { median: 282.0, sigma: 0.6 };
/// What vLLM's benchmark leaves out of ShareGPT (`is_valid_sequence` in `vllm/benchmarks/datasets`): shorter than this,
const LEAST: usize = 4;
/// longer prompts than this,
const MOST_PROMPT: usize = 1024;
/// and more than this together.
const MOST_TOTAL: usize = 2048;

impl LogNormal {
    fn draw(&self, random: &mut Random) -> usize {
        // A float beyond the range becomes the range's end, and the caller draws again.
        (self.median * (self.sigma * random.normal()).exp()).round() as usize
    }
}

impl Lengths {
    /// The lengths of request `index`.
    pub fn draw(&self, seed: u64, index: usize) -> Length {
        let mut random = Random::new(seed, Purpose::Lengths, index as u64);
        match *self {
            Self::Fixed(length) => length,
            Self::Uniform { prompt, output } => Length {
                prompt_tokens: random.between(prompt.0, prompt.1),
                output_tokens: random.between(output.0, output.1),
            },
            Self::ShareGpt { total } => {
                let most_prompt = MOST_PROMPT.min(total / 2);
                // One draw in eight falls outside of the published limits; a small total needs more.
                for _ in 0..10_000 {
                    let length =
                        Length { prompt_tokens: PROMPTS.draw(&mut random), output_tokens: OUTPUTS.draw(&mut random) };
                    if (LEAST..=most_prompt).contains(&length.prompt_tokens)
                        && length.output_tokens >= LEAST
                        && length.output_tokens <= total - length.prompt_tokens
                    {
                        return length;
                    }
                }
                Length { prompt_tokens: most_prompt, output_tokens: total - most_prompt }
            }
        }
    }
}

impl fmt::Display for Lengths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ShareGpt { total: MOST_TOTAL } => f.write_str("sharegpt"),
            Self::ShareGpt { total } => write!(f, "sharegpt:{total}"),
            Self::Fixed(length) => write!(f, "fixed:{},{}", length.prompt_tokens, length.output_tokens),
            Self::Uniform { prompt, output } => {
                write!(f, "uniform:{}-{},{}-{}", prompt.0, prompt.1, output.0, output.1)
            }
        }
    }
}

impl FromStr for Lengths {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            "expected sharegpt, sharegpt:TOTAL, fixed:IN,OUT or uniform:LEAST-MOST,LEAST-MOST, in tokens, such as fixed:512,128 \
             or uniform:100-500,32-64"
                .to_owned()
        };
        let (kind, rest) = text.split_once(':').map_or((text, None), |(kind, rest)| (kind, Some(rest)));
        match (kind, rest) {
            ("sharegpt", None) => Ok(Self::ShareGpt { total: MOST_TOTAL }),
            ("sharegpt", Some(total)) => {
                let total = tokens(total)?;
                if total < 4 * LEAST {
                    return Err(format!("expected a total of at least {} tokens, found {total}", 4 * LEAST));
                }
                Ok(Self::ShareGpt { total: total.min(MOST_TOTAL) })
            }
            ("fixed", Some(rest)) => {
                let (prompt, output) = rest.split_once(',').ok_or_else(wrong)?;
                Ok(Self::Fixed(Length { prompt_tokens: tokens(prompt)?, output_tokens: tokens(output)? }))
            }
            ("uniform", Some(rest)) => {
                let (prompt, output) = rest.split_once(',').ok_or_else(wrong)?;
                Ok(Self::Uniform { prompt: range(prompt)?, output: range(output)? })
            }
            _ => Err(wrong()),
        }
    }
}

fn tokens(text: &str) -> Result<usize, String> {
    match text.trim().parse() {
        Ok(number) if (1..=MOST_TOKENS).contains(&number) => Ok(number),
        _ => Err(format!("expected a number of tokens from 1 to {MOST_TOKENS}, found {text:?}")),
    }
}

fn range(text: &str) -> Result<(usize, usize), String> {
    let Some((least, most)) = text.split_once('-') else { return tokens(text).map(|number| (number, number)) };
    let (least, most) = (tokens(least)?, tokens(most)?);
    if least > most { Err(format!("expected LEAST-MOST, found {text:?}")) } else { Ok((least, most)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_typed_is_what_is_shown() {
        for text in ["sharegpt", "sharegpt:128", "fixed:512,128", "uniform:100-500,32-64"] {
            assert_eq!(text.parse::<Lengths>().unwrap().to_string(), text);
        }
        assert_eq!("uniform:7,9".parse(), Ok(Lengths::Uniform { prompt: (7, 7), output: (9, 9) }));
    }

    #[test]
    fn lengths_that_mean_nothing_are_refused() {
        for text in
            ["", "alpaca", "fixed", "fixed:1", "fixed:0,1", "uniform:9-3,1-2", "sharegpt:3", "fixed:1,99999999999"]
        {
            assert!(text.parse::<Lengths>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn sharegpt_lengths_have_the_stated_means_and_limits() {
        let lengths = Lengths::ShareGpt { total: MOST_TOTAL };
        let drawn: Vec<Length> = (0..50_000).map(|index| lengths.draw(1, index)).collect();
        let mean = |of: fn(&Length) -> usize| drawn.iter().map(of).sum::<usize>() as f64 / drawn.len() as f64;
        let (prompt, output) = (mean(|length| length.prompt_tokens), mean(|length| length.output_tokens));
        assert!((prompt / 155.0 - 1.0).abs() < 0.05, "{prompt}");
        assert!((output / 337.0 - 1.0).abs() < 0.05, "{output}");
        for length in drawn {
            assert!((LEAST..=MOST_PROMPT).contains(&length.prompt_tokens) && length.output_tokens >= LEAST);
            assert!(length.prompt_tokens + length.output_tokens <= MOST_TOTAL);
        }
    }

    #[test]
    fn a_small_total_is_kept() {
        for total in [16, 17, 64, 200] {
            let lengths = Lengths::ShareGpt { total };
            for index in 0..200 {
                let Length { prompt_tokens, output_tokens } = lengths.draw(3, index);
                assert!(prompt_tokens >= LEAST && output_tokens >= LEAST && prompt_tokens + output_tokens <= total);
            }
        }
    }

    #[test]
    fn a_request_has_the_same_length_however_many_there_are() {
        let lengths = Lengths::Uniform { prompt: (1, 1000), output: (1, 1000) };
        assert_eq!(lengths.draw(5, 17), lengths.draw(5, 17));
        assert_ne!(lengths.draw(5, 17), lengths.draw(6, 17));
        assert_ne!(lengths.draw(5, 17), lengths.draw(5, 18));
    }
}
