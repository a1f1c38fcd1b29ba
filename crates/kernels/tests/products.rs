//! Products of every type on every instruction set, against f64 sums over the decoded weights; and Law 2: the same bits
//! alone and in company, on one thread and on several.

use dots_kernels::{
    Activations, Compute, Isa, Job, QuantisedRows, Rows, SwigluJob, WeightType, Weights, decode::Unpacked,
    decode::decode_row, dot::has_bf16, packed,
};
use proptest::prelude::*;

/// Numbers that repeat from run to run.
struct Noise(u64);

impl Noise {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    /// In [-1, 1).
    fn number(&mut self) -> f32 {
        self.bits() as f32 / (1u64 << 30) as f32 - 1.0
    }
}

/// A matrix whose codes are random bytes and whose scales are sane.
struct Matrix {
    kind: WeightType,
    rows: usize,
    cols: usize,
    bytes: Vec<u8>,
    row_scales: Vec<f32>,
}

impl Matrix {
    fn random(kind: WeightType, rows: usize, cols: usize, noise: &mut Noise) -> Self {
        if kind.is_packed() {
            return Self::packed(kind, rows, cols, noise);
        }
        let blocks = rows * cols / kind.block_len();
        let mut bytes = Vec::with_capacity(blocks * kind.block_bytes());
        for _ in 0..blocks {
            let mut block: Vec<u8> = (0..kind.block_bytes()).map(|_| noise.bits() as u8).collect();
            let half = |x: f32| half_bits(x).to_le_bytes();
            let scale = 0.01 + 0.005 * noise.number();
            match kind {
                WeightType::F32 => block.copy_from_slice(&noise.number().to_le_bytes()),
                WeightType::F16 => block.copy_from_slice(&half(noise.number())),
                WeightType::BF16 => block.copy_from_slice(&noise.number().to_bits().to_le_bytes()[2..]),
                // Keep clear of NaN and of the largest numbers.
                WeightType::F8_E4M3 => block[0] &= 0xbf,
                _ => {
                    for at in half_fields(kind) {
                        block[*at..at + 2].copy_from_slice(&half(scale));
                    }
                }
            }
            bytes.extend(block);
        }
        let row_scales = match kind {
            WeightType::F8_E4M3 => (0..rows).map(|_| 0.5 + 0.25 * noise.number()).collect(),
            _ => Vec::new(),
        };
        Self { kind, rows, cols, bytes, row_scales }
    }

    fn packed(kind: WeightType, rows: usize, cols: usize, noise: &mut Noise) -> Self {
        let mut bytes = vec![0; kind.matrix_bytes(rows, cols).unwrap()];
        for panel in bytes.chunks_mut(packed::panel_bytes(kind, cols).unwrap()) {
            let mask = ((1u16 << kind.packed_bits()) - 1) as u8;
            let codes: Vec<u8> = (0..packed::ROWS * cols).map(|_| noise.bits() as u8 & mask).collect();
            let scales: Vec<i8> = (0..packed::ROWS * cols / 32).map(|_| (noise.bits() % 255) as i8).collect();
            let row_scales = std::array::from_fn(|_| 1e-4 * noise.number());
            packed::write_panel(kind, cols, &codes, &scales, &row_scales, panel);
        }
        Self { kind, rows, cols, bytes, row_scales: Vec::new() }
    }

    fn view(&self) -> Weights<'_> {
        Weights::new(self.kind, self.rows, self.cols, &self.bytes, &self.row_scales).unwrap()
    }

    fn decoded(&self) -> Vec<Vec<f32>> {
        (0..self.rows)
            .map(|row| {
                let mut out = vec![0.0; self.cols];
                decode_row(Isa::Portable, self.view(), row, &mut Unpacked::default(), &mut out);
                out
            })
            .collect()
    }
}

/// Where a block keeps its half-precision scales and minimums.
fn half_fields(kind: WeightType) -> &'static [usize] {
    match kind {
        WeightType::Q4_1 | WeightType::Q5_1 | WeightType::Q4_K | WeightType::Q5_K => &[0, 2],
        WeightType::Q2_K => &[80, 82],
        WeightType::Q3_K => &[108],
        WeightType::Q6_K => &[208],
        _ => &[0],
    }
}

/// Half precision of a normal number, cut short.
fn half_bits(x: f32) -> u16 {
    let bits = x.to_bits();
    if x.abs() < 1e-4 {
        return 0;
    }
    let exponent = ((bits >> 23) & 0xff) as i32 - 127 + 15;
    ((bits >> 16) & 0x8000) as u16 | (exponent as u16) << 10 | ((bits >> 13) & 0x3ff) as u16
}

fn numbers(count: usize, noise: &mut Noise) -> Vec<f32> {
    (0..count).map(|_| 2.0 * noise.number()).collect()
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

/// A bound on what the order of an f32 sum may change.
fn slack(a: &[f32], b: &[f32]) -> f64 {
    1e-5 * a.iter().zip(b).map(|(a, b)| f64::from((a * b).abs())).sum::<f64>() + 1e-6
}

fn product(compute: &Compute, matrix: &Matrix, x: &[f32], rows: Rows<'_>, count: usize, fast: bool) -> Vec<f32> {
    let mut q8 = QuantisedRows::default();
    compute.quantise(x, matrix.cols, &mut q8);
    let x = Activations { f32: x, cols: matrix.cols, quantised: fast.then_some(&q8) };
    let mut out = vec![f32::NAN; count * matrix.rows];
    compute.products(&mut [Job { x, weights: matrix.view(), rows, out: &mut out }]);
    out
}

#[test]
fn every_type_on_every_instruction_set_gives_the_sum_over_decoded_weights() {
    let mut noise = Noise(1);
    for isa in Isa::available() {
        let compute = Compute::with_isa(isa, 2, 1312);
        for kind in WeightType::ALL {
            // More than a stretch of columns, and a rest that fills no 64: 41 · 32, or the k-quants' 5 · 256.
            let cols = if kind.block_len() == 256 { 1280 } else { 1312 };
            for rows in [1, 5, 37] {
                let matrix = Matrix::random(kind, rows, cols, &mut noise);
                let decoded = matrix.decoded();
                for tokens in [1, 2, 3, 4, 7, 13] {
                    let x = numbers(tokens * cols, &mut noise);
                    let mut q8 = QuantisedRows::default();
                    compute.quantise(&x, cols, &mut q8);
                    for fast in [false, true] {
                        let got = product(&compute, &matrix, &x, Rows::From(0, tokens), tokens, fast);
                        for token in 0..tokens {
                            let x = match kind {
                                kind if fast && kind.is_quantised() => q8.dequantise(token, cols),
                                WeightType::BF16 | WeightType::F8_E4M3 if fast && has_bf16(isa) => {
                                    q8.rounded_to_bf16(token, cols).unwrap()
                                }
                                _ => x[token * cols..(token + 1) * cols].to_vec(),
                            };
                            for row in 0..rows {
                                let (want, got) = (dot(&decoded[row], &x), f64::from(got[token * rows + row]));
                                // The offset of a code is taken off after the sum, so its rounding counts too.
                                let bound = slack(&decoded[row], &x) * if fast { 20.0 } else { 1.0 };
                                assert!((got - want).abs() <= bound, "{isa:?} {kind:?} {fast}: {got} for {want}");
                            }
                        }
                    }
                }
            }
        }
    }
}

/// More rows of activations than sums are held for at once, the last of them alone in its chunk.
#[test]
fn many_rows_have_the_bits_that_each_has_alone() {
    let mut noise = Noise(5);
    let (tokens, rows, cols) = (257, 70, 288);
    let x = numbers(tokens * cols, &mut noise);
    for kind in [WeightType::Q8_0, WeightType::Q4_D, WeightType::BF16, WeightType::F8_E4M3] {
        let matrix = Matrix::random(kind, rows, cols, &mut noise);
        for isa in Isa::available() {
            let compute = Compute::with_isa(isa, 2, cols);
            let together = product(&compute, &matrix, &x, Rows::From(0, tokens), tokens, true);
            for token in [0, 1, 254, 255, 256] {
                let alone = product(&compute, &matrix, &x[token * cols..(token + 1) * cols], Rows::From(0, 1), 1, true);
                assert_eq!(together[token * rows..(token + 1) * rows], alone, "{isa:?} {kind:?} {token}");
            }
        }
    }
}

/// One and two rows of activations have kernels of their own, where rows of weights are a multiple of 64 wide and whole panels.
#[test]
fn few_rows_have_the_bits_that_each_has_in_company() {
    let mut noise = Noise(6);
    let (tokens, rows) = (5, 37);
    for kind in WeightType::ALL {
        let widths: &[usize] = if kind.block_len() == 256 { &[256, 768] } else { &[32, 64, 128, 192, 704] };
        for &cols in widths {
            let matrix = Matrix::random(kind, rows, cols, &mut noise);
            let mut x = numbers(tokens * cols, &mut noise);
            // Sixteens of every size, so that exponents differ.
            x.chunks_mut(16)
                .enumerate()
                .for_each(|(i, x)| x.iter_mut().for_each(|x| *x *= 0.5f32.powi(i as i32 * 5 % 13)));
            for isa in Isa::available() {
                let compute = Compute::with_isa(isa, 2, cols);
                let together = product(&compute, &matrix, &x, Rows::From(0, tokens), tokens, true);
                for (first, count) in [(0, 1), (1, 2), (3, 2), (4, 1)] {
                    let few = product(&compute, &matrix, &x, Rows::From(first, count), count, true);
                    let want = &together[first * rows..(first + count) * rows];
                    assert_eq!(few, want, "{isa:?} {kind:?} {cols} {first}");
                }
            }
        }
    }
}

/// Activations and weights at their limits: sums of sixteen products, shifted as far as they may be, still fit in 32 bits.
#[test]
fn the_widest_sums_do_not_overflow() {
    let (rows, cols) = (packed::ROWS, 160);
    for code in [0, 255] {
        let kind = WeightType::Q8_D;
        let mut bytes = vec![0; kind.matrix_bytes(rows, cols).unwrap()];
        let (codes, scales) = (vec![code; rows * cols], vec![127; rows * cols / 32]);
        packed::write_panel(kind, cols, &codes, &scales, &[1.0; packed::ROWS], &mut bytes);
        let matrix = Matrix { kind, rows, cols, bytes, row_scales: Vec::new() };
        for isa in Isa::available() {
            for tokens in [1, 8] {
                for x in [1.0, -1.0] {
                    let x = vec![x; tokens * cols];
                    let compute = Compute::with_isa(isa, 1, cols);
                    let got = product(&compute, &matrix, &x, Rows::From(0, tokens), tokens, true);
                    let want = (f32::from(code) - 128.0) * 127.0 * x[0] * cols as f32;
                    assert!(got.iter().all(|got| (got - want).abs() < 1e-4 * want.abs()), "{isa:?}: {got:?} {want}");
                }
            }
        }
    }
}

/// The kernels for few rows of activations add up products in sixteen bits as far as they fit.
#[test]
fn the_widest_sums_of_few_rows_are_those_of_many() {
    let mut noise = Noise(7);
    let (rows, cols) = (packed::ROWS, 256);
    for kind in WeightType::ALL.into_iter().filter(|kind| kind.is_quantised() && !kind.is_packed()) {
        for fill in [0, 0x7f, 0x80, 0xff] {
            let mut matrix = Matrix::random(kind, rows, cols, &mut noise);
            for block in matrix.bytes.chunks_mut(kind.block_bytes()) {
                block.fill(fill);
                half_fields(kind)
                    .iter()
                    .for_each(|&at| block[at..at + 2].copy_from_slice(&half_bits(0.01).to_le_bytes()));
            }
            for isa in Isa::available() {
                let compute = Compute::with_isa(isa, 1, cols);
                for x in [1.0, -1.0] {
                    let x = vec![x; 3 * cols];
                    let together = product(&compute, &matrix, &x, Rows::From(0, 3), 3, true);
                    for count in [1, 2] {
                        let few = product(&compute, &matrix, &x, Rows::From(0, count), count, true);
                        assert_eq!(few, together[..count * rows], "{isa:?} {kind:?} {fill}");
                    }
                }
            }
        }
    }
}

#[test]
fn instruction_sets_decode_to_the_same_bits() {
    let mut noise = Noise(2);
    for kind in WeightType::ALL {
        let matrix = Matrix::random(kind, 3, 512, &mut noise);
        let want = matrix.decoded();
        for isa in Isa::available() {
            for (row, want) in want.iter().enumerate() {
                let mut got = vec![0.0; 512];
                decode_row(isa, matrix.view(), row, &mut Unpacked::default(), &mut got);
                assert_eq!(&got, want, "{isa:?} {kind:?}");
            }
        }
    }
}

#[test]
fn gated_products_are_silu_of_one_times_the_other() {
    let mut noise = Noise(3);
    let compute = Compute::new(2, 256);
    let (gate, up) =
        (Matrix::random(WeightType::Q8_0, 40, 256, &mut noise), Matrix::random(WeightType::Q8_0, 40, 256, &mut noise));
    let x = numbers(3 * 256, &mut noise);
    let list = [2, 0];
    let mut out = vec![0.0; 2 * 40];
    let job = SwigluJob {
        x: Activations::exact(&x, 256),
        gate: gate.view(),
        up: up.view(),
        rows: Rows::List(&list),
        out: &mut out,
    };
    compute.swiglu_products(&mut [job]);
    let (gate, up) = (gate.decoded(), up.decoded());
    for (i, token) in list.iter().enumerate() {
        let x = &x[*token as usize * 256..][..256];
        for row in 0..40 {
            let g = dot(&gate[row], x);
            let want = g / (1.0 + (-g).exp()) * dot(&up[row], x);
            assert!((f64::from(out[i * 40 + row]) - want).abs() < 1e-3 * want.abs().max(1.0));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_row_has_the_same_bits_alone_in_company_and_on_any_number_of_threads(
        seed in any::<u64>(), kind in 0..WeightType::ALL.len(), tokens in 1usize..12, rows in 1usize..40,
    ) {
        let mut noise = Noise(seed);
        let kind = WeightType::ALL[kind];
        let cols = if kind.block_len() == 256 { 1280 } else { 1312 };
        let matrix = Matrix::random(kind, rows, cols, &mut noise);
        let x = numbers(tokens * cols, &mut noise);
        let order: Vec<u32> = (0..tokens as u32).rev().collect();
        for isa in Isa::available() {
            let (one, three) = (Compute::with_isa(isa, 1, cols), Compute::with_isa(isa, 3, cols));
            for fast in [false, true] {
                let together = product(&three, &matrix, &x, Rows::From(0, tokens), tokens, fast);
                let reversed = product(&one, &matrix, &x, Rows::List(&order), tokens, fast);
                for token in 0..tokens {
                    let alone = product(&one, &matrix, &x[token * cols..(token + 1) * cols], Rows::From(0, 1), 1, fast);
                    prop_assert_eq!(&together[token * rows..(token + 1) * rows], &alone[..]);
                    prop_assert_eq!(&reversed[(tokens - 1 - token) * rows..(tokens - token) * rows], &alone[..]);
                }
            }
        }
    }
}
