//! What this machine can do at most: the figures that a model's speed is held against (Law 4).
//!
//! Each figure is the best of several short runs on all threads, since whatever disturbs a run only makes it slower. Peaks
//! are of loops that stay in registers, with as many independent sums as the latency of their instruction asks for.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use crate::{compute::Compute, isa::Isa, train::Precision};

/// What a machine reached.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Machine {
    /// Reading memory that no cache holds, in bytes a second.
    pub read_bytes_per_second: f64,
    /// Dot products of 8-bit integers summed in 32 bits, in operations a second: two for each multiply and add.
    pub int8_ops_per_second: f64,
    /// Fused multiply-adds in f32 (a product and a sum where the target has none), two operations each, a second.
    pub f32_ops_per_second: f64,
    /// Dot products of bf16 numbers summed in f32, in operations a second; those of f32 where the processor has no such
    /// instruction.
    pub bf16_ops_per_second: f64,
    /// Bytes that were read over and over to measure the first.
    pub buffer_bytes: usize,
}

/// Runs of which the best counts.
const RUNS: usize = 7;
/// Items for each thread: enough that one which begins late costs little.
const ITEMS_A_THREAD: usize = 32;
/// Rounds of the loops in registers in one item: about a tenth of a millisecond.
const ROUNDS: usize = 20_000;
/// Bytes that one item reads: longer than any prefetcher's run-up, short enough to share evenly.
const PIECE_BYTES: usize = 1 << 20;

impl Machine {
    /// Measures with `threads` threads (0: every core) and a buffer of about `buffer_bytes`, which should be far larger
    /// than the last cache. `None` where the buffer cannot be had.
    pub fn measure(threads: usize, buffer_bytes: usize) -> Option<Self> {
        let compute = Compute::new(threads, 0);
        let words = (buffer_bytes.max(PIECE_BYTES) / PIECE_BYTES) * (PIECE_BYTES / 8);
        Some(Self {
            read_bytes_per_second: read_bytes_per_second(&compute, words)?,
            int8_ops_per_second: ops_per_second(&compute, int8_dot_products),
            f32_ops_per_second: ops_per_second(&compute, f32_multiply_adds),
            bf16_ops_per_second: ops_per_second(&compute, bf16_dot_products),
            buffer_bytes: words * 8,
        })
    }
}

/// The most multiply-adds of `precision` that the threads of `compute` do, in operations a second: two for each. It is no speed of a
/// product of ours, so what products lose shows beside it. It takes half a second: on a machine that others use too, few of the
/// short runs have it for themselves.
pub fn peak_ops_per_second(compute: &Compute, precision: Precision) -> f64 {
    const LONG: Duration = Duration::from_millis(500);
    let began = Instant::now();
    let body = match precision {
        Precision::F32 => f32_multiply_adds,
        Precision::Bf16 => bf16_dot_products,
    };
    let mut best = 0.0;
    while best == 0.0 || began.elapsed() < LONG {
        best = ops_per_second(compute, body).max(best);
    }
    best
}

fn read_bytes_per_second(compute: &Compute, words: usize) -> Option<f64> {
    // Asking first turns an abort into an answer.
    Vec::<u64>::new().try_reserve_exact(words).ok()?;
    let mut buffer = vec![0u64; words];
    let mut pieces: Vec<&mut [u64]> = buffer.chunks_mut(PIECE_BYTES / 8).collect();
    // Untouched pages would all be the one page of zeros, which a cache holds.
    compute.for_each(&mut pieces, |index, piece| piece.fill(index as u64 + 1));
    let best = best_seconds(|| {
        compute.run(pieces.len(), |item, _| {
            black_box(sum(black_box(&*pieces[item])));
        });
    });
    Some((words * 8) as f64 / best)
}

/// The operations a second of `body`, which does some number of rounds and says how many operations they were.
fn ops_per_second(compute: &Compute, body: impl Fn(Isa, usize) -> usize + Sync) -> f64 {
    let isa = compute.isa();
    let items = compute.threads() * ITEMS_A_THREAD;
    let ops = items * body(isa, ROUNDS);
    let best = best_seconds(|| {
        compute.run(items, |_, _| {
            black_box(body(isa, black_box(ROUNDS)));
        });
    });
    ops as f64 / best
}

fn best_seconds(mut run: impl FnMut()) -> f64 {
    let time = |()| {
        let start = Instant::now();
        run();
        start.elapsed().as_secs_f64().max(1e-9)
    };
    std::iter::repeat_n((), RUNS).map(time).fold(f64::INFINITY, f64::min)
}

/// The sum of all words. For the instructions that every target has: they outrun any memory, and for AVX-512 the compiler
/// makes gathers of this loop, ten times slower.
fn sum(words: &[u64]) -> u64 {
    let mut sums = [0u64; 32];
    for words in words.as_chunks::<32>().0 {
        for i in 0..32 {
            sums[i] = sums[i].wrapping_add(words[i]);
        }
    }
    sums.iter().fold(0, |a, &b| a.wrapping_add(b))
}

/// `rounds` rounds of dot products of 8-bit integers; how many operations they were.
fn int8_dot_products(isa: Isa, rounds: usize) -> usize {
    match isa {
        // SAFETY: an `Isa` other than Portable only comes from `Isa::available`, which asked the processor.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { x86::int8_avx512(rounds) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { x86::int8_avx2(rounds) },
        _ => portable::int8(rounds),
    }
}

/// `rounds` rounds of multiply-adds in f32; how many operations they were.
fn f32_multiply_adds(isa: Isa, rounds: usize) -> usize {
    match isa {
        // SAFETY: an `Isa` other than Portable only comes from `Isa::available`, which asked the processor.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { x86::f32_avx512(rounds) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { x86::f32_avx2(rounds) },
        _ => portable::f32(rounds),
    }
}

/// `rounds` rounds of dot products of bf16 numbers, or else of multiply-adds in f32; how many operations they were.
fn bf16_dot_products(isa: Isa, rounds: usize) -> usize {
    #[cfg(target_arch = "x86_64")]
    if crate::dot::has_bf16(isa) {
        // SAFETY: the processor has the instructions.
        return unsafe { x86::bf16_avx512(rounds) };
    }
    f32_multiply_adds(isa, rounds)
}

/// What the compiler makes of plain loops over arrays that the first cache holds.
mod portable {
    use std::hint::black_box;

    const LEN: usize = 256;

    pub fn int8(rounds: usize) -> usize {
        let (a, b) = (black_box([3i8; LEN]), black_box([5i8; LEN]));
        let mut sums = [0i32; LEN / 4];
        let rounds = rounds / 16;
        for _ in 0..rounds {
            let (a, b) = (black_box(&a), black_box(&b));
            for (sum, (a, b)) in sums.iter_mut().zip(a.as_chunks::<4>().0.iter().zip(b.as_chunks::<4>().0)) {
                for i in 0..4 {
                    *sum = sum.wrapping_add(i32::from(a[i]) * i32::from(b[i]));
                }
            }
        }
        black_box(sums);
        rounds * LEN * 2
    }

    pub fn f32(rounds: usize) -> usize {
        let factor = black_box(0.999f32);
        let mut sums = [0f32; LEN / 4];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = *sum * factor + 1.0;
            }
        }
        black_box(sums);
        rounds * sums.len() * 2
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::{arch::x86_64::*, array, hint::black_box};

    /// Independent sums: at least latency times instructions a cycle, and they fit in 16 registers with the factors.
    const SUMS: usize = 12;

    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    pub fn int8_avx512(rounds: usize) -> usize {
        let (a, b) = (black_box(_mm512_set1_epi8(3)), black_box(_mm512_set1_epi8(5)));
        let mut sums = [_mm512_setzero_si512(); SUMS];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm512_dpbusd_epi32(*sum, a, b);
            }
        }
        black_box(sums);
        rounds * SUMS * 64 * 2
    }

    #[target_feature(enable = "avx2")]
    pub fn int8_avx2(rounds: usize) -> usize {
        let (mut a, b) = (black_box(_mm256_set1_epi8(3)), black_box(_mm256_set1_epi8(5)));
        let ones = _mm256_set1_epi16(1);
        let mut sums = [_mm256_setzero_si256(); SUMS];
        for _ in 0..rounds {
            for sum in &mut sums {
                // SAFETY: no instructions at all. It hides from the compiler that `a` stays the same: it would multiply
                // once and only add from then on.
                unsafe { std::arch::asm!("/* {0} */", inout(ymm_reg) a, options(nomem, nostack, preserves_flags)) };
                let pairs = _mm256_maddubs_epi16(a, b);
                *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(pairs, ones));
            }
        }
        black_box(sums);
        rounds * SUMS * 32 * 2
    }

    #[target_feature(enable = "avx512f")]
    pub fn f32_avx512(rounds: usize) -> usize {
        let (factor, more) = (black_box(_mm512_set1_ps(0.999)), black_box(_mm512_set1_ps(1.0)));
        let mut sums: [__m512; SUMS] = array::from_fn(|_| _mm512_setzero_ps());
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(*sum, factor, more);
            }
        }
        black_box(sums);
        rounds * SUMS * 16 * 2
    }

    #[target_feature(enable = "avx512f,avx512bf16")]
    pub fn bf16_avx512(rounds: usize) -> usize {
        // SAFETY: 64 bytes of which every pattern is valid.
        let ones = unsafe { std::mem::transmute::<__m512i, __m512bh>(black_box(_mm512_set1_epi16(0x3f80))) };
        let mut sums: [__m512; SUMS] = array::from_fn(|_| _mm512_setzero_ps());
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm512_dpbf16_ps(*sum, ones, ones);
            }
        }
        black_box(sums);
        rounds * SUMS * 32 * 2
    }

    #[target_feature(enable = "avx2,fma")]
    pub fn f32_avx2(rounds: usize) -> usize {
        let (factor, more) = (black_box(_mm256_set1_ps(0.999)), black_box(_mm256_set1_ps(1.0)));
        let mut sums = [_mm256_setzero_ps(); SUMS];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(*sum, factor, more);
            }
        }
        black_box(sums);
        rounds * SUMS * 8 * 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peak_that_was_optimised_away_would_be_absurd() {
        // No core does a million operations in a nanosecond; a loop that the compiler removed would.
        for isa in Isa::available() {
            for body in [int8_dot_products as fn(Isa, usize) -> usize, f32_multiply_adds, bf16_dot_products] {
                let ops = body(isa, ROUNDS) as f64;
                let start = Instant::now();
                black_box(body(isa, black_box(ROUNDS)));
                let per_nanosecond = ops / start.elapsed().as_nanos().max(1) as f64;
                assert!((0.01..4000.0).contains(&per_nanosecond), "{isa:?}: {per_nanosecond} operations a nanosecond");
            }
        }
    }

    #[test]
    fn every_figure_is_measured() {
        let machine = Machine::measure(1, 4 << 20).unwrap();
        assert_eq!(machine.buffer_bytes, 4 << 20);
        for figure in [
            machine.read_bytes_per_second,
            machine.int8_ops_per_second,
            machine.f32_ops_per_second,
            machine.bf16_ops_per_second,
        ] {
            assert!(figure.is_finite() && figure > 1e7, "{machine:?}");
        }
    }
}
