//! What is asked of the engine and what it answers.

use std::{fmt::Debug, sync::Arc};

use crate::dry::Dry;

use crate::constraint::Constraint;

/// Most stop texts of one request.
pub const MAX_STOPS: usize = 16;

/// Most bytes of one stop text. Each choice of a request keeps them all, with a table of nine times their size.
pub const MAX_STOP_BYTES: usize = 1024;

/// Most token sequences that a request may forbid. A word has up to two, with a space before it and without.
pub const MAX_BAD_WORDS: usize = 1024;

/// Most tokens of one of them.
pub const MAX_BAD_WORD_TOKENS: usize = 256;

/// Most alternatives of a token whose log-probabilities a request may ask for.
pub const MAX_LOGPROBS: usize = 20;

/// One completion of one prompt.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// Token ids of the prompt; not empty.
    pub prompt: Vec<u32>,
    /// How tokens are chosen.
    pub sampling: SamplingParams,
    /// Most tokens to generate, at least 1; `None` is up to the context's end.
    pub max_tokens: Option<usize>,
    /// Texts that end the answer and are left out of it; at most [`MAX_STOPS`], none empty and none longer than
    /// [`MAX_STOP_BYTES`].
    pub stop: Vec<String>,
    /// Ids that end the answer, beside the model's own.
    pub stop_token_ids: Vec<u32>,
    /// Go on past the model's own end-of-turn ids.
    pub ignore_eos: bool,
    /// No id and no text ends the answer before this many tokens; at most `max_tokens`.
    pub min_tokens: usize,
    /// The stop text or id that ended the answer belongs to it.
    pub include_stop: bool,
    /// Special tokens have their text in the answer.
    pub show_special_tokens: bool,
    /// With `Some(n)`: each token's log-probability and the `n` best, at most [`MAX_LOGPROBS`].
    pub logprobs: Option<usize>,
    /// What the answer must look like; it ends where the form is complete.
    pub constraint: Option<Constraint>,
}

/// How tokens are chosen. The defaults change nothing in the model's distribution.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// Finite and not negative; 0 is greedy.
    pub temperature: f32,
    /// Nucleus mass, in (0, 1].
    pub top_p: f32,
    /// Candidates kept; 0 keeps all.
    pub top_k: usize,
    /// Smallest share of the best candidate's probability, in [0, 1].
    pub min_p: f32,
    /// Mass of the tokens nearest to the expected surprise, in (0, 1]; 1 keeps all.
    pub typical_p: f32,
    /// How often XTC excludes the best tokens, in [0, 1]; 0 is off.
    pub xtc_probability: f32,
    /// Probability, in [0, 1], from which on XTC excludes all but the last; above 0.5 it never does.
    pub xtc_threshold: f32,
    /// Greater than 0; 1 is off.
    pub repetition_penalty: f32,
    /// In [-2, 2].
    pub presence_penalty: f32,
    /// In [-2, 2].
    pub frequency_penalty: f32,
    /// Key of the random numbers; `None` draws one.
    pub seed: Option<u64>,
    /// Added to single logits: in [-100, 100], or negative infinity, which forbids the token.
    pub logit_bias: Vec<(u32, f32)>,
    /// Sequences of tokens that the answer must not hold: at most [`MAX_BAD_WORDS`], none empty and none longer than
    /// [`MAX_BAD_WORD_TOKENS`].
    pub bad_words: Arc<[Vec<u32>]>,
    /// What going on with a repetition costs.
    pub dry: Dry,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            typical_p: 1.0,
            xtc_probability: 0.0,
            xtc_threshold: 0.1,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            seed: None,
            logit_bias: Vec::new(),
            bad_words: Arc::default(),
            dry: Dry::default(),
        }
    }
}

impl SamplingParams {
    pub(crate) fn penalises_seen_tokens(&self) -> bool {
        self.repetition_penalty != 1.0 || self.presence_penalty != 0.0 || self.frequency_penalty != 0.0
    }

    fn check(&self, limits: &Limits) -> Result<(), SubmitError> {
        let Self { temperature, top_p, min_p, typical_p, .. } = *self;
        require(temperature >= 0.0 && temperature.is_finite(), "temperature", "a finite number from 0", temperature)?;
        require(top_p > 0.0 && top_p <= 1.0, "top_p", "a number in (0, 1]", top_p)?;
        require(typical_p > 0.0 && typical_p <= 1.0, "typical_p", "a number in (0, 1]", typical_p)?;
        for (field, share) in
            [("min_p", min_p), ("xtc_probability", self.xtc_probability), ("xtc_threshold", self.xtc_threshold)]
        {
            require((0.0..=1.0).contains(&share), field, "a number in [0, 1]", share)?;
        }
        let repetition = self.repetition_penalty;
        let is_factor = repetition > 0.0 && repetition.is_finite();
        require(is_factor, "repetition_penalty", "a finite number greater than 0", repetition)?;
        for (field, penalty) in
            [("presence_penalty", self.presence_penalty), ("frequency_penalty", self.frequency_penalty)]
        {
            require((-2.0..=2.0).contains(&penalty), field, "a number in [-2, 2]", penalty)?;
        }
        for &(id, bias) in &self.logit_bias {
            limits.check_id("logit_bias", id)?;
            let is_bias = (-100.0..=100.0).contains(&bias) || bias == f32::NEG_INFINITY;
            require(is_bias, "logit_bias", "numbers in [-100, 100]", bias)?;
        }
        self.check_bad_words(limits)?;
        let Dry { multiplier, base, .. } = self.dry;
        let is_charge = multiplier >= 0.0 && multiplier.is_finite();
        require(is_charge, "dry_multiplier", "a finite number from 0", multiplier)?;
        require(base >= 1.0 && base.is_finite(), "dry_base", "a finite number from 1", base)
    }

    fn check_bad_words(&self, limits: &Limits) -> Result<(), SubmitError> {
        let words = self.bad_words.len();
        require(words <= MAX_BAD_WORDS, "bad_words", &format!("at most {MAX_BAD_WORDS} sequences of tokens"), words)?;
        require(!self.bad_words.iter().any(Vec::is_empty), "bad_words", "words of at least one token", "none")?;
        let longest = self.bad_words.iter().map(Vec::len).max().unwrap_or(0);
        let expected = format!("words of at most {MAX_BAD_WORD_TOKENS} tokens");
        require(longest <= MAX_BAD_WORD_TOKENS, "bad_words", &expected, longest)?;
        self.bad_words.iter().flatten().try_for_each(|&id| limits.check_id("bad_words", id))
    }
}

/// What a request must fit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub vocab_size: usize,
    /// Longest sequence that the settings and the cache allow.
    pub context_tokens: usize,
}

impl Limits {
    fn check_id(&self, field: &'static str, id: u32) -> Result<(), SubmitError> {
        if (id as usize) < self.vocab_size {
            return Ok(());
        }
        require(false, field, &format!("token ids below {}", self.vocab_size), id)
    }
}

impl Request {
    /// Checks every setting and gives the most tokens that may be generated.
    pub(crate) fn checked_max_tokens(&self, limits: &Limits) -> Result<usize, SubmitError> {
        if self.prompt.is_empty() {
            return Err(SubmitError::EmptyPrompt);
        }
        require(self.max_tokens != Some(0), "max_tokens", "at least 1", 0)?;
        let (prompt, context) = (self.prompt.len(), limits.context_tokens);
        let completion = self.max_tokens.unwrap_or_else(|| context.saturating_sub(prompt).max(1));
        let requested = prompt.saturating_add(completion);
        if requested > context {
            return Err(SubmitError::TooLong { context, requested, prompt, completion });
        }
        let min_tokens = self.min_tokens;
        require(min_tokens <= completion, "min_tokens", &format!("at most max_tokens, {completion}"), min_tokens)?;
        self.prompt.iter().try_for_each(|&id| limits.check_id("prompt", id))?;
        self.sampling.check(limits)?;
        let stops = self.stop.len();
        require(stops <= MAX_STOPS, "stop", &format!("at most {MAX_STOPS} texts"), stops)?;
        require(!self.stop.iter().any(String::is_empty), "stop", "texts that are not empty", "")?;
        let longest = self.stop.iter().map(String::len).max().unwrap_or(0);
        require(longest <= MAX_STOP_BYTES, "stop", &format!("texts of at most {MAX_STOP_BYTES} bytes"), longest)?;
        self.stop_token_ids.iter().try_for_each(|&id| limits.check_id("stop_token_ids", id))?;
        let logprobs = self.logprobs.unwrap_or(0);
        require(logprobs <= MAX_LOGPROBS, "logprobs", &format!("at most {MAX_LOGPROBS}"), logprobs)?;
        Ok(completion)
    }
}

fn require(holds: bool, field: &'static str, expected: &str, found: impl Debug) -> Result<(), SubmitError> {
    if holds {
        return Ok(());
    }
    Err(SubmitError::Invalid { field, expected: expected.to_owned(), found: format!("{found:?}") })
}

/// What a running request says.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// One token was chosen.
    Token(TokenEvent),
    /// The answer is complete; the last event.
    Finished(Finish),
    /// The step failed; the last event.
    Failed(String),
}

/// One generated token.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenEvent {
    /// Its id.
    pub id: u32,
    /// Text that became certain with it: empty while a character or a possible stop text is unfinished.
    pub text: String,
    /// Its log-probabilities, where the request asked.
    pub logprobs: Option<TokenLogprobs>,
}

/// Log-probabilities of one generated token, of the model's own distribution.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprobs {
    /// Of the token itself.
    pub logprob: f32,
    /// The best tokens, best first.
    pub top: Vec<(u32, f32)>,
}

/// How an answer ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Finish {
    /// Why.
    pub reason: FinishReason,
    /// Text that was held back and is now certain; belongs to the answer.
    pub text: String,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens generated, the one that ended the answer included.
    pub completion_tokens: usize,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// The model ended its turn, or a stop text or id came.
    Stop,
    /// `max_tokens` or the context's end was reached.
    Length,
}

/// Why a request was refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SubmitError {
    /// Nothing to continue.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// The prompt leaves no room in the context.
    #[error(
        "This model's maximum context length is {context} tokens. However, you requested {requested} tokens \
         ({prompt} in the prompt, {completion} in the completion). Please reduce the length of the prompt or the completion."
    )]
    TooLong {
        /// Longest sequence that this engine holds.
        context: usize,
        /// Prompt and completion together.
        requested: usize,
        /// Tokens of the prompt.
        prompt: usize,
        /// Tokens asked for.
        completion: usize,
    },
    /// A setting is outside its range.
    #[error("{field}: expected {expected}, found {found}")]
    Invalid {
        /// The setting.
        field: &'static str,
        /// Its range.
        expected: String,
        /// What was given.
        found: String,
    },
    /// The engine has stopped.
    #[error("the engine has stopped")]
    Stopped,
}
