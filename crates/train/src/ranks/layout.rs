//! Which rank holds what.

use std::ops::Range;

use dots_model::Config;

use crate::{
    comm::{Comm, Thread, group},
    cpu::share::{Replica, Share},
    recipe::Ranks,
    step::StepError,
};

/// A model dealt to ranks: rank `stage · data + d` is data rank `d` of pipeline stage `stage`.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    pub(super) ranks: Ranks,
    layers: usize,
    experts: usize,
}

/// One rank's ways to the others. They are made anew for each step, so that a rank that fails drops its ends, and nobody waits for it
/// for ever.
pub(super) struct Ways {
    /// To those that hold the same layers: the same replicas of what is no expert.
    pub(super) data: Thread,
    /// To those that share a layer's experts.
    pub(super) expert: Thread,
    /// To those that hold the same experts.
    pub(super) replicas: Thread,
    /// To the other stages, for activations; and the same for gradients, since the two come in no common order.
    pub(super) forward: Thread,
    pub(super) backward: Thread,
    /// To all.
    pub(super) world: Thread,
}

impl Ways {
    /// To those that share a layer's experts, where anybody does.
    pub(super) fn of_experts(&self) -> Option<&dyn Comm> {
        (self.expert.ranks() > 1).then_some(&self.expert)
    }
}

impl Layout {
    /// Fails where ranks do not divide what they are to share.
    pub(super) fn new(config: &Config, ranks: Ranks) -> Result<Self, StepError> {
        let (layers, experts) = (config.num_hidden_layers, config.n_routed_experts);
        let wrong = |what: &str, expected: String, found: usize| {
            Err(StepError::Ranks(format!("{what}: expected {expected}, found {found}")))
        };
        let Ranks { data, expert, pipeline, interleave } = ranks;
        if data == 0 || data.checked_mul(pipeline).is_none_or(|all| all > MOST) {
            return wrong("ranks.data", format!("1 to {MOST} ranks in all, with {pipeline} stages"), data);
        }
        if expert == 0 || !data.is_multiple_of(expert) || !experts.is_multiple_of(expert) {
            return wrong("ranks.expert", format!("a divisor of {experts} experts and of {data} data ranks"), expert);
        }
        if pipeline == 0 || pipeline > layers {
            return wrong("ranks.pipeline", format!("1 to {layers} stages, a layer or more each"), pipeline);
        }
        if interleave == 0 || (interleave > 1 && (pipeline == 1 || interleave > layers / pipeline)) {
            let expected = format!("1, or with {pipeline} stages at most {layers} pieces of a layer or more in all");
            return wrong("ranks.interleave", expected, interleave);
        }
        Ok(Self { ranks, layers, experts })
    }

    /// How many ranks there are.
    pub(super) fn count(&self) -> usize {
        self.ranks.data * self.ranks.pipeline
    }

    pub(super) fn stage(&self, rank: usize) -> usize {
        rank / self.ranks.data
    }

    pub(super) fn data(&self, rank: usize) -> usize {
        rank % self.ranks.data
    }

    /// The layers of piece `index` of `pipeline · interleave`, as even as they can be.
    pub(super) fn piece(&self, index: usize) -> Range<usize> {
        let pieces = self.ranks.pipeline * self.ranks.interleave;
        self.layers * index / pieces..self.layers * (index + 1) / pieces
    }

    /// The pieces of a stage.
    pub(super) fn pieces(&self, stage: usize) -> Vec<Range<usize>> {
        (0..self.ranks.interleave).map(|chunk| self.piece(chunk * self.ranks.pipeline + stage)).collect()
    }

    /// What a rank holds.
    pub(super) fn share(&self, rank: usize) -> Share {
        let Ranks { data, expert, pipeline, .. } = self.ranks;
        let (stage, d) = (self.stage(rank), self.data(rank));
        let each = self.experts / expert;
        Share {
            layers: self.pieces(stage),
            embedding: stage == 0,
            head: stage + 1 == pipeline,
            experts: d % expert * each..(d % expert + 1) * each,
            replicas: [Replica { index: d, of: data }, Replica { index: d / expert, of: data / expert }],
        }
    }

    /// Every rank's ways to the others, in the order of ranks.
    pub(super) fn ways(&self) -> Vec<Ways> {
        let Ranks { data, expert, pipeline, .. } = self.ranks;
        // Groups of so many, each from the ranks that `of` names alike, in their order.
        let groups = |size: usize, of: &dyn Fn(usize) -> usize| {
            let mut made: Vec<_> = (0..self.count() / size).map(|_| group(size).into_iter()).collect();
            (0..self.count())
                .map(|rank| made[of(rank)].next().expect("a group has as many members as ranks are of it"))
                .collect::<Vec<Thread>>()
                .into_iter()
        };
        let of_data = |rank: usize| rank / data;
        let of_expert = |rank: usize| rank / expert;
        let of_replicas = |rank: usize| rank / data * expert + rank % expert;
        let of_stages = |rank: usize| rank % data;
        let (mut d, mut e) = (groups(data, &of_data), groups(expert, &of_expert));
        let (mut r, mut w) = (groups(data / expert, &of_replicas), groups(self.count(), &|_| 0));
        let (mut forward, mut backward) = (groups(pipeline, &of_stages), groups(pipeline, &of_stages));
        let mut ways = Vec::with_capacity(self.count());
        while let (Some(data), Some(expert), Some(replicas), Some(world), Some(forward), Some(backward)) =
            (d.next(), e.next(), r.next(), w.next(), forward.next(), backward.next())
        {
            ways.push(Ways { data, expert, replicas, forward, backward, world });
        }
        ways
    }
}

/// Most ranks of one process, each a thread.
const MOST: usize = 1024;
