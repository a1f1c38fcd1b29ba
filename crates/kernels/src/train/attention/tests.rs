//! Every kernel against the plain reference, over shapes, documents and threads.

use proptest::prelude::*;

use super::*;
use crate::float::f32_to_bf16;

/// Numbers that repeat from run to run.
struct Noise(u64);

impl Noise {
    fn number(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as f32 / (1u64 << 30) as f32 - 1.0
    }

    fn numbers(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| 1.5 * self.number()).collect()
    }
}

struct Case {
    shape: (usize, usize, usize, usize),
    attend_from: Vec<u32>,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    d_out: Vec<f32>,
}

/// Results and gradients: out, lse, dq, dk, dv.
type Results = [Vec<f32>; 5];

impl Case {
    /// Documents of about `document` positions; 0 for one a sequence.
    fn new(
        sequences: usize,
        tokens: usize,
        (group, kv_heads, dim): (usize, usize, usize),
        document: usize,
        seed: u64,
    ) -> Self {
        let mut noise = Noise(seed);
        let mut attend_from = Vec::new();
        for _ in 0..sequences {
            let mut start = 0;
            for at in 0..tokens as u32 {
                if document > 0 && noise.number() > 1.0 - 2.0 / document as f32 {
                    start = at;
                }
                attend_from.push(start);
            }
        }
        let (rows, keys) = (sequences * tokens * group * kv_heads, sequences * tokens * kv_heads);
        Self {
            shape: (tokens, group * kv_heads, kv_heads, dim),
            attend_from,
            q: noise.numbers(rows * dim),
            k: noise.numbers(keys * dim),
            v: noise.numbers(keys * dim),
            d_out: noise.numbers(rows * dim),
        }
    }

    fn shape(&self) -> Shape<'_> {
        let (sequence_tokens, heads, kv_heads, head_dim) = self.shape;
        Shape { sequence_tokens, heads, kv_heads, head_dim, attend_from: &self.attend_from }
    }

    /// What was in the results before counts for nothing.
    fn empty(&self) -> Results {
        let rows = self.attend_from.len() * self.shape.1;
        [self.q.len(), rows, self.q.len(), self.k.len(), self.k.len()].map(|len| vec![f32::NAN; len])
    }

    fn run(&self, kernel: Kernel, threads: usize) -> Results {
        let operands = [&self.q, &self.k, &self.v, &self.d_out].map(|x| Data::F32(x));
        self.run_with(kernel, threads, operands)
    }

    /// From the same operands in another type, maybe.
    fn run_with(&self, kernel: Kernel, threads: usize, operands: [Data<'_>; 4]) -> Results {
        let compute = Compute::with_isa(kernel.isa(), threads, 0);
        let [mut out, mut lse, mut dq, mut dk, mut dv] = self.empty();
        let (shape, [q, k, v, _]) = (self.shape(), operands);
        forward_with(&compute, kernel, &shape, [q, k, v], &mut out, &mut lse);
        let (mut of_rows, mut rounded) = (lse.clone(), vec![0; out.len()]);
        means(&compute, shape.head_dim, &out, &self.d_out, &mut of_rows, &mut rounded);
        assert!(rounded.iter().zip(&self.d_out).all(|(rounded, d)| *rounded == f32_to_bf16(*d)));
        backward_with(&compute, kernel, &shape, operands, [&lse, &of_rows], [&mut dq, &mut dk, &mut dv]);
        [out, lse, dq, dk, dv]
    }

    fn plain(&self) -> Results {
        let [mut out, mut lse, mut dq, mut dk, mut dv] = self.empty();
        let (shape, q, k, v) = (self.shape(), &self.q, &self.k, &self.v);
        plain::forward(&shape, q, k, v, &mut out, &mut lse);
        plain::backward(&shape, q, k, v, &out, &lse, &self.d_out, &mut dq, &mut dk, &mut dv);
        [out, lse, dq, dk, dv]
    }

    fn check(&self, kernel: Kernel) {
        let results = self.run(kernel, 1);
        for (name, (got, want)) in ["out", "lse", "dq", "dk", "dv"].iter().zip(results.iter().zip(self.plain())) {
            let far: f64 = got.iter().zip(&want).map(|(a, b)| f64::from(a - b).powi(2)).sum();
            let norm: f64 = want.iter().map(|x| f64::from(*x).powi(2)).sum();
            // A row that sees itself alone has no gradient of scores, so errors are held to what `d_out` could make.
            let floor: f64 = if matches!(*name, "dq" | "dk") { 1e-2 * self.d_out.len() as f64 } else { 0.0 };
            let error = (far / (norm + floor).max(1e-12)).sqrt();
            // Rounding to bf16 moves a score of 20 by up to 0.04; scores here have a deviation of up to 8.
            let bound = if kernel.precision() == Precision::F32 { 3e-6 } else { 2e-2 };
            assert!(error <= bound, "{kernel:?} {:?}: {name} is off by {error:e}", self.shape);
        }
        for threads in [2, 3] {
            assert!(self.run(kernel, threads) == results, "{kernel:?} on {threads} threads");
        }
    }
}

#[test]
fn blocks_and_their_edges_give_the_reference() {
    for kernel in Kernel::available() {
        for (seed, (tokens, dims, document)) in [
            (1, (1, 1, 16), 0),
            (7, (1, 2, 32), 0),
            (BLOCK, (2, 1, 64), 0),
            (BLOCK + 1, (1, 1, 128), 0),
            (300, (1, 2, 48), 0),
            (300, (3, 1, 80), 40),
            (270, (1, 1, 15), 150),
            (140, (1, 1, 1), 9),
        ]
        .into_iter()
        .enumerate()
        {
            Case::new(2, tokens, dims, document, seed as u64).check(kernel);
        }
    }
}

#[test]
fn operands_that_are_rounded_before_give_the_same_bits() {
    for (tokens, dims) in [(150, (2, 1, 64)), (40, (1, 2, 15))] {
        let case = Case::new(2, tokens, dims, 60, 3);
        let rounded =
            [&case.q, &case.k, &case.v, &case.d_out].map(|x| x.iter().map(|x| f32_to_bf16(*x)).collect::<Vec<u16>>());
        for kernel in Kernel::available().into_iter().filter(|kernel| kernel.precision() == Precision::Bf16) {
            let got = case.run_with(kernel, 2, rounded.each_ref().map(|x| Data::Bf16(x)));
            assert!(got == case.run(kernel, 2), "{kernel:?}");
        }
    }
}

#[test]
fn a_document_has_the_same_results_whatever_stands_before_it() {
    let (tokens, start) = (300, 131);
    let mut case = Case::new(1, tokens, (1, 1, 32), 0, 5);
    case.attend_from = (0..tokens).map(|at| if at < start { 0 } else { start as u32 }).collect();
    let mut other = Case { attend_from: case.attend_from.clone(), ..Case::new(1, tokens, (1, 1, 32), 0, 6) };
    let behind = start * 32;
    for (to, from) in
        [(&mut other.q, &case.q), (&mut other.k, &case.k), (&mut other.v, &case.v), (&mut other.d_out, &case.d_out)]
    {
        to[behind..].copy_from_slice(&from[behind..]);
    }
    for kernel in Kernel::available() {
        let (one, two) = (case.run(kernel, 2), other.run(kernel, 2));
        for i in [0, 2, 3, 4] {
            assert!(one[i][behind..] == two[i][behind..], "{kernel:?}: result {i}");
        }
    }
}

#[test]
fn shapes_that_make_no_sense_are_refused() {
    let refused = |attend_from: &[u32], heads: usize, kv_heads: usize, head_dim: usize| {
        let shape = Shape { sequence_tokens: 2, heads, kv_heads, head_dim, attend_from };
        std::panic::catch_unwind(|| shape.check()).is_err()
    };
    assert!(!refused(&[0, 1, 0, 0], 4, 2, 128));
    assert!(refused(&[0, 1, 0], 4, 2, 128), "half a sequence");
    assert!(refused(&[0, 2], 4, 2, 128), "a position that does not see itself");
    assert!(refused(&[0, 1], 4, 3, 128), "heads in unequal groups");
    assert!(refused(&[0, 1], 4, 2, 129), "a head that is too wide");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn any_shape_and_any_documents_give_the_reference(
        seed in any::<u64>(), sequences in 1usize..3, tokens in 1usize..280, group in 1usize..3, kv_heads in 1usize..3,
        dim in 1usize..129, document in 0usize..100,
    ) {
        let case = Case::new(sequences, tokens, (group, kv_heads, dim), document, seed);
        for kernel in Kernel::available() {
            case.check(kernel);
        }
    }
}
