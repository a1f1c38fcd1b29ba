//! The state as named tensors, one expert at a time.

use std::io;

use dots_kernels::decode::{Unpacked, decode_row};
use dots_model::{Checkpoint, Error};

use super::{CpuStep, Parameters};
use crate::step::{StateKind, StateTensor, TakeState};

/// What a state holds of each parameter, in order.
const KINDS: [StateKind; 3] = [StateKind::Weight, StateKind::FirstMoment, StateKind::SecondMoment];

impl CpuStep {
    /// Weights and biases of a checkpoint; moments are left as they are.
    pub(super) fn load(&mut self, checkpoint: &Checkpoint) -> Result<(), Error> {
        let isa = self.compute.isa();
        let find = |name: &str| {
            checkpoint
                .tensor(name)
                .ok_or_else(|| Error::invalid(&checkpoint.path, name, "a tensor of the model", "nothing"))
        };
        let Parameters { table, weights, biases, .. } = &mut self.parameters;
        for parameter in &*table {
            let tensor = find(&parameter.name)?;
            let out = &mut weights[parameter.range()];
            if parameter.shape.len() == 1 {
                out.copy_from_slice(&tensor.to_f32_vec()?);
                continue;
            }
            let matrix = tensor.weights()?;
            let mut rows: Vec<&mut [f32]> = out.chunks_mut(matrix.cols()).collect();
            self.compute.for_each(&mut rows, |row, out| {
                decode_row(isa, matrix, row, &mut Unpacked::default(), out);
            });
        }
        let experts = self.config.n_routed_experts;
        for (moe, biases) in biases.chunks_mut(experts).enumerate() {
            match checkpoint.tensor(&bias_name(self.config.first_k_dense_replace + moe)) {
                Some(tensor) => biases.copy_from_slice(&tensor.to_f32_vec()?),
                // Some files leave a bias of zeros out.
                None => biases.fill(0.0),
            }
        }
        Ok(())
    }

    pub(super) fn give_state(&mut self, give: &mut dyn FnMut(StateTensor<'_>) -> io::Result<()>) -> io::Result<()> {
        self.each(&mut |name, kind, shape, numbers| give(StateTensor { name, kind, shape, numbers }))
    }

    pub(super) fn take_state(&mut self, updates: u64, take: &mut TakeState<'_>) -> io::Result<()> {
        // A step that was under way is of another state.
        self.step = None;
        self.each(take)?;
        self.parameters.updates = updates;
        Ok(())
    }

    /// Weight, moments, and next to each router's weight its bias.
    fn each(&mut self, see: &mut TakeState<'_>) -> io::Result<()> {
        let experts = self.config.n_routed_experts;
        let Parameters { table, weights, first, second, biases, .. } = &mut self.parameters;
        for parameter in &*table {
            for kind in KINDS {
                let numbers = match kind {
                    StateKind::Weight => &mut weights[parameter.range()],
                    StateKind::FirstMoment => &mut first[parameter.range()],
                    StateKind::SecondMoment => &mut second[parameter.range()],
                };
                see(&parameter.name, kind, &parameter.shape, numbers)?;
            }
            if let (Some(layer), true) = (parameter.layer, parameter.name.ends_with(".mlp.gate.weight")) {
                let moe = layer - self.config.first_k_dense_replace;
                let biases = &mut biases[moe * experts..(moe + 1) * experts];
                see(&bias_name(layer), StateKind::Weight, &[experts], biases)?;
            }
        }
        Ok(())
    }
}

fn bias_name(layer: usize) -> String {
    format!("model.layers.{layer}.mlp.gate.{}", super::parameters::BIAS)
}
