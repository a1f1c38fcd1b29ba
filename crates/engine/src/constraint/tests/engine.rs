//! Constrained answers of a whole engine.

use serde_json::json;

use super::*;
use crate::{
    FinishReason, Request, SamplingParams,
    tests::fake::{EOS, EOS_TOO, FakeExecutor, ManualEngine, Model, ROOMY, Size, VOCAB_SIZE, answer},
};

fn grammars() -> Grammars {
    Grammars::with_tokens(|| {
        let mut words: Vec<Vec<u8>> = (0..VOCAB_SIZE).map(|id| u8::try_from(id).into_iter().collect()).collect();
        words[255].clear();
        for id in [EOS, EOS_TOO] {
            words[id as usize] = [&[TokTrie::SPECIAL_TOKEN_MARKER], format!("<|{id}|>").as_bytes()].concat();
        }
        Tokens { words, eos_token_ids: vec![EOS, EOS_TOO] }
    })
}

fn constraint() -> Constraint {
    let object = json!({
        "type": "object",
        "properties": {"a": {"type": "string", "maxLength": 6}, "b": {"type": "array", "items": {"type": "integer", "maximum": 99}, "maxItems": 3}},
        "required": ["a", "b"],
        "additionalProperties": false,
    });
    grammars().compile(&schema(object)).unwrap()
}

fn request(prompt_tokens: u32, seed: u64, constraint: Option<&Constraint>) -> Request {
    Request {
        prompt: (1..=prompt_tokens).collect(),
        sampling: SamplingParams { seed: Some(seed), ..SamplingParams::default() },
        max_tokens: Some(150),
        constraint: constraint.cloned(),
        ..Request::default()
    }
}

#[test]
fn an_answer_keeps_to_its_form_and_ends_with_it() {
    let constraint = constraint();
    let mut engine = ManualEngine::new(ROOMY);
    let mut ended = 0;
    for seed in 0..30 {
        let events = engine.submit(request(3, seed, Some(&constraint))).unwrap();
        engine.run_until_idle();
        let answer = answer(events, 3);
        match answer.end.unwrap() {
            FinishReason::Stop => {
                ended += 1;
                let value: Value = serde_json::from_str(&answer.text).unwrap();
                assert!(value["a"].is_string() && value["b"].is_array(), "{value}");
            }
            FinishReason::Length => assert_eq!(answer.tokens.len(), 150),
        }
    }
    assert!(ended > 10, "{ended}");
}

#[test]
fn a_constrained_answer_does_not_depend_on_its_company() {
    let constraint = constraint();
    let alone = |seed: u64, is_constrained: bool| {
        let mut engine = ManualEngine::new(ROOMY);
        let events = engine.submit(request(20, seed, is_constrained.then_some(&constraint))).unwrap();
        engine.run_until_idle();
        answer(events, 20)
    };
    let tight = Size { cache_blocks: 12, max_batch_tokens: 9, max_sequences: 4, ..ROOMY };
    let mut engine = ManualEngine::new(tight);
    let events: Vec<_> = (0..10)
        .map(|seed| engine.submit(request(20, seed / 2, (seed % 2 == 0).then_some(&constraint))).unwrap())
        .collect();
    engine.run_until_idle();
    for (seed, events) in (0..10).zip(events) {
        assert_eq!(answer(events, 20), alone(seed / 2, seed % 2 == 0), "{seed}");
    }
}

#[test]
fn a_complete_form_ends_an_answer_that_ignores_the_end_of_turn() {
    let constraint = grammars().compile(&ConstraintSpec::Regex("a+b?".to_owned())).unwrap();
    for (script, text) in [(vec![u32::from(b'a'), u32::from(b'b')], "ab"), (vec![u32::from(b'a'), EOS], "a")] {
        let executor = FakeExecutor::new(Model::Script(script), 3, ROOMY.cache_blocks, ROOMY.max_batch_tokens);
        let mut engine = ManualEngine::with_executor(executor, ROOMY);
        let request = Request { ignore_eos: true, ..request(3, 1, Some(&constraint)) };
        let events = engine.submit(request).unwrap();
        engine.run_until_idle();
        let answer = answer(events, 3);
        assert_eq!((answer.text.as_str(), answer.end, answer.tokens.len()), (text, Ok(FinishReason::Stop), 2));
    }
}
