//! Prompt lookup speculation (Saxena, 2023; vLLM's `ngram`): where the last tokens of a sequence stand earlier in it, what
//! followed them there is tried in the next step. A drafted token stays when it is the one that the request would have sampled,
//! so answers do not change (Law 2); only the time does.
//!
//! Whether that pays depends on the text and on the machine. A row more in a step of a mixture of experts reads experts more,
//! so it is far from free. Both are measured: how often a proposal is right, for each sequence and also while nothing is
//! drafted, since the sampled token tells; and what a row costs, over the steps. A draft has the length that these say is the
//! fastest, which may be none.

use std::{collections::HashMap, time::Duration};

/// Tokens that must have been seen in a row before.
const MATCHED_TOKENS: usize = 3;
/// Longest draft.
const MAX_DRAFT_TOKENS: usize = 8;
/// Draft of an engine that does not know yet what a row costs.
const FIRST_DRAFT_TOKENS: usize = 2;
/// Share of the newest proposal in the estimate of how often they are right.
const NEWEST: f64 = 0.1;
/// How often a proposal is taken to be right before any was seen.
const FIRST_ACCEPTANCE: f64 = 0.5;
/// What is left of a step's weight in the cost model after one more.
const DECAY: f64 = 0.95;
/// Steps without a draft after which the cost of a row is measured again, by a draft of one token.
const PROBE_STEPS: u32 = 64;

/// Where a sequence's tokens were seen before, and how far that can be trusted.
#[derive(Debug)]
pub(crate) struct Lookup {
    /// For some tokens in a row, the position behind their last occurrence.
    seen: HashMap<[u32; MATCHED_TOKENS], u32>,
    indexed: usize,
    acceptance: f64,
    /// What was expected to come next.
    proposed: Option<u32>,
}

impl Default for Lookup {
    fn default() -> Self {
        Self { seen: HashMap::new(), indexed: 0, acceptance: FIRST_ACCEPTANCE, proposed: None }
    }
}

impl Lookup {
    /// What followed the last tokens of `tokens` when they were last there; at most `limit` of it. Asked once for each length.
    pub fn propose<'a>(&mut self, tokens: &'a [u32], limit: usize) -> &'a [u32] {
        let Some(last) = tokens.last_chunk::<MATCHED_TOKENS>() else { return &[] };
        // The last tokens themselves come into the index with the next token, when something follows them.
        while self.indexed + MATCHED_TOKENS < tokens.len() {
            if let Some(window) = tokens[self.indexed..].first_chunk::<MATCHED_TOKENS>() {
                self.seen.insert(*window, (self.indexed + MATCHED_TOKENS) as u32);
            }
            self.indexed += 1;
        }
        let proposal = self.seen.get(last).map_or(&[][..], |&from| {
            let rest = &tokens[from as usize..];
            &rest[..rest.len().min(limit)]
        });
        self.proposed = proposal.first().copied();
        proposal
    }

    /// Holds the last proposal to the token that came.
    pub fn learn(&mut self, token: u32) {
        if let Some(proposed) = self.proposed.take() {
            self.acceptance += (f64::from(u8::from(proposed == token)) - self.acceptance) * NEWEST;
        }
    }
}

/// How long a step takes that only decodes: a straight line over its rows, fitted to the latest steps.
#[derive(Debug, Default)]
pub(crate) struct Cost {
    weight: f64,
    rows: f64,
    seconds: f64,
    rows_squared: f64,
    rows_seconds: f64,
    /// Seconds a row, once steps of different size have been seen.
    slope: Option<f64>,
    undrafted_steps: u32,
}

impl Cost {
    /// Notes a step.
    pub fn learn(&mut self, rows: usize, drafted: usize, time: Duration) {
        let (x, y) = (rows as f64, time.as_secs_f64());
        let add = |sum: &mut f64, value: f64| *sum = *sum * DECAY + value;
        add(&mut self.weight, 1.0);
        add(&mut self.rows, x);
        add(&mut self.seconds, y);
        add(&mut self.rows_squared, x * x);
        add(&mut self.rows_seconds, x * y);
        let variance = self.weight * self.rows_squared - self.rows * self.rows;
        // Steps of one size say nothing of a row's cost: what was known stays.
        if variance > 0.05 * self.weight * self.weight {
            let slope = (self.weight * self.rows_seconds - self.rows * self.seconds) / variance;
            self.slope = Some(slope.max(0.0));
        }
        self.undrafted_steps = if drafted > 0 { 0 } else { self.undrafted_steps.saturating_add(1) };
    }

    /// How many tokens of a proposal a step of `rows` rows should try beside them.
    pub fn draft_tokens(&self, rows: usize, lookup: &Lookup) -> usize {
        let Some(slope) = self.slope else { return FIRST_DRAFT_TOKENS };
        let base = ((self.seconds - slope * self.rows) / self.weight.max(f64::MIN_POSITIVE)).max(0.0);
        let before = base + slope * rows as f64;
        // Each of the step's rows gains a token in any case; the draft adds what of it is right.
        let (mut best, mut best_rate) = (0, rows as f64 / before.max(f64::MIN_POSITIVE));
        let (mut right, mut gained) = (1.0, rows as f64);
        for tokens in 1..=MAX_DRAFT_TOKENS {
            right *= lookup.acceptance;
            gained += right;
            let rate = gained / (before + slope * tokens as f64).max(f64::MIN_POSITIVE);
            if rate > best_rate {
                (best, best_rate) = (tokens, rate);
            }
        }
        match best {
            0 if self.undrafted_steps >= PROBE_STEPS && lookup.acceptance > FIRST_ACCEPTANCE => 1,
            best => best,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_followed_the_last_tokens_before_is_proposed() {
        let mut lookup = Lookup::default();
        assert!(lookup.propose(&[1, 2, 3], 4).is_empty());
        assert_eq!(lookup.propose(&[1, 2, 3, 4, 5, 1, 2, 3], 4), &[4, 5, 1, 2]);
        assert!(lookup.propose(&[1, 2, 3, 4, 5, 1, 2, 3, 9], 4).is_empty());
        // The latest occurrence counts.
        assert_eq!(lookup.propose(&[1, 2, 3, 4, 5, 1, 2, 3, 9, 8, 1, 2, 3], 1), &[9]);
        assert_eq!(lookup.propose(&[1, 2, 3, 4, 5, 1, 2, 3, 9, 8, 1, 2, 3, 7, 7, 7, 7], 4), &[7]);
    }

    #[test]
    fn trust_follows_what_came() {
        let mut lookup = Lookup::default();
        let tokens = [1, 2, 3, 4, 5, 1, 2, 3];
        for _ in 0..50 {
            lookup.propose(&tokens, 1);
            lookup.learn(4);
        }
        assert!(lookup.acceptance > 0.95);
        for _ in 0..50 {
            lookup.propose(&tokens, 1);
            lookup.learn(7);
        }
        assert!(lookup.acceptance < 0.05);
        lookup.learn(7);
        assert!(lookup.acceptance < 0.05, "without a proposal nothing is learned");
    }

    fn cost(base_ms: f64, row_ms: f64) -> Cost {
        let mut cost = Cost::default();
        for step in 0..40 {
            let rows = 1 + step % 3;
            cost.learn(rows, rows - 1, Duration::from_secs_f64((base_ms + row_ms * rows as f64) / 1e3));
        }
        cost
    }

    #[test]
    fn a_draft_is_as_long_as_it_pays() {
        let trusted = |acceptance| Lookup { acceptance, ..Lookup::default() };
        assert_eq!(Cost::default().draft_tokens(1, &trusted(0.1)), FIRST_DRAFT_TOKENS);
        // A row that costs nothing is tried whenever it may be right; one that costs a step only where nothing is lost.
        assert_eq!(cost(10.0, 0.0).draft_tokens(1, &trusted(0.5)), MAX_DRAFT_TOKENS);
        assert_eq!(cost(0.0, 10.0).draft_tokens(1, &trusted(0.9)), 0);
        let half = cost(5.0, 5.0);
        let lengths: Vec<_> =
            [0.3, 0.5, 0.7, 0.9, 1.0].map(|acceptance| half.draft_tokens(1, &trusted(acceptance))).into();
        assert!(lengths.is_sorted() && lengths[0] == 0 && lengths[4] == MAX_DRAFT_TOKENS, "{lengths:?}");
    }

    #[test]
    fn a_cost_that_kept_drafts_away_is_measured_again() {
        let mut cost = cost(0.0, 10.0);
        let lookup = Lookup { acceptance: 0.9, ..Lookup::default() };
        // The last step of these had none either.
        for _ in 1..PROBE_STEPS {
            assert_eq!(cost.draft_tokens(1, &lookup), 0);
            cost.learn(1, 0, Duration::from_millis(10));
        }
        assert_eq!(cost.draft_tokens(1, &lookup), 1);
    }
}
