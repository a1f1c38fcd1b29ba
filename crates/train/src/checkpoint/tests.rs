use std::path::Path;

use dots_kernels::train::Precision;
use dots_model::Checkpoint;

use super::*;
use crate::{
    cpu::{CpuStep, Options},
    recipe::Optimizer,
    step::{ALL_EXPERTS, Dials, MicroBatch, StateTensor, StepError, StepReport, TakeState, Totals},
};

const TOKENS: usize = 24;

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/goldens/hf")
}

fn companions() -> Companions {
    Companions::read(&fixture()).unwrap()
}

fn options() -> Options {
    Options {
        precision: Precision::F32,
        recompute: false,
        micro_batch_tokens: TOKENS,
        sequence_tokens: TOKENS,
        threads: 1,
        optimizer: Optimizer::default(),
    }
}

fn random(seed: u64) -> CpuStep {
    let config = Checkpoint::open(&fixture()).unwrap().config;
    CpuStep::random(&config, seed, 0.02, &options()).unwrap()
}

/// One step on tokens that follow from `seed`.
fn learn(step: &mut dyn Step, seed: u32) -> StepReport {
    let tokens: Vec<u32> = (0..TOKENS as u32).map(|i| (seed * 31 + i * i * 7) % 500).collect();
    let targets: Vec<u32> = tokens[1..].iter().copied().chain([1]).collect();
    let batch = MicroBatch { sequence_tokens: TOKENS, tokens: &tokens, attend_from: &[0; TOKENS], targets: &targets };
    let dials = Dials { learning_rate: 1e-3, sequence_loss: 1e-3, bias_rate: 1e-2, balanced: ALL_EXPERTS };
    step.begin(Totals { targets: TOKENS as u64, sequences: 1 }, dials).unwrap();
    step.forward_backward(&batch).unwrap();
    step.update().unwrap()
}

fn save(folder: &Path, step: &mut dyn Step, at: u64) -> Result<PathBuf, CheckpointError> {
    let config = Checkpoint::open(&fixture()).unwrap().config;
    let lineage = Map::from_iter([("recipe".to_owned(), "abc".into())]);
    let name = Name { step: at, tokens: at * TOKENS as u64 };
    write(folder, step, &About { name, config: &config, companions: &companions(), lineage: &lineage })
}

fn state(step: &mut dyn Step) -> Vec<u32> {
    let mut bits = vec![step.updates() as u32];
    step.export(&mut |tensor| {
        bits.extend(tensor.numbers.iter().map(|x| x.to_bits()));
        Ok(())
    })
    .unwrap();
    bits
}

/// A step whose state cannot be handed out past its tenth tensor: a disk that fills.
struct Failing(CpuStep);

impl Step for Failing {
    fn begin(&mut self, totals: Totals, dials: Dials) -> Result<(), StepError> {
        self.0.begin(totals, dials)
    }
    fn forward_backward(&mut self, batch: &MicroBatch<'_>) -> Result<(), StepError> {
        self.0.forward_backward(batch)
    }
    fn update(&mut self) -> Result<StepReport, StepError> {
        self.0.update()
    }
    fn evaluate(&mut self, batch: &MicroBatch<'_>) -> Result<(f64, u64), StepError> {
        self.0.evaluate(batch)
    }
    fn updates(&self) -> u64 {
        self.0.updates()
    }
    fn export(&mut self, give: &mut dyn FnMut(StateTensor<'_>) -> io::Result<()>) -> io::Result<()> {
        let mut left = 10;
        self.0.export(&mut |tensor| {
            left -= 1;
            if left == 0 { Err(io::ErrorKind::StorageFull.into()) } else { give(tensor) }
        })
    }
    fn import(&mut self, updates: u64, take: &mut TakeState<'_>) -> io::Result<()> {
        self.0.import(updates, take)
    }
}

#[test]
fn what_goes_on_from_a_checkpoint_learns_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let mut straight = random(7);
    learn(&mut straight, 1);
    learn(&mut straight, 2);
    save(folder.path(), &mut straight, 2).unwrap();
    learn(&mut straight, 3);

    let whole = newest(folder.path()).unwrap().whole.unwrap();
    assert_eq!((whole.name.step, whole.note["recipe"].as_str()), (2, Some("abc")));
    let mut resumed = random(8);
    load(&whole, &mut resumed).unwrap();
    learn(&mut resumed, 3);
    assert_eq!(state(&mut straight), state(&mut resumed));
}

#[test]
fn a_checkpoint_opens_as_a_published_model_and_holds_the_weights_in_bf16() {
    let folder = tempfile::tempdir().unwrap();
    let mut step = random(7);
    let path = save(folder.path(), &mut step, 0).unwrap();
    assert!(path.ends_with("step-000000-tokens-0000M"));
    let (released, source) = (Checkpoint::open(&path).unwrap(), Checkpoint::open(&fixture()).unwrap());
    assert_eq!(released.config, source.config);
    assert_eq!(released.generation.eos_token_ids, source.generation.eos_token_ids);
    for parameter in step.parameters() {
        let released = released.tensor(&parameter.name).unwrap().to_f32_vec().unwrap();
        for (released, weight) in released.iter().zip(&step.weights()[parameter.range()]) {
            assert!((released - weight).abs() <= weight.abs() / 256.0, "{}: {released} {weight}", parameter.name);
        }
    }
}

#[test]
fn weights_that_fill_several_files_open_as_one() {
    let folder = tempfile::tempdir().unwrap();
    let mut step = random(7);
    let source = Checkpoint::open(&fixture()).unwrap();
    let (part, lineage) = (folder.path().join("part"), Map::new());
    let name = Name { step: 1, tokens: 2 };
    let about = About { name, config: &source.config, companions: &companions(), lineage: &lineage };
    write_part(&part, &mut step, &about, 100_000).unwrap();
    assert!(
        part.join("model-00002-of-00008.safetensors").exists(),
        "{:?}",
        fs::read_dir(&part).unwrap().collect::<Vec<_>>()
    );
    let whole = folder.path().join("whole");
    write_part(&whole, &mut step, &about, SHARD_BYTES).unwrap();
    let (parts, whole) = (Checkpoint::open(&part).unwrap(), Checkpoint::open(&whole).unwrap());
    for (name, tensor) in whole.tensors() {
        assert_eq!(parts.tensor(name).unwrap().data, tensor.data, "{name}");
    }
}

#[test]
fn the_last_whole_one_is_found_where_the_newest_is_cut_short_or_has_a_flipped_bit() {
    let folder = tempfile::tempdir().unwrap();
    let mut step = random(7);
    for at in 1..=3 {
        save(folder.path(), &mut step, at).unwrap();
    }
    let file = |at: u64, name: &str| folder.path().join(Name { step: at, tokens: 0 }.to_string()).join(name);
    let newest_step = || {
        let found = newest(folder.path()).unwrap();
        (
            found.whole.unwrap().name.step,
            found.broken.iter().map(|broken| broken.why.to_string()).collect::<Vec<_>>().join("\n"),
        )
    };
    assert_eq!(newest_step(), (3, String::new()));

    let path = file(3, "state/state.safetensors");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    let (found, why) = newest_step();
    assert_eq!(found, 2);
    assert!(why.contains("state.safetensors: length: expected"), "{why}");

    let path = file(2, "model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, bytes).unwrap();
    let (found, why) = newest_step();
    assert_eq!(found, 1);
    assert!(why.contains("model.safetensors: crc32: expected"), "{why}");

    fs::write(file(1, "dots.json"), "{").unwrap();
    let found = newest(folder.path()).unwrap();
    assert!(found.whole.is_none() && found.broken.len() == 3, "{found:?}");
}

#[test]
fn a_damaged_one_of_the_same_step_is_set_aside_and_not_written_over() {
    let folder = tempfile::tempdir().unwrap();
    let mut step = random(7);
    let path = save(folder.path(), &mut step, 1).unwrap();
    fs::write(path.join("dots.json"), "{").unwrap();
    learn(&mut step, 1);
    save(folder.path(), &mut step, 1).unwrap();
    assert_eq!(newest(folder.path()).unwrap().whole.unwrap().name.step, 1);
    assert_eq!(fs::read(folder.path().join("step-000001-tokens-0000M.damaged/dots.json")).unwrap(), b"{");
}

#[test]
fn a_state_of_a_larger_model_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    save(folder.path(), &mut random(7), 1).unwrap();
    let whole = newest(folder.path()).unwrap().whole.unwrap();
    let mut config = random(7).config().clone();
    config.num_hidden_layers -= 1;
    let mut smaller = CpuStep::random(&config, 7, 0.02, &options()).unwrap();
    let error = load(&whole, &mut smaller).unwrap_err().to_string();
    assert!(error.contains("state.safetensors: tensors: expected "), "{error}");
}

#[test]
fn a_write_that_fails_leaves_the_others_and_no_trace() {
    let folder = tempfile::tempdir().unwrap();
    let mut step = Failing(random(7));
    save(folder.path(), &mut step.0, 1).unwrap();
    let error = save(folder.path(), &mut step, 2).unwrap_err();
    assert!(
        matches!(&error, CheckpointError::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull),
        "{error}"
    );
    let names: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["step-000001-tokens-0000M"]);
    assert_eq!(newest(folder.path()).unwrap().whole.unwrap().name.step, 1);
}

#[test]
fn old_states_are_let_go_and_their_weights_stay() {
    let folder = tempfile::tempdir().unwrap();
    let mut step = random(7);
    for at in 1..=4 {
        save(folder.path(), &mut step, at).unwrap();
    }
    fs::create_dir(folder.path().join("step-000009-tokens-0000M.part")).unwrap();
    fs::create_dir(folder.path().join("notes.part")).unwrap();
    prune(folder.path(), 4, 2).unwrap();
    let mut names: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names.len(), 5, "{names:?}");
    let states: Vec<bool> = steps(folder.path()).unwrap().iter().map(|(_, path)| path.join(STATE).exists()).collect();
    assert_eq!(states, [false, false, true, true]);
    for (_, path) in steps(folder.path()).unwrap() {
        Checkpoint::open(&path).unwrap();
    }
}

#[test]
fn a_state_of_another_shape_or_a_header_that_lies_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let mut step = random(7);
    save(folder.path(), &mut step, 1).unwrap();
    let whole = newest(folder.path()).unwrap().whole.unwrap();
    let mut config = step.config().clone();
    config.vocab_size += 1;
    let mut other = CpuStep::random(&config, 7, 0.02, &options()).unwrap();
    let error = load(&whole, &mut other).unwrap_err().to_string();
    assert!(error.contains("model.embed_tokens.weight: expected shape [513, 64], found [512, 64]"), "{error}");

    let path = whole.path.join(STATE).join(STATE_TENSORS);
    let bytes = fs::read(&path).unwrap();
    for length in [u64::MAX, 1 << 27, 7] {
        let mut bytes = bytes.clone();
        bytes[..8].copy_from_slice(&length.to_le_bytes());
        fs::write(&path, bytes).unwrap();
        load(&whole, &mut step).unwrap_err();
    }
    let end = format!("{:?}", [0, 4]);
    let header =
        format!(r#"{{"__metadata__":{{"updates":"1"}},"x":{{"dtype":"F32","shape":[1],"data_offsets":{end}}}}}"#);
    fs::write(&path, [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat()).unwrap();
    let error = load(&whole, &mut step).unwrap_err().to_string();
    assert!(error.contains("x: expected an f32 tensor within the file"), "{error}");
}
