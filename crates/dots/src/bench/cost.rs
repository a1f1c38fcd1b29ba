//! What a step must read or compute, counted from the shape and the tensors.

use std::ops::Range;

use dots_model::{Checkpoint, Config, executor::LayerRouting};

use crate::load;

/// Bytes of weights by who reads them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WeightBytes {
    /// Read in every step: all but the embedding table and the routed experts.
    pub always: u64,
    /// One routed expert, by layer.
    pub expert: Vec<u64>,
    /// Read by one token: [`Self::always`] and the experts that it takes.
    pub of_token: u64,
    /// Those of them in quantised types.
    pub quantised: u64,
}

impl WeightBytes {
    /// Counts the tensors of `checkpoint`.
    pub fn of(checkpoint: &Checkpoint) -> Self {
        let config = &checkpoint.config;
        let experts = config.n_routed_experts.max(1) as u64;
        let mut bytes = Self { always: 0, expert: vec![], of_token: 0, quantised: 0 };
        let mut of_experts = vec![0; config.num_hidden_layers];
        for (name, tensor) in checkpoint.tensors() {
            let size = load::tensor_bytes(tensor);
            let mut read = size;
            if let Some((layer, _)) = name.split_once(".mlp.experts.") {
                read = size * config.num_experts_per_tok as u64 / experts;
                let layer = layer.rsplit('.').next().and_then(|layer| layer.parse::<usize>().ok());
                if let Some(sum) = layer.and_then(|layer| of_experts.get_mut(layer)) {
                    *sum += size;
                }
            } else if name == "model.embed_tokens.weight" {
                read = 0;
            } else {
                bytes.always += size;
            }
            bytes.of_token += read;
            if tensor.kind.is_quantised() {
                bytes.quantised += read;
            }
        }
        bytes.expert = of_experts.into_iter().map(|sum: u64| sum / experts).collect();
        bytes
    }

    /// What one step over these rows reads: each layer's chosen experts once, however many rows chose them.
    pub fn of_step<'a>(&self, rows: impl Iterator<Item = &'a [LayerRouting]>) -> u64 {
        let mut chosen: Vec<(usize, u32)> = rows
            .flatten()
            .flat_map(|routing| routing.experts.iter().map(|(expert, _)| (routing.layer, *expert)))
            .collect();
        chosen.sort_unstable();
        chosen.dedup();
        self.always + chosen.into_iter().map(|(layer, _)| self.expert.get(layer).copied().unwrap_or(0)).sum::<u64>()
    }
}

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
    use dots_model::checkpoint::Types;

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

    #[test]
    fn rows_that_share_an_expert_read_it_once() {
        let bytes = WeightBytes { always: 1000, expert: vec![0, 10, 100], of_token: 0, quantised: 0 };
        let routing =
            |layer, experts: &[u32]| LayerRouting { layer, experts: experts.iter().map(|&e| (e, 0.5)).collect() };
        let rows = [vec![routing(1, &[3, 4]), routing(2, &[3, 4])], vec![routing(1, &[4, 5]), routing(2, &[4, 3])]];
        assert_eq!(bytes.of_step(rows[..1].iter().map(Vec::as_slice)), 1000 + 2 * 10 + 2 * 100);
        assert_eq!(bytes.of_step(rows.iter().map(Vec::as_slice)), 1000 + 3 * 10 + 2 * 100);
    }

    #[test]
    fn a_bf16_token_reads_two_bytes_for_each_active_parameter() {
        let config = Config {
            vocab_size: 100,
            hidden_size: 64,
            intermediate_size: 96,
            moe_intermediate_size: 32,
            num_hidden_layers: 2,
            num_attention_heads: 2,
            num_key_value_heads: 2,
            head_dim: 32,
            n_routed_experts: 8,
            ..Config::dots_llm1()
        };
        let types = Types::named("BF16").unwrap();
        let checkpoint = Checkpoint::random("random", config.clone(), types, 1).unwrap();
        let bytes = WeightBytes::of(&checkpoint);
        assert_eq!(bytes.expert, [0, 2 * 3 * 64 * 32]);
        assert_eq!(bytes.quantised, 0);
        // The router (8 · 64), its bias and the norms are in f32.
        let norms = 64 + 2 * (2 * 64 + 2 * 32);
        let read = 2 * config.parameters().active + 2 * 8 * 64 + 4 * 8 + 4 * norms;
        let experts = (0..6).map(|expert| (expert, 1.0)).collect();
        let row = [LayerRouting { layer: 1, experts }];
        assert_eq!(bytes.of_step([&row[..]].into_iter()), read);
        assert_eq!(load::active_bytes(&checkpoint), read);
    }
}
