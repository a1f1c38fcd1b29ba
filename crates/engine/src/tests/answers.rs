use dots_model::sample::top_logprobs;

use super::fake::*;
use crate::{Event, FinishReason, Request, SamplingParams, TokenEvent};

fn greedy(prompt: &[u32], max_tokens: usize) -> Request {
    Request {
        prompt: prompt.to_vec(),
        max_tokens: Some(max_tokens),
        sampling: SamplingParams { temperature: 0.0, ..SamplingParams::default() },
        ..Request::default()
    }
}

/// The events of an answer whose tokens are `script`.
fn events_of(script: &[u32], request: Request) -> Vec<Event> {
    let executor = FakeExecutor::new(Model::Script(script.to_vec()), request.prompt.len(), 64, 64);
    let mut engine = ManualEngine::with_executor(executor, ROOMY);
    let mut events = engine.submit(request).unwrap();
    engine.run_until_idle();
    std::iter::from_fn(|| events.blocking_next()).collect()
}

fn answer_of(script: &[u32], request: Request) -> Answer {
    let executor = FakeExecutor::new(Model::Script(script.to_vec()), request.prompt.len(), 64, 64);
    let mut engine = ManualEngine::with_executor(executor, ROOMY);
    let prompt_tokens = request.prompt.len();
    let events = engine.submit(request).unwrap();
    engine.run_until_idle();
    answer(events, prompt_tokens)
}

fn bytes(text: &str) -> Vec<u32> {
    text.bytes().map(u32::from).collect()
}

fn with_end(text: &str, end: u32) -> Vec<u32> {
    [bytes(text), vec![end]].concat()
}

fn stopped(script: &[u32], text: &str) -> Answer {
    Answer { tokens: script.to_vec(), text: text.to_owned(), end: Ok(FinishReason::Stop) }
}

#[test]
fn every_end_of_turn_id_ends_the_answer_and_has_no_text() {
    for eos in [EOS, EOS_TOO] {
        let script = with_end("hi", eos);
        assert_eq!(answer_of(&script, greedy(&[1], 50)), stopped(&script, "hi"));
    }
}

#[test]
fn an_ignored_end_of_turn_goes_on_to_the_length() {
    let request = Request { ignore_eos: true, ..greedy(&[1], 7) };
    let answer = answer_of(&with_end("hi", EOS), request);
    assert_eq!((answer.text.as_str(), answer.tokens.len(), answer.end), ("hihih", 7, Ok(FinishReason::Length)));
}

#[test]
fn a_stop_id_ends_the_answer_without_its_text_also_where_end_of_turn_is_ignored() {
    let request = Request { stop_token_ids: vec![u32::from(b'!')], ignore_eos: true, ..greedy(&[1], 50) };
    assert_eq!(answer_of(&bytes("hey!you"), request), stopped(&bytes("hey!"), "hey"));
}

#[test]
fn a_stop_text_that_spans_tokens_and_characters_is_left_out() {
    let request = Request { stop: vec!["é中".to_owned()], ..greedy(&[1], 50) };
    assert_eq!(answer_of(&bytes("aé é中b"), request), stopped(&bytes("aé é中"), "aé "));
}

#[test]
fn held_text_comes_with_the_end_where_no_stop_text_followed() {
    let request = Request { stop: vec!["end".to_owned()], ..greedy(&[1], 50) };
    assert_eq!(answer_of(&with_end("the en", EOS), request), stopped(&with_end("the en", EOS), "the en"));
    let request = Request { stop: vec!["end".to_owned()], ..greedy(&[1], 6) };
    let answer = answer_of(&bytes("the end"), request);
    assert_eq!((answer.text.as_str(), answer.end), ("the en", Ok(FinishReason::Length)));
}

#[test]
fn no_text_is_told_that_a_stop_text_takes_back() {
    let request = Request { stop: vec!["<end>".to_owned()], ..greedy(&[1], 50) };
    let texts: Vec<String> = events_of(&bytes("a<e<end>"), request)
        .into_iter()
        .filter_map(|event| match event {
            Event::Token(TokenEvent { text, .. }) => Some(text),
            _ => None,
        })
        .collect();
    assert_eq!(texts, ["a", "", "", "<e", "", "", "", ""]);
}

#[test]
fn a_character_is_told_when_it_is_whole_and_replaced_when_it_never_is() {
    let texts = |events: Vec<Event>| -> Vec<String> {
        let text = |event| match event {
            Event::Token(token) => token.text,
            Event::Finished(finish) => finish.text,
            other => panic!("{other:?}"),
        };
        events.into_iter().map(text).collect()
    };
    assert_eq!(texts(events_of(&bytes("中a"), greedy(&[1], 4))), ["", "", "中", "a", ""]);
    assert_eq!(texts(events_of(&bytes("a中"), greedy(&[1], 3))), ["a", "", "", "\u{fffd}"]);
}

#[test]
fn a_stop_text_that_ends_with_the_last_token_is_a_stop_and_not_a_length() {
    let request = Request { stop: vec!["lo".to_owned()], ..greedy(&[1], 5) };
    assert_eq!(answer_of(&bytes("hello"), request), stopped(&bytes("hello"), "hel"));
}

#[test]
fn nothing_ends_an_answer_before_its_least_tokens() {
    let hash = |request: Request| {
        let prompt_tokens = request.prompt.len();
        let mut engine = ManualEngine::new(ROOMY);
        let events = engine.submit(request).unwrap();
        engine.run_until_idle();
        answer(events, prompt_tokens)
    };
    // Every token but one letter is an end.
    let stop_token_ids = (0..VOCAB_SIZE as u32).filter(|&id| id != u32::from(b'a')).collect();
    let request = Request { stop_token_ids, min_tokens: 5, ..greedy(&[1], 50) };
    let answer = hash(request.clone());
    assert_eq!((answer.text.as_str(), answer.tokens.len()), ("aaaaa", 6), "{answer:?}");
    assert_eq!(hash(Request { min_tokens: 0, ..request.clone() }).tokens.len(), 1);
    assert_eq!(hash(Request { ignore_eos: true, ..request }).tokens[..5], [u32::from(b'a'); 5]);

    // What a script says cannot be forbidden: a stop text is passed over, one that is complete later counts.
    let request = Request { stop: vec!["lo".to_owned()], min_tokens: 5, ..greedy(&[1], 50) };
    let script = bytes("hello hello");
    assert_eq!(answer_of(&script, request.clone()), stopped(&script, "hello hel"));
    let request = Request { min_tokens: 4, ..request };
    assert_eq!(answer_of(&script, request), stopped(&script[..5], "hel"));
}

#[test]
fn a_stop_that_is_included_is_the_end_of_the_answer() {
    let included = |request| Request { include_stop: true, ..request };
    let request = included(Request { stop: vec!["lo".to_owned()], ..greedy(&[1], 50) });
    assert_eq!(answer_of(&bytes("hello you"), request), stopped(&bytes("hello"), "hello"));
    let request = included(Request { stop_token_ids: vec![u32::from(b'!')], ..greedy(&[1], 50) });
    assert_eq!(answer_of(&bytes("hey!you"), request), stopped(&bytes("hey!"), "hey!"));
}

#[test]
fn log_probabilities_are_the_models_own_whatever_the_sampling() {
    let prompt = [5, 6, 7];
    for (count, expected_count) in [(None, None), (Some(0), Some(0)), (Some(4), Some(4))] {
        let request = Request {
            sampling: SamplingParams {
                temperature: 0.3,
                logit_bias: vec![(65, 100.0)],
                seed: Some(1),
                ..SamplingParams::default()
            },
            logprobs: count,
            ..greedy(&prompt, 1)
        };
        let mut engine = ManualEngine::new(ROOMY);
        let mut events = engine.submit(request).unwrap();
        engine.run_until_idle();
        let Some(Event::Token(token)) = events.blocking_next() else { panic!("a token comes first") };
        assert_eq!(token.id, 65);
        assert_eq!(token.logprobs.as_ref().map(|logprobs| logprobs.top.len()), expected_count);
        if let Some(logprobs) = token.logprobs {
            let logits = Model::Hash.logits(&prompt, 3);
            let (log_sum_exp, top) = top_logprobs(&logits, logprobs.top.len());
            assert_eq!(logprobs.top, top);
            assert_eq!(logprobs.logprob, (f64::from(logits[65]) - log_sum_exp) as f32);
        }
    }
}

#[test]
fn answers_without_a_seed_differ() {
    let request = Request { sampling: SamplingParams::default(), ignore_eos: true, ..greedy(&[1, 2], 20) };
    let mut engine = ManualEngine::new(ROOMY);
    let [first, second] = [(); 2].map(|()| engine.submit(request.clone()).unwrap());
    engine.run_until_idle();
    assert_ne!(answer(first, 2).tokens, answer(second, 2).tokens);
}
