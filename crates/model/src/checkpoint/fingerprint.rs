//! What makes one checkpoint's keys and values differ from another's.

use sha2::{Digest, Sha256};

use super::Checkpoint;
use crate::executor::{Arithmetic, CacheType};

/// Bytes that are looked at in each of three places of a tensor.
const SAMPLE_BYTES: usize = 1024;

impl Checkpoint {
    /// Names what a cache block's bytes depend on beside its tokens: these weights, how the program computes and what the cache holds.
    /// `made_by` names the program's build, since two may round differently.
    ///
    /// Of each tensor the name, type, shape and length count, its scales, and a kilobyte from its beginning, its middle and its end:
    /// to read every byte of 80 GB takes longer than the prefill that a kept block saves, and no training step or
    /// quantisation leaves so many samples as they were.
    pub fn cache_key(
        &self,
        made_by: &str,
        arithmetic: Arithmetic,
        cache_type: CacheType,
        instruction_set: &str,
    ) -> [u8; 32] {
        let mut hash = Sha256::new();
        let mut field = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        field(made_by.as_bytes());
        field(format!("{arithmetic:?}").as_bytes());
        field(cache_type.name().as_bytes());
        field(instruction_set.as_bytes());
        field(format!("{:?}", self.config).as_bytes());
        let mut tensors: Vec<_> = self.tensors().collect();
        tensors.sort_unstable_by_key(|(name, _)| *name);
        for (name, tensor) in tensors {
            field(name.as_bytes());
            field(tensor.kind.name().as_bytes());
            field(format!("{:?} {}", tensor.shape, tensor.data.len()).as_bytes());
            let (data, len) = (&tensor.data, tensor.data.len());
            let sample = SAMPLE_BYTES.min(len);
            for start in [0, (len - sample) / 2, len - sample] {
                field(&data[start..start + sample]);
            }
            tensor.row_scales.iter().for_each(|scale| field(&scale.to_le_bytes()));
        }
        hash.finalize().into()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{Config, checkpoint::Types};

    #[test]
    fn a_key_follows_weights_build_arithmetic_cache_and_instructions() {
        let config = Config {
            num_hidden_layers: 2,
            hidden_size: 64,
            intermediate_size: 64,
            moe_intermediate_size: 32,
            num_attention_heads: 2,
            num_key_value_heads: 2,
            head_dim: 32,
            n_routed_experts: 4,
            n_shared_experts: 1,
            num_experts_per_tok: 2,
            vocab_size: 64,
            ..Config::dots_llm1()
        };
        let checkpoint = Checkpoint::random("random", config, Types::named("BF16").unwrap(), 1).unwrap();
        let key = |checkpoint: &Checkpoint| checkpoint.cache_key("one", Arithmetic::Fast, CacheType::Bf16, "AVX2");
        assert_eq!(key(&checkpoint), key(&checkpoint.clone()));
        let others = [
            checkpoint.cache_key("two", Arithmetic::Fast, CacheType::Bf16, "AVX2"),
            checkpoint.cache_key("one", Arithmetic::Exact, CacheType::Bf16, "AVX2"),
            checkpoint.cache_key("one", Arithmetic::Fast, CacheType::Q8, "AVX2"),
            checkpoint.cache_key("one", Arithmetic::Fast, CacheType::Bf16, "portable"),
        ];
        assert!(others.iter().all(|other| *other != key(&checkpoint)));
        let mut changed = checkpoint.clone();
        let tensor = changed.tensors.get_mut("model.norm.weight").unwrap();
        let mut data = tensor.data.to_vec();
        *data.last_mut().unwrap() ^= 1;
        tensor.data = Bytes::from(data);
        assert_ne!(key(&changed), key(&checkpoint));
    }
}
