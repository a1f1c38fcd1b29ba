//! What a step takes of the allocator once it has begun: no tensor, and nothing that stays.
#![allow(unsafe_code, reason = "an allocator that counts can be written in no other way")]

mod support;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
};

use dots_kernels::train::Precision;
use dots_model::Config;
use dots_train::{
    cpu::{CpuStep, Options},
    step::Step,
};
use support::{DIALS, OPTIONS, Sequences, accumulate, small};

/// The system's, with what is taken of it counted, on all threads.
struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
static LARGEST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is the system allocator's own, with the arguments that came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), SeqCst) + layout.size();
        PEAK.fetch_max(live, SeqCst);
        LARGEST.fetch_max(layout.size(), SeqCst);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), SeqCst);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const SEQUENCES: usize = 8;
const LENGTH: usize = 64;

/// Wide enough that no tensor of it is small: the smallest of a micro-batch's activations takes 64 KiB.
fn wide() -> Config {
    Config { hidden_size: 64, intermediate_size: 160, moe_intermediate_size: 64, head_dim: 16, ..small() }
}

/// Bytes that a step takes at once, the largest piece of them, and those that stay once its report is let go.
fn taken(step: &mut CpuStep, sequences: &Sequences) -> (usize, usize, i64) {
    let before = LIVE.load(SeqCst);
    PEAK.store(before, SeqCst);
    LARGEST.store(0, SeqCst);
    accumulate(step, sequences, &[SEQUENCES / 2, SEQUENCES / 2], DIALS);
    drop(step.update().unwrap());
    let (peak, largest) = (PEAK.load(SeqCst), LARGEST.load(SeqCst));
    (peak - before, largest, LIVE.load(SeqCst) as i64 - before as i64)
}

/// Lists of what is to be done for each expert and each part of a product, a micro-batch's ids, and the report of the routers' loads are
/// taken anew; their sizes follow from the numbers of experts, tokens and tensors and not from any width.
#[test]
fn after_the_first_step_no_tensor_is_taken_and_nothing_stays() {
    let tokens: Vec<Vec<u32>> =
        (0..SEQUENCES as u32).map(|s| (0..LENGTH as u32).map(|i| (i * i * 7 + s * 31) % 90).collect()).collect();
    let sequences = Sequences::whole(&tokens);
    let micro_batch_tokens = SEQUENCES / 2 * LENGTH;
    let a_tensor = 4 * micro_batch_tokens * wide().hidden_size;
    for (precision, recompute) in [(Precision::F32, false), (Precision::F32, true), (Precision::Bf16, false)] {
        let options =
            Options { precision, recompute, micro_batch_tokens, sequence_tokens: LENGTH, threads: 2, ..OPTIONS };
        let mut step = CpuStep::random(&wide(), 7, 0.08, &options).unwrap();
        let first = taken(&mut step, &sequences);
        for _ in 0..3 {
            let (at_once, largest, stays) = taken(&mut step, &sequences);
            let what = format!(
                "{precision:?}, {recompute}: {at_once} at once, {largest} at most, {stays} stay; first {first:?}"
            );
            println!("{what}");
            assert_eq!(stays, 0, "{what}");
            assert!(largest < a_tensor / 4 && at_once < a_tensor, "{what}");
        }
        // What was planned is much more than that.
        assert!(CpuStep::plan(&wide(), &options).total_bytes() > 20 * a_tensor as u64);
    }
}
