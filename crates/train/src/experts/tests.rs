use std::path::Path;

use dots_kernels::train::Precision;
use dots_model::Config;
use serde_json::Map;
use tempfile::TempDir;

use super::*;
use crate::{
    checkpoint::{Published, publish},
    cpu::{CpuStep, Options, random::normals},
    recipe::Optimizer,
    step::{ALL_EXPERTS, Dials, MicroBatch, Step, Totals},
};

const TOKENIZER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/goldens/hf");

fn config() -> Config {
    Config {
        // The tokenizer's.
        vocab_size: 512,
        hidden_size: 32,
        intermediate_size: 48,
        moe_intermediate_size: 16,
        num_hidden_layers: 3,
        first_k_dense_replace: 1,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 8,
        n_routed_experts: 8,
        num_experts_per_tok: 2,
        n_shared_experts: 1,
        max_position_embeddings: 64,
        ..Config::dots_llm1()
    }
}

/// A model of random weights.
fn model(folder: &TempDir, config: &Config) -> Checkpoint {
    let path = folder.path().join("start");
    let lineage = Map::from_iter([("step".to_owned(), 7.into())]);
    let about = Published { config, tokenizer: Path::new(TOKENIZER), lineage: &lineage };
    publish::<CheckpointError>(&path, &about, &mut |name, shape| {
        let count = shape.iter().product();
        let random = |size: f64| normals(3, name).take(count).map(|x| (x * size) as f32).collect();
        Ok(match shape {
            [_] if name.ends_with("bias") => random(0.01),
            [_] => vec![1.0; count],
            _ => random(0.2),
        })
    })
    .unwrap();
    Checkpoint::open(&path).unwrap()
}

/// Two domains, of other tokens each.
fn text(upper: bool) -> Vec<u32> {
    (0..600u32).map(|i| (i * i * 7 + i) % 31 + 32 * u32::from(upper)).collect()
}

fn look(checkpoint: &Checkpoint, upper: bool) -> Domain {
    Domain::look(checkpoint, &text(upper), 1, &mut |_| {}).unwrap()
}

fn grown(checkpoint: &Checkpoint, what: &Add, keep: bool, out: &Path) -> Result<Vec<Added>, ExpertsError> {
    let keep = keep.then(|| look(checkpoint, false));
    add(checkpoint, what, &look(checkpoint, true), keep.as_ref(), &Map::new(), out)
}

const ADD: Add = Add { count: 3, from: From::Nearest, noise: 0.0, seed: 1, most_new: 0.5, most_kept: 0.01 };

fn of(checkpoint: &Checkpoint, name: &str) -> Vec<f32> {
    numbers(checkpoint, name, &checkpoint.tensor(name).unwrap().shape).unwrap()
}

#[test]
fn new_experts_are_the_nearest_ones_again_and_the_old_ones_stay() {
    let folder = tempfile::tempdir().unwrap();
    let start = model(&folder, &config());
    let out = folder.path().join("deep/grown");
    let added = grown(&start, &ADD, false, &out).unwrap();
    let grown = Checkpoint::open(&out).unwrap();
    assert_eq!(grown.config, Config { n_routed_experts: 11, ..config() });
    for (name, _) in start.tensors() {
        let (before, after) = (of(&start, name), of(&grown, name));
        assert_eq!(before, after[..before.len()], "{name}");
    }
    let new = look(&start, true);
    for (moe, Added { layer, sources }) in added.iter().enumerate() {
        assert_eq!(*layer, moe + 1);
        let loads = &new.layers[moe].loads;
        let mut sorted = loads.clone();
        sorted.sort_by(|one, other| other.cmp(one));
        let at = format!("model.layers.{layer}.mlp");
        for (nth, (expert, share, _)) in sources.iter().enumerate() {
            assert_eq!((loads[*expert], *share), (sorted[nth], sorted[nth] as f64 / 600.0));
            for part in ["gate_proj", "up_proj", "down_proj"] {
                let part = |expert| of(&grown, &format!("{at}.experts.{expert}.{part}.weight"));
                assert_eq!(part(8 + nth), part(*expert));
            }
            let router = of(&grown, &format!("{at}.gate.weight"));
            assert_eq!(router[(8 + nth) * 32..][..32], router[expert * 32..][..32]);
        }
        let biases = of(&grown, &format!("{at}.gate.e_score_correction_bias"));
        assert_eq!(biases[8..], [biases[8]; 3]);
    }
    let note: Value = serde_json::from_slice(&std::fs::read(out.join("dots.json")).unwrap()).unwrap();
    let said = &note["experts_added"];
    assert_eq!((&said["from"]["step"], &said["old_experts"], &said["count"]), (&7.into(), &8.into(), &3.into()));
    assert_eq!(said["nearest"]["2"][1], added[1].sources[1].0);
}

#[test]
fn the_kept_domain_s_tokens_stay_with_the_old_experts() {
    let folder = tempfile::tempdir().unwrap();
    let start = model(&folder, &config());
    // How many of the three new experts a token chooses in the mean, by domain and mixture.
    let chosen = |most_kept: f64| {
        let out = folder.path().join(format!("grown-{most_kept}"));
        grown(&start, &Add { noise: 0.02, most_kept, ..ADD }, true, &out).unwrap();
        let grown = Checkpoint::open(&out).unwrap();
        [false, true].map(|upper| {
            let domain = look(&grown, upper);
            [0, 1].map(|moe| (8..11).map(|expert| domain.share(moe, expert)).sum::<f64>())
        })
    };
    // Where the kept domain may go anywhere, half of a new token's two choices are what holds the bias: one. The first mixture's router sees
    // what it saw before anything was added, so there it is exact; what the second one's sees has moved by what the first's copies say.
    let [_, new] = chosen(1.0);
    assert!((0.95..=1.0).contains(&new[0]) && (0.8..1.2).contains(&new[1]), "{new:?}");
    // Where one in a hundred of its tokens may choose any, that one chooses two at most.
    let [kept, held] = chosen(0.01);
    assert!(kept[0] <= 0.02 && kept[1] < 0.04, "{kept:?}");
    // A random model's second mixture tells the domains apart less well than the first, so the kept share is what holds the bias there, and
    // fewer new tokens come than might. How many says only how well one direction tells them apart: far more than of the kept domain.
    assert!(held[0] <= 1.0 && held[1] < new[1], "{held:?} {new:?}");
    assert!((0..2).all(|moe| held[moe] > 10.0 * kept[moe]), "{held:?} {kept:?}");
}

#[test]
fn fresh_experts_say_nothing_at_first_and_noise_is_in_proportion() {
    let folder = tempfile::tempdir().unwrap();
    let start = model(&folder, &config());
    let fresh = folder.path().join("fresh");
    grown(&start, &Add { from: From::Fresh, ..ADD }, false, &fresh).unwrap();
    let fresh = Checkpoint::open(&fresh).unwrap();
    let part = |checkpoint: &Checkpoint, part: &str| {
        of(checkpoint, &format!("model.layers.1.mlp.experts.9.{part}_proj.weight"))
    };
    assert!(part(&fresh, "down").iter().all(|x| *x == 0.0));
    assert!((0.15..0.25).contains(&size(&part(&fresh, "up"))));
    let copies = [0.0, 0.1].map(|noise| {
        let out = folder.path().join(format!("noise-{noise}"));
        grown(&start, &Add { noise, ..ADD }, false, &out).unwrap();
        part(&Checkpoint::open(&out).unwrap(), "up")
    });
    let noise: Vec<f32> = copies[0].iter().zip(&copies[1]).map(|(one, other)| one - other).collect();
    assert!((0.08..0.12).contains(&(size(&noise) / size(&copies[0]))));
}

#[test]
fn what_cannot_be_added_or_upcycled_is_named_and_nothing_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let start = model(&folder, &config());
    let out = folder.path().join("out");
    for (what, expected) in [
        (Add { count: 0, ..ADD }, "count: expected at least 1, found 0"),
        (Add { noise: f64::NAN, ..ADD }, "noise: expected a share from 0 to 1, found NaN"),
        (Add { most_kept: 1.5, ..ADD }, "most-kept: expected a share from 0 to 1, found 1.5"),
        (Add { count: 1 << 20, ..ADD }, "n_routed_experts: expected 1 to "),
    ] {
        let error = grown(&start, &what, false, &out).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let error = upcycle(&start, &UPCYCLE, &Map::new(), &out).unwrap_err().to_string();
    assert_eq!(error, "experts upcycle: expected a model whose layers are all dense, found 1 of 3 layers dense");
    let dense = dense(&tempfile::tempdir().unwrap());
    for (what, expected) in [
        (Upcycle { experts: 9, ..UPCYCLE }, "experts: expected a multiple of top-k 2, found 9"),
        (Upcycle { shared: 3, ..UPCYCLE }, "together a divisor of the dense width 48, found 2 + 3 = 5"),
        (Upcycle { top_k: 0, ..UPCYCLE }, "top-k and shared: expected at least 1 of each, found 0 and 1"),
        (Upcycle { dense_layers: 3, ..UPCYCLE }, "dense layers: expected fewer than the 3 layers, found 3"),
    ] {
        let error = upcycle(&dense, &what, &Map::new(), &out).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let error = ADD.check(&dense).unwrap_err().to_string();
    assert!(error.contains("`dots experts upcycle` makes one"), "{error}");
    assert!(!out.exists());

    std::fs::create_dir(&out).unwrap();
    let error = grown(&start, &ADD, false, &out).unwrap_err().to_string();
    assert!(
        error.ends_with("out: folder: expected none of that name yet, found one; nothing is written over"),
        "{error}"
    );
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "no part is left");
}

fn dense(folder: &TempDir) -> Checkpoint {
    model(folder, &Config { first_k_dense_replace: 3, ..config() })
}

const UPCYCLE: Upcycle = Upcycle { experts: 8, top_k: 2, shared: 1, dense_layers: 1, noise: 0.0, seed: 1 };

const OPTIONS: Options = Options {
    precision: Precision::F32,
    recompute: false,
    micro_batch_tokens: 64,
    sequence_tokens: 32,
    threads: 1,
    optimizer: Optimizer { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.1, clip: 1.0 },
};

/// Mean loss on two sequences, and the step that computes it.
fn loss(checkpoint: &Checkpoint) -> (f64, CpuStep) {
    let mut step = CpuStep::from_checkpoint(checkpoint, &checkpoint.config, &OPTIONS).unwrap();
    let (sum, targets) = step.evaluate(&batch(&text(false)[..65], &[0; 64])).unwrap();
    (sum / targets as f64, step)
}

fn batch<'a>(tokens: &'a [u32], attend_from: &'a [u32]) -> MicroBatch<'a> {
    MicroBatch { sequence_tokens: 32, tokens: &tokens[..64], attend_from, targets: &tokens[1..65] }
}

#[test]
fn an_upcycled_model_computes_what_the_dense_one_does_and_learns_on() {
    let folder = tempfile::tempdir().unwrap();
    let dense = dense(&folder);
    let (before, _) = loss(&dense);
    let made = |what: Upcycle, name: &str| {
        let out = folder.path().join(name);
        upcycle(&dense, &what, &Map::new(), &out).unwrap();
        Checkpoint::open(&out).unwrap()
    };
    let mixture = made(UPCYCLE, "mixture");
    let shape = (mixture.config.moe_intermediate_size, mixture.config.first_k_dense_replace);
    assert_eq!((shape, mixture.config.routed_scaling_factor), ((16, 1), 2.0));
    let (after, mut step) = loss(&mixture);
    assert!((after - before).abs() < 1e-5, "{before} {after}");
    let (finer, _) = loss(&made(Upcycle { experts: 10, top_k: 5, dense_layers: 0, ..UPCYCLE }, "finer"));
    assert!((finer - before).abs() < 1e-5, "{before} {finer}");
    let (noisy, _) = loss(&made(Upcycle { noise: 0.1, ..UPCYCLE }, "noisy"));
    assert!((1e-4..0.5).contains(&(noisy - before).abs()), "{before} {noisy}");

    let dials = Dials { learning_rate: 1e-2, sequence_loss: 0.0, bias_rate: 1e-3, balanced: ALL_EXPERTS };
    let (tokens, mut loads) = (text(false), Vec::new());
    for _ in 0..20 {
        step.begin(Totals { targets: 64, sequences: 2 }, dials).unwrap();
        step.forward_backward(&batch(&tokens[..65], &[0; 64])).unwrap();
        loads = step.update().unwrap().routers[0].loads.clone();
    }
    let (sum, targets) = step.evaluate(&batch(&tokens[..65], &[0; 64])).unwrap();
    assert!(sum / (targets as f64) < before - 1.0, "{before} {}", sum / targets as f64);
    assert!(loads.iter().filter(|load| **load > 0).count() > 4, "{loads:?}");
}
