use std::path::Path;

use super::*;
use crate::recipe::{Rate, Shape};

/// The recipe of the report.
fn full() -> Recipe {
    Recipe::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../runs/full.toml")).unwrap()
}

/// 512-token sequences, phases as given.
fn small(phases: &str) -> Recipe {
    let head = "name = \"s\"\n[model]\nlayers = 2\nwidth = 64\n[tokenizer]\npath = \"t\"\n[sources.a]\nshards = \"a\"\n[sources.c]\nchats = \"c\"\n\
                [checkpoints]\nevery_tokens = 1000\n";
    Recipe::parse(&format!("{head}{phases}"), Path::new("s.toml")).unwrap()
}

fn none(_: usize) -> u64 {
    panic!("no phase is in epochs")
}

fn near(found: f64, expected: f64) {
    assert!((found / expected - 1.0).abs() < 1e-9, "{found:e} {expected:e}");
}

#[test]
fn the_reports_table_as_worked_out_by_hand() {
    let schedule = Schedule::new(&full(), none);
    // 6 T / 64 Mi = 89,406.97 → 89,407 steps; (8.3 T − 89,407 · 64 Mi) / 96 Mi = 22,848.4; (10 T − what is done) / 128 Mi = 12,665.8.
    // Annealing: 1 T / 128 Mi = 7,450.6, 200 B / 128 Mi = 1,490.1; long context 128 B / 128 Mi = 953.7.
    let phases = [(0, 124_922), (124_922, 7_451), (132_373, 1_491), (133_864, 954)];
    for (phase, expected) in phases.into_iter().enumerate() {
        assert_eq!(schedule.steps_of(phase), expected, "phase {phase}");
    }
    assert_eq!(schedule.steps(), 134_818);
    let batch = |step| schedule.at(step).unwrap().batch_tokens;
    assert_eq!([batch(0), batch(89_406)], [64 << 20; 2]);
    assert_eq!([batch(89_407), batch(112_255)], [96 << 20; 2]);
    assert_eq!([batch(112_256), batch(124_921), batch(124_922), batch(134_817)], [128 << 20; 4]);
    assert_eq!(schedule.at(89_407).unwrap().tokens, 89_407 * (64 << 20));
    assert_eq!(schedule.at(134_818), None);

    let rate = |step| schedule.at(step).unwrap().dials.learning_rate;
    near(rate(0), 3e-4 / 4000.0);
    near(rate(1999), 1.5e-4);
    near(rate(3999), 3e-4);
    near(rate(4000), 3e-4);
    near(rate(124_921), 3e-4);
    near(rate(124_922), 3e-4);
    // Step 3,725 of 7,451: 3e-4 − 2.7e-4 · 3725 / 7451.
    near(rate(124_922 + 3725), 3e-4 - 2.7e-4 * 3725.0 / 7451.0);
    assert!(rate(132_372) > 3e-5 && rate(132_372) < 3.01e-5);
    near(rate(132_373), 3e-5);
    assert!(rate(133_863) > 1e-5 && rate(133_863) < 1.01e-5 * 1.01);
    near(rate(133_864), 1e-5);
    near(rate(134_817), 1e-5);
}

#[test]
fn every_step_goes_on_where_the_one_before_ended() {
    let recipe = small(
        "[[phases]]\nname = \"a\"\ntokens = 10000\nsequence_tokens = 512\nlearning_rate = 1.0\nmixture = { a = 1 }\n\
         batch_tokens = [{ from = 0, tokens = 512 }, { from = 100, tokens = 1024 }, { from = 400, tokens = 512 }, { from = 5000, tokens = 1536 }]\n\
         [[phases]]\nname = \"b\"\ntokens = 1\nsequence_tokens = 512\nlearning_rate = 1.0\nmixture = { a = 1 }\nbatch_tokens = 2048\n",
    );
    let schedule = Schedule::new(&recipe, none);
    let mut tokens = 0;
    for step in 0..schedule.steps() {
        let at = schedule.at(step).unwrap();
        assert_eq!(at.tokens, tokens, "step {step}");
        assert_eq!(at.step_in_phase + schedule.steps_of(at.phase).0, step);
        tokens += at.batch_tokens;
    }
    assert_eq!(tokens, schedule.tokens());
    // 512 up to 100, the second stage is over by then, 512 up to 5,000 (10 steps in all: 5,120), 1,536 up to 10,000 (4 steps).
    assert_eq!((schedule.steps_of(0), schedule.tokens_of(0)), ((0, 14), 5120 + 4 * 1536));
    assert_eq!((schedule.steps_of(1), schedule.tokens_of(1)), ((14, 1), 2048));
}

#[test]
fn a_phase_in_epochs_is_as_long_as_its_packed_chats() {
    let recipe = small(
        "[[phases]]\nname = \"sft\"\nkind = \"sft\"\nepochs = 2\nsequence_tokens = 512\nbatch_tokens = 2048\nmixture = { c = 1 }\n\
         learning_rate = { from = 5e-6, to = 1e-6, shape = \"cosine\" }\nbias_rate = 0.0\nsequence_loss = 0.5\n",
    );
    let schedule = Schedule::new(&recipe, |phase| {
        assert_eq!(phase, 0);
        39
    });
    assert_eq!(schedule.steps(), 10);
    let dials = |step| schedule.at(step).unwrap().dials;
    near(dials(0).learning_rate, 5e-6);
    near(dials(5).learning_rate, 3e-6);
    assert_eq!((dials(0).bias_rate, dials(0).sequence_loss), (0.0, 0.5));
    assert_eq!(Schedule::new(&recipe, |_| 0).steps(), 0);
}

#[test]
fn each_shape_as_worked_out_by_hand() {
    let at = |shape, share| Rate { from: 3e-4, to: 3e-5, shape }.at(share);
    near(at(Shape::Linear, 0.25), 2.325e-4);
    // (1 + cos 45°) / 2 = 0.853553...
    near(at(Shape::Cosine, 0.25), 3e-5 + 2.7e-4 * 0.853_553_390_593_273_7);
    // A tenth at the end: 10^(-1/4) = 0.5623413...
    near(at(Shape::Exponential, 0.25), 3e-4 * 0.562_341_325_190_349_1);
    near(at(Shape::Sqrt, 0.25), 1.65e-4);
    near(at(Shape::Constant, 0.25), 3e-4);
    for shape in [Shape::Linear, Shape::Cosine, Shape::Exponential, Shape::Sqrt] {
        near(at(shape, 0.0), 3e-4);
        near(at(shape, 1.0), 3e-5);
    }
}

#[test]
fn the_decay_begins_after_the_warm_up() {
    let recipe = small(
        "[[phases]]\nname = \"a\"\ntokens = 10240\nsequence_tokens = 512\nbatch_tokens = 512\nwarmup_steps = 4\nmixture = { a = 1 }\n\
         learning_rate = { from = 1.0, to = 0.0, shape = \"linear\" }\n",
    );
    let schedule = Schedule::new(&recipe, none);
    let rates: Vec<f64> = (0..20).map(|step| schedule.at(step).unwrap().dials.learning_rate).collect();
    assert_eq!(rates[..6], [0.25, 0.5, 0.75, 1.0, 1.0, 0.9375]);
    near(rates[19], 0.0625);
    // A phase that is shorter than its warm-up never gets there.
    let mut recipe = recipe;
    recipe.set("phases.0.warmup_steps", "40").unwrap();
    let schedule = Schedule::new(&recipe, none);
    assert_eq!(schedule.at(19).unwrap().dials.learning_rate, 0.5);
}

#[test]
fn new_experts_are_balanced_from_the_step_on_at_which_they_have_settled() {
    let recipe = small(
        "[[phases]]\nname = \"p\"\ntokens = 8192\nsequence_tokens = 512\nbatch_tokens = 1024\nlearning_rate = 1e-3\nmixture = { a = 1 }\n",
    );
    let text = recipe.canonical().replace("[model]\n", "[model]\nstart = \"grown\"\nnew_experts = 8\n");
    let recipe =
        Recipe::parse(&text.replace("[balance]\n", "[balance]\nsettle_tokens = 2000\n"), Path::new("s.toml")).unwrap();
    let schedule = Schedule::new(&recipe, none);
    let balanced = |step| schedule.at(step).unwrap().dials.balanced;
    assert_eq!([0, 1, 2, 7].map(balanced), [[0, 120], [0, 120], [0, 128], [0, 128]]);
}
