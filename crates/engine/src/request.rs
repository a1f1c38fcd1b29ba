//! What is asked of the engine and what it answers.

use std::{
    fmt::Debug,
    sync::Arc,
    time::{Duration, Instant},
};

use dots_model::checkpoint::GenerationDefaults;

use crate::{constraint::Constraint, dry::Dry};

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

/// Most bytes of a cache salt.
pub const MAX_SALT_BYTES: usize = 256;

/// One completion of one prompt.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// Token ids of the prompt; not empty.
    pub prompt: Vec<u32>,
    /// How tokens are chosen.
    pub sampling: SamplingParams,
    /// Most tokens to generate; `None` is up to the context's end. 0 only computes the prompt, and is for those who ask
    /// something about it.
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
    /// With `Some(n)`: the log-probability of each token of the prompt and the `n` best in its place, at most
    /// [`MAX_LOGPROBS`].
    pub prompt_logprobs: Option<usize>,
    /// An [`Event::Embedding`] of the prompt and no answer; `max_tokens` is then 0.
    pub pooling: Option<Pooling>,
    /// Which experts tokens took, in [`Finish::routing`].
    pub routing: RoutingOf,
    /// The lower number goes first, as in vLLM; 0 where nobody says.
    pub priority: i32,
    /// Whose request it is. Tenants share the engine fairly.
    pub tenant: u64,
    /// When nobody needs the answer any more: what then waits or runs fails with [`Failure::Deadline`].
    pub deadline: Option<Instant>,
    /// Only requests of one salt share what is in the cache, so that nobody learns from the time to a first token what
    /// others have asked; at most [`MAX_SALT_BYTES`].
    pub cache_salt: Option<String>,
}

/// Of which tokens a request wants to know their experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RoutingOf {
    /// Of none.
    #[default]
    Nothing,
    /// Of the answer's only: the prompt need not be computed where the cache has it.
    Answer,
    /// Of the prompt's and the answer's.
    All,
}

/// How the hidden states of a prompt become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// The mean over all tokens.
    Mean,
    /// The last token's.
    Last,
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
    /// The authors' settings over the defaults. `do_sample: false` asks for greedy decoding, whatever temperature stands
    /// beside it.
    pub fn from_authors(authors: &GenerationDefaults) -> Self {
        let none = Self::default();
        let temperature = if authors.do_sample == Some(false) { Some(0.0) } else { authors.temperature };
        Self {
            temperature: temperature.unwrap_or(none.temperature),
            top_p: authors.top_p.unwrap_or(none.top_p),
            top_k: authors.top_k.unwrap_or(none.top_k),
            min_p: authors.min_p.unwrap_or(none.min_p),
            repetition_penalty: authors.repetition_penalty.unwrap_or(none.repetition_penalty),
            ..none
        }
    }

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
        let is_about_prompt =
            self.prompt_logprobs.is_some() || self.pooling.is_some() || self.routing != RoutingOf::Nothing;
        require(self.max_tokens != Some(0) || is_about_prompt, "max_tokens", "at least 1", 0)?;
        let (prompt, context) = (self.prompt.len(), limits.context_tokens);
        let longest = || context.saturating_sub(prompt).max(1);
        let completion = if self.pooling.is_some() { 0 } else { self.max_tokens.unwrap_or_else(longest) };
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
        for (field, count) in [("logprobs", self.logprobs), ("prompt_logprobs", self.prompt_logprobs)] {
            let count = count.unwrap_or(0);
            require(count <= MAX_LOGPROBS, field, &format!("at most {MAX_LOGPROBS}"), count)?;
        }
        let salt_bytes = self.cache_salt.as_ref().map_or(0, String::len);
        require(salt_bytes <= MAX_SALT_BYTES, "cache_salt", &format!("at most {MAX_SALT_BYTES} bytes"), salt_bytes)?;
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
    /// The prompt's log-probabilities, where the request asked; before the first token. One entry a token of the prompt; the
    /// first has none, since nothing comes before it.
    Prompt(PromptList),
    /// The prompt's embedding, where the request asked: `(hidden_size)`, of the states behind the last norm, not normalised.
    Embedding(Vec<f32>),
    /// One token was chosen.
    Token(TokenEvent),
    /// The answer is complete; the last event.
    Finished(Finish),
    /// There will be no more; the last event.
    Failed(Failure),
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

/// Log-probabilities of one token of the prompt, given those before it.
#[derive(Debug, Clone, PartialEq)]
pub struct PromptToken {
    /// Its id.
    pub id: u32,
    /// Its log-probability.
    pub logprob: f32,
    /// How many tokens were more probable.
    pub rank: usize,
    /// The best tokens in its place, best first.
    pub top: Vec<(u32, f32)>,
}

/// What was found about each token of a prompt, shared by all who show it.
pub type PromptList = Arc<[Option<PromptToken>]>;

/// How an answer ended.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Finish {
    /// Why.
    pub reason: FinishReason,
    /// What stopped it, where that was not the model's own end of turn.
    pub stop: Option<Stop>,
    /// Text that was held back and is now certain; belongs to the answer.
    pub text: String,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens of the prompt that were in the cache already.
    pub cached_tokens: usize,
    /// Tokens generated, the one that ended the answer included.
    pub completion_tokens: usize,
    /// Where the time went.
    pub timing: Timing,
    /// Which experts each token took, where the request asked.
    pub routing: Option<Routing>,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FinishReason {
    #[default]
    /// The model ended its turn, or a stop text or id came.
    Stop,
    /// `max_tokens` or the context's end was reached.
    Length,
}

/// What the request itself named as an end, and met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// One of [`Request::stop_token_ids`].
    Token(u32),
    /// One of [`Request::stop`].
    Text(String),
}

/// Where a request's time went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timing {
    /// From its submission to its first step.
    pub queued: Duration,
    /// From its first step to its first token.
    pub prefill: Duration,
    /// From its first token to its last.
    pub decode: Duration,
}

/// The experts that tokens took, in the order in which their outputs were added. The last generated token is not among them: it
/// was never computed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Routing {
    /// The layers that have experts.
    pub layers: Vec<usize>,
    /// `(tokens, layers, top_k)`, the prompt's tokens first where they were asked about.
    pub experts: Vec<u16>,
}

/// Why a request ended without its answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Its deadline passed.
    #[error("the deadline passed")]
    Deadline,
    /// The engine stopped.
    #[error("the engine has stopped")]
    Stopped,
    /// Its form grew beyond its bounds.
    #[error("the answer's form: {0}")]
    Form(String),
    /// The executor could not compute it.
    #[error("{0}")]
    Step(String),
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
    /// As many requests run and wait as may.
    #[error("{outstanding} requests run or wait, and no more may; try again in {retry_after_seconds} s")]
    QueueFull {
        /// Requests that run or wait.
        outstanding: usize,
        /// When a place may be free.
        retry_after_seconds: u64,
    },
    /// The engine has stopped.
    #[error("the engine has stopped")]
    Stopped,
}
