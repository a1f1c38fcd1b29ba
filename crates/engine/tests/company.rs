//! Law 2 from the request to the last token, over the real model: one seed gives one answer, alone and in any company, on
//! any number of threads, however prompts are cut into steps.

use std::{path::Path, sync::Arc};

use dots_engine::{Dry, Engine, EngineOptions, Event, Events, Request, SamplingParams, TokenEvent};
use dots_model::{
    Checkpoint,
    cpu::{CpuExecutor, CpuOptions},
    executor::{Arithmetic, CacheType},
    tokenizer::Tokenizer,
};

/// How an engine is built, none of which its answers may show.
#[derive(Debug, Clone, Copy)]
struct Setting {
    threads: usize,
    max_batch_tokens: usize,
    max_sequences: usize,
    cache_tokens: usize,
    speculate: bool,
}

/// Room for everyone at once.
const ROOMY: Setting =
    Setting { threads: 1, max_batch_tokens: 256, max_sequences: 8, cache_tokens: 1024, speculate: false };

fn engine(golden: &str, arithmetic: Arithmetic, cache_type: CacheType, setting: Setting) -> Engine {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/goldens").join(golden);
    let checkpoint = Checkpoint::open(&path).unwrap();
    let Setting { threads, max_batch_tokens, max_sequences, cache_tokens, speculate } = setting;
    let options = CpuOptions { arithmetic, cache_type, threads, cache_tokens, max_batch_tokens };
    let executor = CpuExecutor::new(&checkpoint, &options).unwrap();
    let tokenizer = Arc::new(Tokenizer::new(checkpoint.tokenizer.as_ref().unwrap()).unwrap());
    let eos_token_ids = checkpoint.generation.eos_token_ids;
    let options = EngineOptions {
        max_model_len: 256,
        max_batch_tokens,
        max_sequences,
        max_queue: 64,
        speculate,
        spill: None,
        eos_token_ids,
    };
    Engine::start(Box::new(executor), tokenizer, options)
}

/// Prompts from one token to more than two blocks; two of them the same under different seeds; every way of choosing.
fn requests() -> Vec<Request> {
    let request = |prompt_tokens: u32, first: u32, max_tokens: usize, sampling: SamplingParams| Request {
        prompt: (0..prompt_tokens).map(|i| (first + 37 * i) % 256).collect(),
        sampling: SamplingParams { temperature: 0.8, ..sampling },
        max_tokens: Some(max_tokens),
        ignore_eos: true,
        logprobs: Some(3),
        ..Request::default()
    };
    let seeded = |seed| SamplingParams { seed: Some(seed), ..SamplingParams::default() };
    let dry = Dry { multiplier: 1.0, penalty_last_n: 50, ..Dry::default() };
    let bad_words = (0..200).map(|id| vec![id]).collect();
    vec![
        request(1, 5, 24, seeded(1)),
        request(70, 11, 24, seeded(2)),
        request(70, 11, 24, seeded(3)),
        request(33, 200, 24, SamplingParams { top_p: 0.9, top_k: 40, ..seeded(4) }),
        request(9, 90, 90, SamplingParams { min_p: 0.02, repetition_penalty: 1.2, ..seeded(5) }),
        request(40, 3, 24, SamplingParams { typical_p: 0.8, xtc_probability: 0.5, xtc_threshold: 0.01, ..seeded(7) }),
        Request {
            min_tokens: 24,
            // Repetitions of three ids are what this prompt is.
            prompt: (0..60).map(|i| 100 + i % 3).collect(),
            ..request(1, 0, 24, SamplingParams { dry, bad_words, ..seeded(8) })
        },
        request(31, 17, 90, SamplingParams { presence_penalty: 0.5, frequency_penalty: 0.5, ..seeded(6) }),
    ]
}

fn tokens(mut events: Events) -> Vec<TokenEvent> {
    let mut tokens = Vec::new();
    loop {
        match events.blocking_next().unwrap() {
            Event::Token(token) => tokens.push(token),
            Event::Finished(_) => return tokens,
            other => panic!("{other:?}"),
        }
    }
}

/// The answers' ids, texts and log-probabilities are compared, the last of them bit for bit.
fn check_one_seed_gives_one_answer(golden: &str, arithmetic: Arithmetic, cache_type: CacheType) {
    let quiet = engine(golden, arithmetic, cache_type, ROOMY);
    let alone: Vec<_> = requests().into_iter().map(|request| tokens(quiet.submit(request).unwrap())).collect();
    assert!(alone.iter().zip(requests()).all(|(answer, request)| Some(answer.len()) == request.max_tokens));
    assert_ne!(alone[1], alone[2], "two seeds gave one answer");

    let settings = [
        ROOMY,
        Setting { threads: 2, ..ROOMY },
        // Prompts in pieces of at most seven tokens, between the tokens of those who decode.
        Setting { threads: 2, max_batch_tokens: 7, ..ROOMY },
        Setting { threads: 1, max_batch_tokens: 64, max_sequences: 3, ..ROOMY },
        // Room for the longest and little beside: the others wait, get blocks that had other owners, and give them up again.
        Setting { threads: 2, max_batch_tokens: 40, cache_tokens: 160, ..ROOMY },
        Setting { threads: 2, speculate: true, ..ROOMY },
    ];
    for setting in settings {
        let busy = engine(golden, arithmetic, cache_type, setting);
        // The second time much is in the cache.
        for time in 1..=2 {
            let events: Vec<Events> = requests().into_iter().map(|request| busy.submit(request).unwrap()).collect();
            for (index, (events, alone)) in events.into_iter().zip(&alone).enumerate() {
                let told = tokens(events);
                assert_eq!(
                    &told, alone,
                    "{golden} {arithmetic:?} {cache_type:?} {setting:?}: request {index}, time {time}"
                );
            }
        }
        let stats = busy.stats();
        assert!(stats.prefix_hit_tokens >= 96, "{setting:?}: {stats:?}");
        assert!(setting.cache_tokens > 160 || stats.preemptions > 0, "{setting:?}: {stats:?}");
    }
}

#[test]
fn one_seed_gives_one_answer_in_exact_arithmetic() {
    check_one_seed_gives_one_answer("hf", Arithmetic::Exact, CacheType::F32);
}

#[test]
fn one_seed_gives_one_answer_in_fast_arithmetic() {
    check_one_seed_gives_one_answer("hf", Arithmetic::Fast, CacheType::Bf16);
}

#[test]
fn one_seed_gives_one_answer_over_quantised_weights() {
    check_one_seed_gives_one_answer("gguf/dots1-Q4_K_M.gguf", Arithmetic::Fast, CacheType::Bf16);
}

#[test]
fn one_seed_gives_one_answer_over_quantised_caches() {
    check_one_seed_gives_one_answer("hf", Arithmetic::Fast, CacheType::Q8);
    check_one_seed_gives_one_answer("hf", Arithmetic::Fast, CacheType::Q4);
}
