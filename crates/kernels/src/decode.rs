//! Weights to f32, one row at a time.

use crate::{
    WeightType, Weights,
    float::{bf16_to_f32, e4m3_to_f32, f16_to_f32},
    isa::{Isa, for_each_isa},
    prefetch::prefetch,
    unpack::Unpacked,
};

/// Writes row `row` of `weights` to `out: (cols)`, without the row scale of FP8. `unpacked` is scratch.
pub fn decode_row_unscaled(isa: Isa, weights: Weights<'_>, row: usize, unpacked: &mut Unpacked, out: &mut [f32]) {
    let kind = weights.kind();
    if kind.is_quantised() {
        unpacked.shape(kind, 1, weights.cols());
        unpacked.unpack(isa, kind, weights.row(row), 0);
        scale_codes(isa, kind, &unpacked.codes, &unpacked.scales, &unpacked.mins, out);
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
    for (bytes, out) in bytes.chunks(STRETCH).zip(out.chunks_mut(STRETCH / kind.block_bytes())) {
        prefetch::<STRETCH>(bytes);
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
