use std::{fs::OpenOptions, io::Write};

use dots_kernels::train::Precision;

use super::*;
use crate::{
    cpu::{CpuStep, Options},
    recipe::{Optimizer, tiny},
    step::{Dials, NO_TARGET, TakeState},
};

const SEQUENCE: usize = 16;

fn recipe() -> Recipe {
    tiny(&format!(
        r#"
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
    ))
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

fn origin(made_by: &str, threads: usize) -> Origin {
    Origin {
        made_by: made_by.to_owned(),
        instruction_set: "any".to_owned(),
        threads,
        tokenizer_sha256: "t".to_owned(),
        data: Map::from_iter([("a".to_owned(), json!([{ "sha256": "a" }]))]),
        allow_other_build: false,
    }
}

fn options(threads: usize) -> Options {
    Options {
        precision: Precision::F32,
        recompute: false,
        micro_batch_tokens: SEQUENCE,
        sequence_tokens: SEQUENCE,
        threads,
        optimizer: Optimizer::default(),
    }
}

fn random(recipe: &Recipe, threads: usize) -> CpuStep {
    CpuStep::random(&recipe.model.config, recipe.seed, 0.05, &options(threads)).unwrap()
}

fn run_of(
    folder: &Path,
    recipe: &Recipe,
    origin: &Origin,
    step: &mut dyn Step,
    fails: Option<u64>,
    stop: bool,
) -> Result<End, RunError> {
    run_on(folder, recipe, origin, step, &mut Numbers { fails }, stop)
}

fn run_on(
    folder: &Path,
    recipe: &Recipe,
    origin: &Origin,
    step: &mut dyn Step,
    feed: &mut dyn Feed,
    stop: bool,
) -> Result<End, RunError> {
    let parts = Parts {
        recipe,
        schedule: &Schedule::new(recipe, |_| 0),
        step,
        feed,
        origin,
        companions: &Companions::read(&recipe.tokenizer).unwrap(),
        peak_flops_per_second: Some(1e9),
        stop: &AtomicBool::new(stop),
    };
    run(folder, parts, &mut |_| {})
}

fn run_in(folder: &Path, recipe: &Recipe, threads: usize, fails: Option<u64>, stop: bool) -> Result<End, RunError> {
    run_of(folder, recipe, &origin("x", threads), &mut random(recipe, threads), fails, stop)
}

fn lines(folder: &Path) -> Vec<Value> {
    let text = fs::read_to_string(folder.join("metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Steps, losses and norms, validation and checkpoints, without what the clock says and who went on.
fn told(folder: &Path) -> Vec<Value> {
    (lines(folder).into_iter())
        .filter(|value| value["resumed"].is_null())
        .map(|mut value| {
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
    let holder = format!("another program is training here (process {} on ", std::process::id());
    assert!(error.contains(&holder), "{error}");
    drop(lock);
    recipe.set("seed", "9").unwrap();
    let error = run_in(folder.path(), &recipe, 1, None, false).unwrap_err().to_string();
    assert!(error.contains("recipe: expected ") && error.contains(&recipe.hash()), "{error}");
}

#[test]
fn what_is_no_runs_is_not_written_over() {
    let recipe = recipe();
    for name in ["metrics.jsonl", "run.json", "checkpoints/step-000001-tokens-0000M/model.safetensors", "recipe.toml"] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        // The very recipe, as its author wrote it.
        let theirs = format!("# mine\n{}", recipe.canonical());
        fs::write(&path, &theirs).unwrap();
        let error = run_in(folder.path(), &recipe, 1, None, false).unwrap_err();
        assert!(matches!(error, RunError::InTheWay { .. }), "{name}: {error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), theirs);
    }
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
    let line = lines(folder.path()).swap_remove(0);
    // Its two sequences are one document each.
    let expected = 2.0 * SEQUENCE as f64 * flops::of_token(&recipe.model.config, SEQUENCE);
    let found = line["flops_per_second"].as_f64().unwrap() * line["seconds"].as_f64().unwrap();
    assert!((found / expected - 1.0).abs() < 1e-9, "{found} {expected}");
}

/// A step whose loss leaps, or one of whose weights becomes no number, in its update of that number.
struct Spoilt {
    step: CpuStep,
    leaps: Option<u64>,
    poisoned: Option<(u64, &'static str)>,
}

impl Step for Spoilt {
    fn begin(&mut self, totals: Totals, dials: Dials) -> Result<(), StepError> {
        self.step.begin(totals, dials)
    }
    fn forward_backward(&mut self, batch: &MicroBatch<'_>) -> Result<(), StepError> {
        self.step.forward_backward(batch)
    }
    fn update(&mut self) -> Result<StepReport, StepError> {
        let mut report = self.step.update()?;
        let updates = self.step.updates();
        if self.leaps == Some(updates) {
            report.loss += 5.0;
        }
        if let Some((_, tensor)) = self.poisoned.filter(|(at, _)| *at == updates) {
            let mut all = Vec::new();
            let keep = &mut |given: StateTensor<'_>| {
                all.push((given.name.to_owned(), given.numbers.to_vec()));
                Ok(())
            };
            self.step.export(keep).unwrap();
            let mut all = all.into_iter();
            let take = &mut |_: &str, _: StateKind, _: &[usize], numbers: &mut [f32]| {
                let (name, kept) = all.next().unwrap();
                numbers.copy_from_slice(&kept);
                if name == tensor {
                    numbers[3] = f32::NAN;
                }
                Ok(())
            };
            self.step.import(updates, take).unwrap();
        }
        Ok(report)
    }
    fn evaluate(&mut self, batch: &MicroBatch<'_>) -> Result<(f64, u64), StepError> {
        self.step.evaluate(batch)
    }
    fn steepest(&self) -> Option<(String, f64)> {
        self.step.steepest()
    }
    fn updates(&self) -> u64 {
        self.step.updates()
    }
    fn export(&mut self, give: &mut dyn FnMut(StateTensor<'_>) -> io::Result<()>) -> io::Result<()> {
        self.step.export(give)
    }
    fn import(&mut self, updates: u64, take: &mut TakeState<'_>) -> io::Result<()> {
        self.step.import(updates, take)
    }
}

#[test]
fn a_number_that_is_none_ends_the_run_with_its_step_layer_and_tensor_and_the_last_checkpoint_stays() {
    let (straight, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let recipe = recipe();
    run_in(straight.path(), &recipe, 1, None, false).unwrap();
    let tensor = "model.layers.1.mlp.experts.3.up_proj.weight";
    let mut step = Spoilt { step: random(&recipe, 1), leaps: None, poisoned: Some((7, tensor)) };
    let error = run_of(folder.path(), &recipe, &origin("x", 1), &mut step, None, false).unwrap_err().to_string();
    assert!(error.starts_with(&format!("step 8: weight of {tensor} is NaN")), "{error}");
    assert_eq!(lines(folder.path()).pop().unwrap(), json!({ "step": 8, "error": error }));
    // What is kept is whole: the run goes on from it as if nothing had been.
    run_in(folder.path(), &recipe, 1, None, false).unwrap();
    assert_eq!(last(folder.path()), last(straight.path()));
}

#[test]
fn a_loss_that_leaps_ends_the_run_unless_the_recipe_lets_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut recipe = recipe();
    recipe.set("spike.window", "5").unwrap();
    let spoilt = |recipe: &Recipe| Spoilt { step: random(recipe, 1), leaps: Some(8), poisoned: None };
    let error = run_of(folder.path(), &recipe, &origin("x", 1), &mut spoilt(&recipe), None, false).unwrap_err();
    assert!(matches!(error, RunError::Spike { step: 8, window: 5, .. }), "{error}");
    // Where to look first.
    let said = error.to_string();
    assert!(said.starts_with("step 8: loss ") && said.contains("; of a gradient of norm "), "{said}");
    assert!([" are of model.", " are of lm_head.weight"].iter().any(|tensor| said.contains(tensor)), "{said}");
    assert!(checkpoint::newest(&folder.path().join("checkpoints")).unwrap().whole.unwrap().name.step == 6);
    let folder = tempfile::tempdir().unwrap();
    recipe.set("spike.on", "false").unwrap();
    run_of(folder.path(), &recipe, &origin("x", 1), &mut spoilt(&recipe), None, false).unwrap();
}

#[test]
fn another_build_goes_on_only_where_that_is_allowed_and_is_noted() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = recipe();
    let go = |origin: &Origin, fails| run_of(folder.path(), &recipe, origin, &mut random(&recipe, 1), fails, false);
    go(&origin("one", 1), Some(2)).unwrap_err();
    // Nothing is left of the first one.
    go(&origin("two", 1), Some(7)).unwrap_err();
    let before = fs::read(folder.path().join("metrics.jsonl")).unwrap();
    let error = go(&origin("three", 1), None).unwrap_err().to_string();
    assert!(error.contains("expected two on any, which made the last steps, found three on any"), "{error}");
    assert_eq!(fs::read(folder.path().join("metrics.jsonl")).unwrap(), before);
    go(&Origin { allow_other_build: true, ..origin("three", 1) }, None).unwrap();
    let note = checkpoint::newest(&folder.path().join("checkpoints")).unwrap().whole.unwrap().note;
    assert_eq!(
        note["builds"],
        json!([
            { "from_step": 0, "made_by": "two", "instruction_set": "any" },
            { "from_step": 6, "made_by": "three", "instruction_set": "any" },
        ])
    );
    assert_eq!((&note["data"]["a"][0]["sha256"], note["loss"].is_f64()), (&json!("a"), true));
    let resumed = lines(folder.path()).into_iter().find(|line| line["resumed"].is_object()).unwrap();
    assert_eq!((&resumed["step"], &resumed["resumed"]["threads"]), (&json!(6), &json!(1)));
}

#[test]
fn data_and_tokenizer_must_stay_what_they_were() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = recipe();
    run_in(folder.path(), &recipe, 1, Some(7), false).unwrap_err();
    let other = |origin: Origin| {
        run_of(folder.path(), &recipe, &origin, &mut random(&recipe, 1), None, false).unwrap_err().to_string()
    };
    let data = Map::from_iter([("a".to_owned(), json!([{ "sha256": "b" }]))]);
    let error = other(Origin { data, ..origin("x", 1) });
    assert!(error.contains("run.json: data.a: expected ") && error.contains(r#"found [{"sha256":"b"}]"#), "{error}");
    let error = other(Origin { tokenizer_sha256: "u".to_owned(), ..origin("x", 1) });
    assert!(error.contains(r#"run.json: tokenizer_sha256: expected "t", found "u""#), "{error}");
}

#[test]
fn a_branch_without_changes_makes_its_parents_next_steps_to_the_bit() {
    let (straight, parent, branch) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let recipe = recipe();
    run_in(straight.path(), &recipe, 1, None, false).unwrap();
    run_in(parent.path(), &recipe, 1, Some(7), false).unwrap_err();

    let from = format!("{}@6", parent.path().display());
    let found = Parent::find(&from).unwrap();
    let schedule = Schedule::new(&recipe, |_| 0);
    let branched = found.branch(branch.path(), &recipe, &schedule, &origin("x", 1)).unwrap();
    assert_eq!((branched.step, branched.changes.len(), branched.notes.len()), (6, 0, 0));
    // It needs its parent no more.
    fs::remove_dir_all(parent.path()).unwrap();
    run_in(branch.path(), &recipe, 2, None, false).unwrap();

    let weights = |folder: &Path| -> Vec<(PathBuf, Vec<u8>)> {
        last(folder).into_iter().filter(|(path, _)| path.extension().is_some_and(|it| it == "safetensors")).collect()
    };
    assert_eq!(weights(branch.path()).len(), 2);
    assert_eq!(weights(branch.path()), weights(straight.path()));
    let steps = |folder: &Path| -> Vec<Value> {
        told(folder).into_iter().filter(|line| line["loss"].is_f64() && line["step"].as_u64() > Some(6)).collect()
    };
    assert_eq!(steps(branch.path()), steps(straight.path()));
    assert_eq!(steps(branch.path()).len(), 8);
}

#[test]
fn a_branch_says_where_it_comes_from_and_what_it_changes() {
    let (parent, branch, twig) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut recipe = recipe();
    run_in(parent.path(), &recipe, 1, Some(7), false).unwrap_err();
    let found = Parent::find(&parent.path().display().to_string()).unwrap();
    let parent_hash = recipe.hash();
    recipe.set("optimizer.clip", "0.5").unwrap();
    recipe.set("seed", "9").unwrap();
    recipe.set("phases.annealing.tokens", "160").unwrap();
    let schedule = Schedule::new(&recipe, |_| 0);
    let branched = found.branch(branch.path(), &recipe, &schedule, &origin("y", 1)).unwrap();
    assert!(branched.notes[0].starts_with("seed: the data come in another order"), "{:?}", branched.notes);
    assert!(branched.notes[1].contains("the parent was made by x on any"), "{:?}", branched.notes);
    run_of(branch.path(), &recipe, &origin("y", 1), &mut random(&recipe, 1), None, false).unwrap();

    let kept: Value = serde_json::from_slice(&fs::read(branch.path().join("run.json")).unwrap()).unwrap();
    assert_eq!((&kept["parent"]["step"], &kept["parent"]["recipe_sha256"]), (&json!(6), &json!(parent_hash)));
    assert_eq!(kept["changes"]["optimizer.clip"], json!({ "from": "1.0", "to": "0.5" }));
    let at = branch.path().join("checkpoints/step-000015-tokens-0000M");
    let note: Value = serde_json::from_slice(&fs::read(at.join("dots.json")).unwrap()).unwrap();
    assert_eq!((&note["parent"], &note["changes"]), (&kept["parent"], &kept["changes"]));

    // A branch of it, of a checkpoint by its folder, which is of the last step: there must be more to do.
    let found = Parent::find(&at.display().to_string()).unwrap();
    let error = found.branch(twig.path(), &recipe, &schedule, &origin("y", 1)).unwrap_err().to_string();
    assert!(error.contains("phases: expected more than 15 steps"), "{error}");
    recipe.set("phases.annealing.tokens", "320").unwrap();
    found.branch(twig.path(), &recipe, &Schedule::new(&recipe, |_| 0), &origin("y", 1)).unwrap();
    let kept: Value = serde_json::from_slice(&fs::read(twig.path().join("run.json")).unwrap()).unwrap();
    assert_eq!((&kept["ancestors"][0]["step"], &kept["parent"]["step"]), (&json!(6), &json!(15)));
    // It is a run now.
    let error = found.branch(twig.path(), &recipe, &schedule, &origin("y", 1)).unwrap_err().to_string();
    assert!(error.contains("expected a new folder, found a run") || error.contains("more than 15 steps"), "{error}");
}

#[test]
fn a_branch_that_cannot_be_is_refused_by_its_key() {
    let (parent, branch) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let recipe = recipe();
    run_in(parent.path(), &recipe, 1, Some(13), false).unwrap_err();
    let found = Parent::find(&parent.path().display().to_string()).unwrap();
    for (key, value, expected) in [
        ("model.width", "64", "model.width: expected 32, as the weights and moments of the parent have it, found 64"),
        ("model.experts", "16", "model.experts: expected 8"),
        ("phases.annealing.batch_tokens", "64", "phases.annealing.batch_tokens.0.tokens: expected the steps up to 12"),
        ("phases.stable.tokens", "160", "phases.stable.tokens: expected the steps up to 12 as the parent made them"),
    ] {
        let mut recipe = recipe.clone();
        recipe.set(key, value).unwrap();
        let schedule = Schedule::new(&recipe, |_| 0);
        let error = found.branch(branch.path(), &recipe, &schedule, &origin("x", 1)).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    assert_eq!(fs::read_dir(branch.path()).unwrap().count(), 0);
    // Its state was let go; there is none of that step; a flipped bit.
    let find = |step: u64| Parent::find(&format!("{}@{step}", parent.path().display())).unwrap_err().to_string();
    assert!(find(3).contains("state: expected a checkpoint with its state"), "{}", find(3));
    assert!(find(4).contains("step: expected a step with a checkpoint and its state (10, 12), found 4"), "{}", find(4));
    let state = parent.path().join("checkpoints/step-000012-tokens-0000M/state/state.safetensors");
    let mut bytes = fs::read(&state).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&state, bytes).unwrap();
    assert!(find(12).contains("state.safetensors: crc32"), "{}", find(12));
}

#[test]
fn a_batch_may_grow_from_a_branch_on() {
    let (parent, branch) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut recipe = recipe();
    run_in(parent.path(), &recipe, 1, Some(7), false).unwrap_err();
    let found = Parent::find(&parent.path().display().to_string()).unwrap();
    recipe.set("phases.stable.batch_tokens", "[{ from = 0, tokens = 32 }, { from = 192, tokens = 64 }]").unwrap();
    let schedule = Schedule::new(&recipe, |_| 0);
    found.branch(branch.path(), &recipe, &schedule, &origin("x", 1)).unwrap();
    assert_eq!((schedule.at(5).unwrap().batch_tokens, schedule.at(6).unwrap().batch_tokens), (32, 64));
}

#[test]
fn a_branch_goes_on_from_nothing_that_lay_in_its_folder_but_its_own_first_attempt() {
    let parent = tempfile::tempdir().unwrap();
    let recipe = recipe();
    run_in(parent.path(), &recipe, 1, Some(7), false).unwrap_err();
    let found = Parent::find(&format!("{}@6", parent.path().display())).unwrap();
    let branch = |folder: &Path| found.branch(folder, &recipe, &Schedule::new(&recipe, |_| 0), &origin("x", 1));
    let in_the_way = |folder: &Path, name: &str| {
        let error = branch(folder).unwrap_err();
        assert!(matches!(&error, RunError::InTheWay { path } if path.ends_with(name)), "{name}: {error}");
        assert!(!folder.join(RECIPE).exists());
    };
    for name in
        ["checkpoints/step-000009-tokens-0000M", "metrics.jsonl", "run.json", "samples/round.sums.jsonl", "tensorboard"]
    {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        // A folder or a file.
        let theirs = if path.extension().is_some() { path.clone() } else { path.join("theirs") };
        fs::create_dir_all(theirs.parent().unwrap()).unwrap();
        fs::write(&theirs, "theirs").unwrap();
        in_the_way(folder.path(), name);
        assert_eq!(fs::read_to_string(theirs).unwrap(), "theirs");
        assert!(!folder.path().join("checkpoints/step-000006-tokens-0000M").exists());
    }

    // Killed before its recipe was written, and again while it wrote something.
    let folder = tempfile::tempdir().unwrap();
    branch(folder.path()).unwrap();
    fs::remove_file(folder.path().join(RECIPE)).unwrap();
    fs::create_dir(folder.path().join("checkpoints/step-000006-tokens-0000M.part")).unwrap();
    branch(folder.path()).unwrap();
    run_in(folder.path(), &recipe, 1, None, false).unwrap();
    assert_eq!(told(folder.path())[0]["step"], 7);

    // Of another checkpoint it is not the same branch.
    let folder = tempfile::tempdir().unwrap();
    branch(folder.path()).unwrap();
    fs::remove_file(folder.path().join(RECIPE)).unwrap();
    let found = Parent::find(&format!("{}@3", parent.path().display())).unwrap();
    let error = found.branch(folder.path(), &recipe, &Schedule::new(&recipe, |_| 0), &origin("x", 1)).unwrap_err();
    assert!(matches!(error, RunError::InTheWay { .. }), "{error}");
}

#[test]
fn a_branch_with_another_tokenizer_is_refused_and_one_with_other_data_says_so() {
    let parent = tempfile::tempdir().unwrap();
    let recipe = recipe();
    run_in(parent.path(), &recipe, 1, Some(7), false).unwrap_err();
    let found = Parent::find(&parent.path().display().to_string()).unwrap();
    let branch = |recipe: &Recipe, origin: Origin| {
        let folder = tempfile::tempdir().unwrap();
        found.branch(folder.path(), recipe, &Schedule::new(recipe, |_| 0), &origin).map(|branched| branched.notes)
    };
    let error = branch(&recipe, Origin { tokenizer_sha256: "u".to_owned(), ..origin("x", 1) }).unwrap_err().to_string();
    assert!(error.contains("tokenizer_sha256: expected t, the parent's"), "{error}");
    assert!(error.contains("found u; model.start begins a run from weights alone"), "{error}");

    let other = || Origin { data: Map::from_iter([("a".to_owned(), json!([{ "sha256": "b" }]))]), ..origin("x", 1) };
    let notes = branch(&recipe, other()).unwrap();
    assert!(notes.len() == 1 && notes[0].starts_with("sources.a: what its files hold"), "{notes:?}");
    // Another name says so itself.
    let mut renamed = recipe.clone();
    renamed.set("sources.a.shards", "[\"c\"]").unwrap();
    let notes = branch(&renamed, other()).unwrap();
    assert!(notes.len() == 1 && notes[0].starts_with("sources.a.shards.0: the data come"), "{notes:?}");
}

/// As [`Numbers`], with nothing to predict where it is validated.
struct Blind;

impl Feed for Blind {
    fn step(&mut self, step: u64, at: &Position) -> Result<(Totals, Vec<Sequences>), Box<dyn Error + Send + Sync>> {
        Numbers { fails: None }.step(step, at)
    }
    fn validation(&mut self, source: &str, at: &Position) -> Result<Vec<Sequences>, Box<dyn Error + Send + Sync>> {
        let mut all = Numbers { fails: None }.validation(source, at)?;
        all.iter_mut().for_each(|batch| batch.targets.fill(NO_TARGET));
        Ok(all)
    }
}

#[test]
fn a_validation_without_anything_to_predict_is_no_loss_of_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = recipe();
    let error = run_on(folder.path(), &recipe, &origin("x", 1), &mut random(&recipe, 1), &mut Blind, false);
    let error = error.unwrap_err().to_string();
    assert_eq!(error, "step 5: data: validation on b: expected tokens to predict, found none");
    assert!(lines(folder.path()).iter().all(|line| line["validation"].is_null()));
}

/// As [`Numbers`], and somebody clears the tokenizer's folder before the second step.
struct Clearing(PathBuf);

impl Feed for Clearing {
    fn step(&mut self, step: u64, at: &Position) -> Result<(Totals, Vec<Sequences>), Box<dyn Error + Send + Sync>> {
        if step == 1 {
            fs::remove_dir_all(&self.0)?;
        }
        Numbers { fails: None }.step(step, at)
    }
    fn validation(&mut self, source: &str, at: &Position) -> Result<Vec<Sequences>, Box<dyn Error + Send + Sync>> {
        Numbers { fails: None }.validation(source, at)
    }
}

#[test]
fn checkpoints_hold_the_tokenizer_that_the_run_began_with_whatever_becomes_of_its_folder() {
    let folder = tempfile::tempdir().unwrap();
    let (run, tokenizer) = (folder.path().join("run"), folder.path().join("tokenizer"));
    let mut recipe = recipe();
    fs::create_dir(&tokenizer).unwrap();
    for name in ["tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
        fs::copy(recipe.tokenizer.join(name), tokenizer.join(name)).unwrap();
    }
    let expected = fs::read(tokenizer.join("tokenizer.json")).unwrap();
    recipe.set("tokenizer.path", tokenizer.to_str().unwrap()).unwrap();
    let feed = &mut Clearing(tokenizer);
    let end = run_on(&run, &recipe, &origin("x", 1), &mut random(&recipe, 1), feed, false);
    assert_eq!(end.unwrap(), End::Finished);
    let kept = run.join("checkpoints/step-000014-tokens-0000M/tokenizer.json");
    assert!(fs::read(kept).unwrap() == expected);
}

#[test]
fn a_branch_that_orders_the_data_of_a_begun_phase_otherwise_says_so() {
    let parent = tempfile::tempdir().unwrap();
    let recipe = recipe();
    run_in(parent.path(), &recipe, 1, Some(7), false).unwrap_err();
    let found = Parent::find(&parent.path().display().to_string()).unwrap();
    let notes = |key: &str, value: &str| {
        let (folder, mut recipe) = (tempfile::tempdir().unwrap(), recipe.clone());
        recipe.set(key, value).unwrap();
        found.branch(folder.path(), &recipe, &Schedule::new(&recipe, |_| 0), &origin("x", 1)).unwrap().notes
    };
    for (key, value) in [
        ("phases.stable.tokens", "384"),
        ("phases.stable.batch_tokens", "[{ from = 0, tokens = 32 }, { from = 192, tokens = 64 }]"),
    ] {
        let notes = notes(key, value);
        assert!(notes.len() == 1 && notes[0].starts_with(key), "{notes:?}");
        assert!(notes[0].contains("the data come in another order from here on"), "{notes:?}");
    }
    // What has not begun is ordered by what it is.
    assert_eq!(notes("phases.annealing.tokens", "160"), [""; 0]);
    assert_eq!(notes("phases.annealing.batch_tokens", "64"), [""; 0]);
}

#[test]
fn an_update_that_leaves_a_weight_that_is_no_number_ends_the_run_before_a_checkpoint_holds_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut recipe = recipe();
    recipe.set("checkpoints.every_tokens", "32").unwrap();
    // In f32 nothing is left of it: a weight without a gradient is moved by 0 / 0.
    let optimizer = Optimizer { epsilon: 1e-46, ..Optimizer::default() };
    let options = Options { optimizer, ..options(1) };
    let mut step = CpuStep::random(&recipe.model.config, recipe.seed, 0.05, &options).unwrap();
    let error = run_of(folder.path(), &recipe, &origin("x", 1), &mut step, None, false).unwrap_err().to_string();
    assert!(error.starts_with("step 1: weight of model.") && error.contains(" is NaN"), "{error}");
    assert_eq!(lines(folder.path()), [json!({ "step": 1, "error": error })]);
    assert!(!folder.path().join("checkpoints").exists());
}

#[test]
fn a_damaged_state_takes_no_place_of_those_that_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = recipe();
    run_in(folder.path(), &recipe, 1, Some(10), false).unwrap_err();
    assert_eq!(run_in(folder.path(), &recipe, 1, None, true).unwrap(), End::Stopped);
    let checkpoints = folder.path().join("checkpoints");
    let state = checkpoints.join("step-000011-tokens-0000M/state/state.safetensors");
    let bytes = fs::read(&state).unwrap();
    fs::write(&state, &bytes[..100]).unwrap();
    run_in(folder.path(), &recipe, 1, Some(12), false).unwrap_err();

    let kept = checkpoint::steps(&checkpoints).unwrap().into_iter().filter(|(_, path)| checkpoint::has_state(path));
    let kept: Vec<_> =
        kept.map(|(step, path)| checkpoint::open(&path).map(|_| step).map_err(|e| e.to_string())).collect();
    assert_eq!(kept, [Ok(10), Ok(12)]);
    // Whoever looks finds it.
    let aside = checkpoints.join("step-000011-tokens-0000M.damaged/state/state.safetensors");
    assert_eq!(fs::read(aside).unwrap(), &bytes[..100]);
}
