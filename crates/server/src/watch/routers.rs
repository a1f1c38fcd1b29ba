//! What the routers did: each expert's load and bias, and what a layer's balance comes to.

use super::{
    buckets::{Buckets, Merge, Stat},
    line::Router,
};

/// An expert without a token in so many following lines is dead.
pub const DEAD_AFTER_LINES: u64 = 100;

/// Numbers kept of all experts' loads, and as many of their biases: 16 MB each.
const CELLS_KEPT: usize = 4 << 20;

/// Buckets of the curves of all layers together: 48 bytes each.
const CURVES_KEPT: usize = 1 << 19;

/// One layer in some following steps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Balance {
    /// The fullest expert's load over the mean load.
    pub ratio: Stat,
    /// Of the router's distribution, in nats.
    pub entropy: Stat,
    /// Experts that are dead.
    pub dead: Stat,
}

/// All layers in some following steps: (layers).
#[derive(Debug, Clone, PartialEq)]
pub struct Curves(pub Vec<Balance>);

impl Merge for Curves {
    fn merge(&mut self, later: &Self) {
        for (balance, later) in self.0.iter_mut().zip(&later.0) {
            balance.ratio.merge(&later.ratio);
            balance.entropy.merge(&later.entropy);
            balance.dead.merge(&later.dead);
        }
    }
}

/// All experts in some following steps.
#[derive(Debug, Clone, PartialEq)]
pub struct Cells {
    /// How many steps.
    pub count: u32,
    /// Load over the layer's mean load: (layers, experts).
    pub loads: Vec<f32>,
    /// (layers, experts), or empty.
    pub biases: Vec<f32>,
}

impl Merge for Cells {
    fn merge(&mut self, later: &Self) {
        let count = self.count.saturating_add(later.count).max(1);
        let share = later.count as f32 / count as f32;
        for (all, later) in [(&mut self.loads, &later.loads), (&mut self.biases, &later.biases)] {
            all.iter_mut().zip(later).for_each(|(mean, later)| *mean += (later - *mean) * share);
        }
        self.count = count;
    }
}

/// The routers of a run. Their number and their experts' stay as the first line has them.
pub struct Routers {
    /// Each router's layer.
    pub layers: Vec<u32>,
    /// Experts of a layer.
    pub experts: usize,
    pub curves: Buckets<Curves>,
    pub cells: Buckets<Cells>,
    /// Lines with routers so far.
    lines: u64,
    /// Of each expert, the line and the step that last gave it a token: (layers, experts).
    fed: Vec<(u64, u64)>,
}

impl Routers {
    pub fn new(first: &[Router], experts: usize) -> Self {
        let layers: Vec<u32> = first.iter().map(|router| router.layer).collect();
        let cells = (layers.len() * experts).max(1);
        Self {
            experts,
            curves: Buckets::new((CURVES_KEPT / layers.len().max(1)).clamp(64, 8192)),
            cells: Buckets::new((CELLS_KEPT / cells).clamp(64, 8192)),
            lines: 0,
            fed: vec![(0, 0); layers.len() * experts],
            layers,
        }
    }

    /// Takes a step's routers; `Err` where they are not those of the steps before.
    pub fn push(&mut self, step: u64, tokens: u64, routers: &[Router]) -> Result<(), String> {
        let layers = routers.iter().map(|router| router.layer);
        if !layers.eq(self.layers.iter().copied()) || routers.iter().any(|router| router.loads.len() != self.experts) {
            let (found, experts) = (routers.len(), routers.first().map_or(0, |router| router.loads.len()));
            return Err(format!(
                "`routers`: expected {} layers of {} experts as before, found {found} of {experts}",
                self.layers.len(),
                self.experts
            ));
        }
        self.lines += 1;
        let has_biases = routers.iter().all(|router| !router.biases.is_empty());
        let mut cells = Cells { count: 1, loads: Vec::with_capacity(self.fed.len()), biases: Vec::new() };
        let mut curves = Vec::with_capacity(routers.len());
        for (router, fed) in routers.iter().zip(self.fed.chunks_mut(self.experts.max(1))) {
            let mean = router.loads.iter().map(|&load| f64::from(load)).sum::<f64>() / self.experts as f64;
            let mut greatest = 0.0_f64;
            let mut dead = 0;
            for (&load, fed) in router.loads.iter().zip(fed) {
                let ratio = if mean > 0.0 { f64::from(load) / mean } else { 0.0 };
                greatest = greatest.max(ratio);
                cells.loads.push(ratio as f32);
                if load > 0.0 || self.lines == 1 {
                    *fed = (self.lines, step);
                }
                dead += u32::from(self.lines - fed.0 >= DEAD_AFTER_LINES);
            }
            curves.push(Balance {
                ratio: Stat::of((mean > 0.0).then_some(greatest)),
                entropy: Stat::of(router.entropy),
                dead: Stat::of(Some(f64::from(dead))),
            });
            if has_biases {
                cells.biases.extend(router.biases.iter().map(|&bias| if bias.is_finite() { bias } else { 0.0 }));
            }
        }
        self.curves.push(step, tokens, Curves(curves));
        self.cells.push(step, tokens, cells);
        Ok(())
    }

    /// Forgets a step and all after it.
    pub fn cut(&mut self, step: u64) {
        self.curves.cut(step);
        self.cells.cut(step);
    }

    /// Experts that are dead now: layer, expert, and the last step that gave it a token.
    pub fn dead(&self) -> impl Iterator<Item = (u32, usize, u64)> {
        let idle = self.fed.iter().enumerate().filter(|(_, fed)| self.lines - fed.0 >= DEAD_AFTER_LINES);
        idle.map(|(cell, fed)| (self.layers[cell / self.experts], cell % self.experts, fed.1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn router(layer: u32, loads: &[f32]) -> Router {
        let biases = loads.iter().map(|load| -load / 10.0).collect();
        Router { layer, loads: loads.to_vec(), biases, entropy: Some(1.5) }
    }

    #[test]
    fn loads_are_told_beside_their_mean() {
        let routers = [router(1, &[2.0, 1.0, 0.0, 1.0]), router(2, &[0.25; 4])];
        let mut seen = Routers::new(&routers, 4);
        seen.push(1, 10, &routers).unwrap();
        let cells = &seen.cells.all()[0].value;
        assert_eq!(cells.loads, [2.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0]);
        assert_eq!(cells.biases[..2], [-0.2, -0.1]);
        let ratios: Vec<f32> = seen.curves.all()[0].value.0.iter().map(|balance| balance.ratio.mean).collect();
        assert_eq!(ratios, [2.0, 1.0]);
    }

    #[test]
    fn an_expert_that_gets_nothing_for_long_is_dead_until_it_gets_something() {
        let starved = [router(7, &[1.0, 1.0, 0.0])];
        let mut seen = Routers::new(&starved, 3);
        seen.push(0, 0, &[router(7, &[1.0, 1.0, 1.0])]).unwrap();
        for step in 1..=DEAD_AFTER_LINES {
            assert_eq!(seen.dead().count(), 0, "{step}");
            seen.push(step, 0, &starved).unwrap();
        }
        assert_eq!(seen.dead().collect::<Vec<_>>(), [(7, 2, 0)]);
        assert_eq!(seen.curves.all().last().unwrap().value.0[0].dead.max, 1.0);
        seen.push(200, 0, &[router(7, &[1.0, 1.0, 1.0])]).unwrap();
        assert_eq!(seen.dead().count(), 0);
    }

    #[test]
    fn routers_of_another_shape_are_refused() {
        let mut seen = Routers::new(&[router(1, &[1.0; 4])], 4);
        let refused = seen.push(1, 0, &[router(1, &[1.0; 5])]).unwrap_err();
        assert_eq!(refused, "`routers`: expected 1 layers of 4 experts as before, found 1 of 5");
        assert!(seen.push(1, 0, &[router(2, &[1.0; 4])]).is_err());
        // A layer without experts is none to divide by.
        let mut none = Routers::new(&[router(1, &[])], 0);
        none.push(1, 0, &[router(1, &[])]).unwrap();
        assert_eq!(none.dead().count(), 0);
    }

    #[test]
    fn means_of_many_steps_are_kept_in_bounded_room() {
        let mut seen = Routers::new(&[router(1, &vec![1.0; 4096]), router(2, &vec![1.0; 4096])], 4096);
        for step in 0..2000 {
            let loads: Vec<f32> = (0..4096).map(|expert| if expert == 0 { (step % 2) as f32 } else { 0.5 }).collect();
            seen.push(step, 0, &[router(1, &loads), router(2, &loads)]).unwrap();
        }
        assert!(seen.cells.all().len() <= 512);
        let cells = &seen.cells.all()[10].value;
        assert!((cells.loads[0] - 1.0).abs() < 0.01 && cells.count > 1, "{}", cells.loads[0]);
    }
}
