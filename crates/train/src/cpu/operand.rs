//! What products take. Where they round to bf16, whoever makes a number rounds it once for all of them.

use dots_kernels::{
    Compute,
    train::{Data, DataMut, Precision, View, round_to_bf16},
};
use dots_model::Error;

use super::memory::Memory;

/// Numbers that products alone take.
#[derive(Debug)]
pub(super) enum Operand {
    F32(Vec<f32>),
    Bf16(Vec<u16>),
}

impl Operand {
    pub(super) fn new(precision: Precision, shape: &[usize], memory: &mut Memory) -> Result<Self, Error> {
        Ok(match precision {
            Precision::F32 => Self::F32(memory.numbers(shape)?),
            Precision::Bf16 => Self::Bf16(memory.numbers(shape)?),
        })
    }

    /// The first `len`.
    pub(super) fn data(&self, len: usize) -> Data<'_> {
        match self {
            Self::F32(numbers) => Data::F32(&numbers[..len]),
            Self::Bf16(numbers) => Data::Bf16(&numbers[..len]),
        }
    }

    /// The first `len`, to be written.
    pub(super) fn data_mut(&mut self, len: usize) -> DataMut<'_> {
        match self {
            Self::F32(numbers) => DataMut::F32(&mut numbers[..len]),
            Self::Bf16(numbers) => DataMut::Bf16(&mut numbers[..len]),
        }
    }

    /// The first of them as a matrix.
    pub(super) fn view(&self, rows: usize, cols: usize) -> View<'_> {
        View::of(self.data(rows * cols), rows, cols)
    }
}

/// Numbers that products take and others too: in f32 and, where products round, in bf16 as well.
#[derive(Debug)]
pub(super) struct Both {
    pub(super) exact: Vec<f32>,
    /// Empty where products do not round.
    rounded: Vec<u16>,
}

impl Both {
    pub(super) fn new(precision: Precision, shape: &[usize], memory: &mut Memory) -> Result<Self, Error> {
        let rounded = if precision == Precision::F32 { &[0][..] } else { shape };
        Ok(Self { exact: memory.numbers(shape)?, rounded: memory.numbers(rounded)? })
    }

    /// The first `len` of each.
    pub(super) fn parts(&mut self, len: usize) -> (&mut [f32], &mut [u16]) {
        let rounded = len.min(self.rounded.len());
        (&mut self.exact[..len], &mut self.rounded[..rounded])
    }

    /// The first `len` as products take them.
    pub(super) fn data(&self, len: usize) -> Data<'_> {
        if self.rounded.is_empty() { Data::F32(&self.exact[..len]) } else { Data::Bf16(&self.rounded[..len]) }
    }

    /// The first of them as a matrix, as products take it.
    pub(super) fn view(&self, rows: usize, cols: usize) -> View<'_> {
        View::of(self.data(rows * cols), rows, cols)
    }

    /// Rounds the first `len`.
    pub(super) fn round(&mut self, compute: &Compute, len: usize) {
        let (exact, rounded) = self.parts(len);
        if !rounded.is_empty() {
            round_to_bf16(compute, exact, rounded);
        }
    }
}
