//! `dots experts` as a person uses it: a model is grown, and only what was added learns.

mod support;

use std::fs;

use dots_model::Checkpoint;
use support::{dots_in, text};

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/goldens/hf");

#[test]
fn only_the_experts_that_were_added_learn() {
    let folder = tempfile::tempdir().unwrap();
    let lines: String = (0..200).map(|nth| format!("{{\"text\": \"{nth} plus {nth} is {}\"}}\n", 2 * nth)).collect();
    fs::write(folder.path().join("new.jsonl"), lines).unwrap();
    fs::write(folder.path().join("keep.txt"), "It was a dark and stormy night. ".repeat(40)).unwrap();
    let run = |args: &[&str]| {
        let output = dots_in(folder.path(), args);
        assert!(output.status.success(), "{args:?}: {}", text(&output));
        text(&output)
    };
    run(&["tokenize", "new.jsonl", "-o", "data/new", "--tokenizer", MODEL]);
    let keep = ["--keep-text", "keep.txt"];
    let told =
        run(&[&["experts", "add", MODEL, "-o", "grown", "--count", "2", "--shards", "data/new"], &keep[..]].concat());
    assert!(told.contains("of kept") && told.contains("start = \"grown\", new_experts = 2"), "{told}");

    let recipe = format!(
        r#"
name = "grown"
[model]
start = "grown"
new_experts = 2
freeze = "all"
[tokenizer]
path = "{MODEL}"
[sources.new]
shards = ["data/new"]
[[phases]]
name = "new"
tokens = 2560
sequence_tokens = 32
batch_tokens = 256
learning_rate = 1e-2
mixture = {{ new = 1.0 }}
[checkpoints]
every_tokens = 10000
"#
    );
    fs::write(folder.path().join("grown.toml"), recipe).unwrap();
    run(&["train", "grown.toml", "-o", "run"]);
    let open = |path: &str| Checkpoint::open(&folder.path().join(path)).unwrap();
    let (before, after) = (open("grown"), open("run/checkpoints/step-000010-tokens-0000M"));
    let old = before.config.n_routed_experts - 2;
    let mut learnt = 0;
    for (name, tensor) in before.tensors() {
        let (before, after) = (&tensor.data[..], &after.tensor(name).unwrap().data[..]);
        let expert = name.split_once(".experts.").map(|(_, rest)| rest.split('.').next().unwrap().parse::<usize>());
        if expert.is_some_and(|expert| expert.unwrap() >= old) {
            learnt += usize::from(before != after);
        } else if name.ends_with(".mlp.gate.weight") {
            let rows = before.len() / (old + 2) * old;
            assert_eq!(before[..rows], after[..rows], "{name}");
            assert_ne!(before[rows..], after[rows..], "{name}");
        } else {
            assert_eq!(before, after, "{name}");
        }
    }
    let moe_layers = before.config.num_hidden_layers - before.config.first_k_dense_replace;
    assert_eq!(learnt, moe_layers * 2 * 3);

    let output =
        dots_in(folder.path(), &["experts", "add", MODEL, "-o", "grown", "--count", "2", "--shards", "data/new"]);
    assert!(text(&output).contains("nothing is written over"), "{}", text(&output));
    let output =
        dots_in(folder.path(), &["experts", "upcycle", MODEL, "-o", "mixed", "--experts", "8", "--top-k", "2"]);
    assert!(text(&output).contains("expected a model whose layers are all dense"), "{}", text(&output));
    let output = dots_in(folder.path(), &["experts", "add", MODEL, "-o", "other", "--count", "2"]);
    assert_eq!(output.status.code(), Some(2), "a text is asked for: {}", text(&output));
}
