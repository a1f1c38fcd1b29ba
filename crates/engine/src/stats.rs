//! What an engine can be asked about itself.

/// What an engine is busy with, and what it has done since its start, as of its last step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Sequences that hold cache blocks.
    pub running: usize,
    /// Sequences that wait for cache blocks or for a place in the step.
    pub waiting: usize,
    /// Cache blocks that no sequence holds, those of `cached_blocks` among them.
    pub free_blocks: usize,
    /// Cache blocks that no sequence holds and whose content another may still share.
    pub cached_blocks: usize,
    /// Cache blocks in all.
    pub total_blocks: usize,
    /// Steps done.
    pub steps: u64,
    /// Tokens whose keys and values were computed, prompts' and generated ones.
    pub computed_tokens: u64,
    /// Tokens generated.
    pub generated_tokens: u64,
    /// Tokens tried before they were known.
    pub drafted_tokens: u64,
    /// Those of them that were right.
    pub accepted_tokens: u64,
    /// Times that a sequence gave its blocks up to another.
    pub preemptions: u64,
    /// Tokens of sequences that began or began again.
    pub prefix_queried_tokens: u64,
    /// Those of them that were in the cache.
    pub prefix_hit_tokens: u64,
    /// Steps by how many tokens each computed: entry `i` those up to `STEP_TOKENS[i]` and above the one before, the last all others.
    pub steps_by_tokens: [u64; STEP_TOKENS.len() + 1],
}

/// Where [`Stats::steps_by_tokens`] is cut.
pub const STEP_TOKENS: [u64; 13] = [1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384];
