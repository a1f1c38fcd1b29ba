//! DRY, "don't repeat yourself": a token that would go on with a repetition is the less likely the longer that is already.

use std::sync::Arc;

use crate::breakers::{Breakers, LastBreaker};

/// DRY of p-e-w (text-generation-webui pull request 5677), as llama.cpp has it (`llama_sampler_dry_apply`).
///
/// Where the last `n` tokens stand somewhere before, too, and `n` is at least `allowed_length`, the token that followed
/// there loses `multiplier * base ^ (n - allowed_length)` of its logit.
#[derive(Debug, Clone, PartialEq)]
pub struct Dry {
    /// Finite and not negative; 0 is off.
    pub multiplier: f32,
    /// Finite and at least 1.
    pub base: f32,
    /// Longest repetition that may be gone on with for nothing.
    pub allowed_length: usize,
    /// How many tokens back repetitions are looked for, in prompt and answer; 0 is off.
    pub penalty_last_n: usize,
    /// What no repetition reaches across; `None` is nothing.
    pub breakers: Option<Arc<Breakers>>,
}

impl Default for Dry {
    /// Off, and else as llama.cpp's server has it.
    fn default() -> Self {
        Self { multiplier: 0.0, base: 1.75, allowed_length: 2, penalty_last_n: 64, breakers: None }
    }
}

/// What [`Dry::charge`] keeps from one token of a sequence to the next: where the last breaker stands, and scratch memory.
#[derive(Debug, Clone, Default)]
pub(crate) struct Memory {
    last_breaker: LastBreaker,
    matched: Vec<u32>,
    longest: Vec<(u32, u32)>,
}

impl Dry {
    /// Whether it can charge anything.
    pub fn is_on(&self) -> bool {
        self.multiplier != 0.0 && self.penalty_last_n > 0
    }

    /// Appends what each token loses after `tokens`, as a negative bias. Linear in `penalty_last_n`, but for the sorting
    /// of what it found. `memory` is that of the calls before, whose tokens `tokens` begins with.
    pub(crate) fn charge(&self, tokens: &[u32], memory: &mut Memory, bias: &mut Vec<(u32, f32)>) {
        if !self.is_on() {
            return;
        }
        let from = tokens.len().saturating_sub(self.penalty_last_n);
        let limit = match &self.breakers {
            Some(breakers) => memory.last_breaker.tokens_since(breakers, tokens, from),
            None => tokens.len() - from,
        };
        let tokens = &tokens[from..];
        if limit < self.allowed_length || tokens.len() <= self.allowed_length {
            return;
        }
        match_with_end(tokens, &mut memory.matched);
        memory.longest.clear();
        for (back, &matched) in memory.matched.iter().enumerate().skip(1) {
            let matched = (matched as usize).min(limit);
            if matched >= self.allowed_length {
                memory.longest.push((tokens[tokens.len() - back], matched as u32));
            }
        }
        memory.longest.sort_unstable_by(|a, b| a.0.cmp(&b.0).then(b.1.cmp(&a.1)));
        memory.longest.dedup_by_key(|&mut (id, _)| id);
        for &(id, matched) in &memory.longest {
            if !self.breakers.as_ref().is_some_and(|breakers| breakers.are_in(id)) {
                // As much as a number can be is enough to never be chosen, and keeps the logit a number.
                let exponent = (matched as usize - self.allowed_length).min(i32::MAX as usize) as i32;
                bias.push((id, -(self.multiplier * self.base.powi(exponent)).min(f32::MAX)));
            }
        }
    }
}

/// `matched[k]`: how many tokens up to the `k`th from the end, that one included, are those that `tokens` end with
/// (`matched[0]` is all). By the Z-algorithm, from the end: linear.
fn match_with_end(tokens: &[u32], matched: &mut Vec<u32>) {
    let count = tokens.len();
    let from_end = |index: usize| tokens[count - 1 - index];
    matched.clear();
    matched.resize(count, count as u32);
    // The match that reaches furthest: tokens `start..end` from the end are those at `0..end - start`.
    let (mut start, mut end) = (0, 0);
    for k in 1..count {
        let known = if k < end { (matched[k - start] as usize).min(end - k) } else { 0 };
        let mut length = known;
        if k + known >= end {
            while k + length < count && from_end(length) == from_end(k + length) {
                length += 1;
            }
            (start, end) = (k, k + length);
        }
        matched[k] = length as u32;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use proptest::prelude::*;

    use super::*;
    use crate::breakers::{TokenBytes, tests::Words};

    /// Each digit is a token.
    const DIGITS: Words = Words(&["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]);

    fn charged(dry: &Dry, tokens: &[u32]) -> Vec<(u32, f32)> {
        let mut bias = Vec::new();
        dry.charge(tokens, &mut Memory::default(), &mut bias);
        bias
    }

    fn dry(breakers: &[&str]) -> Dry {
        let breakers = Some(Arc::new(Breakers::new(breakers.iter().copied(), Arc::new(DIGITS))));
        Dry { multiplier: 1.0, base: 2.0, allowed_length: 1, penalty_last_n: 100, breakers }
    }

    #[test]
    fn each_token_that_would_go_on_pays_by_the_longest_repetition() {
        // `1 2 3` came before 3, `3` before 2, `2 3` before 9: llama.cpp's own example.
        let tokens = [1, 2, 3, 3, 2, 3, 9, 1, 2, 3];
        assert_eq!(charged(&dry(&[]), &tokens), [(2, -1.0), (3, -4.0), (9, -2.0)]);
        assert_eq!(charged(&Dry { allowed_length: 2, ..dry(&[]) }, &tokens), [(3, -2.0), (9, -1.0)]);
        assert_eq!(charged(&Dry { allowed_length: 4, ..dry(&[]) }, &tokens), []);
        assert_eq!(
            charged(&Dry { multiplier: 0.5, base: 3.0, ..dry(&[]) }, &tokens),
            [(2, -0.5), (3, -4.5), (9, -1.5)]
        );
    }

    #[test]
    fn nothing_further_back_than_asked_counts() {
        let tokens = [1, 2, 3, 7, 1, 2];
        assert_eq!(charged(&dry(&[]), &tokens), [(3, -2.0)]);
        assert_eq!(charged(&Dry { penalty_last_n: 5, ..dry(&[]) }, &tokens), [(3, -1.0)]);
        assert_eq!(charged(&Dry { penalty_last_n: 4, ..dry(&[]) }, &tokens), []);
        assert_eq!(charged(&Dry { penalty_last_n: 0, ..dry(&[]) }, &tokens), []);
        assert_eq!(charged(&Dry { multiplier: 0.0, ..dry(&[]) }, &tokens), []);
    }

    #[test]
    fn no_repetition_reaches_across_a_breaker_and_no_breaker_pays() {
        let tokens = [1, 2, 3, 4, 1, 2, 3];
        assert_eq!(charged(&dry(&[]), &tokens), [(4, -4.0)]);
        assert_eq!(charged(&dry(&["1"]), &tokens), [(4, -2.0)]);
        assert_eq!(charged(&dry(&["2"]), &tokens), [(4, -1.0)]);
        assert_eq!(charged(&dry(&["12"]), &tokens), [(4, -1.0)]);
        assert_eq!(charged(&dry(&["1", "12"]), &tokens), [(4, -1.0)]);
        assert_eq!(charged(&dry(&["19"]), &tokens), [(4, -4.0)]);
        assert_eq!(charged(&dry(&["39"]), &tokens), [(4, -4.0)], "it is not whole");
        assert_eq!(charged(&dry(&["3"]), &tokens), []);
        assert_eq!(charged(&dry(&["4"]), &tokens), []);
        assert_eq!(charged(&dry(&["44"]), &tokens), [(4, -4.0)], "one token of a longer one pays");
    }

    #[test]
    fn the_longest_repetition_costs_a_finite_number() {
        let wide = Dry { penalty_last_n: usize::MAX, ..dry(&[]) };
        assert_eq!(charged(&wide, &[7; 1000]), [(7, f32::MIN)]);
        assert_eq!(charged(&Dry { base: 1.0, ..wide }, &[7; 1000]), [(7, -1.0)]);
    }

    /// Tokens of one byte, each look at which is counted.
    #[derive(Default)]
    struct Counted(AtomicUsize);

    impl TokenBytes for Counted {
        fn token_bytes(&self, _: u32) -> &[u8] {
            self.0.fetch_add(1, Ordering::Relaxed);
            b"a"
        }
    }

    #[test]
    fn each_token_is_looked_at_once_however_long_the_text_before_it() {
        let counted = Arc::new(Counted::default());
        let texts = (0..32).map(|i| format!("{}{}", "a".repeat(62), char::from(b'A' + i)));
        let breakers = Some(Arc::new(Breakers::new(texts, Arc::clone(&counted) as _)));
        let dry = Dry { allowed_length: usize::MAX, penalty_last_n: usize::MAX, breakers, ..dry(&[]) };
        let mut memory = Memory::default();
        let mut tokens = vec![7; 32_000];
        for _ in 0..100 {
            dry.charge(&tokens, &mut memory, &mut Vec::new());
            assert_eq!(counted.0.load(Ordering::Relaxed), tokens.len());
            tokens.push(7);
        }
    }

    /// By the definition: for every place, how far back it equals the end.
    fn charged_naively(dry: &Dry, breakers: &[Vec<u32>], tokens: &[u32]) -> Vec<(u32, f32)> {
        let tokens = &tokens[tokens.len().saturating_sub(dry.penalty_last_n)..];
        let count = tokens.len();
        let mut limit = count;
        for start in (0..count).rev() {
            let longest = breakers.iter().filter(|breaker| tokens[start..].starts_with(breaker)).map(Vec::len).max();
            if let Some(longest) = longest {
                limit = count - start - longest;
                break;
            }
        }
        let mut charged = std::collections::BTreeMap::new();
        for place in 0..count.saturating_sub(1) {
            let equal = (0..=place).take_while(|&back| tokens[place - back] == tokens[count - 1 - back]).count();
            let equal = equal.min(limit);
            let next = tokens[place + 1];
            if equal >= dry.allowed_length && !breakers.contains(&vec![next]) {
                let penalty = dry.multiplier * dry.base.powi((equal - dry.allowed_length) as i32);
                let most = charged.entry(next).or_insert(penalty);
                *most = f32::max(*most, penalty);
            }
        }
        charged.into_iter().map(|(id, penalty)| (id, -penalty)).collect()
    }

    proptest! {
        #[test]
        fn charges_are_those_of_the_definition(
            tokens in prop::collection::vec(0u32..4, 0..80),
            breakers in prop::collection::vec(prop::collection::vec(0u32..6, 1..4), 0..3),
            allowed_length in 0usize..5,
            penalty_last_n in 0usize..90,
            prompt_tokens in 0usize..80,
            base in 1.0f32..2.0,
        ) {
            let texts = breakers.iter().map(|breaker| breaker.iter().map(u32::to_string).collect::<String>());
            let shared = Some(Arc::new(Breakers::new(texts, Arc::new(DIGITS))));
            let dry = Dry { multiplier: 0.8, base, allowed_length, penalty_last_n, breakers: shared };
            prop_assert_eq!(charged(&dry, &tokens), charged_naively(&dry, &breakers, &tokens));
            let mut memory = Memory::default();
            for end in prompt_tokens.min(tokens.len())..=tokens.len() {
                let mut bias = Vec::new();
                dry.charge(&tokens[..end], &mut memory, &mut bias);
                prop_assert_eq!(bias, charged_naively(&dry, &breakers, &tokens[..end]), "after {} tokens", end);
            }
        }
    }
}
