//! The seam between those who decide what to compute and those who compute it: the whole model at once, behind two
//! calls, so that a card can work while the host thinks.

pub use dots_kernels::attention::CacheType;

use crate::{Config, Error};

/// Tokens in one block of the cache.
pub const BLOCK_TOKENS: usize = 32;

/// Index of a block in the cache's pool.
pub type BlockId = u32;

/// The two arithmetics (Law 1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Arithmetic {
    /// Activations in f32.
    Exact,
    /// Activations rounded to 8 bits before quantised products, and to bf16 before those with bf16 and FP8 on processors that
    /// multiply such numbers.
    #[default]
    Fast,
}

impl Arithmetic {
    /// What the cache holds where nobody says otherwise.
    pub fn cache_type(self) -> CacheType {
        match self {
            Self::Exact => CacheType::F32,
            Self::Fast => CacheType::Bf16,
        }
    }
}

/// What one step computes: a slice of each of some sequences.
#[derive(Debug, Clone, Default)]
pub struct Batch<'a> {
    /// The slices. No two may write the same cache position.
    pub slices: Vec<Slice<'a>>,
}

/// New tokens of one sequence.
#[derive(Debug, Clone, Copy)]
pub struct Slice<'a> {
    /// Token ids to feed.
    pub tokens: &'a [u32],
    /// Position of the first of them; positions before it are in the cache already.
    pub start: usize,
    /// The sequence's cache blocks in order: position `p` lives in `block_table[p / BLOCK_TOKENS]`.
    pub block_table: &'a [BlockId],
    /// What to give back, ordered by row.
    pub wants: &'a [Want<'a>],
}

/// What one row is asked for. A row that nobody asks costs no head product.
#[derive(Debug, Clone, Copy, Default)]
pub struct Want<'a> {
    /// Index into the slice's tokens.
    pub row: usize,
    /// Sample the next token.
    pub sample: Option<Sampling<'a>>,
    /// With `Some(n)`: the log-probability of the sampled token (or of `score`) and the `n` best.
    pub top_logprobs: Option<usize>,
    /// A token whose log-probability and rank are wanted, as prompt log-probabilities need.
    pub score: Option<u32>,
    /// All logits, before penalties.
    pub logits: bool,
    /// The hidden state after the last norm.
    pub hidden: bool,
    /// The experts that the row took in every layer.
    pub routing: bool,
}

/// How to choose a token. The same values give the same token on the same logits (Law 2).
#[derive(Debug, Clone, Copy)]
pub struct Sampling<'a> {
    /// 0 is greedy.
    pub temperature: f32,
    /// Keep the smallest set of best tokens whose probability reaches this; 1 keeps all.
    pub top_p: f32,
    /// Keep this many best tokens; 0 keeps all.
    pub top_k: usize,
    /// Drop tokens less probable than this share of the best; 0 drops none.
    pub min_p: f32,
    /// Keep the tokens nearest to the expected surprise that together reach this probability; 1 keeps all.
    pub typical_p: f32,
    /// How often the best tokens are excluded (XTC); 0 is never.
    pub xtc_probability: f32,
    /// When they are: of the tokens at least this probable, all but the last go. Above 0.5 none can.
    pub xtc_threshold: f32,
    /// Key of the random numbers, together with `position`.
    pub seed: u64,
    /// Position of the token to be sampled.
    pub position: u64,
    /// Divides positive and multiplies negative logits of tokens seen before; 1 is off.
    pub repetition_penalty: f32,
    /// Subtracted once from the logit of each token generated before.
    pub presence_penalty: f32,
    /// Subtracted from a token's logit once for each time it was generated.
    pub frequency_penalty: f32,
    /// Tokens seen before, each once, with the count of those generated (0: only in the prompt).
    pub seen: &'a [(u32, u32)],
    /// Added to single logits; negative infinity forbids a token.
    pub logit_bias: &'a [(u32, f32)],
    /// Added to single logits after the penalties: what follows from the tokens so far, such as tokens that would go on
    /// with a repetition or would complete a forbidden word; negative infinity forbids a token.
    pub history_bias: &'a [(u32, f32)],
    /// One bit a token, least significant first: only tokens whose bit is set may be chosen. `None` allows all.
    pub mask: Option<&'a [u32]>,
}

impl Sampling<'_> {
    /// The model's own distribution at position 0 of seed 0: every setting where it changes nothing.
    pub const PLAIN: Self = Self {
        temperature: 1.0,
        top_p: 1.0,
        top_k: 0,
        min_p: 0.0,
        typical_p: 1.0,
        xtc_probability: 0.0,
        xtc_threshold: 0.1,
        seed: 0,
        position: 0,
        repetition_penalty: 1.0,
        presence_penalty: 0.0,
        frequency_penalty: 0.0,
        seen: &[],
        logit_bias: &[],
        history_bias: &[],
        mask: None,
    };

    /// The best token.
    pub const GREEDY: Self = Self { temperature: 0.0, ..Self::PLAIN };
}

/// A step under way.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a step's outputs come from `collect`"]
pub struct Ticket(pub u64);

/// What a step gave, one entry for each want, in the order of slices and wants.
#[derive(Debug, Default)]
pub struct Outputs {
    /// The entries.
    pub rows: Vec<Output>,
}

/// What one row gave.
#[derive(Debug, Clone, Default)]
pub struct Output {
    /// The sampled token.
    pub token: Option<u32>,
    /// Log-probabilities of the model's own distribution, before temperature and penalties.
    pub logprobs: Option<Logprobs>,
    /// Log-probability and rank (0 is best) of `score`.
    pub score: Option<(f32, usize)>,
    /// `(vocab_size)`.
    pub logits: Option<Vec<f32>>,
    /// `(hidden_size)`.
    pub hidden: Option<Vec<f32>>,
    /// One entry for each MoE layer.
    pub routing: Option<Vec<LayerRouting>>,
}

/// Log-probabilities at one position.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Logprobs {
    /// Of the sampled token; absent where none was sampled.
    pub sampled: Option<f32>,
    /// The best tokens, best first.
    pub top: Vec<(u32, f32)>,
}

/// The experts that one token took in one layer, in the order in which their outputs are added.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerRouting {
    /// The layer.
    pub layer: usize,
    /// Expert and weight.
    pub experts: Vec<(u32, f32)>,
}

/// The bytes that an executor takes, known before it takes them (Law 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Plan {
    /// Weights, mapped or copied.
    pub weights_bytes: u64,
    /// The whole cache pool.
    pub cache_bytes: u64,
    /// Activations and scratch.
    pub buffers_bytes: u64,
    /// Blocks in the pool.
    pub cache_blocks: usize,
    /// Most tokens that one batch may hold.
    pub max_batch_tokens: usize,
}

/// A machine that runs the model. It owns the cache's bytes; whoever calls it owns the block ids.
pub trait Executor: Send {
    /// The model's shape.
    fn config(&self) -> &Config;

    /// What it holds.
    fn plan(&self) -> Plan;

    /// Starts a step. A batch that breaks the contract of [`Batch`] (a token outside the vocabulary, a block outside the
    /// pool, more tokens than planned) is refused and nothing is written.
    fn submit(&mut self, batch: &Batch<'_>) -> Result<Ticket, Error>;

    /// Waits for a step and gives what it computed; valid until the next submit.
    fn collect(&mut self, ticket: Ticket) -> &Outputs;

    /// Copies one block's keys and values of all layers. Panics where a block is outside the pool.
    fn copy_block(&mut self, from: BlockId, to: BlockId);

    /// Appends one block's bytes to `out`. Panics where the block is outside the pool.
    fn export_block(&self, block: BlockId, out: &mut Vec<u8>);

    /// Fills one block from what `export_block` gave; refuses another length.
    fn import_block(&mut self, block: BlockId, bytes: &[u8]) -> Result<(), Error>;
}
