//! A pool with an instruction set and scratch: what every parallel kernel runs on.

use std::sync::{Mutex, PoisonError};

use crate::{
    attention,
    decode::Unpacked,
    isa::Isa,
    pool::Pool,
    product::Panels,
    tile,
    train::{self, gemm},
};

/// Threads, their scratch, and the instruction set that they use.
#[derive(Debug)]
pub struct Compute {
    isa: Isa,
    pool: Pool,
    /// One a worker. A lock is never waited for: no two items run with the same worker at once.
    scratch: Vec<Mutex<Scratch>>,
}

/// What one worker needs beside its inputs.
#[derive(Debug, Default)]
pub struct Scratch {
    /// Quantised rows of weights, unpacked and interleaved, and their sums.
    pub panels: Panels,
    /// A quantised row on its way to f32.
    pub unpacked: Unpacked,
    /// Rows of weights in f32.
    pub f32: Vec<f32>,
    /// Bytes of rows of weights in bf16.
    pub bf16: Vec<u8>,
    /// What attention needs.
    pub attention: attention::Scratch,
    /// What products of training need.
    pub gemm: gemm::Scratch,
    /// What attention of training needs.
    pub training: train::attention::Scratch,
}

impl Compute {
    /// `threads` workers (see [`Pool::new`]) with the best instruction set and scratch for products of up to `max_cols` columns.
    pub fn new(threads: usize, max_cols: usize) -> Self {
        Self::with_isa(Isa::best(), threads, max_cols)
    }

    /// The same with an instruction set from [`Isa::available`].
    pub fn with_isa(isa: Isa, threads: usize, max_cols: usize) -> Self {
        let pool = Pool::new(threads);
        let scratch = (0..pool.threads())
            .map(|_| {
                Mutex::new(Scratch {
                    panels: Panels::default(),
                    unpacked: Unpacked::with_capacity(max_cols),
                    f32: Vec::with_capacity(tile::ROWS * max_cols),
                    bf16: Vec::with_capacity(2 * tile::ROWS * max_cols),
                    attention: attention::Scratch::default(),
                    gemm: gemm::Scratch::default(),
                    training: train::attention::Scratch::default(),
                })
            })
            .collect();
        Self { isa, pool, scratch }
    }

    /// The same with scratch for attention with heads of up to `head_dim` numbers.
    pub fn with_heads(mut self, head_dim: usize) -> Self {
        for scratch in &mut self.scratch {
            scratch.get_mut().unwrap_or_else(PoisonError::into_inner).attention = attention::Scratch::new(head_dim);
        }
        self
    }

    /// The same with scratch for products and attention of training, which take it at their first call otherwise.
    pub fn with_training(mut self) -> Self {
        for scratch in &mut self.scratch {
            let scratch = scratch.get_mut().unwrap_or_else(PoisonError::into_inner);
            (scratch.gemm, scratch.training) = (gemm::Scratch::new(), train::attention::Scratch::new());
        }
        self
    }

    /// Bytes of scratch that training takes on `threads` workers, beside [`Compute::scratch_bytes`].
    pub fn training_bytes(threads: usize) -> usize {
        threads.saturating_mul(gemm::Scratch::BYTES + train::attention::Scratch::BYTES)
    }

    /// Bytes of scratch that `threads` workers take; `usize::MAX` where that is more.
    pub fn scratch_bytes(threads: usize, max_cols: usize, head_dim: usize) -> usize {
        let worker = Panels::BYTES + Unpacked::capacity_bytes(max_cols) + (4 + 2) * tile::ROWS * max_cols;
        threads.saturating_mul(worker + attention::Scratch::bytes(head_dim))
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Workers.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// Calls `body(item, scratch)` for every item below `items`, in no order; see [`Pool::run`].
    pub fn run(&self, items: usize, body: impl Fn(usize, &mut Scratch) + Sync) {
        self.pool.run(items, |item, worker| {
            let mut scratch = self.scratch[worker].lock().unwrap_or_else(PoisonError::into_inner);
            body(item, &mut scratch);
        });
    }

    /// Calls `body(index, part)` for every part, each on one thread.
    pub fn for_each<T: Send>(&self, parts: &mut [T], body: impl Fn(usize, &mut T) + Sync) {
        struct Parts<T>(*mut T);
        // SAFETY: each part is handed to one call only, below, and `T` may be sent to other threads.
        unsafe impl<T: Send> Sync for Parts<T> {}
        impl<T> Parts<T> {
            fn get(&self, index: usize) -> *mut T {
                self.0.wrapping_add(index)
            }
        }
        let count = parts.len();
        let parts = Parts(parts.as_mut_ptr());
        self.pool.run(count, |index, _| {
            // SAFETY: `index` is below `count`, and the pool gives each index to exactly one call.
            body(index, unsafe { &mut *parts.get(index) });
        });
    }
}
