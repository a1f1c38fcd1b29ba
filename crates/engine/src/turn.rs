//! Whose turn it is.

/// A sequence's turn: the lower priority number first, as in vLLM; then whose tenant was served least; then who came first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Turn {
    pub priority: i32,
    /// Tokens of work after which it comes, in the tenants' common count.
    pub start: u64,
    pub arrival: u64,
}
