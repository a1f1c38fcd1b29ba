//! The balancing bias that new experts start with.

/// A router with new rows.
#[derive(Debug)]
pub(super) struct Gate<'a> {
    /// `(old experts, hidden)`
    pub(super) old: &'a [f32],
    /// `(old experts)`
    pub(super) biases: &'a [f32],
    /// `(new experts, hidden)`
    pub(super) new: &'a [f32],
    pub(super) top_k: usize,
    /// The most of the new domain's choices that may be new experts, a share.
    pub(super) most_new: f64,
    /// The most of the kept domain's tokens that may choose any, a share.
    pub(super) most_kept: f64,
}

/// What one token's choice depends on: what the old experts that it takes are compared by, and the new ones' scores, both largest first.
struct Token {
    old: Vec<f32>,
    new: Vec<f32>,
}

impl Token {
    /// How many new experts it chooses under this bias.
    fn chosen(&self, bias: f32) -> usize {
        let places = self.old.iter().rev().zip(&self.new);
        places.take_while(|(old, new)| **new + bias > **old).count()
    }
}

impl Gate<'_> {
    /// The largest bias with which the tokens of both domains keep to [`Gate::most_new`] and [`Gate::most_kept`]. `new` and `keep` are
    /// router inputs, `(tokens, hidden)` each.
    pub(super) fn bias(&self, new: &[f32], keep: Option<&[f32]>) -> f32 {
        let (new, keep) = (self.tokens(new), keep.map_or_else(Vec::new, |keep| self.tokens(keep)));
        let fits = |bias| self.fits(&new, &keep, bias);
        let ends =
            self.biases.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), x| (low.min(*x), high.max(*x)));
        // Scores are from 0 to 1: below, nobody chooses a new expert; above, everybody does.
        let (mut low, mut high) = (ends.0 - 1.0, ends.1 + 1.0);
        for _ in 0..24 {
            let middle = (low + high) / 2.0;
            if fits(middle) { low = middle } else { high = middle }
        }
        low
    }

    fn fits(&self, new: &[Token], keep: &[Token], bias: f32) -> bool {
        let kept = keep.iter().filter(|token| token.chosen(bias) > 0).count();
        let chosen: usize = new.iter().map(|token| token.chosen(bias)).sum();
        kept as f64 <= self.most_kept * keep.len() as f64
            && chosen as f64 <= self.most_new * (self.top_k * new.len()) as f64
    }

    fn tokens(&self, inputs: &[f32]) -> Vec<Token> {
        let hidden = self.old.len() / self.biases.len();
        let score = |row: &[f32], x: &[f32]| {
            let logit: f32 = row.iter().zip(x).map(|(row, x)| row * x).sum();
            1.0 / (1.0 + (-logit).exp())
        };
        let sorted = |mut scores: Vec<f32>| {
            scores.sort_by(|one, other| other.total_cmp(one));
            scores.truncate(self.top_k);
            scores
        };
        let token = |x: &[f32]| Token {
            old: sorted(self.old.chunks(hidden).zip(self.biases).map(|(row, bias)| score(row, x) + bias).collect()),
            new: sorted(self.new.chunks(hidden).map(|row| score(row, x)).collect()),
        };
        inputs.chunks(hidden).map(token).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::random::normals;

    #[test]
    fn a_token_takes_new_experts_in_place_of_its_last_old_ones() {
        let token = Token { old: vec![0.9, 0.8, 0.3], new: vec![0.7, 0.6, 0.5] };
        assert_eq!([-0.5, 0.0, 0.15, 0.25, 0.5].map(|bias| token.chosen(bias)), [0, 1, 1, 2, 3]);
    }

    #[test]
    fn the_bias_is_the_largest_that_both_domains_allow() {
        const HIDDEN: usize = 8;
        let random =
            |name: &str, rows: usize| -> Vec<f32> { normals(5, name).take(rows * HIDDEN).map(|x| x as f32).collect() };
        let (old, rows, biases) = (random("old", 6), random("rows", 2), [0.0, 0.1, -0.1, 0.05, 0.0, -0.05]);
        let (new, keep) = (random("new", 400), random("keep", 400));
        let gate = |most_new, most_kept| Gate { old: &old, biases: &biases, new: &rows, top_k: 2, most_new, most_kept };
        // The same random inputs are both domains': whichever share is smaller is what holds the bias back.
        for (most_new, most_kept) in [(0.5, 0.01), (0.1, 0.5), (0.3, 0.0)] {
            let gate = gate(most_new, most_kept);
            let bias = gate.bias(&new, Some(&keep));
            let (new, keep) = (gate.tokens(&new), gate.tokens(&keep));
            assert!(gate.fits(&new, &keep, bias), "{most_new} {most_kept}");
            let [chosen, kept] =
                [&new, &keep].map(|tokens| tokens.iter().map(|token| token.chosen(bias + 0.02)).sum::<usize>());
            assert!(!gate.fits(&new, &keep, bias + 0.02), "{most_new} {most_kept}: {chosen} {kept}");
        }
        assert_eq!(gate(0.5, 0.01).bias(&new, None), gate(0.5, 1.0).bias(&new, Some(&keep)), "nothing to keep");
    }
}
