//! Rounding to dots' own types ([`crate::packed`]), sixteen rows at once.
//!
//! A weight becomes `row_scale · scale · level(code)`. For each group of 32 the search finds the scale and the codes of least
//! weighted squared error `Σ w · (x - x̂)²`: it tries scales around the one that puts the group's largest weight on an outermost
//! level, on either side, as llama.cpp's `quantize_row_iq4_nl_impl` does. For the codes of a trial the best scale is
//! `Σ wxq / Σ wq²`, and what it leaves of the error falls with `(Σ wxq)² / Σ wq²`. Then the scales themselves are rounded to 8
//! bits of the row's largest, and the codes chosen anew for what they became.
//!
//! Lanes are rows: sixteen searches run side by side, so that nothing is summed across a register. No operation is
//! contracted or reordered, so every instruction set gives the same bytes.

use crate::{
    WeightType,
    isa::for_each_isa,
    packed::{GROUP, Q3_LEVELS, Q4_LEVELS, ROWS, panel_bytes, write_panel},
};

/// Magnitude from which sums of squares may overflow. No weight of a model is near it.
pub const LARGEST: f32 = 1e16;

/// One number a row.
type Lanes = [f32; ROWS];

/// A group of every row: `(columns, rows)`.
type Tile = [Lanes; GROUP];

/// A rounded panel; its memory is reused from panel to panel.
#[derive(Debug, Default)]
pub struct RoundedPanel {
    /// `(ROWS, cols)`.
    codes: Vec<u8>,
    /// `(ROWS, cols / 32)`.
    scales: Vec<i8>,
    row_scales: Lanes,
    /// `(cols / 32)`: the scales before they are rounded.
    fits: Vec<Lanes>,
}

impl RoundedPanel {
    /// Writes the panel to `out`, which is [`panel_bytes`] long, in the type and width that it was rounded to.
    pub fn write(&self, kind: WeightType, out: &mut [u8]) {
        write_panel(kind, self.codes.len() / ROWS, &self.codes, &self.scales, &self.row_scales, out);
    }
}

for_each_isa! {
    /// Rounds `x: (ROWS, cols)` to the packed type `kind`, `cols` a multiple of [`GROUP`]. `importance: (cols)` weighs the error of
    /// each column and is positive; where it is empty all count alike. All of `x` must be below [`LARGEST`]; rows of zeros stay zeros,
    /// and groups of nothing above 1e-16 become zeros.
    pub fn round_panel(kind: WeightType, x: &[f32], importance: &[f32], out: &mut RoundedPanel) = round_panel_body
}

#[inline(always)]
fn round_panel_body(kind: WeightType, x: &[f32], importance: &[f32], out: &mut RoundedPanel) {
    let cols = x.len() / ROWS;
    assert!(panel_bytes(kind, cols).is_some() && cols.is_multiple_of(GROUP) && x.len() == ROWS * cols);
    assert!(importance.is_empty() || importance.len() == cols);
    match kind {
        WeightType::Q3_D => round::<Table<8>>(&Table(&Q3_LEVELS), x, importance, out),
        WeightType::Q4_D => round::<Table<16>>(&Table(&Q4_LEVELS), x, importance, out),
        WeightType::Q5_D => round::<Uniform<16>>(&Uniform, x, importance, out),
        WeightType::Q6_D => round::<Uniform<32>>(&Uniform, x, importance, out),
        WeightType::Q8_D => round::<Uniform<128>>(&Uniform, x, importance, out),
        _ => unreachable!("only packed types are rounded to"),
    }
}

/// The levels of a type, in rising order.
trait Levels {
    /// Trial scales, as shares of the one that puts a group's largest weight on the first level; negative ones put it on
    /// the other side.
    const TRIALS: &'static [f32];

    /// The first level, of the largest magnitude.
    fn first(&self) -> f32;

    /// The level nearest to each number.
    fn nearest(&self, x: &Lanes) -> Lanes;

    /// The code of the level nearest to each number.
    fn codes(&self, x: &Lanes) -> [u8; ROWS];
}

/// Levels of a table.
struct Table<const N: usize>(&'static [i8; N]);

impl<const N: usize> Table<N> {
    /// Where level `k` begins.
    #[inline(always)]
    fn threshold(&self, k: usize) -> f32 {
        0.5 * (f32::from(self.0[k - 1]) + f32::from(self.0[k]))
    }
}

impl<const N: usize> Levels for Table<N> {
    const TRIALS: &'static [f32] = &[0.80, 0.86, 0.92, 0.97, 1.02, 1.08, 1.15, 1.25, -0.94, -1.02, -1.10, -1.20, -1.32];

    #[inline(always)]
    fn first(&self) -> f32 {
        f32::from(self.0[0])
    }

    #[inline(always)]
    fn nearest(&self, x: &Lanes) -> Lanes {
        let mut levels = [f32::from(self.0[0]); ROWS];
        for k in 1..N {
            let (threshold, step) = (self.threshold(k), f32::from(self.0[k]) - f32::from(self.0[k - 1]));
            for lane in 0..ROWS {
                levels[lane] += if x[lane] > threshold { step } else { 0.0 };
            }
        }
        levels
    }

    #[inline(always)]
    fn codes(&self, x: &Lanes) -> [u8; ROWS] {
        let mut codes = [0; ROWS];
        for k in 1..N {
            let threshold = self.threshold(k);
            for lane in 0..ROWS {
                codes[lane] += u8::from(x[lane] > threshold);
            }
        }
        codes
    }
}

/// The whole numbers from `-HALF` to `HALF - 1`.
struct Uniform<const HALF: usize>;

impl<const HALF: usize> Levels for Uniform<HALF> {
    const TRIALS: &'static [f32] = match HALF {
        128 => &[1.0, -1.01],
        _ => &[0.90, 0.94, 0.97, 1.0, 1.03, 1.07, -1.0, -1.04, -1.08],
    };

    #[inline(always)]
    fn first(&self) -> f32 {
        -(HALF as f32)
    }

    #[inline(always)]
    fn nearest(&self, x: &Lanes) -> Lanes {
        // Adding and subtracting 1.5 · 2^23 rounds to the nearest integer.
        const ROUND: f32 = 12_582_912.0;
        let mut levels = [0.0; ROWS];
        for lane in 0..ROWS {
            levels[lane] = (x[lane].clamp(-(HALF as f32), HALF as f32 - 1.0) + ROUND) - ROUND;
        }
        levels
    }

    #[inline(always)]
    fn codes(&self, x: &Lanes) -> [u8; ROWS] {
        let levels = self.nearest(x);
        std::array::from_fn(|lane| (levels[lane] as i32 + HALF as i32) as u8)
    }
}

#[inline(always)]
fn round<L: Levels>(levels: &L, x: &[f32], importance: &[f32], out: &mut RoundedPanel) {
    let cols = x.len() / ROWS;
    let groups = cols / GROUP;
    out.codes.resize(ROWS * cols, 0);
    out.scales.resize(ROWS * groups, 0);
    out.fits.resize(groups, [0.0; ROWS]);
    let mut largest = [0.0_f32; ROWS];
    for group in 0..groups {
        let tile = tile(x, cols, group);
        let fit = fit(levels, &tile, &weights(importance, group));
        for lane in 0..ROWS {
            largest[lane] = largest[lane].max(fit[lane].abs());
        }
        out.fits[group] = fit;
    }
    for lane in 0..ROWS {
        out.row_scales[lane] = largest[lane] / 127.0;
    }
    for group in 0..groups {
        let tile = tile(x, cols, group);
        let scales = settle(levels, &tile, &weights(importance, group), &out.fits[group], &out.row_scales);
        let mut inverse = [0.0; ROWS];
        for lane in 0..ROWS {
            inverse[lane] = reciprocal(scales[lane] * out.row_scales[lane]);
            out.scales[lane * groups + group] = scales[lane] as i8;
        }
        for (i, column) in tile.iter().enumerate() {
            let codes = levels.codes(&scaled(column, &inverse));
            for lane in 0..ROWS {
                out.codes[lane * cols + group * GROUP + i] = codes[lane];
            }
        }
    }
}

#[inline(always)]
fn tile(x: &[f32], cols: usize, group: usize) -> Tile {
    let mut tile = [[0.0; ROWS]; GROUP];
    for lane in 0..ROWS {
        let row = &x[lane * cols + group * GROUP..][..GROUP];
        for i in 0..GROUP {
            tile[i][lane] = row[i];
        }
    }
    tile
}

#[inline(always)]
fn weights(importance: &[f32], group: usize) -> [f32; GROUP] {
    let mut weights = [1.0; GROUP];
    if !importance.is_empty() {
        weights.copy_from_slice(&importance[group * GROUP..][..GROUP]);
    }
    weights
}

/// 1 / x, or 0 for what is too small to have one: the weights beneath it are zeros as well.
#[inline(always)]
fn reciprocal(x: f32) -> f32 {
    if x.abs() < f32::MIN_POSITIVE { 0.0 } else { 1.0 / x }
}

#[inline(always)]
fn scaled(x: &Lanes, factor: &Lanes) -> Lanes {
    let mut out = [0.0; ROWS];
    for lane in 0..ROWS {
        out[lane] = x[lane] * factor[lane];
    }
    out
}

/// The scale of each row's group that leaves the least error.
#[inline(always)]
fn fit<L: Levels>(levels: &L, tile: &Tile, weights: &[f32; GROUP]) -> Lanes {
    let mut extreme = [0.0_f32; ROWS];
    for column in tile {
        for lane in 0..ROWS {
            extreme[lane] = if column[lane].abs() > extreme[lane].abs() { column[lane] } else { extreme[lane] };
        }
    }
    let mut best = Best { gain: [0.0; ROWS], scale: [0.0; ROWS] };
    for trial in L::TRIALS {
        let mut inverse = [0.0; ROWS];
        for lane in 0..ROWS {
            inverse[lane] = reciprocal(extreme[lane] / levels.first() * trial);
        }
        try_scale(levels, tile, weights, &inverse, &mut best);
    }
    // The best trial's codes have a better scale, and that has better codes.
    for _ in 0..2 {
        let mut inverse = [0.0; ROWS];
        for lane in 0..ROWS {
            inverse[lane] = reciprocal(best.scale[lane]);
        }
        try_scale(levels, tile, weights, &inverse, &mut best);
    }
    best.scale
}

/// The best scale of each row so far, and how much of `Σ wx²` it accounts for.
struct Best {
    gain: Lanes,
    scale: Lanes,
}

#[inline(always)]
fn try_scale<L: Levels>(levels: &L, tile: &Tile, weights: &[f32; GROUP], inverse: &Lanes, best: &mut Best) {
    let (mut xq, mut qq) = ([0.0; ROWS], [0.0; ROWS]);
    for (column, weight) in tile.iter().zip(weights) {
        let q = levels.nearest(&scaled(column, inverse));
        for lane in 0..ROWS {
            let wq = weight * q[lane];
            xq[lane] += wq * column[lane];
            qq[lane] += wq * q[lane];
        }
    }
    for lane in 0..ROWS {
        // Where all is zero this is NaN, and NaN is no gain.
        let scale = xq[lane] / qq[lane];
        let gain = xq[lane] * scale;
        let better = gain > best.gain[lane];
        best.gain[lane] = if better { gain } else { best.gain[lane] };
        best.scale[lane] = if better { scale } else { best.scale[lane] };
    }
}

/// The whole number of row scales nearest to the fitted scale, or one beside it, whichever leaves the least error.
#[inline(always)]
fn settle<L: Levels>(levels: &L, tile: &Tile, weights: &[f32; GROUP], fit: &Lanes, row_scales: &Lanes) -> Lanes {
    let mut nearest = [0.0; ROWS];
    for lane in 0..ROWS {
        nearest[lane] = (fit[lane] * reciprocal(row_scales[lane])).round();
    }
    let (mut best, mut least) = ([0.0; ROWS], [f32::INFINITY; ROWS]);
    for step in [0.0, -1.0, 1.0] {
        let (mut whole, mut scale, mut inverse) = ([0.0; ROWS], [0.0; ROWS], [0.0; ROWS]);
        for lane in 0..ROWS {
            whole[lane] = (nearest[lane] + step).clamp(-127.0, 127.0);
            scale[lane] = whole[lane] * row_scales[lane];
            inverse[lane] = reciprocal(scale[lane]);
        }
        let mut error = [0.0; ROWS];
        for (column, weight) in tile.iter().zip(weights) {
            let q = levels.nearest(&scaled(column, &inverse));
            for lane in 0..ROWS {
                let off = column[lane] - scale[lane] * q[lane];
                error[lane] += weight * off * off;
            }
        }
        for lane in 0..ROWS {
            let better = error[lane] < least[lane];
            least[lane] = if better { error[lane] } else { least[lane] };
            best[lane] = if better { whole[lane] } else { best[lane] };
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Isa, packed::Panel};

    const KINDS: [WeightType; 5] =
        [WeightType::Q3_D, WeightType::Q4_D, WeightType::Q5_D, WeightType::Q6_D, WeightType::Q8_D];

    /// Numbers of a normal distribution, always the same.
    fn normal(count: usize) -> Vec<f32> {
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        let mut uniform = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f64 / (1_u64 << 24) as f64
        };
        (0..count)
            .map(|_| ((-2.0 * (1.0 - uniform()).ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos()) as f32)
            .collect()
    }

    fn packed(isa: Isa, kind: WeightType, x: &[f32], importance: &[f32]) -> Vec<u8> {
        let mut rounded = RoundedPanel::default();
        round_panel(isa, kind, x, importance, &mut rounded);
        let mut bytes = vec![0; panel_bytes(kind, x.len() / ROWS).unwrap()];
        rounded.write(kind, &mut bytes);
        bytes
    }

    fn decoded(kind: WeightType, cols: usize, bytes: &[u8]) -> Vec<f32> {
        let panel = Panel::new(kind, cols, bytes);
        let mut out = vec![0.0; ROWS * cols];
        out.chunks_mut(cols).enumerate().for_each(|(row, out)| panel.decode_row(row, out));
        out
    }

    fn round_trip(kind: WeightType, x: &[f32], importance: &[f32]) -> Vec<f32> {
        decoded(kind, x.len() / ROWS, &packed(Isa::best(), kind, x, importance))
    }

    /// Σ w (x - y)² / Σ w x².
    fn relative_error(x: &[f32], y: &[f32], importance: &[f32]) -> f64 {
        let weight = |i: usize| importance.get(i % importance.len().max(1)).map_or(1.0, |w| f64::from(*w));
        let sum = |f: &dyn Fn(usize) -> f64| (0..x.len()).map(|i| weight(i) * f(i)).sum::<f64>();
        sum(&|i| f64::from(x[i] - y[i]).powi(2)) / sum(&|i| f64::from(x[i]).powi(2))
    }

    #[test]
    fn errors_on_normal_weights() {
        let x = normal(ROWS * 4096);
        // A uniform quantiser of 2^b levels with a scale a row is at 3.5 % (3 bits), 1.15 % (4 bits); see `Max, 1960`.
        for (kind, most) in KINDS.into_iter().zip([0.0270, 0.0062, 0.00170, 0.00042, 0.000027]) {
            let error = relative_error(&x, &round_trip(kind, &x, &[]), &[]);
            println!("{:5} relative squared error {error:.3e}", kind.name());
            assert!(error < most, "{kind:?}: {error}");
        }
    }

    #[test]
    fn every_instruction_set_gives_the_same_bytes() {
        let x = normal(ROWS * 96);
        let importance: Vec<f32> = (0..96).map(|i| 0.1 + (i % 7) as f32).collect();
        for kind in KINDS {
            let all: Vec<_> = Isa::available().into_iter().map(|isa| packed(isa, kind, &x, &importance)).collect();
            assert!(all.windows(2).all(|two| two[0] == two[1]), "{kind:?}");
        }
    }

    #[test]
    fn what_counts_more_is_rounded_better() {
        let x = normal(ROWS * 256);
        let importance: Vec<f32> = (0..256).map(|i| if i % 8 == 0 { 50.0 } else { 1.0 }).collect();
        for kind in KINDS {
            let plain = relative_error(&x, &round_trip(kind, &x, &[]), &importance);
            let weighted = relative_error(&x, &round_trip(kind, &x, &importance), &importance);
            assert!(weighted < plain, "{kind:?}: {weighted} {plain}");
        }
    }

    #[test]
    fn zeros_extremes_and_what_lies_on_levels() {
        for kind in KINDS {
            assert!(round_trip(kind, &[0.0; ROWS * 32], &[]).iter().all(|x| *x == 0.0), "{kind:?}");
            // One weight among zeros, down to subnormals and up to the largest.
            for one in [1.0, -3.0, 1e-15, -1e-42, 0.99 * LARGEST] {
                let mut x = [0.0; ROWS * 64];
                x[5 * 64 + 40] = one;
                let y = round_trip(kind, &x, &[]);
                assert!(y.iter().all(|y| y.is_finite()), "{kind:?} {one}");
                let off = (y[5 * 64 + 40] - one).abs();
                assert!(off <= one.abs() * 0.1 || one.abs() < 1e-16, "{kind:?}: {one} became {}", y[5 * 64 + 40]);
            }
            let levels: Vec<f32> = (0..1u32 << kind.packed_bits()).map(|code| kind.level(code as u8).into()).collect();
            let x: Vec<f32> = (0..ROWS * 256).map(|i| 0.25 * levels[(i * 37 + i / 32) % levels.len()]).collect();
            let error = relative_error(&x, &round_trip(kind, &x, &[]), &[]);
            assert!(error < 1e-3, "{kind:?}: {error}");
        }
    }
}
