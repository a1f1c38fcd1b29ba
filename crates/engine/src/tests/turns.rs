//! Whose turn it is, and how long one waits for it.

use std::time::{Duration, Instant};

use super::fake::*;
use crate::{Event, Events, Failure, FinishReason, Request, SamplingParams, SubmitError, engine::Engine};

/// One at a time.
const NARROW: Size = Size { max_sequences: 1, ..ROOMY };

fn request(seed: u64) -> Request {
    Request {
        prompt: vec![seed as u32; 5],
        max_tokens: Some(5),
        sampling: SamplingParams { seed: Some(seed), ..SamplingParams::default() },
        ignore_eos: true,
        ..Request::default()
    }
}

/// The order in which answers end.
fn order(engine: &mut ManualEngine, mut all: Vec<Events>) -> Vec<usize> {
    let mut order = Vec::new();
    let mut ended = vec![false; all.len()];
    while order.len() < all.len() {
        engine.step();
        for (index, events) in all.iter_mut().enumerate() {
            for event in come(events) {
                if matches!(event, Event::Finished(_)) && !std::mem::replace(&mut ended[index], true) {
                    order.push(index);
                }
            }
        }
    }
    order
}

#[test]
fn the_first_to_come_is_the_first_served_unless_another_is_more_urgent() {
    let mut engine = ManualEngine::new(NARROW);
    let all = [0, 0, 5, -1, 0].iter().zip(1..).map(|(&priority, seed)| Request { priority, ..request(seed) });
    let all = all.map(|request| engine.submit(request).unwrap()).collect();
    assert_eq!(order(&mut engine, all), [3, 0, 1, 4, 2]);
}

#[test]
fn a_tenant_with_many_requests_does_not_keep_another_waiting() {
    let mut engine = ManualEngine::new(NARROW);
    let tenants = [1, 1, 1, 1, 2, 2, 3];
    let all = tenants.iter().zip(1..).map(|(&tenant, seed)| Request { tenant, ..request(seed) });
    let all = all.map(|request| engine.submit(request).unwrap()).collect();
    assert_eq!(order(&mut engine, all), [0, 4, 6, 1, 5, 2, 3]);
}

#[test]
fn a_tenant_who_was_away_has_saved_no_turns() {
    let mut engine = ManualEngine::new(NARROW);
    let submit = |engine: &mut ManualEngine, tenant| engine.submit(Request { tenant, ..request(tenant) }).unwrap();
    for _ in 0..10 {
        let events = submit(&mut engine, 1);
        engine.run_until_idle();
        assert!(answer(events, 5).end.is_ok());
    }
    let all = [1, 1, 2, 2, 2, 2].map(|tenant| submit(&mut engine, tenant)).into();
    assert_eq!(order(&mut engine, all), [2, 0, 3, 1, 4, 5]);
}

#[test]
fn a_deadline_ends_what_runs_and_what_waits() {
    let mut engine = ManualEngine::new(NARROW);
    let long = |deadline| Request { deadline, max_tokens: Some(400), ..request(1) };
    let soon = Instant::now() + Duration::from_millis(20);
    let running = engine.submit(long(Some(soon))).unwrap();
    let waiting = engine.submit(long(Some(soon))).unwrap();
    let patient = engine.submit(request(2)).unwrap();
    let past = engine.submit(Request { deadline: Some(Instant::now()), ..request(3) }).unwrap();
    engine.step();
    std::thread::sleep(Duration::from_millis(25));
    engine.run_until_idle();
    for events in [running, waiting, past] {
        assert_eq!(answer(events, 5).end, Err(Failure::Deadline));
    }
    assert_eq!(answer(patient, 5).end, Ok(FinishReason::Length));
}

#[test]
fn a_request_beyond_the_queue_is_refused_and_says_when_to_come_again() {
    let executor = FakeExecutor::new(Model::Hash, 0, ROOMY.cache_blocks, ROOMY.max_batch_tokens);
    let options = crate::EngineOptions { max_sequences: 1, max_queue: 1, ..options(ROOMY) };
    let engine = Engine::start_with_text(Box::new(executor), Box::new(|| Box::new(ByteText::default())), options);
    let long = || Request { max_tokens: Some(500), ..request(1) };
    let held = [engine.submit(long()).unwrap(), engine.submit(long()).unwrap()];
    let refused = engine.submit(long()).err();
    assert_eq!(refused, Some(SubmitError::QueueFull { outstanding: 2, retry_after_seconds: 1 }));
    drop(held);
    let start = Instant::now();
    while engine.submit(request(2)).is_err() {
        assert!(start.elapsed() < Duration::from_secs(30), "places come back");
    }
}
