//! The state as named tensors, one expert at a time.

use std::{io, ops::Range};

use dots_kernels::decode::{Unpacked, decode_row};
use dots_model::{Checkpoint, Error, checkpoint::expected_tensors};

use super::{
    parameters::{BIAS, Parameters},
    part::Part,
    share::layer_of,
};
use crate::{
    recipe::check_start,
    step::{StateKind, TakeState},
};

/// What a state holds of each parameter, in order.
const KINDS: [StateKind; 3] = [StateKind::Weight, StateKind::FirstMoment, StateKind::SecondMoment];

impl Part {
    /// Weights and biases of a checkpoint, whose shapes must be the part's; moments are left as they are.
    pub(crate) fn load(&mut self, checkpoint: &Checkpoint) -> Result<(), Error> {
        check_start(checkpoint, &self.config)?;
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
}

/// Shows weights, moments and biases of the whole model, which `parts` hold together, in published order: every tensor once, whole, and
/// what is changed of it is changed wherever it is held.
pub(crate) fn each(parts: &mut [Part], see: &mut TakeState<'_>) -> io::Result<()> {
    let Some(config) = parts.first().map(|part| part.config.clone()) else { return Ok(()) };
    let experts = config.n_routed_experts;
    // How far each part's table was seen: all are in published order.
    let mut seen = vec![0; parts.len()];
    let mut whole = Vec::new();
    for (name, shape) in expected_tensors(&config) {
        if let Some(layer) = name.ends_with(BIAS).then(|| layer_of(&name)).flatten() {
            // Every part has room for the biases of all layers, and moves those of its own.
            let at = (layer - config.first_k_dense_replace) * experts;
            let holder = parts.iter().position(|part| part.parameters.rooms.has_layer(layer));
            let mut biases = parts[holder.unwrap_or(0)].parameters.biases[at..at + experts].to_vec();
            see(&name, StateKind::Weight, &shape, &mut biases)?;
            parts.iter_mut().for_each(|part| part.parameters.biases[at..at + experts].copy_from_slice(&biases));
            continue;
        }
        let held = |(part, seen): (&Part, &mut usize)| {
            let parameter = part.parameters.table.get(*seen).filter(|parameter| parameter.name == name)?;
            *seen += 1;
            Some(parameter.range())
        };
        let ranges: Vec<_> = parts.iter().zip(&mut seen).map(held).collect();
        let only = ranges.iter().flatten().count() == 1;
        for kind in KINDS {
            if only {
                // Nobody else has a piece of it.
                let mut result = Ok(());
                pieces(parts, &ranges, kind, |piece, _| result = see(&name, kind, &shape, piece));
                result?;
                continue;
            }
            whole.clear();
            whole.resize(shape.iter().product(), 0.0);
            pieces(parts, &ranges, kind, |piece, at| whole[at..at + piece.len()].copy_from_slice(piece));
            see(&name, kind, &shape, &mut whole)?;
            pieces(parts, &ranges, kind, |piece, at| piece.copy_from_slice(&whole[at..at + piece.len()]));
        }
    }
    Ok(())
}

/// Every piece of a tensor that a part holds at `ranges`, and where it lies in the tensor.
fn pieces(
    parts: &mut [Part],
    ranges: &[Option<Range<usize>>],
    kind: StateKind,
    mut body: impl FnMut(&mut [f32], usize),
) {
    for (part, range) in parts.iter_mut().zip(ranges) {
        let Some(range) = range else { continue };
        let Parameters { weights, owned, first, second, .. } = &mut part.parameters;
        let moments = match kind {
            StateKind::Weight => {
                body(&mut weights[range.clone()], 0);
                continue;
            }
            StateKind::FirstMoment => first,
            StateKind::SecondMoment => second,
        };
        for (owned, at) in Parameters::owned_of(owned, range) {
            body(&mut moments[at..at + owned.len()], owned.start - range.start);
        }
    }
}

fn bias_name(layer: usize) -> String {
    format!("model.layers.{layer}.mlp.gate.{}", BIAS)
}
