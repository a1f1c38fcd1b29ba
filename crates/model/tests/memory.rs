//! Memory is planned before it is taken, whatever the numbers that ask for it.

mod support;

use dots_model::{
    Checkpoint, Config, Error,
    cpu::{CpuExecutor, CpuOptions},
    executor::{Arithmetic, Batch, CacheType, Executor, Slice},
};
use serde_json::json;
use support::{copy_of, edit_json, golden};

const OPTIONS: CpuOptions = CpuOptions {
    arithmetic: Arithmetic::Fast,
    cache_type: CacheType::Bf16,
    threads: 1,
    cache_tokens: 64,
    max_batch_tokens: 64,
};

#[test]
fn a_context_of_a_billion_tokens_takes_what_the_cache_can_reach() {
    let folder = copy_of("hf");
    edit_json(&folder.path().join("config.json"), |config| {
        config.insert("max_position_embeddings".into(), json!(1 << 30));
    });
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    assert!(OPTIONS.plan(&checkpoint).buffers_bytes < 1 << 20, "{:?}", OPTIONS.plan(&checkpoint));
    let mut executor = CpuExecutor::new(&checkpoint, &OPTIONS).unwrap();
    // A table that names a block twice reaches further than the cache does.
    let slice = Slice { tokens: &[1], start: 64, block_table: &[0, 1, 0], wants: &[] };
    let error = executor.submit(&Batch { slices: vec![slice] }).unwrap_err().to_string();
    assert_eq!(error, "batch: position 65 beyond 64");
}

#[test]
fn what_no_machine_has_is_an_error_and_no_abort() {
    let checkpoint = Checkpoint::open(&golden("hf")).unwrap();
    for max_batch_tokens in [1 << 40, usize::MAX / 8, usize::MAX] {
        let error = CpuExecutor::new(&checkpoint, &CpuOptions { max_batch_tokens, ..OPTIONS }).err();
        assert!(matches!(error, Some(Error::Memory(_))), "{error:?}");
    }
    let cache_tokens = usize::MAX - 31;
    let error = CpuExecutor::new(&checkpoint, &CpuOptions { cache_tokens, ..OPTIONS }).err();
    assert!(matches!(error, Some(Error::Memory(_))), "{error:?}");
}

#[test]
fn no_plan_overflows() {
    let config = Config {
        vocab_size: 1 << 24,
        hidden_size: 1 << 20,
        intermediate_size: 1 << 24,
        moe_intermediate_size: 1 << 20,
        num_hidden_layers: 4096,
        num_attention_heads: 1 << 12,
        num_key_value_heads: 1 << 12,
        head_dim: 1 << 12,
        n_routed_experts: 1 << 18,
        n_shared_experts: 1 << 10,
        num_experts_per_tok: 1 << 18,
        max_position_embeddings: 1 << 30,
        ..Config::dots_llm1()
    };
    for cache_type in CacheType::ALL {
        let (threads, max_batch_tokens) = (1 << 30, 1 << 30);
        let most = CpuOptions { cache_type, threads, cache_tokens: usize::MAX, max_batch_tokens, ..OPTIONS };
        let plan = most.plan_for(&config, 0);
        assert_eq!((plan.cache_bytes, plan.buffers_bytes), (u64::MAX, u64::MAX));
    }
}
