//! The seam between a run and the arithmetic of its steps.

use std::io;

/// Sequences of one length, packed with documents, and what is to be learnt of each.
#[derive(Debug, Clone, Copy)]
pub struct MicroBatch<'a> {
    /// Positions of a sequence.
    pub sequence_tokens: usize,
    /// `(sequences, sequence_tokens)`. A sequence may end in padding, [`NO_TOKEN`], which counts in nothing: no loss, no load, no gradient.
    pub tokens: &'a [u32],
    /// `(sequences, sequence_tokens)`: the first position of its sequence that each position attends to: its document's
    /// first under `attention = "document"`, 0 under `"sequence"`. Positions for RoPE count from the sequence's start.
    pub attend_from: &'a [u32],
    /// `(sequences, sequence_tokens)`: the token to predict at each position, or [`NO_TARGET`].
    pub targets: &'a [u32],
}

/// Stands in [`MicroBatch::targets`] where nothing is to be predicted.
pub const NO_TARGET: u32 = u32::MAX;

/// Stands in [`MicroBatch::tokens`] where a sequence is filled up. Nothing but padding follows it.
pub const NO_TOKEN: u32 = u32::MAX;

/// What a whole step holds, over all of its micro-batches and ranks: losses are divided by these, never averaged over
/// micro-batches' means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Totals {
    /// Positions with a target.
    pub targets: u64,
    /// Sequences.
    pub sequences: u64,
}

/// The dials of one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dials {
    /// Learning rate.
    pub learning_rate: f64,
    /// Weight of the sequence-wise balance loss (α).
    pub sequence_loss: f64,
    /// How far a router's bias moves after the step (γ).
    pub bias_rate: f64,
    /// The experts whose biases move, towards these experts' own mean load: from the first on, and before the second. Those past a
    /// router's last are none.
    pub balanced: [usize; 2],
}

/// [`Dials::balanced`] where all experts are.
pub const ALL_EXPERTS: [usize; 2] = [0, usize::MAX];

/// What a step did.
#[derive(Debug, Clone, PartialEq)]
pub struct StepReport {
    /// Mean cross-entropy of the targets, in nats.
    pub loss: f64,
    /// Sum over MoE layers of the sequence-wise balance loss, mean over sequences, before α.
    pub sequence_loss: f64,
    /// Norm of the whole gradient before clipping.
    pub gradient_norm: f64,
    /// Norm of all weights after the update.
    pub weight_norm: f64,
    /// One a MoE layer.
    pub routers: Vec<RouterReport>,
}

/// What a MoE layer's router did in one step.
#[derive(Debug, Clone, PartialEq)]
pub struct RouterReport {
    /// The layer.
    pub layer: usize,
    /// `(experts)`: tokens routed to each, padding left out.
    pub loads: Vec<u64>,
    /// `(experts)`: balancing biases after the step.
    pub biases: Vec<f32>,
    /// Mean entropy, in nats, of the tokens' scores normalised to sum to one.
    pub entropy: f64,
}

/// The arithmetic of training: weights, gradients and moments, and how one step changes them.
///
/// A step is `begin`, any number of `forward_backward`, and `update`. Splitting the same sequences into other micro-batches
/// changes results by rounding only (1e-6).
pub trait Step {
    /// Starts a step: gradients and loads are zero, losses will be divided by `totals`.
    fn begin(&mut self, totals: Totals, dials: Dials) -> Result<(), StepError>;

    /// Adds the gradients of these sequences.
    fn forward_backward(&mut self, batch: &MicroBatch<'_>) -> Result<(), StepError>;

    /// Clips the gradient, updates the weights by AdamW and the routers' biases by their loads. A loss or a gradient that is not
    /// finite is an error that names its layer and tensor, and nothing is updated.
    fn update(&mut self) -> Result<StepReport, StepError>;

    /// The tensor whose gradient was largest in the step that was last updated, by its published name, and the norm of it; `None` where
    /// nobody can say.
    fn steepest(&self) -> Option<(String, f64)> {
        None
    }

    /// `(sum of the targets' cross-entropy in nats, targets)`, nothing learnt.
    fn evaluate(&mut self, batch: &MicroBatch<'_>) -> Result<(f64, u64), StepError>;

    /// Updates made so far: AdamW's corrections count them, so they belong to the state.
    fn updates(&self) -> u64;

    /// Hands out all tensors of the state, each once, in an order that never changes.
    fn export(&mut self, give: &mut dyn FnMut(StateTensor<'_>) -> io::Result<()>) -> io::Result<()>;

    /// Takes the whole state: what [`Step::updates`] was, and `take(name, kind, shape, numbers)`, which fills `numbers` for each
    /// tensor that `export` hands out.
    fn import(&mut self, updates: u64, take: &mut TakeState<'_>) -> io::Result<()>;
}

/// Fills a tensor's numbers from wherever a state was kept: see [`Step::import`].
pub type TakeState<'a> = dyn FnMut(&str, StateKind, &[usize], &mut [f32]) -> io::Result<()> + 'a;

/// A tensor of a step's state.
#[derive(Debug)]
pub struct StateTensor<'a> {
    /// Its name in the published Hugging Face layout, one expert at a time.
    pub name: &'a str,
    /// Which of the numbers kept for it.
    pub kind: StateKind,
    /// Its published shape.
    pub shape: &'a [usize],
    /// All of its numbers, row after row.
    pub numbers: &'a [f32],
}

/// What is kept of a parameter from one step to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateKind {
    /// Master weights, and routers' balancing biases.
    Weight,
    /// Mean of the gradients.
    FirstMoment,
    /// Mean of their squares.
    SecondMoment,
}

/// Why a step was not made. Nothing was updated.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// A number that is not finite.
    #[error("{what} of {tensor} is {value}")]
    NotFinite {
        /// Loss, gradient or weight.
        what: &'static str,
        /// The tensor's published name, with its layer.
        tensor: String,
        /// NaN or an infinity.
        value: f64,
    },
    /// A batch that breaks the contract of [`MicroBatch`].
    #[error("batch: {field}: expected {expected}, found {found}")]
    Batch {
        /// Which of its fields.
        field: &'static str,
        /// What would be right.
        expected: String,
        /// What is there.
        found: String,
    },
    /// Another rank failed or left.
    #[error("ranks: {0}")]
    Ranks(String),
}
