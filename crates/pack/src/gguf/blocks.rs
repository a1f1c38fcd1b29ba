//! Rows of weights as GGUF stores them.

use dots_kernels::{
    Compute, WeightType,
    decode::{Unpacked, decode_row},
    float::f32_to_bf16,
};
use dots_model::checkpoint::Tensor;
use half::f16;

use crate::{Error, stream::Piece};

/// Rows that are computed together, where a matrix has as many.
const ROWS: usize = 64;

/// ggml's number of a type. Those that ggml does not have are never written.
pub fn ggml_type(kind: WeightType) -> u32 {
    match kind {
        WeightType::F32 => 0,
        WeightType::F16 => 1,
        WeightType::Q4_0 => 2,
        WeightType::Q4_1 => 3,
        WeightType::Q5_0 => 6,
        WeightType::Q5_1 => 7,
        WeightType::Q8_0 => 8,
        WeightType::Q2_K => 10,
        WeightType::Q3_K => 11,
        WeightType::Q4_K => 12,
        WeightType::Q5_K => 13,
        WeightType::Q6_K => 14,
        WeightType::IQ4_NL => 20,
        WeightType::IQ4_XS => 23,
        WeightType::BF16 => 30,
        kind => unreachable!("{} is written as another type", kind.name()),
    }
}

/// Some rows of a matrix, or a whole vector.
pub struct Rows<'a> {
    source: &'a Tensor,
    kind: WeightType,
    first: usize,
    rows: usize,
    cols: usize,
    /// Zeros behind them.
    gap: usize,
}

impl<'a> Rows<'a> {
    /// All rows of `source` as pieces, `gap` zeros behind the last.
    pub fn of(source: &'a Tensor, kind: WeightType, gap: usize) -> impl Iterator<Item = Self> {
        let (rows, cols) = match source.shape[..] {
            [rows, cols] => (rows, cols),
            _ => (1, source.shape.iter().product()),
        };
        (0..rows).step_by(ROWS).map(move |first| {
            let count = ROWS.min(rows - first);
            Self { source, kind, first, rows: count, cols, gap: if first + count == rows { gap } else { 0 } }
        })
    }

    fn row_bytes(&self) -> usize {
        self.cols / self.kind.block_len() * self.kind.block_bytes()
    }
}

impl Piece for Rows<'_> {
    fn bytes(&self) -> usize {
        self.rows * self.row_bytes() + self.gap
    }

    fn weights(&self) -> u64 {
        (self.rows * self.cols) as u64
    }

    fn fill(&self, compute: &Compute, out: &mut [u8]) -> Result<(), Error> {
        let row_bytes = self.row_bytes();
        let out = &mut out[..self.rows * row_bytes];
        if self.kind == self.source.kind {
            let start = self.first * row_bytes;
            out.copy_from_slice(&self.source.data[start..start + out.len()]);
            return Ok(());
        }
        if self.source.shape.len() == 1 {
            return encode(self, &self.source.to_f32_vec()?, out);
        }
        let (weights, mut unpacked, mut x) = (self.source.weights()?, Unpacked::default(), vec![0.0; self.cols]);
        for (row, out) in out.chunks_mut(row_bytes).enumerate() {
            decode_row(compute.isa(), weights, self.first + row, &mut unpacked, &mut x);
            encode(self, &x, out)?;
        }
        Ok(())
    }
}

fn encode(rows: &Rows<'_>, x: &[f32], out: &mut [u8]) -> Result<(), Error> {
    let largest = if rows.kind == WeightType::F16 || rows.kind == WeightType::Q8_0 { 65504.0 } else { f32::MAX };
    if let Some(x) = x.iter().find(|x| x.is_nan() || x.abs() > largest) {
        let expected = format!("weights that {} holds", rows.kind.name());
        return Err(dots_model::Error::invalid(&*rows.source.file, "tensor", expected, x.to_string()).into());
    }
    match rows.kind {
        WeightType::F32 => out.as_chunks_mut().0.iter_mut().zip(x).for_each(|(out, x)| *out = x.to_le_bytes()),
        WeightType::F16 => {
            out.as_chunks_mut().0.iter_mut().zip(x).for_each(|(out, x)| *out = f16::from_f32(*x).to_le_bytes());
        }
        WeightType::BF16 => {
            out.as_chunks_mut().0.iter_mut().zip(x).for_each(|(out, x)| *out = f32_to_bf16(*x).to_le_bytes());
        }
        WeightType::Q8_0 => {
            let blocks = out.as_chunks_mut::<34>().0.iter_mut();
            blocks.zip(x.as_chunks().0).for_each(|(out, x)| q8_0(x, out));
        }
        kind => unreachable!("{} is copied and never computed", kind.name()),
    }
    Ok(())
}

/// ggml's `quantize_row_q8_0_ref`.
fn q8_0(x: &[f32; 32], out: &mut [u8; 34]) {
    let largest = x.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
    let scale = largest / 127.0;
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    out[..2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
    for (out, x) in out[2..].iter_mut().zip(x) {
        *out = (x * inverse).round() as i8 as u8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn q8_0_errs_by_half_a_step() {
        let x: [f32; 32] = std::array::from_fn(|i| ((i * 37 % 32) as f32 - 15.5) / 7.0);
        let mut block = [0; 34];
        q8_0(&x, &mut block);
        let scale = f16::from_le_bytes([block[0], block[1]]).to_f32();
        for (x, code) in x.iter().zip(&block[2..]) {
            assert!((x - scale * f32::from(*code as i8)).abs() <= scale * 0.56, "{x}");
        }
        let mut zeros = [1; 34];
        q8_0(&[0.0; 32], &mut zeros);
        assert_eq!(zeros, [0; 34]);
    }
}
