//! Work shared among threads.

use std::{
    panic,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    thread,
};

/// `work` of each item, in the order of the items, whichever of `threads` did it; 0 takes every core.
pub(crate) fn in_order<T: Sync, R: Send>(items: &[T], threads: usize, work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let threads = if threads > 0 { threads } else { thread::available_parallelism().map_or(1, usize::from) };
    // Item by item, since they are of any length.
    let next = AtomicUsize::new(0);
    let some = || {
        let mut done = Vec::new();
        loop {
            let at = next.fetch_add(1, Relaxed);
            let Some(item) = items.get(at) else { return done };
            done.push((at, work(item)));
        }
    };
    let mut all: Vec<(usize, R)> = thread::scope(|scope| {
        let others: Vec<_> = (1..threads.min(items.len())).map(|_| scope.spawn(some)).collect();
        let mut all = some();
        for other in others {
            // A panic there is a bug there, and goes on here.
            all.extend(other.join().unwrap_or_else(|panic| panic::resume_unwind(panic)));
        }
        all
    });
    all.sort_unstable_by_key(|(at, _)| *at);
    all.into_iter().map(|(_, done)| done).collect()
}
