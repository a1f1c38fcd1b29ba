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

const ANSWER_TOKENS: usize = 24;

/// How an engine is built, none of which its answers may show.
#[derive(Debug, Clone, Copy)]
struct Setting {
    threads: usize,
    max_batch_tokens: usize,
    max_sequences: usize,
    cache_tokens: usize,
}

/// Room for everyone at once.
const ROOMY: Setting = Setting { threads: 1, max_batch_tokens: 256, max_sequences: 8, cache_tokens: 1024 };

fn engine(golden: &str, arithmetic: Arithmetic, cache_type: CacheType, setting: Setting) -> Engine {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/goldens").join(golden);
    let checkpoint = Checkpoint::open(&path).unwrap();
    let Setting { threads, max_batch_tokens, max_sequences, cache_tokens } = setting;
    let options = CpuOptions { arithmetic, cache_type, threads, cache_tokens, max_batch_tokens };
    let executor = CpuExecutor::new(&checkpoint, &options).unwrap();
    let tokenizer = Arc::new(Tokenizer::new(checkpoint.tokenizer.as_ref().unwrap()).unwrap());
    let eos_token_ids = checkpoint.generation.eos_token_ids;
    let options = EngineOptions { max_model_len: 256, max_batch_tokens, max_sequences, eos_token_ids };
    Engine::start(Box::new(executor), tokenizer, options)
}

/// Prompts from one token to more than two blocks; two of them the same under different seeds; every way of choosing.
fn requests() -> Vec<Request> {
    let request = |prompt_tokens: u32, first: u32, sampling: SamplingParams| Request {
        prompt: (0..prompt_tokens).map(|i| (first + 37 * i) % 256).collect(),
        sampling: SamplingParams { temperature: 0.8, ..sampling },
        max_tokens: Some(ANSWER_TOKENS),
        ignore_eos: true,
        logprobs: Some(3),
        ..Request::default()
    };
    let seeded = |seed| SamplingParams { seed: Some(seed), ..SamplingParams::default() };
    let dry = Dry { multiplier: 1.0, penalty_last_n: 50, ..Dry::default() };
    let bad_words = (0..200).map(|id| vec![id]).collect();
    vec![
        request(1, 5, seeded(1)),
        request(70, 11, seeded(2)),
        request(70, 11, seeded(3)),
        request(33, 200, SamplingParams { top_p: 0.9, top_k: 40, ..seeded(4) }),
        request(9, 90, SamplingParams { min_p: 0.02, repetition_penalty: 1.2, ..seeded(5) }),
        request(40, 3, SamplingParams { typical_p: 0.8, xtc_probability: 0.5, xtc_threshold: 0.01, ..seeded(7) }),
        Request {
            min_tokens: ANSWER_TOKENS,
            // Repetitions of three ids are what this prompt is.
            prompt: (0..60).map(|i| 100 + i % 3).collect(),
            ..request(1, 0, SamplingParams { dry, bad_words, ..seeded(8) })
        },
        request(31, 17, SamplingParams { presence_penalty: 0.5, frequency_penalty: 0.5, ..seeded(6) }),
    ]
}

fn tokens(mut events: Events) -> Vec<TokenEvent> {
    let mut tokens = Vec::new();
    loop {
        match events.blocking_next().unwrap() {
            Event::Token(token) => tokens.push(token),
            Event::Finished(_) => return tokens,
            Event::Failed(reason) => panic!("{reason}"),
        }
    }
}

/// The answers' ids, texts and log-probabilities are compared, the last of them bit for bit.
fn check_one_seed_gives_one_answer(golden: &str, arithmetic: Arithmetic, cache_type: CacheType) {
    let quiet = engine(golden, arithmetic, cache_type, ROOMY);
    let alone: Vec<_> = requests().into_iter().map(|request| tokens(quiet.submit(request).unwrap())).collect();
    assert!(alone.iter().all(|answer| answer.len() == ANSWER_TOKENS));
    assert_ne!(alone[1], alone[2], "two seeds gave one answer");

    let settings = [
        ROOMY,
        Setting { threads: 2, ..ROOMY },
        // Prompts in pieces of at most seven tokens, between the tokens of those who decode.
        Setting { threads: 2, max_batch_tokens: 7, ..ROOMY },
        Setting { threads: 1, max_batch_tokens: 64, max_sequences: 3, ..ROOMY },
        // Room for two of the longest at once: the others wait, and get blocks that had other owners.
        Setting { threads: 2, max_batch_tokens: 40, cache_tokens: 192, ..ROOMY },
    ];
    for setting in settings {
        let busy = engine(golden, arithmetic, cache_type, setting);
        let events: Vec<Events> = requests().into_iter().map(|request| busy.submit(request).unwrap()).collect();
        for (index, (events, alone)) in events.into_iter().zip(&alone).enumerate() {
            assert_eq!(&tokens(events), alone, "{golden} {arithmetic:?} {cache_type:?} {setting:?}: request {index}");
        }
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
