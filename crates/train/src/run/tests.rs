use std::{fs::OpenOptions, io::Write};

use dots_kernels::train::Precision;

use super::*;
use crate::{
    cpu::{CpuStep, Options},
    recipe::Optimizer,
};

const SEQUENCE: usize = 16;

fn recipe() -> Recipe {
    let tokenizer = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/goldens/hf");
    let text = format!(
        r#"
name = "tiny"
[model]
preset = "dots"
layers = 2
width = 32
experts = 8
expert_width = 16
vocab_size = 64
context = 32
[tokenizer]
path = "{tokenizer}"
[sources.a]
shards = ["a"]
[sources.b]
shards = ["b"]
[[phases]]
name = "stable"
tokens = 320
sequence_tokens = {SEQUENCE}
batch_tokens = 32
learning_rate = 1e-2
mixture = {{ a = 1.0 }}
[[phases]]
name = "annealing"
tokens = 128
sequence_tokens = {SEQUENCE}
batch_tokens = 32
learning_rate = {{ from = 1e-2, to = 1e-3, shape = "linear" }}
mixture = {{ a = 0.5, b = 0.5 }}
[checkpoints]
every_tokens = 96
keep_states = 2
[validation]
every_tokens = 160
tokens = 64
sources = ["b"]
"#
    );
    Recipe::parse(&text, Path::new("tiny.toml")).unwrap()
}

/// Sequences that follow from the step's number; an error at `fails`, as a program that dies there.
struct Numbers {
    fails: Option<u64>,
}

impl Numbers {
    fn sequences(step: u64, count: usize) -> Sequences {
        let numbers = |add: u64| (0..(count * SEQUENCE) as u64).map(move |i| ((i * i + 3 * step + add) % 61) as u32);
        Sequences {
            sequence_tokens: SEQUENCE,
            tokens: numbers(0).collect(),
            attend_from: vec![0; count * SEQUENCE],
            targets: numbers(1).collect(),
        }
    }
}

impl Feed for Numbers {
    fn step(&mut self, step: u64, at: &Position) -> Result<(Totals, Vec<Sequences>), Box<dyn Error + Send + Sync>> {
        if self.fails == Some(step) {
            return Err("gone".into());
        }
        assert_eq!(at.batch_tokens, 2 * SEQUENCE as u64);
        let totals = Totals { targets: at.batch_tokens, sequences: 2 };
        Ok((totals, vec![Self::sequences(step, 1), Self::sequences(step + 100, 1)]))
    }

    fn validation(&mut self, source: &str, _at: &Position) -> Result<Vec<Sequences>, Box<dyn Error + Send + Sync>> {
        assert_eq!(source, "b");
        Ok(vec![Self::sequences(1000, 1), Self::sequences(2000, 1)])
    }
}

fn run_in(folder: &Path, recipe: &Recipe, threads: usize, fails: Option<u64>, stop: bool) -> Result<End, RunError> {
    let options = Options {
        precision: Precision::F32,
        recompute: false,
        micro_batch_tokens: SEQUENCE,
        sequence_tokens: SEQUENCE,
        threads,
        optimizer: Optimizer::default(),
    };
    let mut step = CpuStep::random(&recipe.model.config, recipe.seed, 0.05, &options).unwrap();
    let schedule = Schedule::new(recipe, |_| 0);
    assert_eq!(schedule.steps(), 14);
    let parts = Parts {
        recipe,
        schedule: &schedule,
        step: &mut step,
        feed: &mut Numbers { fails },
        lineage: &Map::new(),
        peak_flops_per_second: Some(1e9),
        stop: &AtomicBool::new(stop),
    };
    run(folder, parts, &mut |_| {})
}

/// Steps, losses and norms, validation and checkpoints, without what the clock says.
fn told(folder: &Path) -> Vec<Value> {
    let text = fs::read_to_string(folder.join("metrics.jsonl")).unwrap();
    text.lines()
        .map(|line| {
            let mut value: Value = serde_json::from_str(line).unwrap();
            for key in ["time", "seconds", "tokens_per_second", "flops_per_second"] {
                value.as_object_mut().unwrap().shift_remove(key);
            }
            value
        })
        .collect()
}

/// Every byte of the last checkpoint, state included.
fn last(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let checkpoint = folder.join("checkpoints/step-000014-tokens-0000M");
    let mut files: Vec<_> = [checkpoint.clone(), checkpoint.join("state")]
        .iter()
        .flat_map(|folder| fs::read_dir(folder).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .map(|path| (path.strip_prefix(&checkpoint).unwrap().to_owned(), fs::read(&path).unwrap()))
        .collect();
    files.sort();
    files
}

#[test]
fn a_run_that_died_again_and_again_ends_in_the_bytes_of_one_that_did_not() {
    let (straight, broken) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let recipe = recipe();
    assert_eq!(run_in(straight.path(), &recipe, 1, None, false).unwrap(), End::Finished);
    let want = told(straight.path());
    assert_eq!(want.iter().filter(|line| line["loss"].is_f64()).count(), 14);
    assert_eq!(want[0]["peak_flops_per_second"], 1e9);
    assert_eq!(want.iter().filter(|line| line["validation"].is_object()).count(), 3, "at 160, 320 and the end");
    let checkpoints: Vec<u64> =
        want.iter().filter(|line| line["checkpoint"].is_string()).map(|line| line["step"].as_u64().unwrap()).collect();
    assert_eq!(checkpoints, [3, 6, 9, 10, 12, 14]);

    // Before the first checkpoint, between two, right after one; on other numbers of threads.
    for (threads, fails) in [(1, 2), (2, 5), (3, 9), (1, 13)] {
        let error = run_in(broken.path(), &recipe, threads, Some(fails), false).unwrap_err().to_string();
        assert_eq!(error, format!("step {}: data: gone", fails + 1));
        // As a program that is killed while it writes.
        let mut metrics = OpenOptions::new().append(true).open(broken.path().join("metrics.jsonl")).unwrap();
        metrics.write_all(br#"{"step":99,"loss":"#).unwrap();
        fs::create_dir(broken.path().join("checkpoints/step-000099-tokens-0000M.part")).ok();
    }
    // The newest checkpoint is cut short: the one before it is gone on with.
    let state = broken.path().join("checkpoints/step-000012-tokens-0000M/state/state.safetensors");
    let bytes = fs::read(&state).unwrap();
    fs::write(&state, &bytes[..100]).unwrap();
    assert_eq!(run_in(broken.path(), &recipe, 2, None, false).unwrap(), End::Finished);

    assert_eq!(told(broken.path()), want);
    assert_eq!(last(broken.path()), last(straight.path()));
    // There is nothing left to do, and doing it changes nothing.
    assert_eq!(run_in(broken.path(), &recipe, 2, None, false).unwrap(), End::Finished);
    assert_eq!(told(broken.path()), want);
}

#[test]
fn a_run_that_is_asked_to_stop_writes_a_checkpoint_and_goes_on() {
    let (straight, stopped) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let recipe = recipe();
    run_in(straight.path(), &recipe, 1, None, false).unwrap();
    for step in 1..14 {
        assert_eq!(run_in(stopped.path(), &recipe, 1, None, true).unwrap(), End::Stopped, "{step}");
    }
    assert_eq!(run_in(stopped.path(), &recipe, 1, None, true).unwrap(), End::Finished);
    let losses = |folder: &Path| told(folder).into_iter().filter(|line| line["loss"].is_f64()).collect::<Vec<_>>();
    assert_eq!(losses(stopped.path()), losses(straight.path()));
    assert_eq!(last(stopped.path()), last(straight.path()));
}

#[test]
fn a_run_whose_states_are_all_damaged_does_not_begin_anew() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = recipe();
    run_in(folder.path(), &recipe, 1, Some(7), false).unwrap_err();
    let metrics = fs::read(folder.path().join("metrics.jsonl")).unwrap();
    for step in [3, 6] {
        let state = format!("checkpoints/step-{step:06}-tokens-0000M/state/state.safetensors");
        fs::write(folder.path().join(state), "").unwrap();
    }
    let error = run_in(folder.path(), &recipe, 1, None, false).unwrap_err().to_string();
    assert!(error.contains("found none that is whole") && error.contains("state.safetensors: length"), "{error}");
    assert_eq!(fs::read(folder.path().join("metrics.jsonl")).unwrap(), metrics);
}

#[test]
fn a_checkpoint_whose_line_was_not_written_gets_it() {
    let (straight, killed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let recipe = recipe();
    run_in(straight.path(), &recipe, 1, None, false).unwrap();
    run_in(killed.path(), &recipe, 1, Some(6), false).unwrap_err();
    let path = killed.path().join("metrics.jsonl");
    let text = fs::read_to_string(&path).unwrap();
    let cut = text.rfind("{\"step\":6,\"checkpoint\"").unwrap();
    fs::write(&path, &text[..cut]).unwrap();
    run_in(killed.path(), &recipe, 1, None, false).unwrap();
    assert_eq!(told(killed.path()), told(straight.path()));
}

#[test]
fn two_runs_in_one_folder_and_a_changed_recipe_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let mut recipe = recipe();
    run_in(folder.path(), &recipe, 1, Some(1), false).unwrap_err();
    let lock = Lock::take(folder.path()).unwrap();
    let error = run_in(folder.path(), &recipe, 1, None, false).unwrap_err().to_string();
    assert!(error.contains("another program is training here"), "{error}");
    drop(lock);
    recipe.set("seed", "9").unwrap();
    let error = run_in(folder.path(), &recipe, 1, None, false).unwrap_err().to_string();
    assert!(error.contains("recipe: expected ") && error.contains(&recipe.hash()), "{error}");
}

#[test]
fn what_went_wrong_is_the_last_line_that_is_told() {
    let folder = tempfile::tempdir().unwrap();
    run_in(folder.path(), &recipe(), 1, Some(4), false).unwrap_err();
    let last = told(folder.path()).pop().unwrap();
    assert_eq!(last, json!({ "step": 5, "error": "step 5: data: gone" }));
}

#[test]
fn a_steps_operations_are_those_of_its_tokens_and_of_what_they_attend_to() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = recipe();
    run_in(folder.path(), &recipe, 1, None, false).unwrap();
    let text = fs::read_to_string(folder.path().join("metrics.jsonl")).unwrap();
    let line: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    // Its two sequences are one document each.
    let expected = 2.0 * SEQUENCE as f64 * flops::of_token(&recipe.model.config, SEQUENCE);
    let found = line["flops_per_second"].as_f64().unwrap() * line["seconds"].as_f64().unwrap();
    assert!((found / expected - 1.0).abs() < 1e-9, "{found} {expected}");
}
