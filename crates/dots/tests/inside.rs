//! The program with a model inside, asked without naming one. What the model answers is `runs/nano/evaluate.py`'s to judge.
#![cfg(model_inside)]

mod support;

use support::{Ran, dots, ran_with_input};

#[test]
fn a_chat_needs_no_model() {
    let mut command = dots();
    command.args(["chat", "--max-tokens", "8", "--temperature", "0"]);
    let ran = ran_with_input(command, "How do I start a server?\n").succeeded();
    assert!(!ran.stdout.trim().is_empty() && ran.stderr.contains("inside the program"), "{ran:?}");
}

#[test]
fn a_text_alone_is_continued() {
    let mut alone = dots();
    alone.args(["complete", "The early bird", "--max-tokens", "8", "--temperature", "0"]);
    let alone = Ran::of(alone).succeeded().stdout;
    let mut named = dots();
    named.args(["complete", "nano", "The early bird", "--max-tokens", "8", "--temperature", "0"]);
    assert_eq!(alone, Ran::of(named).succeeded().stdout);
    let mut piped = dots();
    piped.args(["complete", "--max-tokens", "8", "--temperature", "0"]);
    assert_eq!(alone, ran_with_input(piped, "The early bird\n").succeeded().stdout);
}

#[test]
fn a_name_that_is_none_is_not_taken_for_a_text() {
    let mut command = dots();
    command.args(["complete", "./no-such-model.gguf"]);
    let ran = Ran::of(command);
    assert!(ran.code == Some(1) && ran.stderr.contains("no-such-model.gguf"), "{ran:?}");
}

#[test]
fn a_path_of_that_name_comes_first() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("nano")).unwrap();
    let mut command = dots();
    command.args(["inspect", "nano"]).current_dir(folder.path());
    let ran = Ran::of(command);
    assert!(ran.code == Some(1) && ran.stderr.contains("config.json"), "{ran:?}");
}

#[test]
fn inspect_and_bench_know_it() {
    let mut command = dots();
    command.arg("inspect");
    let ran = Ran::of(command).succeeded();
    assert!(ran.stdout.contains("nano (inside dots)") && ran.stdout.contains("inside the program"), "{ran:?}");
    let mut command = dots();
    command.args(["bench", "--prefill", "0", "--decode", "4", "--repeat", "1", "--json"]);
    let ran = Ran::of(command).succeeded();
    assert!(ran.stdout.contains("nano (inside dots)"), "{ran:?}");
}
