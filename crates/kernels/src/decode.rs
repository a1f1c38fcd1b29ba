//! Weights to f32, one row at a time.

use crate::{
    WeightType, Weights,
    float::{bf16_to_f32, e4m3_to_f32, f16_to_f32},
    isa::{Isa, for_each_isa},
    packed,
    prefetch::{Again, Ahead},
    unpack::unpack_row,
};

/// A quantised row on its way to f32, reused from row to row.
#[derive(Debug, Default)]
pub struct Unpacked {
    codes: Vec<u8>,
    scales: Vec<f32>,
    mins: Vec<f32>,
}

impl Unpacked {
    /// Room for a row of `cols` weights of any type.
    pub fn with_capacity(cols: usize) -> Self {
        let vec = |len| Vec::with_capacity(len);
        Self { codes: Vec::with_capacity(cols), scales: vec(cols / 16), mins: vec(cols / 16) }
    }

    /// Bytes that [`Unpacked::with_capacity`] takes.
    pub fn capacity_bytes(cols: usize) -> usize {
        cols + 2 * 4 * (cols / 16)
    }
}

/// Writes row `row` of `weights` to `out: (cols)`, without the row scale of FP8. `unpacked` is scratch.
pub fn decode_row_unscaled(isa: Isa, weights: Weights<'_>, row: usize, unpacked: &mut Unpacked, out: &mut [f32]) {
    let kind = weights.kind();
    if kind.is_packed() {
        weights.panel(row / packed::ROWS).decode_row(row % packed::ROWS, out);
    } else if kind.is_quantised() {
        let Unpacked { codes, scales, mins } = unpacked;
        let groups = weights.cols() / kind.group_len();
        codes.resize(weights.cols(), 0);
        scales.resize(groups, 0.0);
        mins.resize(groups, 0.0);
        unpack_row(isa, kind, weights.row(row), codes, scales, mins);
        scale_codes(isa, kind, codes, scales, mins, out);
    } else {
        convert(isa, kind, weights.row(row), out);
    }
}

/// Writes row `row` of `weights` to `out: (cols)`.
pub fn decode_row(isa: Isa, weights: Weights<'_>, row: usize, unpacked: &mut Unpacked, out: &mut [f32]) {
    decode_row_unscaled(isa, weights, row, unpacked, out);
    if weights.kind() == WeightType::F8_E4M3 {
        let scale = weights.row_scale(row);
        out.iter_mut().for_each(|x| *x *= scale);
    }
}

for_each_isa! {
    fn scale_codes(kind: WeightType, codes: &[u8], scales: &[f32], mins: &[f32], out: &mut [f32]) = scale_codes_body
}

#[inline(always)]
fn scale_codes_body(kind: WeightType, codes: &[u8], scales: &[f32], mins: &[f32], out: &mut [f32]) {
    let offset = f32::from(kind.code_offset());
    match kind.group_len() {
        16 => scale_groups::<16>(offset, codes, scales, mins, out),
        _ => scale_groups::<32>(offset, codes, scales, mins, out),
    }
}

#[inline(always)]
fn scale_groups<const G: usize>(offset: f32, codes: &[u8], scales: &[f32], mins: &[f32], out: &mut [f32]) {
    let (codes, _) = codes.as_chunks::<G>();
    let (out, _) = out.as_chunks_mut::<G>();
    for (((codes, scale), min), out) in codes.iter().zip(scales).zip(mins).zip(out) {
        for i in 0..G {
            out[i] = scale * (f32::from(codes[i]) - offset) + min;
        }
    }
}

for_each_isa! {
    fn convert(kind: WeightType, bytes: &[u8], out: &mut [f32]) = convert_body
}

/// Converts a stretch at a time, each after the one that lies ahead of it was asked for.
#[inline(always)]
fn convert_body(kind: WeightType, bytes: &[u8], out: &mut [f32]) {
    const STRETCH: usize = 512;
    let mut ahead = Again::new();
    for (bytes, out) in bytes.chunks(STRETCH).zip(out.chunks_mut(STRETCH / kind.block_bytes())) {
        ahead.step(bytes.as_ptr(), STRETCH);
        convert_stretch(kind, bytes, out);
    }
}

#[inline(always)]
fn convert_stretch(kind: WeightType, bytes: &[u8], out: &mut [f32]) {
    match kind {
        WeightType::F32 => {
            for (x, bytes) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *x = f32::from_le_bytes(*bytes);
            }
        }
        WeightType::F16 => {
            for (x, bytes) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *x = f16_to_f32(u16::from_le_bytes(*bytes));
            }
        }
        WeightType::BF16 => {
            for (x, bytes) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *x = bf16_to_f32(u16::from_le_bytes(*bytes));
            }
        }
        WeightType::F8_E4M3 => {
            for (x, byte) in out.iter_mut().zip(bytes) {
                *x = e4m3_to_f32(*byte);
            }
        }
        _ => unreachable!("quantised types are unpacked"),
    }
}
