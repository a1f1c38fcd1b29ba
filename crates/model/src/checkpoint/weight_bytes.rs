//! What a step reads of a checkpoint, counted from its tensors.

use dots_kernels::WeightType;

use super::{Checkpoint, names::EMBEDDING};
use crate::executor::LayerRouting;

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
    /// Those of them in BF16 and FP8.
    pub bf16: u64,
}

impl WeightBytes {
    /// Counts the tensors of `checkpoint`.
    pub fn of(checkpoint: &Checkpoint) -> Self {
        let config = &checkpoint.config;
        let experts = config.n_routed_experts.max(1) as u64;
        let mut bytes = Self { always: 0, expert: vec![], of_token: 0, quantised: 0, bf16: 0 };
        let mut of_experts = vec![0; config.num_hidden_layers];
        for (name, tensor) in checkpoint.tensors() {
            let size = tensor.bytes();
            let mut read = size;
            if let Some((layer, _)) = name.split_once(".mlp.experts.") {
                read = size * config.num_experts_per_tok as u64 / experts;
                let layer = layer.rsplit('.').next().and_then(|layer| layer.parse::<usize>().ok());
                if let Some(sum) = layer.and_then(|layer| of_experts.get_mut(layer)) {
                    *sum += size;
                }
            } else if name == EMBEDDING {
                read = 0;
            } else {
                bytes.always += size;
            }
            bytes.of_token += read;
            match tensor.kind {
                WeightType::BF16 | WeightType::F8_E4M3 => bytes.bf16 += read,
                kind if kind.is_quantised() => bytes.quantised += read,
                _ => {}
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Config, checkpoint::Types};

    #[test]
    fn rows_that_share_an_expert_read_it_once() {
        let bytes = WeightBytes { always: 1000, expert: vec![0, 10, 100], of_token: 0, quantised: 0, bf16: 0 };
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
        // The router (8 · 64), its bias and the norms are in f32.
        let norms = 64 + 2 * (2 * 64 + 2 * 32);
        let read = 2 * config.parameters().active + 2 * 8 * 64 + 4 * 8 + 4 * norms;
        let experts = (0..6).map(|expert| (expert, 1.0)).collect();
        let row = [LayerRouting { layer: 1, experts }];
        assert_eq!(bytes.of_step([&row[..]].into_iter()), read);
        assert_eq!((bytes.of_token, bytes.quantised), (read, 0));
        assert_eq!(bytes.bf16, read - 4 * (8 * 64 + 8 + norms));
    }
}
