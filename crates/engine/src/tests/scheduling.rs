use std::sync::Arc;

use dots_model::executor::{BLOCK_TOKENS, Output};
use proptest::prelude::*;

use super::fake::*;
use crate::{Breakers, Dry, Event, Events, Failure, FinishReason, Request, SamplingParams, Stats, SubmitError};

fn request(prompt_tokens: usize, max_tokens: usize, seed: u64) -> Request {
    Request {
        prompt: (0..prompt_tokens).map(|index| (index * 7 + seed as usize) as u32 % 128).collect(),
        max_tokens: Some(max_tokens),
        sampling: SamplingParams { seed: Some(seed), ..SamplingParams::default() },
        ignore_eos: true,
        ..Request::default()
    }
}

fn stats(engine: &ManualEngine) -> Stats {
    engine.holds()
}

/// How many events have come since the last time.
fn drain(events: &mut Events) -> usize {
    come(events).len()
}

#[test]
fn a_prompt_in_chunks_gives_the_tokens_of_a_whole_one() {
    let request = request(100, 30, 3);
    let expected = expected_answer(&request, &limits(ROOMY));
    for max_batch_tokens in [1, 2, 7, 31, 32, 33, 99, 100, 101, 4096] {
        let mut engine = ManualEngine::new(Size { max_batch_tokens, ..ROOMY });
        let events = engine.submit(request.clone()).unwrap();
        engine.run_until_idle();
        assert_eq!(answer(events, 100), expected, "{max_batch_tokens} tokens in a step");
    }
}

#[test]
fn a_long_prompt_does_not_hold_up_those_who_decode() {
    let mut engine = ManualEngine::new(Size { max_batch_tokens: 8, ..ROOMY });
    let mut short = engine.submit(request(4, 100, 1)).unwrap();
    engine.step();
    let mut long = engine.submit(request(70, 5, 2)).unwrap();
    drain(&mut short);
    for _ in 0..9 {
        engine.step();
        assert_eq!((drain(&mut short), drain(&mut long)), (1, 0));
    }
    engine.step();
    assert_eq!((drain(&mut short), drain(&mut long)), (1, 1));
}

#[test]
fn requests_wait_in_order_while_the_pool_is_full_and_none_overtakes() {
    let mut engine = ManualEngine::new(Size { cache_blocks: 4, ..ROOMY });
    let requests = [request(90, 36, 1), request(60, 60, 2), request(3, 3, 3)];
    let [first, second, mut small] = requests.clone().map(|request| engine.submit(request).unwrap());
    engine.step();
    engine.step();
    assert_eq!(stats(&engine), Stats { running: 1, waiting: 2, free_blocks: 1, total_blocks: 4, ..Stats::default() });
    for _ in 0..35 {
        assert_eq!((drain(&mut small), stats(&engine).running), (0, 1));
        engine.step();
    }
    assert_eq!(stats(&engine), Stats { running: 0, waiting: 2, free_blocks: 4, total_blocks: 4, ..Stats::default() });
    engine.step();
    assert_eq!((stats(&engine).running, stats(&engine).waiting), (2, 0));
    engine.run_until_idle();
    for (events, request) in [first, second].into_iter().zip(&requests) {
        assert_eq!(answer(events, request.prompt.len()), expected_answer(request, &limits(ROOMY)));
    }
}

#[test]
fn no_more_sequences_run_than_allowed_and_never_more_than_tokens() {
    for (max_sequences, max_batch_tokens, expected) in [(3, 64, 3), (8, 2, 2), (0, 0, 1)] {
        let size = Size { max_sequences, max_batch_tokens, ..ROOMY };
        let executor = FakeExecutor::new(Model::Hash, 0, size.cache_blocks, 64);
        let mut engine = ManualEngine::with_executor(executor, size);
        let _events: Vec<_> = (0..5).map(|seed| engine.submit(request(5, 5, seed)).unwrap()).collect();
        engine.step();
        assert_eq!((stats(&engine).running, stats(&engine).waiting), (expected, 5 - expected));
        engine.run_until_idle();
    }
}

#[test]
fn a_dropped_stream_frees_its_blocks_within_one_step_also_while_it_waits() {
    let mut engine = ManualEngine::new(Size { cache_blocks: 4, ..ROOMY });
    let running = engine.submit(request(90, 30, 1)).unwrap();
    let waiting = engine.submit(request(90, 30, 2)).unwrap();
    let last = engine.submit(request(90, 30, 3)).unwrap();
    engine.step();
    drop(waiting);
    engine.step();
    assert_eq!((stats(&engine).running, stats(&engine).waiting), (1, 1));
    drop(running);
    engine.step();
    assert_eq!((stats(&engine).running, stats(&engine).waiting), (1, 0));
    engine.run_until_idle();
    assert_eq!(answer(last, 90), expected_answer(&request(90, 30, 3), &limits(ROOMY)));
    assert_eq!(stats(&engine).free_blocks, 4);
}

#[test]
fn a_poisoned_request_fails_alone() {
    let mut engine = ManualEngine::new(ROOMY);
    let poisoned = engine.submit(Request { prompt: vec![1, POISON, 2], ..request(3, 5, 2) }).unwrap();
    let beside: Vec<_> = (3..6).map(|seed| (engine.submit(request(5, 5, seed)).unwrap(), seed)).collect();
    engine.run_until_idle();
    assert_eq!(answer(poisoned, 3).end, Err(Failure::Step("poisoned".to_owned())));
    for (events, seed) in beside {
        assert_eq!(answer(events, 5), expected_answer(&request(5, 5, seed), &limits(ROOMY)));
    }
    assert_eq!(stats(&engine), Stats { free_blocks: 64, total_blocks: 64, ..Stats::default() });
}

#[test]
fn without_max_tokens_an_answer_goes_to_the_end_of_the_context_or_of_the_pool() {
    for (cache_blocks, context) in [(64, 512), (3, 3 * BLOCK_TOKENS)] {
        let size = Size { cache_blocks, ..ROOMY };
        let mut engine = ManualEngine::new(size);
        let events = engine.submit(Request { max_tokens: None, ..request(10, 0, 1) }).unwrap();
        engine.run_until_idle();
        let answer = answer(events, 10);
        assert_eq!((answer.tokens.len(), answer.end), (context - 10, Ok(FinishReason::Length)));

        let mut too_long = Request { max_tokens: None, ..request(context, 0, 1) };
        let error = engine.submit(too_long.clone()).unwrap_err();
        let requested = context + 1;
        assert_eq!(error, SubmitError::TooLong { context, requested, prompt: context, completion: 1 });
        too_long.prompt.pop();
        let events = engine.submit(too_long).unwrap();
        engine.run_until_idle();
        assert_eq!(super::fake::answer(events, context - 1).tokens.len(), 1);
    }
}

fn any_request() -> impl Strategy<Value = Request> {
    let sampling = (
        prop_oneof![Just(0.0f32), 0.1f32..2.0],
        prop_oneof![Just(1.0f32), 0.1f32..1.0],
        0usize..20,
        prop_oneof![Just(0.0f32), 0.0f32..0.5],
        prop_oneof![Just((1.0f32, 0.0f32, 0.0f32)), (0.5f32..2.0, -2.0f32..2.0, -2.0f32..2.0)],
        any::<u64>(),
        prop::collection::vec((0u32..128, -5.0f32..5.0), 0..3),
        any_exclusion(),
    )
        .prop_map(|(temperature, top_p, top_k, min_p, penalties, seed, logit_bias, exclusion)| SamplingParams {
            temperature,
            top_p,
            top_k,
            min_p,
            repetition_penalty: penalties.0,
            presence_penalty: penalties.1,
            frequency_penalty: penalties.2,
            seed: Some(seed),
            logit_bias,
            ..exclusion
        });
    let stop = prop::collection::vec("[a-z]|[A-Z][a-z]", 0..3);
    // Many begin alike, some for whole blocks; with its answer the longest still fits the smallest cache.
    let prompt = (0usize..80, prop::collection::vec(0u32..128, 1..20))
        .prop_map(|(shared, rest)| (0..shared as u32).map(|index| index * 5 % 128).chain(rest).collect());
    let ends = (stop, prop::collection::vec(0u32..128, 0..2), any::<bool>(), any::<bool>(), 0usize..20);
    (prompt, 1usize..60, sampling, ends).prop_map(
        |(prompt, max_tokens, sampling, (stop, stop_token_ids, ignore_eos, include_stop, min_tokens))| Request {
            prompt,
            max_tokens: Some(max_tokens),
            sampling,
            stop,
            stop_token_ids,
            ignore_eos,
            include_stop,
            min_tokens: min_tokens.min(max_tokens),
            ..Request::default()
        },
    )
}

/// Settings that keep tokens away, each off in many requests.
fn any_exclusion() -> impl Strategy<Value = SamplingParams> {
    let word = prop::collection::vec(0u32..128, 1..3);
    (
        prop_oneof![Just(1.0f32), 0.2f32..1.0],
        prop_oneof![Just(0.0f32), 0.0f32..1.0],
        prop_oneof![Just(0.0f32), 0.0f32..3.0],
        prop::collection::vec(word, 0..4),
        prop::collection::vec("[a-z]{1,2}", 0..3),
        (0usize..3, 0usize..100),
    )
        .prop_map(|(typical_p, xtc_probability, multiplier, bad_words, breakers, (allowed_length, last_n))| {
            let breakers = Some(Arc::new(Breakers::new(breakers, Arc::new(Ascii))));
            let dry = Dry { multiplier, allowed_length, penalty_last_n: last_n, breakers, ..Dry::default() };
            let xtc = SamplingParams { xtc_probability, xtc_threshold: 0.05, ..SamplingParams::default() };
            SamplingParams { typical_p, bad_words: bad_words.into(), dry, ..xtc }
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn tokens_do_not_depend_on_company_and_the_pool_is_whole_at_the_end(
        // Each request comes at a step, and may be cancelled some steps later.
        requests in prop::collection::vec((any_request(), 0usize..40, prop::option::weighted(0.3, 0usize..40)), 1..12),
        cache_blocks in 5usize..24,
        max_batch_tokens in 1usize..80,
        max_sequences in 1usize..8,
        speculate in any::<bool>(),
    ) {
        let size = Size { cache_blocks, max_batch_tokens, max_sequences, speculate };
        let mut engine = ManualEngine::new(size);
        let mut streams: Vec<_> = requests.iter().map(|_| None).collect();
        for step in 0..80 {
            for ((request, arrival, patience), stream) in requests.iter().zip(&mut streams) {
                if *arrival == step {
                    *stream = Some(engine.submit(request.clone()).unwrap());
                }
                if patience.is_some_and(|patience| arrival + patience == step) {
                    *stream = None;
                }
            }
            engine.step();
        }
        engine.run_until_idle();
        prop_assert_eq!(stats(&engine).free_blocks, cache_blocks);
        for ((request, ..), stream) in requests.iter().zip(streams) {
            if let Some(events) = stream {
                prop_assert_eq!(answer(events, request.prompt.len()), expected_answer(request, &limits(size)));
            }
        }
    }
}

#[test]
fn an_executor_that_samples_nothing_fails_the_sequence_alone() {
    let mut engine = ManualEngine::new(ROOMY);
    let mut events = engine.submit(request(5, 5, 1)).unwrap();
    engine.stepper.scheduler.schedule();
    engine.stepper.scheduler.running[0].take(5, &[4], &[Output::default()]);
    let failure = Failure::Step("the executor sampled no token".to_owned());
    assert_eq!(events.blocking_next(), Some(Event::Failed(failure)));
    engine.run_until_idle();
}
