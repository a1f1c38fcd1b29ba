//! A thread pool for work that lasts microseconds.
//!
//! One token's forward pass is hundreds of short parallel loops, so waking must cost less than a loop: workers spin for a
//! while before they sleep, and nobody waits for a worker that has not begun. Each worker first takes the items of a range of
//! its own, one after the other, since neighbours in a matrix are neighbours in memory and what was asked for ahead is then
//! what comes next; who is done takes from the others' ranges.

use std::{
    cell::UnsafeCell,
    hint::spin_loop,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// How long a worker looks for new work before it sleeps: longer than the gaps between two loops of one forward pass.
const SPIN: Duration = Duration::from_micros(100);

/// Most workers of a pool: more than any machine's cores, few enough to be started anywhere.
pub const MAX_THREADS: usize = 1024;

/// A loop body: `(item, worker)`.
type Body<'a> = dyn Fn(usize, usize) + Sync + 'a;

/// Threads that share the items of a loop. The caller's thread is worker 0.
pub struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    /// Held for the length of a loop: one at a time.
    running: Mutex<()>,
}

struct Shared {
    /// Odd while a loop is open for workers to join; grows by one at each opening and closing.
    phase: AtomicUsize,
    /// Workers that joined the open loop.
    joined: AtomicUsize,
    /// Next item to take of each worker's range.
    next: Box<[Next]>,
    /// Written only while the loop is closed and nobody has joined.
    work: UnsafeCell<Work>,
    panicked: AtomicBool,
    stop: AtomicBool,
    sleepers: AtomicUsize,
    bed: Mutex<()>,
    bell: Condvar,
}

/// A counter with a cache line of its own.
#[derive(Default)]
#[repr(align(128))]
struct Next(AtomicUsize);

#[derive(Clone, Copy)]
struct Work {
    body: Option<*const Body<'static>>,
    items: usize,
}

// SAFETY: `work` is the only field that is not `Sync` by itself. It is written by the one thread that holds
// `Pool::running`, while `phase` is even and `joined` is zero, and read by workers only after they joined and saw `phase`
// odd; sequentially consistent accesses to both order the two.
unsafe impl Sync for Shared {}
// SAFETY: the pointer inside `work` is to a `Sync` closure that outlives the loop (see `Pool::run`).
unsafe impl Send for Shared {}

impl Pool {
    /// A pool of `threads` workers, the caller among them; 0 takes every core. There are never more than [`MAX_THREADS`],
    /// and fewer where the system starts no more.
    pub fn new(threads: usize) -> Self {
        let threads = Self::workers(threads);
        let shared = Arc::new(Shared {
            phase: AtomicUsize::new(0),
            joined: AtomicUsize::new(0),
            next: (0..threads).map(|_| Next::default()).collect(),
            work: UnsafeCell::new(Work { body: None, items: 0 }),
            panicked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            sleepers: AtomicUsize::new(0),
            bed: Mutex::new(()),
            bell: Condvar::new(),
        });
        let threads = (1..threads)
            .map_while(|worker| {
                let shared = Arc::clone(&shared);
                thread::Builder::new().name(format!("dots-{worker}")).spawn(move || shared.serve(worker)).ok()
            })
            .collect();
        Self { shared, threads, running: Mutex::new(()) }
    }

    /// Workers that a pool of `threads` has where the system starts them all.
    pub fn workers(threads: usize) -> usize {
        match threads {
            0 => thread::available_parallelism().map_or(1, usize::from),
            n => n.min(MAX_THREADS),
        }
    }

    /// Workers, the caller among them.
    pub fn threads(&self) -> usize {
        self.threads.len() + 1
    }

    /// Calls `body(item, worker)` for every item below `items`, in no order and on any worker, and returns when all are
    /// done. `worker` is below [`Pool::threads`] and no two calls run with the same one at once. A panic in `body` comes
    /// back to the caller. Must not be called from within `body`.
    pub fn run(&self, items: usize, body: impl Fn(usize, usize) + Sync) {
        let body: &Body<'_> = &body;
        let _running = lock(&self.running);
        if items <= 1 || self.threads.is_empty() {
            (0..items).for_each(|item| body(item, 0));
            return;
        }
        let shared = &*self.shared;
        // SAFETY: only the lifetime changes. Workers touch the closure only between joining an open loop and leaving it,
        // and this function closes the loop and waits until all have left before it returns or unwinds.
        let body: *const Body<'static> = unsafe { std::mem::transmute(body as *const Body<'_>) };
        // SAFETY: the loop is closed, nobody has joined, and `running` keeps other callers out.
        unsafe { *shared.work.get() = Work { body: Some(body), items } };
        for (worker, next) in shared.next.iter().enumerate() {
            next.0.store(shared.range_start(worker, items), SeqCst);
        }
        shared.phase.fetch_add(1, SeqCst);
        if shared.sleepers.load(SeqCst) > 0 {
            let _bed = lock(&shared.bed);
            shared.bell.notify_all();
        }
        let own = catch_unwind(AssertUnwindSafe(|| shared.take_items(0)));
        shared.phase.fetch_add(1, SeqCst);
        let mut spins = 0u32;
        while shared.joined.load(SeqCst) > 0 {
            spins += 1;
            if spins < 10_000 { spin_loop() } else { thread::yield_now() }
        }
        if let Err(panic) = own {
            shared.panicked.store(false, SeqCst);
            resume_unwind(panic);
        }
        assert!(!shared.panicked.swap(false, SeqCst), "a worker of the pool panicked; its message is above");
    }
}

impl Shared {
    fn serve(&self, worker: usize) {
        let mut seen = 0;
        while let Some(phase) = self.wait_for_open(seen) {
            self.joined.fetch_add(1, SeqCst);
            // The loop may have closed, and another opened, since: only an open one may be read.
            let now = self.phase.load(SeqCst);
            if now % 2 == 1 && catch_unwind(AssertUnwindSafe(|| self.take_items(worker))).is_err() {
                self.panicked.store(true, SeqCst);
            }
            self.joined.fetch_sub(1, SeqCst);
            seen = now.max(phase);
        }
    }

    /// The phase of an open loop later than `seen`; `None` when the pool stops.
    fn wait_for_open(&self, seen: usize) -> Option<usize> {
        let open = || {
            let phase = self.phase.load(SeqCst);
            (phase % 2 == 1 && phase > seen).then_some(phase)
        };
        let began = Instant::now();
        loop {
            for _ in 0..64 {
                if let Some(phase) = open() {
                    return Some(phase);
                }
                spin_loop();
            }
            if self.stop.load(SeqCst) {
                return None;
            }
            if began.elapsed() > SPIN {
                break;
            }
        }
        let mut bed = lock(&self.bed);
        self.sleepers.fetch_add(1, SeqCst);
        let phase = loop {
            if self.stop.load(SeqCst) {
                break None;
            }
            if let Some(phase) = open() {
                break Some(phase);
            }
            bed = self.bell.wait(bed).unwrap_or_else(PoisonError::into_inner);
        };
        self.sleepers.fetch_sub(1, SeqCst);
        phase
    }

    fn take_items(&self, worker: usize) {
        // SAFETY: the caller opened the loop, or joined it and saw it open; see the reasons at `Sync` and in `run`.
        let work = unsafe { *self.work.get() };
        let Some(body) = work.body else { return };
        // SAFETY: as above, the closure outlives the loop.
        let body = unsafe { &*body };
        let ranges = self.next.len();
        for range in (worker..ranges).chain(0..worker) {
            let end = self.range_start(range + 1, work.items);
            // Looking first keeps a counter from running off, loop after loop.
            while self.next[range].0.load(SeqCst) < end {
                let item = self.next[range].0.fetch_add(1, SeqCst);
                if item < end {
                    body(item, worker);
                }
            }
        }
    }

    /// The first of `items` items in the range of `worker`; one past the last worker, their count.
    fn range_start(&self, worker: usize, items: usize) -> usize {
        // No loop has so many items that this overflows: each stands for bytes in memory.
        items * worker / self.next.len()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
        {
            let _bed = lock(&self.shared.bed);
            self.shared.bell.notify_all();
        }
        for thread in self.threads.drain(..) {
            // A worker catches its panics, so joining cannot fail.
            let _ = thread.join();
        }
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("threads", &self.threads()).finish()
    }
}

/// A lock that another thread's panic did not close: what these guard is valid at every moment.
fn lock(mutex: &Mutex<()>) -> MutexGuard<'_, ()> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    #[test]
    fn every_item_runs_exactly_once() {
        for threads in [1, 2, 5] {
            let pool = Pool::new(threads);
            for items in [0, 1, 2, 7, 1000] {
                for _ in 0..50 {
                    let counts: Vec<AtomicU32> = (0..items).map(|_| AtomicU32::new(0)).collect();
                    pool.run(items, |item, worker| {
                        assert!(worker < threads);
                        counts[item].fetch_add(1, SeqCst);
                    });
                    assert!(counts.iter().all(|count| count.load(SeqCst) == 1));
                }
            }
        }
    }

    #[test]
    fn nobody_gets_a_million_threads() {
        assert_eq!(Pool::workers(1_000_000), MAX_THREADS);
        assert_eq!(Pool::workers(3), 3);
    }

    #[test]
    fn no_two_items_share_a_worker_at_once() {
        let pool = Pool::new(3);
        let busy: Vec<AtomicBool> = (0..3).map(|_| AtomicBool::new(false)).collect();
        pool.run(500, |_, worker| {
            assert!(!busy[worker].swap(true, SeqCst));
            thread::sleep(Duration::from_micros(5));
            busy[worker].store(false, SeqCst);
        });
    }

    #[test]
    fn workers_wake_after_they_slept() {
        let pool = Pool::new(2);
        for _ in 0..5 {
            let count = AtomicU32::new(0);
            pool.run(100, |_, _| {
                count.fetch_add(1, SeqCst);
            });
            assert_eq!(count.load(SeqCst), 100);
            thread::sleep(Duration::from_millis(2));
        }
    }

    #[test]
    fn a_panic_comes_back_and_the_pool_lives_on() {
        let pool = Pool::new(2);
        let failed = catch_unwind(AssertUnwindSafe(|| pool.run(10, |item, _| assert!(item != 5))));
        assert!(failed.is_err());
        let count = AtomicU32::new(0);
        pool.run(10, |_, _| {
            count.fetch_add(1, SeqCst);
        });
        assert_eq!(count.load(SeqCst), 10);
    }
}
