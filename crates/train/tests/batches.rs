//! What lies in a batch and what the model makes of it: padding counts in nothing, and knots can be untied.

mod support;

use std::path::Path;

use dots_kernels::train::Precision;
use dots_model::Checkpoint;
use dots_train::{
    batches::Loader,
    cpu::{CpuStep, Options},
    order,
    recipe::{Optimizer, Recipe},
    rejection::round::Sampled,
    run::{Feed, Sequences},
    shards::{Manifest, ShardWriter},
    step::{ALL_EXPERTS, Dials, NO_TARGET, NO_TOKEN, Step, StepReport, Totals},
};
use support::{golden, tiny};

fn step(tokens: usize) -> CpuStep {
    let config = Checkpoint::open(&golden("hf")).unwrap().config;
    let options = Options {
        precision: Precision::F32,
        recompute: false,
        micro_batch_tokens: 2 * tokens,
        sequence_tokens: tokens,
        threads: 2,
        optimizer: Optimizer::default(),
    };
    CpuStep::random(&config, 7, 0.2, &options).unwrap()
}

/// Two sequences of 12 tokens, and `padding` behind each.
fn sequences(padding: usize) -> Sequences {
    let length = 12 + padding;
    let mut batch = Sequences { sequence_tokens: length, ..Sequences::default() };
    for sequence in 0..2u32 {
        let number = |place: u32| (place * place * 31 + place * 7 + sequence * 101) % 490;
        let from = batch.tokens.len();
        batch.tokens.extend((0..12).map(number));
        batch.targets.extend((1..13).map(number));
        batch.attend_from.extend((0..12).map(|place| if place < 5 { 0 } else { 5 }));
        batch.tokens.resize(from + length, NO_TOKEN);
        batch.targets.resize(from + length, NO_TARGET);
        batch.attend_from.resize(from + length, 12);
    }
    batch
}

fn learnt(padding: usize) -> (StepReport, Vec<f32>) {
    let mut step = step(12 + padding);
    let dials = Dials { learning_rate: 1e-3, sequence_loss: 0.5, bias_rate: 1e-3, balanced: ALL_EXPERTS };
    step.begin(Totals { targets: 24, sequences: 2 }, dials).unwrap();
    step.forward_backward(&sequences(padding).batch()).unwrap();
    let gradients = step.gradients().to_vec();
    (step.update().unwrap(), gradients)
}

#[test]
fn padding_counts_in_no_loss_no_load_and_no_gradient() {
    let (want, gradients) = learnt(0);
    for padding in [1, 4, 20] {
        let (found, padded) = learnt(padding);
        let near = |a: f64, b: f64| (a - b).abs() <= 1e-5 * a.abs().max(1e-3);
        assert!(near(found.loss, want.loss) && near(found.sequence_loss, want.sequence_loss), "{found:?} {want:?}");
        assert!(near(found.gradient_norm, want.gradient_norm));
        for (found, want) in found.routers.iter().zip(&want.routers) {
            assert_eq!((&found.loads, &found.biases), (&want.loads, &want.biases));
            assert!(near(found.entropy, want.entropy));
        }
        let off: f64 = gradients.iter().zip(&padded).map(|(a, b)| f64::from(a - b).powi(2)).sum();
        assert!(off.sqrt() <= 1e-5 * want.gradient_norm, "{padding}: {off}");
    }
}

#[test]
fn what_follows_padding_or_is_learnt_on_it_is_refused() {
    let wrong = |change: &dyn Fn(&mut Sequences)| {
        let mut batch = sequences(3);
        change(&mut batch);
        step(15).evaluate(&batch.batch()).unwrap_err().to_string()
    };
    let found = wrong(&|batch| batch.tokens[14] = 3);
    assert!(found.contains("tokens: expected nothing behind padding, found 3 at sequence 0, position 14"), "{found}");
    let found = wrong(&|batch| batch.targets[28] = 3);
    assert!(found.contains("targets: expected none on padding, found 3 at sequence 1, position 13"), "{found}");
    let found = wrong(&|batch| batch.tokens[15..].fill(NO_TOKEN));
    assert!(found.contains("expected a token in each sequence"), "{found}");
}

/// A recipe of one phase with UtK over documents whose tokens say where they stand.
fn knotted(folder: &Path) -> Recipe {
    let mut shard = ShardWriter::create(&folder.join("a"), 500, false).unwrap();
    for document in 0..20u32 {
        shard.add(&(0..20).map(|token| 20 * document + token).collect::<Vec<_>>()).unwrap();
    }
    shard.finish(Manifest::default()).unwrap();
    tiny(&format!(
        r#"
[sources.a]
shards = [{:?}]
[checkpoints]
every_tokens = 1000
[[phases]]
name = "long"
tokens = 400
sequence_tokens = 40
batch_tokens = 40
learning_rate = 1e-2
utk = {{ chunks = 3 }}
mixture = {{ a = 1.0 }}
"#,
        folder.join("a").display().to_string()
    ))
}

#[test]
fn a_later_chunk_attends_to_its_document_across_a_foreign_one() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = knotted(folder.path());
    let (schedule, order) = order::open(&recipe, &Sampled::default(), 1).unwrap();
    let mut loader = Loader::new(&recipe, &order).unwrap();
    let mut tried = 0;
    for nth in 0..schedule.steps() {
        let at = schedule.at(nth).unwrap();
        let (_, batches) = loader.step(nth, &at).unwrap();
        let pieces = order.sample(0, nth);
        let starts: Vec<usize> = pieces
            .iter()
            .scan(0, |start, piece| {
                *start += piece.tokens as usize;
                Some(*start - piece.tokens as usize)
            })
            .collect();
        // Every token is followed by its document's next one, wherever that lies.
        let mut batch = batches[0].clone();
        for (token, target) in batch.tokens.iter().zip(&batch.targets) {
            assert_eq!(*target, if token % 20 == 19 { NO_TARGET } else { token + 1 });
        }
        let Some(later) = (2..pieces.len()).find(|&later| {
            let same = |other: usize| pieces[other].document == pieces[later].document;
            !same(later - 1) && (0..later - 1).any(same)
        }) else {
            continue;
        };
        tried += 1;
        let earlier = (0..later).find(|&other| pieces[other].document == pieces[later].document).unwrap();
        // Of the later chunk alone something is learnt.
        let chunk = starts[later]..starts[later] + pieces[later].tokens as usize;
        for (place, target) in batch.targets.iter_mut().enumerate() {
            if !chunk.contains(&place) {
                *target = NO_TARGET;
            } else if *target == NO_TARGET {
                *target = 1;
            }
        }
        let loss = |batch: &Sequences| step(40).evaluate(&batch.batch()).unwrap().0;
        let other = |batch: &Sequences| {
            let mut other = batch.clone();
            other.tokens[starts[earlier]] = 499;
            other
        };
        assert!((loss(&batch) - loss(&other(&batch))).abs() > 1e-4, "{pieces:?}");
        // As attention = "document" has it, a chunk would see itself alone.
        for (piece, start) in pieces.iter().zip(&starts) {
            batch.attend_from[*start..start + piece.tokens as usize].fill(*start as u32);
        }
        assert!((loss(&batch) - loss(&other(&batch))).abs() < 1e-6, "{pieces:?}");
    }
    assert!(tried > 5, "{tried}");
}
