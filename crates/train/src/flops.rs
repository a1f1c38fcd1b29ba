//! What training a model takes, in floating point operations: two for each multiply and add.
//!
//! Counted as the field does (Kaplan et al. 2020; PaLM, appendix B): a token meets each active parameter of a product once forward
//! and twice backward, six operations in all, and attends to positions. What is computed twice to save memory, norms, softmax and the
//! lookup of embeddings count nothing, so that the share of a machine's peak says how much of it served the model.

use dots_model::Config;

/// Operations a token takes in products of weights: six for each active parameter, the head's among them, the embedding's not.
pub fn of_weights(config: &Config) -> f64 {
    6.0 * config.parameters().active as f64
}

/// Operations that one position takes in all layers for each position that it attends to: a multiply and add in each width of a
/// head for its score, and one for its value, forward and twice backward.
pub fn of_attended(config: &Config) -> f64 {
    12.0 * (config.num_hidden_layers * config.attention_size()) as f64
}

/// Operations a token takes in sequences of `sequence_tokens` that are one document each: the most that causal attention asks
/// for, since shorter documents are attended to within themselves only.
pub fn of_token(config: &Config, sequence_tokens: usize) -> f64 {
    of_weights(config) + of_attended(config) * attended(sequence_tokens)
}

/// Positions that one attends to, itself among them: the mean over a sequence.
fn attended(sequence_tokens: usize) -> f64 {
    (sequence_tokens + 1) as f64 / 2.0
}

/// Positions that those of `attend_from` attend to, in all: see [`crate::step::MicroBatch::attend_from`].
pub fn count_attended(attend_from: &[u32], sequence_tokens: usize) -> u64 {
    let of_sequence = |from: &[u32]| -> u64 {
        from.iter().enumerate().map(|(position, from)| (position as u64 + 1).saturating_sub(u64::from(*from))).sum()
    };
    attend_from.chunks(sequence_tokens.max(1)).map(of_sequence).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_llm1_takes_what_its_report_gives() {
        let config = Config::dots_llm1();
        let giga = |flops: f64| flops / 1e9;
        // Derived from the report's Table 4, which rounds: 80.4 without attention, 92.9 with what is attended at 8 K, 105.4 if
        // every position attended to all.
        let near = |found: f64, said: f64| assert!((found - said).abs() < 0.1, "{found} for {said}");
        near(giga(of_weights(&config)), 80.4);
        near(giga(of_token(&config, 8192)), 92.9);
        near(giga(of_weights(&config) + 8192.0 * of_attended(&config)), 105.4);
    }

    #[test]
    fn a_document_is_attended_to_within_itself() {
        // Two sequences of four: one document, and two of two.
        assert_eq!(count_attended(&[0, 0, 0, 0, 0, 0, 2, 2], 4), 10 + 6);
        assert_eq!(count_attended(&[0; 64], 64) as f64, 64.0 * attended(64));
    }
}
