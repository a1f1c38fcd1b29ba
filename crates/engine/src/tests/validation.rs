use super::fake::*;
use crate::{Dry, Request, SamplingParams, SubmitError};

fn refusal(request: Request) -> SubmitError {
    request.checked_max_tokens(&limits(ROOMY)).unwrap_err()
}

fn valid() -> Request {
    Request { prompt: vec![1], ..Request::default() }
}

#[test]
fn every_setting_outside_its_range_is_named() {
    let sampling = |sampling: SamplingParams| Request { sampling, ..valid() };
    let plain = SamplingParams::default;
    let (nan, infinity) = (f32::NAN, f32::INFINITY);
    let too_many_stops = vec!["x".to_owned(); 17];
    let mut wrong: Vec<(&str, Request)> = vec![
        ("prompt", Request { prompt: vec![1, 300], ..valid() }),
        ("max_tokens", Request { max_tokens: Some(0), ..valid() }),
        ("stop", Request { stop: vec![String::new()], ..valid() }),
        ("stop", Request { stop: vec!["x".repeat(1025)], ..valid() }),
        ("stop", Request { stop: too_many_stops, ..valid() }),
        ("stop_token_ids", Request { stop_token_ids: vec![u32::MAX], ..valid() }),
        ("min_tokens", Request { min_tokens: 6, max_tokens: Some(5), ..valid() }),
        ("min_tokens", Request { min_tokens: 512, ..valid() }),
        ("logprobs", Request { logprobs: Some(21), ..valid() }),
        ("logit_bias", sampling(SamplingParams { logit_bias: vec![(300, 0.0)], ..plain() })),
    ];
    for bias in [nan, infinity, 101.0, -101.0] {
        wrong.push(("logit_bias", sampling(SamplingParams { logit_bias: vec![(1, bias)], ..plain() })));
    }
    for temperature in [nan, infinity, -0.1] {
        wrong.push(("temperature", sampling(SamplingParams { temperature, ..plain() })));
    }
    for top_p in [nan, 0.0, -1.0, 1.1] {
        wrong.push(("top_p", sampling(SamplingParams { top_p, ..plain() })));
    }
    for min_p in [nan, -0.1, 1.1] {
        wrong.push(("min_p", sampling(SamplingParams { min_p, ..plain() })));
    }
    for typical_p in [nan, 0.0, 1.1] {
        wrong.push(("typical_p", sampling(SamplingParams { typical_p, ..plain() })));
    }
    for share in [nan, -0.1, 1.1] {
        wrong.push(("xtc_probability", sampling(SamplingParams { xtc_probability: share, ..plain() })));
        wrong.push(("xtc_threshold", sampling(SamplingParams { xtc_threshold: share, ..plain() })));
    }
    for multiplier in [nan, infinity, -0.1] {
        let dry = Dry { multiplier, ..Dry::default() };
        wrong.push(("dry_multiplier", sampling(SamplingParams { dry, ..plain() })));
    }
    for base in [nan, infinity, 0.9] {
        wrong.push(("dry_base", sampling(SamplingParams { dry: Dry { base, ..Dry::default() }, ..plain() })));
    }
    for bad_words in [vec![vec![]], vec![vec![1; 257]], vec![vec![1]; 1025], vec![vec![300]]] {
        wrong.push(("bad_words", sampling(SamplingParams { bad_words: bad_words.into(), ..plain() })));
    }
    for repetition_penalty in [nan, infinity, 0.0, -1.0] {
        wrong.push(("repetition_penalty", sampling(SamplingParams { repetition_penalty, ..plain() })));
    }
    for penalty in [nan, -2.1, 2.1] {
        wrong.push(("presence_penalty", sampling(SamplingParams { presence_penalty: penalty, ..plain() })));
        wrong.push(("frequency_penalty", sampling(SamplingParams { frequency_penalty: penalty, ..plain() })));
    }
    for (name, request) in wrong {
        match refusal(request.clone()) {
            SubmitError::Invalid { field, .. } => assert_eq!(field, name, "{request:?}"),
            other => panic!("{name}: {other}"),
        }
    }
}

#[test]
fn a_refusal_says_what_was_expected_and_found() {
    let request = Request { sampling: SamplingParams { top_p: 1.5, ..SamplingParams::default() }, ..valid() };
    assert_eq!(refusal(request).to_string(), "top_p: expected a number in (0, 1], found 1.5");
}

#[test]
fn the_edges_of_every_range_are_inside() {
    let sampling = SamplingParams {
        temperature: 0.0,
        top_p: 1.0,
        top_k: usize::MAX,
        min_p: 1.0,
        repetition_penalty: f32::MIN_POSITIVE,
        presence_penalty: -2.0,
        frequency_penalty: 2.0,
        seed: Some(u64::MAX),
        logit_bias: vec![(299, f32::NEG_INFINITY), (0, 100.0)],
        typical_p: f32::MIN_POSITIVE,
        xtc_probability: 1.0,
        xtc_threshold: 1.0,
        bad_words: vec![vec![299; 256]; 1024].into(),
        dry: Dry { multiplier: f32::MAX, base: f32::MAX, penalty_last_n: usize::MAX, ..Dry::default() },
    };
    let request = Request {
        max_tokens: Some(511),
        stop: vec!["x".to_owned(); 16],
        stop_token_ids: vec![299],
        min_tokens: 511,
        logprobs: Some(20),
        sampling,
        ..valid()
    };
    assert_eq!(request.checked_max_tokens(&limits(ROOMY)), Ok(511));
    assert_eq!(valid().checked_max_tokens(&limits(ROOMY)), Ok(511));
}

#[test]
fn an_empty_prompt_and_one_beyond_the_context_are_refused() {
    assert_eq!(refusal(Request::default()), SubmitError::EmptyPrompt);
    let too_long = refusal(Request { max_tokens: Some(512), ..valid() });
    assert_eq!(too_long, SubmitError::TooLong { context: 512, requested: 513, prompt: 1, completion: 512 });
    assert!(matches!(refusal(Request { max_tokens: Some(usize::MAX), ..valid() }), SubmitError::TooLong { .. }));
}
