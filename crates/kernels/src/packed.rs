//! The layout of dots' own quantised types: panels of sixteen rows that kernels read as they lie.
//!
//! A matrix `(rows, cols)` is `⌈rows / 16⌉` panels one after the other; the last is filled up with rows of zeros. A panel is
//!
//! | part | bytes |
//! | --- | --- |
//! | codes: `cols / 32` tiles of 16 rows by 32 columns | `cols / 32 · 64 · bits` |
//! | scales: `(cols / 32, 16)` of i8, then zeros up to a multiple of 64 | `⌈cols / 4 / 64⌉ · … 64` |
//! | row scales: 16 of f32 | 64 |
//!
//! and a weight is `row_scale · scale · level(code)`, where `level` is a table of [`Q3_LEVELS`] or [`Q4_LEVELS`], or the code less
//! half its range. All is little-endian, every part begins at a multiple of 64 bytes, and `k` can be cut between any two tiles.
//!
//! Within a tile, *vector* `v` (0 to 7) is the 64 codes of columns `4v..4v + 4` of the sixteen rows: code `4 · row + i` is of column
//! `4v + i`. A vector is one register of AVX-512, with a row a lane, as products by fours of 8-bit numbers want it; AVX2 and NEON
//! read halves and quarters of it. Codes of fewer than 8 bits are spread over planes, each byte of a plane holding bits
//! of the codes at its own place in several vectors:
//!
//! | plane | registers of 64 bytes | of vector `v`, byte `b` of register … |
//! | --- | --- | --- |
//! | 8 bits | 8 | `v`: the whole code |
//! | 4 bits | 4 | `v / 2`: the low half for even `v`, the high half for odd |
//! | 2 bits | 2 | `v / 4`: bits `2 · (v % 4)` and the next |
//! | 1 bit | 1 | 0: bit `v` |
//!
//! Q8_D is the plane of 8; Q6_D those of 4 (low bits) and 2; Q5_D of 4 and 1; Q4_D of 4; Q3_D of 2 and 1.

use crate::WeightType;

/// Name of this layout, as packed files say it.
pub const LAYOUT: &str = "dots-panel-16x32-v1";

/// Rows in a panel.
pub const ROWS: usize = 16;

/// Columns in a tile; weights that share a scale.
pub const GROUP: usize = 32;

/// Codes in a tile.
pub const TILE: usize = ROWS * GROUP;

/// Codes in a vector.
pub const VECTOR: usize = 4 * ROWS;

/// Levels of [`WeightType::Q4_D`]: for a scale fitted to each group, about the least squared error on normal and somewhat
/// heavier tails. The largest magnitude is -127, so the scale's sign says on which side a group reaches furthest.
pub const Q4_LEVELS: [i8; 16] = [-127, -97, -74, -58, -43, -31, -20, -9, 1, 12, 22, 34, 46, 61, 79, 104];

/// Levels of [`WeightType::Q3_D`].
pub const Q3_LEVELS: [i8; 8] = [-127, -76, -43, -17, 5, 30, 58, 100];

impl WeightType {
    /// Bits of a code of a packed type; 0 of others.
    pub const fn packed_bits(self) -> usize {
        match self {
            Self::Q3_D => 3,
            Self::Q4_D => 4,
            Self::Q5_D => 5,
            Self::Q6_D => 6,
            Self::Q8_D => 8,
            _ => 0,
        }
    }

    /// What a code of a packed type stands for, before its scales; codes from `2^bits` on stand for nothing.
    pub const fn level(self, code: u8) -> i8 {
        match self {
            Self::Q3_D => Q3_LEVELS[code as usize & 7],
            Self::Q4_D => Q4_LEVELS[code as usize & 15],
            Self::Q5_D => code as i8 - 16,
            Self::Q6_D => code as i8 - 32,
            _ => (code ^ 0x80) as i8,
        }
    }
}

/// Bytes of one panel of `cols` columns, a multiple of [`GROUP`]; `None` where that overflows.
pub const fn panel_bytes(kind: WeightType, cols: usize) -> Option<usize> {
    let tiles = cols / GROUP;
    let Some(codes) = tiles.checked_mul(TILE / 8 * kind.packed_bits()) else { return None };
    let Some(scales) = scale_bytes(tiles).checked_add(4 * ROWS) else { return None };
    codes.checked_add(scales)
}

/// Bytes of the scales of `tiles` tiles.
const fn scale_bytes(tiles: usize) -> usize {
    // Tiles that overflow here have overflowed as codes before.
    tiles.saturating_mul(ROWS).div_ceil(64).saturating_mul(64)
}

/// Sixteen rows of a packed matrix.
#[derive(Clone, Copy, Debug)]
pub struct Panel<'a> {
    kind: WeightType,
    cols: usize,
    /// `(cols / 32)` tiles.
    codes: &'a [u8],
    /// `(cols / 32, ROWS)`, then padding.
    scales: &'a [u8],
    /// `(ROWS)` of f32.
    row_scales: &'a [u8; 4 * ROWS],
}

impl<'a> Panel<'a> {
    /// The parts of a panel. Panics where `bytes` is not [`panel_bytes`] long.
    pub fn new(kind: WeightType, cols: usize, bytes: &'a [u8]) -> Self {
        let tiles = cols / GROUP;
        let (codes, rest) = bytes.split_at(tiles * TILE / 8 * kind.packed_bits());
        let (scales, row_scales) = rest.split_at(scale_bytes(tiles));
        let row_scales = row_scales.as_array().expect("a panel ends with its row scales");
        Self { kind, cols, codes, scales, row_scales }
    }

    /// How the weights are stored.
    pub fn kind(&self) -> WeightType {
        self.kind
    }

    /// Inputs of the product.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// `(cols / 32)` tiles of codes.
    pub fn codes(&self) -> &'a [u8] {
        self.codes
    }

    /// `(cols / 32, ROWS)`, each an i8, then padding.
    pub fn scales(&self) -> &'a [u8] {
        self.scales
    }

    /// One factor a row, as [`Panel::row_scales`] reads them.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn row_scale_bytes(&self) -> &'a [u8; 4 * ROWS] {
        self.row_scales
    }

    /// One factor a row.
    pub fn row_scales(&self) -> [f32; ROWS] {
        let numbers = self.row_scales.as_chunks::<4>().0;
        std::array::from_fn(|row| f32::from_le_bytes(numbers[row]))
    }

    /// The code of one weight.
    pub fn code(&self, row: usize, col: usize) -> u8 {
        code(self.kind, self.tile(col / GROUP), row, col % GROUP)
    }

    fn tile(&self, tile: usize) -> &'a [u8] {
        let bytes = TILE / 8 * self.kind.packed_bits();
        &self.codes[tile * bytes..(tile + 1) * bytes]
    }

    /// Writes one row to `out: (cols)`.
    pub fn decode_row(&self, row: usize, out: &mut [f32]) {
        // Compiled for each type: a choice for each weight costs more than the weight.
        match self.kind {
            WeightType::Q3_D => self.decode_row_of(WeightType::Q3_D, row, out),
            WeightType::Q4_D => self.decode_row_of(WeightType::Q4_D, row, out),
            WeightType::Q5_D => self.decode_row_of(WeightType::Q5_D, row, out),
            WeightType::Q6_D => self.decode_row_of(WeightType::Q6_D, row, out),
            kind => self.decode_row_of(kind, row, out),
        }
    }

    #[inline(always)]
    fn decode_row_of(&self, kind: WeightType, row: usize, out: &mut [f32]) {
        let row_scale = self.row_scales()[row];
        for (group, out) in out[..self.cols].chunks_exact_mut(GROUP).enumerate() {
            let tile = self.tile(group);
            let scale = row_scale * f32::from(self.scales[group * ROWS + row] as i8);
            for (i, out) in out.iter_mut().enumerate() {
                *out = scale * f32::from(kind.level(code(kind, tile, row, i)));
            }
        }
    }
}

/// The code of the weight in `row` and `col` of a tile.
#[inline(always)]
fn code(kind: WeightType, tile: &[u8], row: usize, col: usize) -> u8 {
    let (v, b) = (col / 4, 4 * row + col % 4);
    let four = |plane: &[u8]| (plane[v / 2 * VECTOR + b] >> (4 * (v % 2))) & 15;
    let two = |plane: &[u8]| (plane[v / 4 * VECTOR + b] >> (2 * (v % 4))) & 3;
    let one = |plane: &[u8]| (plane[b] >> v) & 1;
    match kind {
        WeightType::Q3_D => two(tile) | one(&tile[TILE / 4..]) << 2,
        WeightType::Q4_D => four(tile),
        WeightType::Q5_D => four(tile) | one(&tile[TILE / 2..]) << 4,
        WeightType::Q6_D => four(tile) | two(&tile[TILE / 2..]) << 4,
        _ => tile[v * VECTOR + b],
    }
}

/// Writes a panel to `out`, which is [`panel_bytes`] long: `codes: (ROWS, cols)`, `scales: (ROWS, cols / 32)`. What a panel's
/// last rows lack is for the caller to fill with scales of zero.
pub fn write_panel(
    kind: WeightType,
    cols: usize,
    codes: &[u8],
    scales: &[i8],
    row_scales: &[f32; ROWS],
    out: &mut [u8],
) {
    let (tiles, bits) = (cols / GROUP, kind.packed_bits());
    assert!(kind.is_packed() && cols.is_multiple_of(GROUP));
    assert_eq!((codes.len(), scales.len(), Some(out.len())), (ROWS * cols, ROWS * tiles, panel_bytes(kind, cols)));
    out.fill(0);
    let (out_codes, rest) = out.split_at_mut(tiles * TILE / 8 * bits);
    let (out_scales, out_row_scales) = rest.split_at_mut(scale_bytes(tiles));
    for (tile, out) in out_codes.chunks_mut(TILE / 8 * bits).enumerate() {
        for row in 0..ROWS {
            out_scales[tile * ROWS + row] = scales[row * tiles + tile] as u8;
            for i in 0..GROUP {
                let code = codes[row * cols + tile * GROUP + i];
                debug_assert!(bits == 8 || code >> bits == 0);
                let (v, b) = (i / 4, 4 * row + i % 4);
                let four = v / 2 * VECTOR + b;
                match kind {
                    WeightType::Q3_D => {
                        out[v / 4 * VECTOR + b] |= (code & 3) << (2 * (v % 4));
                        out[TILE / 4 + b] |= (code >> 2) << v;
                    }
                    WeightType::Q4_D => out[four] |= code << (4 * (v % 2)),
                    WeightType::Q5_D => {
                        out[four] |= (code & 15) << (4 * (v % 2));
                        out[TILE / 2 + b] |= (code >> 4) << v;
                    }
                    WeightType::Q6_D => {
                        out[four] |= (code & 15) << (4 * (v % 2));
                        out[TILE / 2 + v / 4 * VECTOR + b] |= (code >> 4) << (2 * (v % 4));
                    }
                    _ => out[v * VECTOR + b] = code,
                }
            }
        }
    }
    for (out, scale) in out_row_scales.as_chunks_mut::<4>().0.iter_mut().zip(row_scales) {
        *out = scale.to_le_bytes();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KINDS: [WeightType; 5] =
        [WeightType::Q3_D, WeightType::Q4_D, WeightType::Q5_D, WeightType::Q6_D, WeightType::Q8_D];

    #[test]
    fn what_is_written_is_read() {
        for kind in KINDS {
            let cols = 96;
            let code = |row: usize, col: usize| ((row * 31 + col * 7 + row * col) % (1 << kind.packed_bits())) as u8;
            let scale = |row: usize, group: usize| (row as i8 - 8) * (group as i8 + 1);
            let codes: Vec<u8> = (0..ROWS * cols).map(|i| code(i / cols, i % cols)).collect();
            let scales: Vec<i8> = (0..ROWS * 3).map(|i| scale(i / 3, i % 3)).collect();
            let row_scales = std::array::from_fn(|row| 0.5 + row as f32);
            let mut bytes = vec![0xff; panel_bytes(kind, cols).unwrap()];
            write_panel(kind, cols, &codes, &scales, &row_scales, &mut bytes);
            let panel = Panel::new(kind, cols, &bytes);
            let mut decoded = vec![0.0; cols];
            for row in 0..ROWS {
                panel.decode_row(row, &mut decoded);
                for col in 0..cols {
                    assert_eq!(panel.code(row, col), code(row, col), "{kind:?}");
                    let want =
                        row_scales[row] * f32::from(scale(row, col / 32)) * f32::from(kind.level(code(row, col)));
                    assert_eq!(decoded[col], want, "{kind:?}");
                }
            }
        }
    }

    #[test]
    fn bits_a_weight_of_the_published_widths() {
        for (kind, bits) in KINDS.into_iter().zip([3.26, 4.26, 5.26, 6.26, 8.26]) {
            for cols in [4096, 10944] {
                let bytes = kind.matrix_bytes(4096, cols).unwrap();
                assert!((bytes as f64 * 8.0 / (4096.0 * cols as f64) - bits).abs() < 0.01, "{kind:?}");
            }
            assert!(kind.matrix_bytes(4096, 1408).unwrap().is_multiple_of(64));
        }
    }

    #[test]
    fn levels_rise_and_their_largest_is_the_first() {
        assert!(Q4_LEVELS.is_sorted() && Q3_LEVELS.is_sorted());
        assert!(Q4_LEVELS.iter().chain(&Q3_LEVELS).all(|level| level.unsigned_abs() <= 127));
    }
}
