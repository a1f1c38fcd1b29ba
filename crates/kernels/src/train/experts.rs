//! Rows sorted by the expert that they go to, and brought back together.

use super::{
    BLOCK_ROWS,
    cut::{Cut, for_each},
};
use crate::{compute::Compute, isa::for_each_isa};

/// Where each choice of each row stands once all are sorted by expert, rows in order within an expert.
#[derive(Debug)]
pub struct Groups<'a> {
    /// `(experts + 1)`: expert `e` has the slots `starts[e]..starts[e + 1]`.
    pub starts: &'a mut [usize],
    /// `(rows · top_k)`: the row of each slot.
    pub rows: &'a mut [u32],
    /// `(rows · top_k)`: the weight of each slot.
    pub weights: &'a mut [f32],
    /// `(rows, top_k)`: the slot of each choice.
    pub slots: &'a mut [u32],
}

/// Sorts choices: `chosen, weights: (rows, top_k)`.
pub fn group(chosen: &[u32], weights: &[f32], top_k: usize, groups: &mut Groups<'_>) {
    let starts = &mut *groups.starts;
    starts.fill(0);
    for expert in chosen {
        starts[*expert as usize + 1] += 1;
    }
    for expert in 1..starts.len() {
        starts[expert] += starts[expert - 1];
    }
    for (choice, expert) in chosen.iter().enumerate() {
        // The start moves on with each slot that is given, and so becomes the next one's start.
        let slot = starts[*expert as usize];
        starts[*expert as usize] += 1;
        groups.rows[slot] = (choice / top_k) as u32;
        groups.weights[slot] = weights[choice];
        groups.slots[choice] = slot as u32;
    }
    starts.rotate_right(1);
    starts[0] = 0;
}

/// `out[row] = Σ base[row] + Σ expert_out[slot]`, the row's slots in the order of choice; without bases, slots are added to what is
/// in `out`.
///
/// `expert_out: (rows · top_k, width)`; `slots: (rows, top_k)`; each of `bases`, and `out`: `(rows, width)`.
pub fn combine(
    compute: &Compute,
    expert_out: &[f32],
    slots: &[u32],
    top_k: usize,
    width: usize,
    bases: &[&[f32]],
    out: &mut [f32],
) {
    for_each(compute, Cut::new(out, BLOCK_ROWS * width), |index, out| {
        for (row, out) in out.chunks_exact_mut(width).enumerate() {
            let row = index * BLOCK_ROWS + row;
            for (which, base) in bases.iter().enumerate() {
                let base = &base[row * width..][..width];
                if which == 0 { out.copy_from_slice(base) } else { add(compute.isa(), base, out) }
            }
            for slot in &slots[row * top_k..][..top_k] {
                add(compute.isa(), &expert_out[*slot as usize * width..][..width], out);
            }
        }
    });
}

/// `out[choice] = by_slot[slots[choice]]`.
pub fn ungroup(by_slot: &[f32], slots: &[u32], out: &mut [f32]) {
    for (out, slot) in out.iter_mut().zip(slots) {
        *out = by_slot[*slot as usize];
    }
}

for_each_isa! {
    fn add(x: &[f32], out: &mut [f32]) = add_body
}

#[inline(always)]
fn add_body(x: &[f32], out: &mut [f32]) {
    for (out, x) in out.iter_mut().zip(x) {
        *out += x;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::check::numbers;

    #[test]
    fn choices_are_sorted_by_expert_and_found_again() {
        let (rows, top_k, width) = (BLOCK_ROWS + 1, 2, 5);
        let chosen: Vec<u32> = (0..rows).flat_map(|row| [(row % 3) as u32, 3 + (row % 2) as u32]).collect();
        let weights = numbers(rows * top_k, 1);
        let mut starts = [7; 7];
        let (mut of_slot, mut by_slot) = (vec![0; rows * top_k], vec![0.0; rows * top_k]);
        let mut slots = vec![0; rows * top_k];
        let mut groups = Groups { starts: &mut starts, rows: &mut of_slot, weights: &mut by_slot, slots: &mut slots };
        group(&chosen, &weights, top_k, &mut groups);
        assert_eq!(starts, [0, 11, 22, 33, 50, 66, 66]);
        for (choice, expert) in chosen.iter().enumerate() {
            let slot = slots[choice] as usize;
            assert!((starts[*expert as usize]..starts[*expert as usize + 1]).contains(&slot));
            assert_eq!((of_slot[slot], by_slot[slot]), ((choice / top_k) as u32, weights[choice]));
        }
        for experts in starts.windows(2) {
            assert!(of_slot[experts[0]..experts[1]].is_sorted());
        }
        let mut again = vec![0.0; rows * top_k];
        ungroup(&by_slot, &slots, &mut again);
        assert_eq!(again, weights);

        let (expert_out, base) = (numbers(rows * top_k * width, 2), numbers(rows * width, 3));
        let compute = Compute::new(2, 0);
        let mut out = vec![0.0; rows * width];
        combine(&compute, &expert_out, &slots, top_k, width, &[&base], &mut out);
        let mut in_place = base.clone();
        combine(&compute, &expert_out, &slots, top_k, width, &[], &mut in_place);
        assert_eq!(in_place, out);
        for i in 0..rows * width {
            let part = |choice: usize| expert_out[slots[i / width * top_k + choice] as usize * width + i % width];
            assert_eq!(out[i], base[i] + part(0) + part(1));
        }
    }
}
