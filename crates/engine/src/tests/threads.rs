use std::{
    future::poll_fn,
    pin::Pin,
    time::{Duration, Instant},
};

use futures_core::Stream;

use super::fake::*;
use crate::{Engine, Event, Failure, Request, SamplingParams, Stats, SubmitError};

fn engine() -> Engine {
    let executor = FakeExecutor::new(Model::Hash, 0, ROOMY.cache_blocks, ROOMY.max_batch_tokens);
    Engine::start_with_text(Box::new(executor), Box::new(|| Box::new(ByteText::default())), options(ROOMY))
}

fn request(max_tokens: usize, seed: u64) -> Request {
    Request {
        prompt: vec![1, 2, 3],
        max_tokens: Some(max_tokens),
        sampling: SamplingParams { seed: Some(seed), ..SamplingParams::default() },
        ignore_eos: true,
        ..Request::default()
    }
}

fn wait_until_idle(engine: &Engine) {
    let is_idle = |stats: Stats| (stats.running, stats.waiting, stats.free_blocks) == (0, 0, 64);
    let start = Instant::now();
    while !is_idle(engine.stats()) {
        assert!(start.elapsed() < Duration::from_secs(30), "{:?}", engine.stats());
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn threads_that_ask_at_once_get_the_answers_they_would_get_alone() {
    let engine = engine();
    std::thread::scope(|scope| {
        for seed in 0..20 {
            let engine = engine.clone();
            scope.spawn(move || {
                let events = engine.submit(request(40, seed)).unwrap();
                assert_eq!(answer(events, 3), expected_answer(&request(40, seed), &limits(ROOMY)));
            });
        }
    });
    wait_until_idle(&engine);
}

#[tokio::test]
async fn a_stream_gives_every_event_and_ends() {
    let engine = engine();
    let mut events = engine.submit(request(10, 1)).unwrap();
    let mut seen = Vec::new();
    while let Some(event) = poll_fn(|context| Pin::new(&mut events).poll_next(context)).await {
        seen.push(event);
    }
    assert_eq!(seen.len(), 11);
    assert!(matches!(seen[10], Event::Finished(_)));
    assert_eq!(poll_fn(|context| Pin::new(&mut events).poll_next(context)).await, None);
}

#[test]
fn dropped_streams_leave_an_idle_engine() {
    let engine = engine();
    for seed in 0..30 {
        let mut events = engine.submit(request(500, seed)).unwrap();
        if seed % 2 == 0 {
            events.blocking_next();
        }
    }
    wait_until_idle(&engine);
}

#[test]
fn the_last_engine_takes_its_thread_along_and_says_so_to_those_who_wait() {
    let engine = engine();
    let clone = engine.clone();
    drop(engine);
    assert!(matches!(clone.submit(request(1, 1)).unwrap().blocking_next(), Some(Event::Token(_))));
    let waiting: Vec<_> = (0..20).map(|seed| clone.submit(request(500, seed)).unwrap()).collect();
    drop(clone);
    let ends: Vec<_> = waiting.into_iter().map(|events| answer(events, 3).end).collect();
    assert!(ends.contains(&Err(Failure::Stopped)));
}

#[test]
fn an_executor_that_panics_fails_what_runs_and_what_comes() {
    let engine = engine();
    assert!(engine.is_running());
    let mut running = engine.submit(request(500, 1)).unwrap();
    running.blocking_next();
    let mut fatal = engine.submit(Request { prompt: vec![PANIC], ..request(4, 1) }).unwrap();
    let failed = Some(Event::Failed(Failure::Stopped));
    assert_eq!(fatal.blocking_next(), failed);
    assert_eq!(std::iter::from_fn(|| running.blocking_next()).last(), failed);
    let start = Instant::now();
    while engine.is_running() {
        assert!(start.elapsed() < Duration::from_secs(30));
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(engine.submit(request(1, 1)).err(), Some(SubmitError::Stopped));
}
