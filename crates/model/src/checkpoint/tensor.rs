//! One tensor, wherever it lies.

use std::{path::Path, sync::Arc};

use bytes::Bytes;
use dots_kernels::{WeightType, Weights};
use half::{bf16, f16};

use crate::Error;

/// One tensor as it lies in its file.
#[derive(Debug, Clone)]
pub struct Tensor {
    /// How its numbers are stored.
    pub kind: WeightType,
    /// `[rows, cols]` of a matrix or `[len]` of a vector, `cols` contiguous.
    pub shape: Vec<usize>,
    /// Its bytes, mapped. They begin wherever the file has them: nothing may be assumed of their alignment.
    pub data: Bytes,
    /// One factor a row for FP8; empty otherwise.
    pub row_scales: Arc<[f32]>,
    /// The file that holds it, for messages.
    pub file: Arc<Path>,
}

impl Tensor {
    /// Bytes that it takes, its row scales included.
    pub fn bytes(&self) -> u64 {
        self.data.len() as u64 + size_of_val(&*self.row_scales) as u64
    }

    /// The matrix, borrowed from the mapping: no copy, no allocation. Fails for anything but two dimensions.
    pub fn weights(&self) -> Result<Weights<'_>, Error> {
        let [rows, cols] = self.shape[..] else {
            return Err(self.invalid("a matrix", format!("shape {:?}", self.shape)));
        };
        Weights::new(self.kind, rows, cols, &self.data, &self.row_scales)
            .map_err(|error| self.invalid(format!("bytes of a {rows} x {cols} matrix"), error.to_string()))
    }

    /// All its numbers as f32, in order: for norms, biases and other small tensors of F32, F16 or BF16.
    pub fn to_f32_vec(&self) -> Result<Vec<f32>, Error> {
        let data = &self.data[..];
        Ok(match self.kind {
            WeightType::F32 => data.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
            WeightType::F16 => data.as_chunks().0.iter().map(|bytes| f16::from_le_bytes(*bytes).to_f32()).collect(),
            WeightType::BF16 => data.as_chunks().0.iter().map(|bytes| bf16::from_le_bytes(*bytes).to_f32()).collect(),
            kind => return Err(self.invalid("F32, F16 or BF16", kind.name())),
        })
    }

    fn invalid(&self, expected: impl Into<String>, found: impl Into<String>) -> Error {
        Error::invalid(&*self.file, "tensor", expected, found)
    }
}
