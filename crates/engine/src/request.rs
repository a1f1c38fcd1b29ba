//! What is asked of the engine and what it answers.

/// One completion of one prompt.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// Token ids of the prompt; not empty.
    pub prompt: Vec<u32>,
    /// How tokens are chosen.
    pub sampling: SamplingParams,
    /// Most tokens to generate; `None` is up to the context's end.
    pub max_tokens: Option<usize>,
    /// Texts that end the answer and are left out of it.
    pub stop: Vec<String>,
    /// Ids that end the answer, beside the model's own.
    pub stop_token_ids: Vec<u32>,
    /// Go on past the model's own end-of-turn ids.
    pub ignore_eos: bool,
    /// With `Some(n)`: each token's log-probability and the `n` best.
    pub logprobs: Option<usize>,
}

/// How tokens are chosen. The defaults change nothing in the model's distribution.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// 0 is greedy.
    pub temperature: f32,
    /// Nucleus mass, in (0, 1].
    pub top_p: f32,
    /// Candidates kept; 0 keeps all.
    pub top_k: usize,
    /// Smallest share of the best candidate's probability, in [0, 1].
    pub min_p: f32,
    /// Greater than 0; 1 is off.
    pub repetition_penalty: f32,
    /// In [-2, 2].
    pub presence_penalty: f32,
    /// In [-2, 2].
    pub frequency_penalty: f32,
    /// Key of the random numbers; `None` draws one.
    pub seed: Option<u64>,
    /// Added to single logits.
    pub logit_bias: Vec<(u32, f32)>,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            seed: None,
            logit_bias: Vec::new(),
        }
    }
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
