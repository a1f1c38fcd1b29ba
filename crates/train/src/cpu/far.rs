//! A mixture whose experts are shared among ranks: rows go to the ranks that own their experts, and come back.

use dots_kernels::train::{
    DataMut, View, products,
    swiglu::{swiglu_backward, swiglu_forward},
};

use dots_model::Config;

use super::{
    buffers::{Kept, Scratch},
    layer::{Pass, by_expert, expert_of, linear, through},
    parameters::{Mlp, Moe},
};
use crate::{comm::Comm, step::StepError};

/// Rows that other ranks' routers, and this one's, sent to the experts that are here. How many come is not known before they do: they
/// are held as they came, and planned for the most that can.
#[derive(Debug, Default)]
pub(super) struct Guests {
    /// Rows from each rank.
    counts: Vec<usize>,
    /// `(experts here + 1)`: expert `e` has the slots `starts[e]..starts[e + 1]`.
    starts: Vec<usize>,
    /// `(slots)`: which of the rows, in the order that they came in, each is.
    rows: Vec<u32>,
    /// `(slots)`
    weights: Vec<f32>,
    /// `(rows, hidden)`, as they came.
    x: Vec<f32>,
    /// `(slots, 2 · expert width)`
    gate_up: Vec<f32>,
}

impl Guests {
    /// Most rows that can come from `ranks` of `tokens` rows each: a row goes to an expert once.
    pub(super) fn most_rows(config: &Config, tokens: usize, ranks: usize) -> usize {
        let here = config.n_routed_experts / ranks;
        tokens.saturating_mul(ranks).saturating_mul(config.num_experts_per_tok.min(here))
    }

    /// Sorts rows that came from ranks, by expert within each, to slots by expert, by rank within each. `sizes: (ranks, experts here)`:
    /// rows for each expert from each rank.
    fn sort(&mut self, sizes: &[usize], experts: usize) {
        self.counts = sizes.chunks_exact(experts).map(|of_rank| of_rank.iter().sum()).collect();
        // Where the rows of each rank for each expert begin.
        let firsts: Vec<usize> = sizes
            .iter()
            .scan(0, |end, size| {
                *end += size;
                Some(*end - size)
            })
            .collect();
        self.rows.clear();
        self.starts.clear();
        self.starts.push(0);
        for expert in 0..experts {
            for at in (expert..sizes.len()).step_by(experts) {
                self.rows.extend((firsts[at]..firsts[at] + sizes[at]).map(|row| row as u32));
            }
            self.starts.push(self.rows.len());
        }
    }

    /// Numbers of `width` a slot, back in the order in which rows came.
    fn as_they_came(&self, of_slots: &[f32], width: usize) -> Vec<f32> {
        let mut rows = vec![0.0; of_slots.len()];
        for (row, of_slot) in self.rows.iter().zip(of_slots.chunks_exact(width)) {
            rows[*row as usize * width..][..width].copy_from_slice(of_slot);
        }
        rows
    }
}

impl Pass<'_> {
    /// As [`Pass::experts_forward`] would leave it, had it all experts.
    pub(super) fn far_forward(
        &self,
        way: &dyn Comm,
        moe: &Moe<&[f32]>,
        kept: &mut Kept,
        scratch: &mut Scratch,
    ) -> Result<(), StepError> {
        let (config, compute, n) = (self.config, self.compute, self.rows());
        let (hidden, top_k) = (config.hidden_size, config.num_experts_per_tok);
        let (width, shared_width) = (config.moe_intermediate_size, config.shared_intermediate_size());
        let here = config.n_routed_experts / way.ranks();
        let x = &scratch.normed.exact[..n * hidden];
        let routing = &kept.routing;
        let sizes: Vec<usize> = routing.starts.windows(2).map(|ends| ends[1] - ends[0]).collect();
        let sent: Vec<usize> = sizes.chunks_exact(here).map(|of_rank| of_rank.iter().sum()).collect();
        let guests = &mut kept.guests;
        guests.sort(&exchange_sizes(way, &sizes, here)?, here);
        guests.x = exchange(way, &gathered(x, &routing.slot_rows[..n * top_k], hidden), &sent, hidden)?;
        let weights = exchange(way, &routing.slot_weights[..n * top_k], &sent, 1)?;
        guests.weights = guests.rows.iter().map(|row| weights[*row as usize]).collect();

        let slots = guests.rows.len();
        guests.gate_up.resize(slots * 2 * width, 0.0);
        let shared_gate_up = &mut kept.gate_up[..n * 2 * shared_width];
        let mut jobs = Vec::with_capacity(here + 1);
        let shared = View::new(moe.shared.gate_up, 2 * shared_width, hidden);
        jobs.push(linear(scratch.normed.view(n, hidden), shared, &mut *shared_gate_up));
        let rows = View::new(&guests.x, slots, hidden);
        for (expert, slots, out) in by_expert(&guests.starts, &mut guests.gate_up, 2 * width) {
            let gate_up = View::new(expert_of(config, moe.experts, expert).gate_up, 2 * width, hidden);
            jobs.push(linear(rows.gather(&guests.rows[slots]), gate_up, out));
        }
        products(compute, self.precision, &mut jobs);

        let active = scratch.active.data_mut(n * shared_width);
        swiglu_forward(compute, shared_gate_up, None, shared_width, active);
        let mut expert_active = vec![0.0; slots * width];
        let active = DataMut::F32(&mut expert_active);
        swiglu_forward(compute, &guests.gate_up, Some(&guests.weights), width, active);

        let mut expert_out = vec![0.0; slots * hidden];
        let mut jobs = Vec::with_capacity(here + 1);
        let delta = &mut scratch.delta[..n * hidden];
        let down = View::new(moe.shared.down, hidden, shared_width);
        jobs.push(linear(scratch.active.view(n, shared_width), down, delta));
        for (expert, slots, out) in by_expert(&guests.starts, &mut expert_out, hidden) {
            let active = &expert_active[slots.start * width..slots.end * width];
            let down = View::new(expert_of(config, moe.experts, expert).down, hidden, width);
            jobs.push(linear(View::new(active, slots.len(), width), down, out));
        }
        products(compute, self.precision, &mut jobs);
        let back = exchange(way, &guests.as_they_came(&expert_out, hidden), &guests.counts, hidden)?;
        copy(&back, &mut scratch.expert_out[..n * top_k * hidden])
    }

    /// As [`Pass::experts_backward`] would leave it, had it all experts; gradients are of those that are here.
    pub(super) fn far_backward(
        &self,
        way: &dyn Comm,
        moe: &Moe<&[f32]>,
        kept: &mut Kept,
        scratch: &mut Scratch,
        gradients: &mut Moe<&mut [f32]>,
    ) -> Result<(), StepError> {
        let (config, compute, n) = (self.config, self.compute, self.rows());
        let (hidden, top_k) = (config.hidden_size, config.num_experts_per_tok);
        let (width, shared_width) = (config.moe_intermediate_size, config.shared_intermediate_size());
        let here = config.n_routed_experts / way.ranks();
        let sent: Vec<usize> = (0..way.ranks())
            .map(|rank| kept.routing.starts[(rank + 1) * here] - kept.routing.starts[rank * here])
            .collect();
        let d_rows = gathered(&scratch.d_x.exact[..n * hidden], &kept.routing.slot_rows[..n * top_k], hidden);
        let d_rows = exchange(way, &d_rows, &sent, hidden)?;
        let guests = &mut kept.guests;
        let slots = guests.rows.len();
        let (d_rows, rows) = (View::new(&d_rows, slots, hidden), View::new(&guests.x, slots, hidden));
        let (x, d_out) = (scratch.normed.view(n, hidden), scratch.d_x.view(n, hidden));

        let d_active = &mut scratch.d_active[..n * shared_width];
        let mut d_expert_active = vec![0.0; slots * width];
        let mut jobs = Vec::with_capacity(here + 1);
        jobs.push(through(d_out, View::new(moe.shared.down, hidden, shared_width), &mut *d_active));
        for (expert, slots, out) in by_expert(&guests.starts, &mut d_expert_active, width) {
            let down = View::new(expert_of(config, moe.experts, expert).down, hidden, width);
            jobs.push(through(d_rows.gather(&guests.rows[slots]), down, out));
        }
        products(compute, self.precision, &mut jobs);

        let gate_up = &kept.gate_up[..n * 2 * shared_width];
        let (to, active) = (scratch.d_gate_up.data_mut(gate_up.len()), scratch.active.data_mut(n * shared_width));
        swiglu_backward(compute, gate_up, None, shared_width, d_active, to, active);
        let (mut d_weights, mut expert_active) = (vec![0.0; slots], vec![0.0; slots * width]);
        let mut d_gate_up = vec![0.0; slots * 2 * width];
        let weights = Some((&guests.weights[..], &mut d_weights[..]));
        let (to, active) = (DataMut::F32(&mut d_gate_up), DataMut::F32(&mut expert_active));
        swiglu_backward(compute, &guests.gate_up, weights, width, &d_expert_active, to, active);

        let mut expert_out = vec![0.0; slots * hidden];
        let mut jobs = Vec::with_capacity(3 * (here + 1));
        let d_shared = scratch.d_gate_up.view(n, 2 * shared_width);
        jobs.push(self.gradient(d_out, scratch.active.view(n, shared_width), gradients.shared.down));
        jobs.push(self.gradient(d_shared, x, gradients.shared.gate_up));
        let d_normed = &mut scratch.d_normed[..n * hidden];
        jobs.push(through(d_shared, View::new(moe.shared.gate_up, 2 * shared_width, hidden), d_normed));
        let mut outs = by_expert(&guests.starts, &mut expert_out, hidden);
        for (expert, gradient) in gradients.experts.chunks_exact_mut(3 * width * hidden).enumerate() {
            if guests.starts[expert] == guests.starts[expert + 1] {
                // Nobody came: the gradient is exactly zero.
                if !self.accumulate {
                    gradient.fill(0.0);
                }
                continue;
            }
            let (_, slots, out) = outs.next().expect("the experts that have rows, in order");
            let (gradient, weights) = (Mlp::of(width, hidden, gradient), expert_of(config, moe.experts, expert));
            let which = &guests.rows[slots.clone()];
            let active = View::new(&expert_active[slots.start * width..], slots.len(), width);
            let d_gate_up = View::new(&d_gate_up[slots.start * 2 * width..], slots.len(), 2 * width);
            jobs.push(self.gradient(d_rows.gather(which), active, gradient.down));
            jobs.push(self.gradient(d_gate_up, rows.gather(which), gradient.gate_up));
            jobs.push(through(d_gate_up, View::new(weights.gate_up, 2 * width, hidden), out));
        }
        drop(outs);
        products(compute, self.precision, &mut jobs);
        let back = exchange(way, &guests.as_they_came(&expert_out, hidden), &guests.counts, hidden)?;
        copy(&back, &mut scratch.expert_out[..n * top_k * hidden])?;
        let back = exchange(way, &guests.as_they_came(&d_weights, 1), &guests.counts, 1)?;
        copy(&back, &mut scratch.d_slot_weights[..n * top_k])
    }
}

/// Rows of `x: (rows, width)`, one for each of `which`.
fn gathered(x: &[f32], which: &[u32], width: usize) -> Vec<f32> {
    let mut rows = Vec::with_capacity(which.len() * width);
    which.iter().for_each(|row| rows.extend_from_slice(&x[*row as usize * width..][..width]));
    rows
}

/// Sends each rank its rows of `width` numbers, in order; returns those that came.
fn exchange(way: &dyn Comm, rows: &[f32], counts: &[usize], width: usize) -> Result<Vec<f32>, StepError> {
    let counts: Vec<usize> = counts.iter().map(|count| count * width).collect();
    Ok(way.all_to_all(rows, &counts)?.0)
}

/// Tells each rank how many rows come to each of its experts; returns what was told, `(ranks, experts here)`.
fn exchange_sizes(way: &dyn Comm, sizes: &[usize], here: usize) -> Result<Vec<usize>, StepError> {
    // As bits: a number that only travels need not be one.
    let sizes: Vec<f32> = sizes.iter().map(|size| f32::from_bits(*size as u32)).collect();
    let came = exchange(way, &sizes, &vec![1; way.ranks()], here)?;
    Ok(came.into_iter().map(|size| size.to_bits() as usize).collect())
}

/// What came back is of as many rows as went out.
fn copy(from: &[f32], to: &mut [f32]) -> Result<(), StepError> {
    if from.len() != to.len() {
        let (expected, found) = (to.len(), from.len());
        return Err(StepError::Ranks(format!("experts: expected {expected} numbers back, found {found}")));
    }
    to.copy_from_slice(from);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_two_ranks_are_sorted_by_expert_and_go_back_as_they_came() {
        let mut guests = Guests::default();
        // Rank 0 sends two rows to expert 0 and one to expert 2; rank 1 one to each but expert 0.
        guests.sort(&[2, 0, 1, 0, 1, 1], 3);
        assert_eq!(guests.counts, [3, 2]);
        assert_eq!(guests.starts, [0, 2, 3, 5]);
        assert_eq!(guests.rows, [0, 1, 3, 2, 4]);
        assert_eq!(guests.as_they_came(&[0.0, 1.0, 3.0, 2.0, 4.0], 1), [0.0, 1.0, 2.0, 3.0, 4.0]);
    }
}
