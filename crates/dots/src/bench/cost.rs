//! What a step must compute, counted from the shape.

use std::ops::Range;

use dots_model::Config;

/// Keys and values attended to by queries at these positions of one sequence: each sees itself and all before it.
pub fn attended(positions: Range<usize>) -> u64 {
    let (start, end) = (positions.start as u64, positions.end as u64);
    (end * (end + 1) - start * (start + 1)) / 2
}

/// Operations (two for each multiply and add) of reading `tokens` tokens of one sequence from position `depth` on: every
/// matrix that a token needs, and attention's two products. The last token alone needs the head, and of the last layer more
/// than its keys and values.
pub fn prefill_operations(config: &Config, tokens: usize, depth: usize) -> u64 {
    let head = (config.vocab_size * config.hidden_size) as u64;
    let once = head + behind_the_last_keys(config);
    let matrices = tokens as u64 * (config.parameters().active - once) + once;
    let a_key = 2 * config.attention_size() as u64;
    let end = depth + tokens;
    let attended = (config.num_hidden_layers as u64 - 1) * attended(depth..end) + end as u64;
    2 * (matrices + a_key * attended)
}

/// Parameters of the last layer that a token takes behind its keys and values.
fn behind_the_last_keys(config: &Config) -> u64 {
    let mlp = if config.is_moe(config.num_hidden_layers - 1) {
        let width = config.num_experts_per_tok * config.moe_intermediate_size + config.shared_intermediate_size();
        3 * width + config.n_routed_experts
    } else {
        3 * config.intermediate_size
    };
    (config.hidden_size * (2 * config.attention_size() + mlp)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_token_of_the_published_model_takes_two_operations_for_each_active_parameter() {
        let config = Config::dots_llm1();
        // 62 layers of attention, one dense MLP, 61 of 6 + 2 experts and a router, and the head.
        let matrix = 4096 * 4096;
        let active = 62 * 4 * matrix + 3 * 4096 * 10_944 + 61 * (8 * 3 * 4096 * 1408 + 128 * 4096) + 152_064 * 4096u64;
        assert_eq!(active, 13_393_199_104);
        // One key and one value in each of 62 · 32 heads of 128.
        let attention = 62 * 32 * 128 * 2;
        assert_eq!(prefill_operations(&config, 1, 0), 2 * (active + attention));
    }

    #[test]
    fn a_prompt_needs_its_end_once_and_attends_to_all_before() {
        let config = Config::dots_llm1();
        let once = 152_064 * 4096u64 + 2 * 4096 * 4096 + 8 * 3 * 4096 * 1408 + 128 * 4096;
        let attended = 61 * (4097..=4608u64).sum::<u64>() + 4608;
        let expected = 2 * (512 * (13_393_199_104 - once) + once + 2 * 4096 * attended);
        assert_eq!(prefill_operations(&config, 512, 4096), expected);
    }

    #[test]
    fn positions_attend_to_themselves_and_all_before() {
        assert_eq!(attended(0..1), 1);
        assert_eq!(attended(0..3), 1 + 2 + 3);
        assert_eq!(attended(4..6), 5 + 6);
        assert_eq!(attended(7..7), 0);
    }
}
