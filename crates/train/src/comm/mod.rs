//! The seam between ranks.

mod threads;

pub use threads::{Thread, group};

use crate::step::StepError;

/// One rank's way to the others of its group. Every rank makes the same calls in the same order, with the same lengths where not
/// said otherwise; sums go along a fixed tree, so that they are the same bits on every rank and in every run.
pub trait Comm: Send + std::fmt::Debug {
    /// This rank, below [`Comm::ranks`].
    fn rank(&self) -> usize;

    /// How many ranks there are.
    fn ranks(&self) -> usize;

    /// `data` becomes the sum over all ranks.
    fn all_reduce(&self, data: &mut [f32]) -> Result<(), StepError>;

    /// The same for counts.
    fn all_reduce_counts(&self, data: &mut [u64]) -> Result<(), StepError>;

    /// `out` becomes this rank's share of the sum: `data` cut into [`Comm::ranks`] equal parts.
    fn reduce_scatter(&self, data: &[f32], out: &mut [f32]) -> Result<(), StepError>;

    /// `out` becomes all ranks' `data`, one after the other.
    fn all_gather(&self, data: &[f32], out: &mut [f32]) -> Result<(), StepError>;

    /// `data` cut into parts of `counts[r]` for each rank r; returns what each sent to this one, one after the other, and how much
    /// each sent.
    fn all_to_all(&self, data: &[f32], counts: &[usize]) -> Result<(Vec<f32>, Vec<usize>), StepError>;

    /// Sends to one rank, without waiting for it to receive.
    fn send(&self, to: usize, data: &[f32]) -> Result<(), StepError>;

    /// Receives what `from` sent next.
    fn receive(&self, from: usize, data: &mut [f32]) -> Result<(), StepError>;
}

/// The only rank of its group.
#[derive(Debug, Clone, Copy, Default)]
pub struct Alone;

impl Comm for Alone {
    fn rank(&self) -> usize {
        0
    }

    fn ranks(&self) -> usize {
        1
    }

    fn all_reduce(&self, _data: &mut [f32]) -> Result<(), StepError> {
        Ok(())
    }

    fn all_reduce_counts(&self, _data: &mut [u64]) -> Result<(), StepError> {
        Ok(())
    }

    fn reduce_scatter(&self, data: &[f32], out: &mut [f32]) -> Result<(), StepError> {
        out.copy_from_slice(data);
        Ok(())
    }

    fn all_gather(&self, data: &[f32], out: &mut [f32]) -> Result<(), StepError> {
        out.copy_from_slice(data);
        Ok(())
    }

    fn all_to_all(&self, data: &[f32], counts: &[usize]) -> Result<(Vec<f32>, Vec<usize>), StepError> {
        Ok((data.to_vec(), counts.to_vec()))
    }

    fn send(&self, _to: usize, _data: &[f32]) -> Result<(), StepError> {
        Err(StepError::Ranks("there is no other rank to send to".to_owned()))
    }

    fn receive(&self, _from: usize, _data: &mut [f32]) -> Result<(), StepError> {
        Err(StepError::Ranks("there is no other rank to receive from".to_owned()))
    }
}
