//! Every kernel against the plain reference, over shapes, views and company.

use proptest::prelude::*;

use super::*;
use crate::{float::f32_to_bf16, isa::Isa};

/// Numbers that repeat from run to run.
struct Noise(u64);

impl Noise {
    fn number(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as f32 / (1u64 << 30) as f32 - 1.0
    }

    fn below(&mut self, limit: usize) -> usize {
        (((self.number() + 1.0) / 2.0 * limit as f32) as usize).min(limit - 1)
    }
}

/// A matrix in memory: more rows than are meant where they are gathered, and gaps between them.
struct Matrix {
    f32: Vec<f32>,
    bf16: Vec<u16>,
    rows: usize,
    cols: usize,
    stride: usize,
    gather: Option<Vec<u32>>,
    half: bool,
    transposed: bool,
}

impl Matrix {
    /// `(rows, cols)` as it is meant; `form` chooses how it lies.
    fn new(rows: usize, cols: usize, form: u8, noise: &mut Noise) -> Self {
        let transposed = form & 1 > 0;
        let (rows, cols) = if transposed { (cols, rows) } else { (rows, cols) };
        let stride = cols + noise.below(3);
        let memory = rows + noise.below(4) + 1;
        let f32: Vec<f32> = (0..memory * stride).map(|_| noise.number()).collect();
        let bf16 = f32.iter().map(|&x| f32_to_bf16(x)).collect();
        let gather = (form & 4 > 0).then(|| (0..rows).map(|_| noise.below(memory) as u32).collect());
        Self { f32, bf16, rows, cols, stride, gather, half: form & 2 > 0, transposed }
    }

    fn view(&self) -> View<'_> {
        let data = if self.half { Data::Bf16(&self.bf16) } else { Data::F32(&self.f32) };
        let view = View::of(data, self.rows, self.cols).stride(self.stride);
        let view = self.gather.as_ref().map_or(view, |rows| view.gather(rows));
        if self.transposed { view.t() } else { view }
    }
}

struct Case {
    a: Matrix,
    b: Matrix,
    start: Vec<f32>,
    stride: usize,
    accumulate: bool,
}

impl Case {
    fn new(m: usize, k: usize, n: usize, forms: (u8, u8), accumulate: bool, noise: &mut Noise) -> Self {
        let stride = n + noise.below(3);
        Self {
            a: Matrix::new(m, k, forms.0, noise),
            b: Matrix::new(k, n, forms.1, noise),
            start: (0..m * stride).map(|_| noise.number()).collect(),
            stride,
            accumulate,
        }
    }

    fn product<'a>(&'a self, out: &'a mut [f32]) -> Product<'a> {
        Product { a: self.a.view(), b: self.b.view(), out, out_stride: self.stride, accumulate: self.accumulate }
    }

    /// By the reference, with operands in absolute value where `absolute`: what rounding errors are measured by.
    fn plain(&self, precision: Precision) -> Vec<f32> {
        let mut out = self.start.clone();
        plain(precision, &mut self.product(&mut out));
        out
    }

    /// Holds `got` to the reference: the same but for the order of sums of `k` numbers of up to 1, and untouched between rows.
    fn check(&self, kernel: Kernel, got: &[f32]) {
        let (k, n) = self.b.view().shape();
        let bound = 4.0 * f32::EPSILON * (k as f32 + 1.0);
        for (i, (got, want)) in got.iter().zip(self.plain(kernel.precision())).enumerate() {
            if i % self.stride < n {
                assert!((got - want).abs() <= bound, "{kernel:?}: {got} for {want} at {i}, k {k}, n {n}");
            } else {
                assert_eq!(*got, self.start[i], "{kernel:?}: touched a gap");
            }
        }
    }
}

fn run(compute: &Compute, kernel: Kernel, cases: &[Case]) -> Vec<Vec<f32>> {
    let mut outs: Vec<Vec<f32>> = cases.iter().map(|case| case.start.clone()).collect();
    let mut jobs: Vec<_> = cases.iter().zip(&mut outs).map(|(case, out)| case.product(out)).collect();
    products_with(compute, kernel, &mut jobs);
    outs
}

fn computes(kernel: Kernel) -> [Compute; 3] {
    [1, 2, 3].map(|threads| Compute::with_isa(kernel.isa(), threads, 0))
}

#[test]
fn every_edge_of_a_tile_gives_the_reference() {
    let mut noise = Noise(1);
    for kernel in Kernel::available() {
        let compute = Compute::with_isa(kernel.isa(), 2, 0);
        for m in (0..19).chain([33, 48]) {
            for (k, n) in [(0, 5), (1, 1), (2, 16), (31, 17), (33, 47), (64, 49), (65, 95)] {
                for forms in [(0, 0), (0, 1), (1, 0), (3, 2)] {
                    let case = Case::new(m, k, n, forms, k % 2 == 0, &mut noise);
                    case.check(kernel, &run(&compute, kernel, std::slice::from_ref(&case))[0]);
                }
            }
        }
    }
}

#[test]
fn a_large_product_has_the_same_bits_on_any_number_of_threads_and_in_company() {
    let mut noise = Noise(2);
    for forms in [(0, 1), (0, 0), (1, 0), (4, 0), (5, 4)] {
        // More rows than a block, more columns than a panel, sums that are set down twice.
        let cases = [
            Case::new(530, 520, 100, forms, true, &mut noise),
            Case::new(3, 130, 300, forms, false, &mut noise),
            Case::new(260, 300, 200, forms, false, &mut noise),
        ];
        for kernel in Kernel::available() {
            let together = computes(kernel).map(|compute| run(&compute, kernel, &cases));
            assert!(together[0] == together[1] && together[0] == together[2], "{kernel:?}");
            for (case, together) in cases.iter().zip(&together[0]) {
                case.check(kernel, together);
                let alone = run(&Compute::with_isa(kernel.isa(), 2, 0), kernel, std::slice::from_ref(case));
                assert_eq!(&alone[0], together, "{kernel:?}");
            }
        }
    }
}

#[test]
fn a_row_has_the_bits_that_it_has_alone() {
    let mut noise = Noise(3);
    let (m, k, n) = (37, 300, 70);
    let (a, b) = (Matrix::new(m, k, 0, &mut noise), Matrix::new(k, n, 1, &mut noise));
    for kernel in Kernel::available() {
        let compute = Compute::with_isa(kernel.isa(), 2, 0);
        let product = |rows: &[u32]| {
            let mut out = vec![0.0; rows.len() * n];
            let a = a.view().gather(rows);
            let job = Product { a, b: b.view(), out: &mut out, out_stride: n, accumulate: false };
            products_with(&compute, kernel, &mut [job]);
            out
        };
        let together = product(&Vec::from_iter(0..m as u32));
        for row in 0..m {
            assert_eq!(product(&[row as u32]), together[row * n..][..n], "{kernel:?}");
        }
    }
}

#[test]
fn what_is_rounded_before_gives_the_bits_of_what_is_rounded_in_the_product() {
    let mut noise = Noise(4);
    let x: Vec<f32> = (0..70 * 90).map(|_| noise.number()).collect();
    let w: Vec<f32> = (0..90 * 50).map(|_| noise.number()).collect();
    for isa in Isa::available() {
        let compute = Compute::with_isa(isa, 2, 0);
        let mut rounded = vec![0; x.len()];
        round_to_bf16(&compute, &x, &mut rounded);
        let [plain, halves] = [Data::F32(&x), Data::Bf16(&rounded)].map(|x| {
            let mut out = vec![0.0; 70 * 50];
            let (a, b) = (View::of(x, 70, 90), View::new(&w, 90, 50));
            let job = Product { a, b, out: &mut out, out_stride: 50, accumulate: false };
            products(&compute, Precision::Bf16, &mut [job]);
            out
        });
        assert_eq!(plain, halves, "{isa:?}");
    }
}

#[test]
fn operands_that_end_too_soon_are_refused() {
    let compute = Compute::new(1, 0);
    let refused = |a: View<'_>, b: View<'_>, len: usize, stride: usize| {
        let mut out = vec![0.0; len];
        let job = Product { a, b, out: &mut out, out_stride: stride, accumulate: false };
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| products(&compute, Precision::F32, &mut [job])))
            .is_err()
    };
    let x = vec![1.0; 12];
    let (a, b) = (View::new(&x, 3, 4), View::new(&x, 4, 3));
    assert!(!refused(a, b, 9, 3));
    assert!(refused(a, b, 8, 3), "a short result");
    assert!(refused(a, b, 9, 2), "rows that overlap");
    assert!(refused(View::new(&x, 4, 4), b, 12, 3), "a short operand");
    assert!(refused(a.gather(&[0, 3]), b, 9, 3), "a row that is not there");
    assert!(refused(a, a, 9, 3), "operands that do not fit");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn any_shape_in_any_form_gives_the_reference(
        seed in any::<u64>(), shapes in prop::collection::vec((0usize..70, 0usize..300, 1usize..120, 0u8..8, 0u8..8, any::<bool>()), 1..5),
    ) {
        let mut noise = Noise(seed);
        let cases: Vec<_> = shapes
            .iter()
            .map(|&(m, k, n, a, b, accumulate)| Case::new(m, k, n, (a, b), accumulate, &mut noise))
            .collect();
        for kernel in Kernel::available() {
            let outs = computes(kernel).map(|compute| run(&compute, kernel, &cases));
            prop_assert!(outs[0] == outs[1] && outs[0] == outs[2]);
            for (case, out) in cases.iter().zip(&outs[0]) {
                case.check(kernel, out);
            }
        }
    }
}
