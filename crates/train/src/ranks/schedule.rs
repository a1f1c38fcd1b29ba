//! Which forward and backward passes a pipeline stage makes, one after the other.

/// One pass of a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Action {
    /// Which way.
    pub pass: Way,
    /// Which of the stage's pieces, from the model's beginning.
    pub chunk: usize,
    /// Which micro-batch.
    pub micro_batch: usize,
}

/// Through a piece, or back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From its input to its output.
    Forward,
    /// From its output's gradient to its input's.
    Backward,
}

/// The passes of `stage`, in order: interleaved 1F1B (Narayanan et al., 2021) as Megatron-Core orders it, after one more warm-up step as
/// dots.llm1's report has it. `stages` stages hold `chunks` pieces each, piece `chunk · stages + stage` of the model being this one's
/// `chunk`; where there are several, `micro_batches` is a multiple of `stages`.
///
/// First a stage only goes forward, by as many passes as the first backward pass takes to reach it, and one more; then it goes forward
/// and back by turns; then back. A forward pass and the backward pass after it are always of two micro-batches or two pieces whose passes
/// do not wait for each other: that is what the one more step is for, so that the one can compute while rows of the other are on their way
/// between experts. With one stage there is nothing to wait for, and every micro-batch goes there and back.
pub fn schedule(stage: usize, stages: usize, chunks: usize, micro_batches: usize) -> Vec<Action> {
    let total = chunks * micro_batches;
    let warm_up = warm_up(stage, stages, chunks).min(total);
    // Pass `nth` is of a group of `stages` micro-batches, which go through one piece after the other before the next group comes.
    let action = |pass, nth: usize| {
        let (group, in_group) = if chunks == 1 { (nth, 0) } else { (nth / (stages * chunks), nth % (stages * chunks)) };
        let (chunk, micro_batch) = match chunks {
            1 => (0, group),
            _ => (in_group / stages, group * stages + in_group % stages),
        };
        let chunk = if pass == Way::Backward { chunks - 1 - chunk } else { chunk };
        Action { pass, chunk, micro_batch }
    };
    let mut actions: Vec<Action> = (0..warm_up).map(|nth| action(Way::Forward, nth)).collect();
    for nth in warm_up..total {
        actions.push(action(Way::Forward, nth));
        actions.push(action(Way::Backward, nth - warm_up));
    }
    actions.extend((total - warm_up..total).map(|nth| action(Way::Backward, nth)));
    actions
}

/// Forward passes of `stage` before its first backward one, given micro-batches enough.
fn warm_up(stage: usize, stages: usize, chunks: usize) -> usize {
    match (stages, chunks) {
        (1, _) => 0,
        (_, 1) => stages - stage - 1 + 1,
        _ => 2 * (stages - stage - 1) + (chunks - 1) * stages + 1,
    }
}

/// For each piece of `stage`, the most micro-batches that went forward and not yet back at once, however many there are.
pub(super) fn in_flight(stage: usize, stages: usize, chunks: usize) -> Vec<usize> {
    // By then every stage goes forward and back by turns.
    let micro_batches = (4 + chunks) * stages;
    let (mut now, mut most) = (vec![0usize; chunks], vec![0; chunks]);
    for action in schedule(stage, stages, chunks, micro_batches) {
        match action.pass {
            Way::Forward => now[action.chunk] += 1,
            Way::Backward => now[action.chunk] -= 1,
        }
        most[action.chunk] = most[action.chunk].max(now[action.chunk]);
    }
    most
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// Every shape of a small pipeline: stages, pieces of each, micro-batches.
    fn shapes() -> impl Iterator<Item = (usize, usize, usize)> {
        (1..=5).flat_map(|stages| {
            (1..=4).flat_map(move |chunks| {
                (1..=6).filter(move |_| stages > 1 || chunks == 1).flat_map(move |groups| {
                    let micro_batches = if chunks == 1 { groups } else { groups * stages };
                    [(stages, chunks, micro_batches)]
                })
            })
        })
    }

    fn by_stage(stages: usize, chunks: usize, micro_batches: usize) -> Vec<Vec<Action>> {
        (0..stages).map(|stage| schedule(stage, stages, chunks, micro_batches)).collect()
    }

    /// Megatron-Core's order, from its rule: a table of (micro-batch, piece), walked once forward, and once with the pieces the
    /// other way round, after so many forward passes.
    fn megatron(stage: usize, stages: usize, chunks: usize, micro_batches: usize, more: usize) -> Vec<Action> {
        let mut table = Vec::new();
        for first in (0..micro_batches).step_by(stages) {
            for chunk in 0..chunks {
                table.extend((first..(first + stages).min(micro_batches)).map(|micro_batch| (micro_batch, chunk)));
            }
        }
        let warm_up = match chunks {
            1 => stages - stage - 1,
            _ => (stages - stage - 1) * 2 + (chunks - 1) * stages,
        };
        let warm_up = (warm_up + more).min(table.len());
        let mut forward = table.iter().map(|&(micro_batch, chunk)| Action { pass: Way::Forward, chunk, micro_batch });
        let mut backward = table.iter().map(|&(micro_batch, chunk)| Action {
            pass: Way::Backward,
            chunk: chunks - 1 - chunk,
            micro_batch,
        });
        let mut actions: Vec<Action> = forward.by_ref().take(warm_up).collect();
        for action in forward {
            actions.push(action);
            actions.extend(backward.next());
        }
        actions.extend(backward);
        actions
    }

    #[test]
    fn the_order_is_megatrons_after_one_more_warm_up_step() {
        for (stages, chunks, micro_batches) in shapes().filter(|(stages, ..)| *stages > 1) {
            for stage in 0..stages {
                let want = megatron(stage, stages, chunks, micro_batches, 1);
                assert_eq!(schedule(stage, stages, chunks, micro_batches), want);
            }
        }
        // Written out once: two stages of two pieces, the last one.
        use Way::{Backward as B, Forward as F};
        let short: Vec<_> =
            schedule(1, 2, 2, 4).iter().map(|action| (action.pass, action.chunk, action.micro_batch)).collect();
        let want = [
            (F, 0, 0),
            (F, 0, 1),
            (F, 1, 0),
            (F, 1, 1),
            (B, 1, 0),
            (F, 0, 2),
            (B, 1, 1),
            (F, 0, 3),
            (B, 0, 0),
            (F, 1, 2),
            (B, 0, 1),
            (F, 1, 3),
            (B, 1, 2),
            (B, 1, 3),
            (B, 0, 2),
            (B, 0, 3),
        ];
        assert_eq!(short, want);
    }

    #[test]
    fn every_micro_batch_goes_once_through_each_piece_and_once_back() {
        for (stages, chunks, micro_batches) in shapes() {
            for actions in by_stage(stages, chunks, micro_batches) {
                assert_eq!(actions.len(), 2 * chunks * micro_batches);
                let seen: HashSet<_> = actions
                    .iter()
                    .map(|action| (action.pass == Way::Forward, action.chunk, action.micro_batch))
                    .collect();
                assert_eq!(seen.len(), actions.len(), "{stages} {chunks} {micro_batches}");
                assert!(actions.iter().all(|action| action.chunk < chunks && action.micro_batch < micro_batches));
            }
        }
    }

    /// Runs all stages, each until it waits for what another has not made, and demands that messages come in the order in which they
    /// are awaited, as they do between ranks.
    #[test]
    fn no_stage_waits_for_ever_and_messages_come_in_the_order_of_those_who_wait() {
        for (stages, chunks, micro_batches) in shapes() {
            let all = by_stage(stages, chunks, micro_batches);
            let pieces = stages * chunks;
            let mut at = vec![0; stages];
            // What was sent from a stage in a direction and not received, in order.
            let mut sent = vec![[const { Vec::new() }; 2]; stages];
            loop {
                let mut moved = false;
                for stage in 0..stages {
                    while let Some(action) = all[stage].get(at[stage]) {
                        let piece = action.chunk * stages + stage;
                        let (way, from, to) = match action.pass {
                            Way::Forward => (0, piece.checked_sub(1), Some(piece + 1).filter(|&to| to < pieces)),
                            Way::Backward => (1, Some(piece + 1).filter(|&from| from < pieces), piece.checked_sub(1)),
                        };
                        if let Some(from) = from {
                            let waiting: &mut Vec<(usize, usize)> = &mut sent[from % stages][way];
                            if waiting.is_empty() {
                                break;
                            }
                            assert_eq!(waiting.remove(0), (piece, action.micro_batch));
                        }
                        if let Some(to) = to {
                            sent[stage][way].push((to, action.micro_batch));
                        }
                        at[stage] += 1;
                        moved = true;
                    }
                }
                if !moved {
                    break;
                }
            }
            assert!(all.iter().zip(&at).all(|(actions, at)| actions.len() == *at), "{stages} {chunks} {micro_batches}");
        }
    }

    #[test]
    fn no_more_is_in_flight_than_was_planned_and_each_piece_goes_back_in_order() {
        for (stages, chunks, micro_batches) in shapes() {
            for (stage, actions) in by_stage(stages, chunks, micro_batches).into_iter().enumerate() {
                let most = in_flight(stage, stages, chunks);
                let mut flying = vec![Vec::new(); chunks];
                let mut total = 0usize;
                for Action { pass, chunk, micro_batch } in actions {
                    match pass {
                        Way::Forward => {
                            flying[chunk].push(micro_batch);
                            total += 1;
                        }
                        Way::Backward => {
                            assert_eq!(flying[chunk].remove(0), micro_batch);
                            total -= 1;
                        }
                    }
                    assert!(flying[chunk].len() <= most[chunk], "{stages} {chunks} {micro_batches}");
                    assert!(total <= warm_up(stage, stages, chunks) + 1);
                }
            }
        }
    }

    /// Without the one more step, the last stage goes back through what it has only just gone forward through.
    #[test]
    fn what_goes_forward_is_not_what_goes_back_next_to_it() {
        let waits = |actions: &[Action]| {
            let by_turns =
                actions.windows(2).filter(|pair| pair[0].pass == Way::Forward && pair[1].pass == Way::Backward);
            by_turns.filter(|pair| (pair[0].chunk, pair[0].micro_batch) == (pair[1].chunk, pair[1].micro_batch)).count()
        };
        for (stages, chunks, micro_batches) in shapes().filter(|(stages, chunks, micro_batches)| {
            // With nothing after the warm-up, forward passes meet backward ones once.
            *stages > 1 && chunks * micro_batches > warm_up(0, *stages, *chunks)
        }) {
            for stage in 0..stages {
                assert_eq!(waits(&schedule(stage, stages, chunks, micro_batches)), 0);
            }
            assert!(waits(&megatron(stages - 1, stages, chunks, micro_batches, 0)) > 0);
        }
    }
}
