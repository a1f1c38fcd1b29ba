//! Blocks that sequences share, and sequences that give theirs up.

use proptest::prelude::*;

use super::fake::*;
use crate::{Event, Events, Finish, Pooling, PromptList, PromptToken, Request, Routing, RoutingOf, SamplingParams};
use dots_model::sample::{log_prob_and_rank, top_logprobs};

fn request(prompt_tokens: usize, max_tokens: usize, seed: u64) -> Request {
    Request {
        prompt: (0..prompt_tokens).map(|index| (index * 7) as u32 % 128).collect(),
        max_tokens: Some(max_tokens),
        sampling: SamplingParams { seed: Some(seed), ..SamplingParams::default() },
        ignore_eos: true,
        ..Request::default()
    }
}

fn finish(mut events: Events) -> Finish {
    let last = std::iter::from_fn(|| events.blocking_next()).last();
    let Some(Event::Finished(finish)) = last else { panic!("{last:?}") };
    finish
}

fn expect(events: Events, request: &Request) {
    assert_eq!(answer(events, request.prompt.len()), expected_answer(request, &limits(ROOMY)));
}

#[test]
fn a_prompt_that_was_computed_before_is_not_computed_again() {
    let mut engine = ManualEngine::new(ROOMY);
    let first = engine.submit(request(100, 5, 1)).unwrap();
    engine.run_until_idle();
    let before = engine.stepper.stats().computed_tokens;
    let second = engine.submit(request(100, 5, 2)).unwrap();
    engine.run_until_idle();
    // Three whole blocks of 32 are shared.
    assert_eq!(engine.stepper.stats().computed_tokens - before, 100 - 96 + 4);
    assert_eq!(engine.stepper.stats().prefix_hit_tokens, 96);
    expect(first, &request(100, 5, 1));
    expect(second, &request(100, 5, 2));
}

#[test]
fn a_prompt_of_whole_blocks_leaves_one_to_begin_with() {
    let mut engine = ManualEngine::new(ROOMY);
    for seed in 1..3 {
        let events = engine.submit(request(96, 5, seed)).unwrap();
        engine.run_until_idle();
        expect(events, &request(96, 5, seed));
    }
    assert_eq!(engine.stepper.stats().prefix_hit_tokens, 64);
}

#[test]
fn an_answer_is_shared_by_the_turn_that_follows_it() {
    let mut engine = ManualEngine::new(ROOMY);
    let first = request(60, 50, 1);
    let events = engine.submit(first.clone()).unwrap();
    engine.run_until_idle();
    let said = answer(events, 60).tokens;
    let next = Request { prompt: [first.prompt, said, vec![5; 20]].concat(), ..request(0, 5, 2) };
    let events = engine.submit(next.clone()).unwrap();
    engine.run_until_idle();
    // The last token of the answer was never computed: 109 tokens are 3 whole blocks.
    assert_eq!(engine.stepper.stats().prefix_hit_tokens, 96);
    expect(events, &next);
}

#[test]
fn many_who_ask_the_same_at_once_compute_it_once() {
    let mut engine = ManualEngine::new(Size { max_batch_tokens: 24, ..ROOMY });
    let all: Vec<_> = (0..6).map(|seed| (engine.submit(request(200, 4, seed)).unwrap(), seed)).collect();
    engine.run_until_idle();
    // The first computes 200 tokens, the others 8 each behind their 6 blocks; each then 3 of its 4.
    assert_eq!(engine.stepper.stats().computed_tokens, 200 + 5 * 8 + 6 * 3);
    for (events, seed) in all {
        expect(events, &request(200, 4, seed));
    }
}

#[test]
fn whoever_waits_for_a_prefix_gets_on_when_its_computer_hangs_up() {
    let mut engine = ManualEngine::new(Size { max_batch_tokens: 24, ..ROOMY });
    let first = engine.submit(request(200, 4, 1)).unwrap();
    engine.step();
    let second = engine.submit(request(200, 4, 2)).unwrap();
    let other = engine.submit(Request { prompt: vec![9; 40], ..request(0, 4, 3) }).unwrap();
    engine.step();
    assert_eq!((engine.holds().running, engine.holds().waiting), (2, 1), "one who shares nothing does not wait");
    drop(first);
    engine.run_until_idle();
    expect(second, &request(200, 4, 2));
    expect(other, &Request { prompt: vec![9; 40], ..request(0, 4, 3) });
}

#[test]
fn those_of_another_salt_share_nothing() {
    let mut engine = ManualEngine::new(ROOMY);
    for (salt, hits) in [(None, 0), (Some("a"), 0), (Some("b"), 0), (Some("a"), 96), (None, 192)] {
        let request = Request { cache_salt: salt.map(str::to_owned), ..request(100, 2, 1) };
        let events = engine.submit(request.clone()).unwrap();
        engine.run_until_idle();
        expect(events, &request);
        assert_eq!(engine.stepper.stats().prefix_hit_tokens, hits, "{salt:?}");
    }
}

#[test]
fn what_was_not_used_for_longest_is_overwritten_first() {
    let mut engine = ManualEngine::new(Size { cache_blocks: 8, ..ROOMY });
    let prompt = |first: u32| (0..70).map(|index| (index * 3 + first) % 128).collect::<Vec<u32>>();
    let mut cached = |first: u32| {
        let events = engine.submit(Request { prompt: prompt(first), ..request(0, 2, 1) }).unwrap();
        engine.run_until_idle();
        finish(events).cached_tokens
    };
    assert_eq!([cached(1), cached(2), cached(1)], [0, 0, 64]);
    // The fourth prompt takes of what the second had, not of what the first had just used again.
    assert_eq!([cached(3), cached(4)], [0, 0]);
    assert_eq!([cached(1), cached(4)], [64, 64]);
    assert_eq!(cached(2), 32, "of the second its end is gone");
}

#[test]
fn a_preempted_sequence_continues_with_the_same_tokens() {
    let mut engine = ManualEngine::new(Size { cache_blocks: 5, ..ROOMY });
    let requests = [1, 2, 3].map(|seed| Request { prompt: vec![seed; 20], ..request(0, 100, u64::from(seed)) });
    let all = requests.clone().map(|request| engine.submit(request).unwrap());
    engine.run_until_idle();
    assert!(engine.stepper.stats().preemptions > 0);
    for (events, request) in all.into_iter().zip(&requests) {
        expect(events, request);
    }
}

#[test]
fn the_first_to_come_is_never_stopped_for_another() {
    let mut engine = ManualEngine::new(Size { cache_blocks: 6, ..ROOMY });
    let first = engine.submit(Request { prompt: vec![1; 20], ..request(0, 170, 1) }).unwrap();
    let _others: Vec<_> =
        (2..6).map(|seed| engine.submit(Request { prompt: vec![seed; 20], ..request(0, 150, 2) }).unwrap()).collect();
    // One step reads the prompt and gives the first token.
    (0..170).for_each(|_| engine.step());
    assert!(engine.stepper.stats().preemptions > 0);
    expect(first, &Request { prompt: vec![1; 20], ..request(0, 170, 1) });
}

#[test]
fn repetition_is_drafted_and_changes_no_token() {
    let script: Vec<u32> = (0..12).collect();
    let run = |speculate| {
        let size = Size { speculate, ..ROOMY };
        let request = Request { prompt: vec![1], ..request(0, 200, 1) };
        let executor = FakeExecutor::new(Model::Script(script.clone()), 1, 64, 64);
        let mut engine = ManualEngine::with_executor(executor, size);
        let events = engine.submit(request).unwrap();
        engine.run_until_idle();
        (answer(events, 1), engine.stepper.stats())
    };
    let (plain, plain_stats) = run(false);
    let (drafted, stats) = run(true);
    assert_eq!(plain, drafted);
    assert_eq!((plain_stats.steps, plain_stats.drafted_tokens), (200, 0));
    assert_eq!(stats.steps + stats.accepted_tokens, 200);
    assert!(stats.accepted_tokens > 0 && stats.accepted_tokens <= stats.drafted_tokens, "{stats:?}");
}

/// What a request was told about its prompt.
#[test]
fn who_asks_for_the_experts_of_the_answer_alone_shares_the_prompt() {
    let mut engine = ManualEngine::new(ROOMY);
    let ask = |routing, seed| Request { routing, ..request(40, 5, seed) };
    let asks = [(RoutingOf::All, 0), (RoutingOf::Answer, 32), (RoutingOf::Answer, 32), (RoutingOf::All, 0)];
    let events: Vec<_> = (0..).zip(asks).map(|(seed, (of, _))| engine.submit(ask(of, seed)).unwrap()).collect();
    engine.run_until_idle();
    for (mut events, (of, cached)) in events.into_iter().zip(asks) {
        let last = std::iter::from_fn(|| events.blocking_next()).last();
        let Some(Event::Finished(finish)) = last else { panic!("{last:?}") };
        assert_eq!(finish.cached_tokens, cached, "{of:?}");
        let tokens = if of == RoutingOf::All { 44 } else { 4 };
        assert_eq!(finish.routing.unwrap().experts.len(), 2 * tokens, "{of:?}");
    }
}

type Told = (Option<PromptList>, Option<Vec<f32>>, Option<Routing>);

/// Asks about a prompt that is computed in steps of any size, beside others, and over again.
fn asked(request: &Request, size: Size, others: usize) -> Told {
    let mut engine = ManualEngine::new(size);
    let _others: Vec<_> = (0..others)
        .map(|seed| Request { prompt: vec![seed as u32; 25], ..self::request(0, 60, seed as u64) })
        .map(|request| engine.submit(request).unwrap())
        .collect();
    let mut events = engine.submit(request.clone()).unwrap();
    engine.run_until_idle();
    let (mut prompt, mut embedding, mut routing) = (None, None, None);
    for event in std::iter::from_fn(|| events.blocking_next()) {
        match event {
            Event::Prompt(tokens) => assert!(prompt.replace(tokens).is_none(), "told once"),
            Event::Embedding(vector) => assert!(embedding.replace(vector).is_none(), "told once"),
            Event::Finished(finish) => routing = finish.routing,
            Event::Token(_) => {}
            Event::Failed(failure) => panic!("{failure}"),
        }
    }
    (prompt, embedding, routing)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_asked_about_a_prompt_does_not_depend_on_steps_company_or_preemption(
        prompt_tokens in 1usize..90,
        max_tokens in 0usize..60,
        max_batch_tokens in 3usize..64,
        cache_blocks in 5usize..12,
        others in 0usize..5,
        count in 0usize..4,
    ) {
        let prompt = request(prompt_tokens, 0, 1).prompt;
        let size = Size { cache_blocks, max_batch_tokens, ..ROOMY };
        let asks = Request {
            prompt_logprobs: Some(count),
            routing: RoutingOf::All,
            ..request(prompt_tokens, max_tokens, 1)
        };
        let (told, _, routing) = asked(&asks, size, others);

        let expected: Vec<_> = (1..prompt_tokens).map(|position| {
            let logits = Model::Hash.logits(&prompt[..position], 0);
            let (logprob, rank) = log_prob_and_rank(&logits, prompt[position]);
            let top = top_logprobs(&logits, count).1;
            Some(PromptToken { id: prompt[position], logprob, rank, top })
        }).collect();
        prop_assert_eq!(told.unwrap().to_vec(), [vec![None], expected].concat());

        let answer = if max_tokens == 0 { Vec::new() } else { expected_answer(&request(prompt_tokens, max_tokens, 1), &limits(size)).tokens };
        let computed = [prompt.clone(), answer].concat();
        let computed = &computed[..prompt_tokens + max_tokens.saturating_sub(1)];
        let experts: Vec<u16> = computed.iter().enumerate()
            .flat_map(|(position, token)| [(token % 8) as u16, ((position + 1) % 8) as u16])
            .collect();
        prop_assert_eq!(routing, Some(Routing { layers: vec![0], experts: experts.clone() }));

        if max_tokens > 0 {
            let asks = Request { routing: RoutingOf::Answer, ..request(prompt_tokens, max_tokens, 1) };
            let (_, _, routing) = asked(&asks, size, others);
            prop_assert_eq!(routing.unwrap().experts, &experts[2 * prompt_tokens..]);
        }

        for (pooling, first) in [(Pooling::Mean, 0), (Pooling::Last, prompt_tokens - 1)] {
            let asks = Request { pooling: Some(pooling), max_tokens: None, ..request(prompt_tokens, 0, 1) };
            let (_, embedding, _) = asked(&asks, size, others);
            let count = (prompt_tokens - first) as f64;
            let sum = |value: &dyn Fn(usize) -> f64| ((first..prompt_tokens).map(value).sum::<f64>() / count) as f32;
            let expected = vec![sum(&|position| position as f64 + 1.0), sum(&|position| f64::from(prompt[position]))];
            prop_assert_eq!(embedding, Some(expected));
        }
    }
}
