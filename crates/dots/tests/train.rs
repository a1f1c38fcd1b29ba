//! `dots tokenize` and `dots train` as a person uses them, and as a machine that dies treats them.

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use support::{DOTS, apart, dots, dots_in, text};

const TOKENIZER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/goldens/hf");

/// A folder with a shard, chats, and a recipe of 20 steps of one and 10 of the other.
fn prepared() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let lines: String =
        (0..300).map(|nth| format!("{{\"text\": \"{nth} small steps for a model, {}\"}}\n", nth * nth)).collect();
    fs::write(folder.path().join("in.jsonl"), lines).unwrap();
    let chat = |nth: usize| {
        format!(
            "{{\"messages\": [{{\"role\": \"user\", \"content\": \"{nth}?\"}}, {{\"role\": \"assistant\", \"content\": \"{}\"}}]}}\n",
            nth * nth
        )
    };
    fs::write(folder.path().join("chats.jsonl"), (0..40).map(chat).collect::<String>()).unwrap();
    let output = dots_in(folder.path(), &["tokenize", "in.jsonl", "-o", "data/a", "--tokenizer", TOKENIZER]);
    assert!(output.status.success() && text(&output).contains("data/a: 300 documents, "), "{}", text(&output));
    let recipe = format!(
        r#"
name = "tiny"
[model]
preset = "dots"
layers = 2
width = 32
experts = 8
expert_width = 16
vocab_size = 512
context = 64
[tokenizer]
path = "{TOKENIZER}"
[sources.a]
shards = ["data/a"]
[sources.chats]
chats = ["chats.jsonl"]
[[phases]]
name = "stable"
tokens = 2560
sequence_tokens = 32
batch_tokens = 128
learning_rate = 1e-2
mixture = {{ a = 1.0 }}
[[phases]]
name = "chat"
kind = "sft"
tokens = 1280
sequence_tokens = 32
batch_tokens = 128
learning_rate = {{ from = 5e-3, to = 1e-3, shape = "cosine" }}
mixture = {{ chats = 1.0 }}
[checkpoints]
every_tokens = 640
"#
    );
    fs::write(folder.path().join("tiny.toml"), recipe).unwrap();
    folder
}

/// Each step's loss, as it was written.
fn losses(run: &Path) -> Vec<String> {
    let metrics = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let loss = |line: &str| Some(line.split("\"loss\":").nth(1)?.split(',').next()?.to_owned());
    metrics.lines().filter(|line| !line.contains("\"validation\"")).filter_map(loss).collect()
}

fn last(run: &Path, file: &str) -> Vec<u8> {
    fs::read(run.join("checkpoints/step-000030-tokens-0000M").join(file)).unwrap()
}

#[test]
fn a_run_that_was_killed_at_any_moment_ends_in_the_same_bytes() {
    let folder = prepared();
    let output = dots_in(folder.path(), &["train", "tiny.toml", "-o", "straight"]);
    assert!(output.status.success() && text(&output).contains("All 30 steps are made."), "{}", text(&output));

    let run = folder.path().join("killed");
    let lines = || fs::read_to_string(run.join("metrics.jsonl")).map_or(0, |text| text.lines().count());
    let args: [&[&str]; 4] =
        [&["tiny.toml", "-o", "killed"], &["killed", "--threads", "1"], &["killed"], &["killed", "--threads", "3"]];
    for (nth, args) in args.into_iter().enumerate() {
        let before = lines();
        let mut child =
            dots().arg("train").args(args).current_dir(folder.path()).stderr(Stdio::null()).spawn().unwrap();
        // At another place each time; one that has ended by itself is as good.
        let began = Instant::now();
        while lines() < before.min(5) + 3 * nth && began.elapsed() < Duration::from_secs(60) {
            if child.try_wait().unwrap().is_some() {
                break;
            }
            thread::sleep(Duration::from_millis(2));
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let output = match run.join("recipe.toml").exists() {
        true => dots_in(folder.path(), &["train", "killed"]),
        // The first one was killed before it had begun.
        false => dots_in(folder.path(), &["train", "tiny.toml", "-o", "killed"]),
    };
    assert!(output.status.success(), "{}", text(&output));
    let straight = folder.path().join("straight");
    assert_eq!(losses(&run), losses(&straight));
    for file in ["model.safetensors", "state/state.safetensors", "config.json"] {
        assert!(last(&run, file) == last(&straight, file), "{file}");
    }
}

#[test]
fn what_cannot_be_trained_is_named() {
    let folder = prepared();
    let recipe = fs::read_to_string(folder.path().join("tiny.toml")).unwrap();
    let with = |from: &str, to: &str| {
        fs::write(folder.path().join("wrong.toml"), recipe.replace(from, to)).unwrap();
        let output = dots_in(folder.path(), &["train", "wrong.toml", "-o", "wrong"]);
        assert_eq!(output.status.code(), Some(1), "{}", text(&output));
        text(&output)
    };
    let cases = [
        ("vocab_size = 512", "vocab_size = 256", "expected a tokenizer of at most 256 ids"),
        ("\"data/a\"", "\"data/b\"", "data/b.idx: No such file"),
        ("layers = 2", "layers = 2\nlayer = 2", "layer"),
        ("context = 64", "context = 16", "sequence_tokens"),
    ];
    for (from, to, expected) in cases {
        let found = with(from, to);
        assert!(found.contains(expected), "{to}: {found}");
    }
    let manifest: PathBuf = folder.path().join("data/a.json");
    let kept = fs::read_to_string(&manifest).unwrap();
    let other = kept.replace("\"tokenizer_sha256\": \"", "\"tokenizer_sha256\": \"0");
    fs::write(&manifest, &other).unwrap();
    let found = with("tiny", "other");
    assert!(other != kept && found.contains("data/a.json: tokenizer_sha256: expected "), "{found}");
    fs::write(&manifest, kept).unwrap();
    let bin: PathBuf = folder.path().join("data/a.bin");
    let bytes = fs::read(&bin).unwrap();
    fs::write(&bin, &bytes[..bytes.len() - 2]).unwrap();
    let found = with("tiny", "other");
    assert!(found.contains("data/a.bin: "), "{found}");
    fs::write(&bin, bytes).unwrap();
    let index: PathBuf = folder.path().join("data/a.idx");
    let bytes = fs::read(&index).unwrap();
    let mut lies = bytes.clone();
    // The first document's length, behind magic, version, type and two counts.
    lies[34..38].copy_from_slice(&u32::MAX.to_le_bytes());
    fs::write(&index, lies).unwrap();
    let found = with("tiny", "other");
    assert!(found.contains("data/a.idx: "), "{found}");
    fs::write(&index, bytes).unwrap();
    let chats: PathBuf = folder.path().join("chats.jsonl");
    let kept = fs::read_to_string(&chats).unwrap();
    fs::write(&chats, format!("{kept}\n{{\"text\": \"no chat\"}}\n")).unwrap();
    let found = with("tiny", "other");
    assert!(found.contains("chats.jsonl: line 42: expected a chat"), "{found}");
    assert!(!folder.path().join("wrong").exists(), "nothing was begun");

    let output = dots_in(folder.path(), &["train", "tiny.toml"]);
    assert!(text(&output).contains("expected --out RUN"), "{}", text(&output));
    let output = dots_in(folder.path(), &["tokenize", "in.jsonl", "-o", "data/a", "--tokenizer", TOKENIZER]);
    assert!(text(&output).contains("data/a.bin: exists"), "{}", text(&output));
}

#[test]
fn a_second_program_on_a_run_is_told_who_is_there_and_changes_nothing() {
    let folder = prepared();
    let mut first = dots()
        .args(["train", "tiny.toml", "-o", "run", "--set", "phases.stable.tokens=10M"])
        .current_dir(folder.path())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let metrics = folder.path().join("run/metrics.jsonl");
    let began = Instant::now();
    while !fs::read_to_string(&metrics).is_ok_and(|text| text.contains("\"loss\"")) {
        assert!(began.elapsed() < Duration::from_secs(120) && first.try_wait().unwrap().is_none());
        thread::sleep(Duration::from_millis(10));
    }
    let recipe = fs::read(folder.path().join("run/recipe.toml")).unwrap();
    for args in [&["train", "run"][..], &["train", "tiny.toml", "-o", "run"]] {
        let output = dots_in(folder.path(), args);
        assert_eq!(output.status.code(), Some(1));
        let holder = format!("run: another program is training here (process {} on ", first.id());
        assert!(text(&output).contains(&holder), "{}", text(&output));
    }
    assert_eq!(fs::read(folder.path().join("run/recipe.toml")).unwrap(), recipe);
    assert!(first.try_wait().unwrap().is_none(), "it goes on");
    first.kill().unwrap();
    first.wait().unwrap();
}

#[test]
fn a_plan_is_printed_without_data_and_what_does_not_fit_is_refused_with_figures() {
    let folder = prepared();
    fs::remove_dir_all(folder.path().join("data")).unwrap();
    let output = dots_in(folder.path(), &["train", "tiny.toml", "--plan", "--tokens-per-second", "100"]);
    let found = text(&output);
    assert!(output.status.success(), "{found}");
    for expected in [
        "weights",
        "moments",
        "activations",
        "stable     20",
        "chat       10",
        "38.4 s",
        "H800 hours",
        "at 100 tokens a second",
    ] {
        assert!(found.contains(expected), "{expected}: {found}");
    }
    // One that is measured.
    let output = dots_in(folder.path(), &["train", "tiny.toml", "--plan"]);
    assert!(output.status.success() && text(&output).contains("measured here on "), "{}", text(&output));

    let large = ["--set", "model.width=8192", "--set", "model.layers=1000", "--set", "model.heads=64"];
    let output = dots_in(folder.path(), &[&["train", "tiny.toml", "--plan"][..], &large].concat());
    let found = text(&output);
    assert_eq!(output.status.code(), Some(1), "{found}");
    assert!(
        found.contains("memory: expected at most ") && found.contains("iB, which are free, found a run of "),
        "{found}"
    );
    // Ranks are threads of this program, so it is this machine that must hold them all.
    let ranks = ["--set", "ranks.data=2"];
    let output = dots_in(folder.path(), &[&["train", "tiny.toml", "--plan"][..], &ranks].concat());
    assert!(output.status.success() && text(&output).contains("2 x 1 ranks"), "{}", text(&output));
    let output = dots_in(folder.path(), &[&["train", "tiny.toml", "--plan"][..], &ranks, &large].concat());
    let found = text(&output);
    assert!(output.status.code() == Some(1) && found.contains("memory: expected at most "), "{found}");
    // It would not be run here.
    let full = concat!(env!("CARGO_MANIFEST_DIR"), "/../../runs/full.toml");
    let output = dots_in(folder.path(), &["train", full, "--plan", "--gpu-tflops", "198.5"]);
    let found = text(&output);
    assert!(output.status.success(), "{found}");
    for expected in ["142.8 B parameters, 13.4 B of them active", "annealing-2", "92.8", "one GPU of 198.5 TFLOP/s"] {
        assert!(found.contains(expected), "{expected}: {found}");
    }
}

#[test]
fn a_run_that_does_not_fit_is_refused_before_it_begins() {
    let folder = prepared();
    let large = ["--set", "model.dense_width=8000000", "--set", "model.width=8192"];
    let output = dots_in(folder.path(), &[&["train", "tiny.toml", "-o", "large"][..], &large].concat());
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("memory: expected at most "), "{}", text(&output));
    assert!(!folder.path().join("large").exists());
}

#[test]
fn a_branch_goes_on_from_a_step_of_its_parent_and_is_a_run_of_its_own() {
    let folder = prepared();
    let output = dots_in(folder.path(), &["train", "tiny.toml", "-o", "parent"]);
    assert!(output.status.success(), "{}", text(&output));
    let parent = folder.path().join("parent");

    let output = dots_in(folder.path(), &["train", "--from", "parent@25", "-o", "same"]);
    assert!(output.status.success() && text(&output).contains("Branched after step 25."), "{}", text(&output));
    let same = folder.path().join("same");
    for file in ["model.safetensors", "state/state.safetensors"] {
        assert!(last(&same, file) == last(&parent, file), "{file}");
    }
    assert_eq!(losses(&same), losses(&parent)[25..]);

    let changed = ["--set", "optimizer.clip=0.1", "--set", "name=cool"];
    let output = dots_in(folder.path(), &[&["train", "--from", "parent@25", "-o", "cool"][..], &changed].concat());
    assert!(output.status.success() && text(&output).contains("  optimizer.clip: 1.0 → 0.1"), "{}", text(&output));
    let cool = folder.path().join("cool");
    assert!(last(&cool, "model.safetensors") != last(&parent, "model.safetensors"));
    assert!(fs::read_to_string(cool.join("run.json")).unwrap().contains("\"optimizer.clip\""));

    for (from, set, expected) in [
        ("parent@25", "model.width=64", "model.width: expected 32"),
        ("parent@5", "seed=2", "state: expected a checkpoint with its state"),
        ("parent@7", "seed=2", "step: expected a step with a checkpoint and its state (25, 30), found 7"),
        ("nowhere", "seed=2", "nowhere"),
    ] {
        let output = dots_in(folder.path(), &["train", "--from", from, "-o", "wrong", "--set", set]);
        assert_eq!(output.status.code(), Some(1), "{}", text(&output));
        assert!(text(&output).contains(expected), "{}", text(&output));
        assert!(!folder.path().join("wrong").join("recipe.toml").exists());
    }
    let output = dots_in(folder.path(), &["train", "parent", "--set", "seed=2"]);
    assert!(text(&output).contains("--from branches from it"), "{}", text(&output));
}

#[cfg(unix)]
#[test]
fn a_disk_that_fills_in_a_checkpoint_leaves_the_last_one_and_the_run_goes_on_from_it() {
    let folder = prepared();
    let output = dots_in(folder.path(), &["train", "tiny.toml", "-o", "straight"]);
    assert!(output.status.success(), "{}", text(&output));
    let (straight, full) = (folder.path().join("straight"), folder.path().join("full"));
    let state = fs::metadata(straight.join("checkpoints/step-000030-tokens-0000M/state/state.safetensors")).unwrap();
    // No file may grow past half a state. With its signal ignored, a write says so, as on a disk that is full.
    let script = format!("trap '' XFSZ; ulimit -f {}; exec \"$0\" \"$@\"", state.len() / 2 / 1024);
    let limited = |args: &[&str]| {
        let program = ["-c", script.as_str(), DOTS];
        apart("bash").args(program).args(args).current_dir(folder.path()).output().unwrap()
    };
    let output = limited(&["train", "tiny.toml", "-o", "full"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("state.safetensors: File too large"), "{}", text(&output));
    assert_eq!(fs::read_dir(full.join("checkpoints")).unwrap().count(), 0, "no trace");
    let told = fs::read_to_string(full.join("metrics.jsonl")).unwrap();
    assert!(told.lines().last().unwrap().contains("File too large"), "{told}");

    // Once more, with a checkpoint that was written before.
    let output = dots_in(folder.path(), &["train", "--from", "straight@25", "-o", "later"]);
    assert!(output.status.success(), "{}", text(&output));
    let later = folder.path().join("later");
    fs::remove_dir_all(later.join("checkpoints/step-000030-tokens-0000M")).unwrap();
    let output = limited(&["train", "later"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let names: Vec<_> = fs::read_dir(later.join("checkpoints")).unwrap().map(|it| it.unwrap().file_name()).collect();
    assert_eq!(names, ["step-000025-tokens-0000M"]);
    for run in ["full", "later"] {
        let output = dots_in(folder.path(), &["train", run]);
        assert!(output.status.success(), "{}", text(&output));
        let run = folder.path().join(run);
        assert!(last(&run, "model.safetensors") == last(&straight, "model.safetensors"));
    }
}

#[test]
fn data_that_changed_since_the_run_began_are_refused() {
    let folder = prepared();
    let output = dots_in(folder.path(), &["train", "tiny.toml", "-o", "run"]);
    assert!(output.status.success(), "{}", text(&output));
    fs::write(
        folder.path().join("other.jsonl"),
        "{\"text\": \"something else, and long enough for a sequence or two of it\"}\n".repeat(40),
    )
    .unwrap();
    let output =
        dots_in(folder.path(), &["tokenize", "other.jsonl", "-o", "data/a", "--replace", "--tokenizer", TOKENIZER]);
    assert!(output.status.success(), "{}", text(&output));
    let before = fs::read(folder.path().join("run/metrics.jsonl")).unwrap();
    let output = dots_in(folder.path(), &["train", "run"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("run/run.json: data.a: expected "), "{}", text(&output));
    assert_eq!(fs::read(folder.path().join("run/metrics.jsonl")).unwrap(), before);
}

#[test]
fn a_tokenizer_is_learnt_that_a_shard_and_a_run_can_use() {
    let folder = prepared();
    let args = ["tokenizer", "train", "in.jsonl", "-o", "learnt", "--vocab-size", "280"];
    let output = dots_in(folder.path(), &args);
    assert!(output.status.success(), "{}", text(&output));
    assert!(text(&output).contains("learnt: 280 tokens, the last 7 of them special"), "{}", text(&output));
    let output = dots_in(
        folder.path(),
        &["tokenize", "in.jsonl", "-o", "data/l", "--tokenizer", "learnt", "--end", "<|endoftext|>"],
    );
    assert!(output.status.success(), "{}", text(&output));
    let recipe = fs::read_to_string(folder.path().join("tiny.toml")).unwrap();
    let recipe = recipe
        .replace(TOKENIZER, "learnt")
        .replace("data/a", "data/l")
        .replace("tokens = 2560", "tokens = 256")
        .replace("tokens = 1280", "tokens = 256");
    fs::write(folder.path().join("learnt.toml"), recipe).unwrap();
    let output = dots_in(folder.path(), &["train", "learnt.toml", "-o", "run"]);
    assert!(output.status.success(), "{}", text(&output));
    let released = folder.path().join("run/checkpoints/step-000004-tokens-0000M");
    let read = |name: &str| fs::read_to_string(released.join(name)).unwrap();
    assert!(read("config.json").contains("\"eos_token_id\": [\n    273,\n    279\n  ]"), "{}", read("config.json"));
    assert!(read("tokenizer_config.json").contains("<|userprompt|>"));

    let output = dots_in(folder.path(), &args);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("tokenizer.json: exists; --replace writes over it"), "{}", text(&output));
}

#[test]
fn a_run_begun_by_one_layout_of_ranks_goes_on_with_another() {
    let folder = prepared();
    let exact = ["--set", "arithmetic.precision=f32"];
    let train = |args: &[&str]| dots_in(folder.path(), &[&["train"], args].concat());
    let output = train(&[&["tiny.toml", "-o", "one"], &exact[..]].concat());
    assert!(output.status.success(), "{}", text(&output));

    let ranks = ["--set", "ranks.data=2", "--set", "ranks.expert=2", "--set", "ranks.pipeline=2"];
    let keep = ["--set", "checkpoints.keep_states=9"];
    let output = train(&[&["tiny.toml", "-o", "shared"], &exact[..], &ranks[..], &keep[..]].concat());
    assert!(output.status.success(), "{}", text(&output));
    // As if it had died after ten steps.
    let run = folder.path().join("shared");
    for step in [15, 20, 25, 30] {
        fs::remove_dir_all(run.join(format!("checkpoints/step-{step:06}-tokens-0000M"))).unwrap();
    }
    let kept = || fs::read_to_string(run.join("recipe.toml")).unwrap();
    assert!(kept().contains("expert = 2"));

    let output = train(&["shared", "--set", "phases.0.learning_rate.from=1"]);
    assert!(!output.status.success() && text(&output).contains("expected keys of ranks"), "{}", text(&output));
    let output = train(&["shared", "--set", "ranks.expert=3"]);
    assert!(!output.status.success() && text(&output).contains("a divisor of the 8 experts"), "{}", text(&output));
    let other = ["--set", "ranks.expert=1", "--set", "ranks.pipeline=1", "--set", "ranks.data=4"];
    let output = train(&[&["shared"], &other[..]].concat());
    assert!(output.status.success() && text(&output).contains("Going on from step-000010"), "{}", text(&output));
    assert!(kept().contains("data = 4") && kept().contains("expert = 1"));

    let one = folder.path().join("one");
    let (found, want) = (losses(&run), losses(&one));
    assert_eq!(found.len(), want.len());
    for (found, want) in found.iter().zip(&want) {
        let (found, want): (f64, f64) = (found.parse().unwrap(), want.parse().unwrap());
        assert!((found / want - 1.0).abs() < 1e-4, "{found} {want}");
    }
    for file in ["config.json", "generation_config.json"] {
        assert!(last(&run, file) == last(&one, file), "{file}");
    }
    // The same tensors in the same places.
    for file in ["model.safetensors", "state/state.safetensors"] {
        let header = |run: &Path| {
            let bytes = last(run, file);
            let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
            (bytes.len(), bytes[8..8 + length].to_vec())
        };
        assert!(header(&run) == header(&one), "{file}");
    }
}

#[test]
fn a_step_says_what_it_sees_and_a_document_who_saw_it() {
    let folder = prepared();
    let lines = |args: &[&str]| -> Vec<serde_json::Value> {
        let output = dots_in(folder.path(), &[&["train", "order", "tiny.toml", "--json", "--text"], args].concat());
        assert!(output.status.success(), "{}", text(&output));
        String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let first = lines(&["--step", "1"]);
    assert_eq!(first.iter().map(|line| line["tokens"].as_u64().unwrap()).sum::<u64>(), 128);
    let piece = first.iter().find(|line| line["offset"] == 0).unwrap();
    let document = piece["document"].as_u64().unwrap();
    assert!((&piece["source"], &piece["phase"], &piece["epoch"]) == (&"a".into(), &"stable".into(), &0.into()));
    assert!(piece["text"].as_str().unwrap().starts_with(&format!("{document} ")), "{piece}");
    assert!(lines(&["--document", &format!("a:0:{document}")]).contains(piece));
    let last = &lines(&["--step", "30"])[0];
    assert!(last["text"].as_str().unwrap().starts_with("<|userprompt|>"), "{last}");
    assert!(lines(&["--document", &format!("chats:0:{}", last["document"])]).contains(last));

    for (args, expected) in [
        (["--step", "31"], "--step: expected 1 to 30, found 31"),
        (["--step", "0"], "--step: expected 1 to 30, found 0"),
        (["--document", "a:0:300"], "a:0:300: expected a document that the run sees, found none; sources are a, chats"),
        (["--document", "a:0"], "expected SOURCE:SHARD:DOCUMENT"),
    ] {
        let output = dots_in(folder.path(), &[&["train", "order", "tiny.toml"], &args[..]].concat());
        assert!(!output.status.success() && text(&output).contains(expected), "{}", text(&output));
    }
    let output = dots_in(folder.path(), &["train", "order", "tiny.toml", "--step", "1"]);
    assert!(text(&output).starts_with("step 1  sequence 0  epoch 0  a:0:"), "{}", text(&output));
}

/// As [`prepared`], with chats that all answer 7, and a last phase that learns from what the model itself answers.
fn prepared_to_sample() -> tempfile::TempDir {
    let folder = prepared();
    let chat = |nth: usize| {
        format!(
            "{{\"messages\": [{{\"role\": \"user\", \"content\": \"{nth}?\"}}, {{\"role\": \"assistant\", \"content\": \"7\"}}]}}\n"
        )
    };
    fs::write(folder.path().join("chats.jsonl"), (0..40).map(chat).collect::<String>()).unwrap();
    let problem = |nth: usize| {
        format!("{{\"messages\": [{{\"role\": \"user\", \"content\": \"{nth}?\"}}], \"answer\": {}}}\n", 7 + nth / 8)
    };
    fs::write(folder.path().join("problems.jsonl"), (0..16).map(problem).collect::<String>()).unwrap();
    let recipe = fs::read_to_string(folder.path().join("tiny.toml")).unwrap();
    let recipe = recipe.replace("tokens = 1280", "tokens = 5120").replace("from = 5e-3, to = 1e-3", "from = 1e-2, to = 5e-3").replace(
        "[[phases]]\nname = \"stable\"",
        "[sources.sevens]\nproblems = \"problems.jsonl\"\nsamples = 4\nkeep = 2\nmax_tokens = 8\n[[phases]]\nname = \"stable\"",
    );
    let round = r#"[[phases]]
name = "round"
kind = "sft"
epochs = 3.0
sequence_tokens = 32
batch_tokens = 64
learning_rate = 1e-3
mixture = { sevens = 1.0, chats = 0.1 }
"#;
    fs::write(folder.path().join("tiny.toml"), recipe + round).unwrap();
    folder
}

/// Every tensor of a run's newest checkpoint, and its number.
fn newest(run: &Path) -> (String, Vec<u8>) {
    let mut names: Vec<_> = fs::read_dir(run.join("checkpoints"))
        .unwrap()
        .map(|it| it.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let name = names.pop().unwrap();
    let state = fs::read(run.join("checkpoints").join(&name).join("state/state.safetensors")).unwrap();
    (name, state)
}

#[test]
fn a_run_learns_from_its_own_right_answers_and_was_killed_while_it_answered() {
    let folder = prepared_to_sample();
    let output = dots_in(folder.path(), &["train", "tiny.toml", "-o", "straight"]);
    assert!(output.status.success() && text(&output).contains("answers accepted"), "{}", text(&output));
    let straight = folder.path().join("straight");
    let kept = |run: &Path| fs::read_to_string(run.join("samples/round.sevens.jsonl")).unwrap();
    assert!(kept(&straight).lines().all(|line| line.contains("7")), "{}", kept(&straight));
    // Half of the problems want an 8, which nothing has taught.
    assert!((1..=16).contains(&kept(&straight).lines().count()), "{}", kept(&straight));
    let lineage: serde_json::Value = serde_json::from_slice(&fs::read(straight.join("run.json")).unwrap()).unwrap();
    assert_eq!(lineage["data"]["round/sevens"][0]["path"], "samples/round.sevens.jsonl");
    let all = losses(&straight).len();
    assert!(all > 60, "{all} steps");

    // Killed where it trains, where it answers, and where it learns from the answers.
    let run = folder.path().join("killed");
    let lines = |file: &str| fs::read_to_string(run.join(file)).map_or(0, |text| text.lines().count());
    for (threads, file, count) in
        [("1", "metrics.jsonl", 30), ("2", "samples/round.sevens.samples.jsonl", 4), ("3", "metrics.jsonl", 75)]
    {
        let what = if run.join("recipe.toml").exists() { "killed" } else { "tiny.toml" };
        let out: &[&str] = if what == "killed" { &[] } else { &["-o", "killed"] };
        let mut child = dots()
            .args([&["train", what, "--threads", threads], out].concat())
            .current_dir(folder.path())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let began = Instant::now();
        while lines(file) < count && began.elapsed() < Duration::from_secs(60) {
            if child.try_wait().unwrap().is_some() {
                break;
            }
            thread::sleep(Duration::from_millis(1));
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let output = dots_in(folder.path(), &["train", "killed"]);
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(kept(&run), kept(&straight));
    assert_eq!(losses(&run), losses(&straight));
    assert!(newest(&run) == newest(&straight));

    // A branch learns from what its parent sampled, and needs it no more.
    let step = all - 1;
    let output =
        dots_in(folder.path(), &["train", "--from", "straight", "-o", "longer", "--set", "phases.round.epochs=4"]);
    assert!(output.status.success() && !text(&output).contains("answers accepted"), "{step}: {}", text(&output));
    assert_eq!(kept(&folder.path().join("longer")), kept(&straight));
    fs::rename(&straight, folder.path().join("elsewhere")).unwrap();
    let output = dots_in(folder.path(), &["train", "longer"]);
    assert!(output.status.success(), "{}", text(&output));

    // What was sampled is data as any other.
    let path = folder.path().join("longer/samples/round.sevens.jsonl");
    fs::write(&path, kept(&folder.path().join("longer")).replace("7", "8")).unwrap();
    let output = dots_in(folder.path(), &["train", "longer"]);
    assert!(text(&output).contains("longer/run.json: data.round/sevens: expected "), "{}", text(&output));
}

#[test]
fn problems_are_looked_through_before_the_first_step() {
    let folder = prepared_to_sample();
    let problems = fs::read_to_string(folder.path().join("problems.jsonl")).unwrap();
    let long = "x".repeat(200);
    for (line, expected) in [
        ("{\"messages\": []}".to_owned(), "problems.jsonl: line 17: messages: expected"),
        (
            format!("{{\"messages\": [{{\"role\": \"user\", \"content\": \"{long}\"}}], \"answer\": 7}}"),
            "problems.jsonl: line 17: expected a prompt of 1 to 31 tokens",
        ),
    ] {
        fs::write(folder.path().join("problems.jsonl"), format!("{problems}{line}\n")).unwrap();
        let output = dots_in(folder.path(), &["train", "tiny.toml", "-o", "wrong"]);
        assert_eq!(output.status.code(), Some(1), "{}", text(&output));
        assert!(text(&output).contains(expected), "{}", text(&output));
        assert!(!folder.path().join("wrong").exists());
    }
    // None is right: there is nothing to learn from, and what was learnt until then stays.
    fs::write(folder.path().join("problems.jsonl"), problems.replace(" 7}", " 123456}").replace(" 8}", " 123456}"))
        .unwrap();
    let output = dots_in(folder.path(), &["train", "tiny.toml", "-o", "none"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("expected at least one answer that is right, found none"), "{}", text(&output));
    assert!(newest(&folder.path().join("none")).0.starts_with("step-000060"));
}

/// As [`prepared`], starting from the weights of the small golden, with one of its dials turned.
fn prepared_to_start() -> tempfile::TempDir {
    let folder = prepared();
    let path = folder.path().join("tiny.toml");
    let recipe = fs::read_to_string(&path).unwrap();
    let (head, rest) = recipe.split_once("[model]").unwrap();
    let (_, rest) = rest.split_once("[tokenizer]").unwrap();
    let model = format!("[model]\nstart = \"{TOKENIZER}\"\nrope_theta = 1e6\n");
    fs::write(path, format!("{head}{model}[tokenizer]{rest}")).unwrap();
    folder
}

#[test]
fn a_run_that_starts_from_a_checkpoint_has_the_recipes_dials_before_a_stop_as_after_it() {
    let folder = prepared_to_start();
    let train = |args: &[&str]| dots_in(folder.path(), &[&["train"], args].concat());
    let ran = |args: &[&str]| {
        let output = train(args);
        assert!(output.status.success(), "{}", text(&output));
    };
    ran(&["tiny.toml", "-o", "straight"]);
    ran(&["tiny.toml", "-o", "stopped", "--set", "checkpoints.keep_states=9"]);
    let run = |name: &str| folder.path().join(name);
    // As if it had died after ten steps.
    for step in [15, 20, 25, 30] {
        fs::remove_dir_all(run("stopped").join(format!("checkpoints/step-{step:06}-tokens-0000M"))).unwrap();
    }
    ran(&["stopped"]);
    assert_eq!(losses(&run("stopped")), losses(&run("straight")));
    for file in ["model.safetensors", "state/state.safetensors", "config.json"] {
        assert!(last(&run("stopped"), file) == last(&run("straight"), file), "{file}");
    }
    // The dial does something from the first step on.
    ran(&["tiny.toml", "-o", "plain", "--set", "model.rope_theta=1e7"]);
    assert_ne!(losses(&run("plain"))[0], losses(&run("straight"))[0]);

    let output = train(&["tiny.toml", "-o", "shallow", "--set", "model.layers=2"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("model.layers: expected 3, the start's, found 2"), "{}", text(&output));
    assert!(!run("shallow").exists());
    // A kept recipe says every dial, so that nothing is taken from its start but the weights.
    let kept = fs::read_to_string(run("straight").join("recipe.toml")).unwrap();
    fs::write(run("kept.toml"), kept.replace("layers = 3", "layers = 2")).unwrap();
    for ranks in ["ranks.data=1", "ranks.data=2"] {
        let output = train(&["kept.toml", "-o", "shallow", "--set", ranks]);
        assert_eq!(output.status.code(), Some(1), "{}", text(&output));
        let expected = "hf: num_hidden_layers: expected 2, as model.layers has it, found 3";
        assert!(text(&output).contains(expected), "{}", text(&output));
    }
}

#[test]
fn what_is_asked_before_the_first_step_has_the_recipes_dials() {
    let folder = prepared_to_start();
    let problems = "{\"messages\": [{\"role\": \"user\", \"content\": \"1?\"}], \"answer\": 123456}\n";
    fs::write(folder.path().join("problems.jsonl"), problems).unwrap();
    let recipe = fs::read_to_string(folder.path().join("tiny.toml")).unwrap();
    let (head, _) = recipe.split_once("[sources.a]").unwrap();
    let rest = r#"[sources.sums]
problems = "problems.jsonl"
max_tokens = 16
[[phases]]
name = "round"
kind = "sft"
epochs = 1.0
sequence_tokens = 64
batch_tokens = 64
learning_rate = 1e-3
mixture = { sums = 1.0 }
[checkpoints]
every_tokens = 640
"#;
    fs::write(folder.path().join("tiny.toml"), format!("{head}{rest}")).unwrap();
    let answers = |out: &str, set: &str| {
        let output = dots_in(folder.path(), &["train", "tiny.toml", "-o", out, "--set", set]);
        assert!(text(&output).contains("expected at least one answer that is right"), "{}", text(&output));
        let journal = folder.path().join(out).join("samples/round.sums.samples.jsonl");
        // Behind the line that says of what they are.
        fs::read_to_string(journal).unwrap().lines().skip(1).map(str::to_owned).collect::<Vec<_>>()
    };
    let plain = answers("plain", "model.routed_scale=2.5");
    assert_eq!(answers("again", "model.routed_scale=2.5"), plain);
    assert_ne!(answers("turned", "model.routed_scale=0.1"), plain);
}

#[test]
fn a_chat_template_that_makes_other_ids_of_the_chats_is_refused() {
    let folder = prepared();
    let tokenizer = folder.path().join("tokenizer");
    fs::create_dir(&tokenizer).unwrap();
    for name in ["tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
        fs::copy(Path::new(TOKENIZER).join(name), tokenizer.join(name)).unwrap();
    }
    let train = |args: &[&str]| dots_in(folder.path(), &[&["train"], args].concat());
    let sets = ["--set", "tokenizer.path=tokenizer", "--set", "checkpoints.keep_states=9"];
    let output = train(&[&["tiny.toml", "-o", "run"], &sets[..]].concat());
    assert!(output.status.success(), "{}", text(&output));
    let run = folder.path().join("run");
    let (lineage, metrics) = (run.join("run.json"), run.join("metrics.jsonl"));
    // As if it had died before its last steps.
    let begin_again = || fs::remove_dir_all(run.join("checkpoints/step-000030-tokens-0000M")).unwrap();
    begin_again();
    let before = fs::read(&metrics).unwrap();

    let template = dots_model::template::PUBLISHED.replace("<|userprompt|>", "<|userprompt|>Q: ");
    fs::write(tokenizer.join("chat_template.jinja"), template).unwrap();
    let output = train(&["run"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let expected = "run/run.json: data.chats.0.ids_sha256: expected \"";
    assert!(text(&output).contains(expected) && text(&output).contains("chat template"), "{}", text(&output));
    assert_eq!(fs::read(&metrics).unwrap(), before);

    // A run that an earlier version began says nothing of ids; it goes on, and says it from here on.
    let mut kept: serde_json::Value = serde_json::from_slice(&fs::read(&lineage).unwrap()).unwrap();
    let ids = kept["data"]["chats"][0].as_object_mut().unwrap().remove("ids_sha256").unwrap();
    fs::write(&lineage, kept.to_string()).unwrap();
    let output = train(&["run"]);
    assert!(output.status.success(), "{}", text(&output));
    let kept: serde_json::Value = serde_json::from_slice(&fs::read(&lineage).unwrap()).unwrap();
    assert!(kept["data"]["chats"][0]["ids_sha256"].is_string() && kept["data"]["chats"][0]["ids_sha256"] != ids);
    begin_again();
    fs::remove_file(tokenizer.join("chat_template.jinja")).unwrap();
    let output = train(&["run"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
}
