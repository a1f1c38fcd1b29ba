//! `dots train sample` as a person uses it, and as a machine that dies treats it.

mod support;

use std::{fs, path::Path, process::Output};

use serde_json::{Value, json};
use support::{dots, dots_in};

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/goldens/hf");

fn sample(folder: &Path, more: &[&str]) -> Output {
    let args = ["train", "sample", MODEL, "problems.jsonl", "-o", "kept.jsonl", "--samples", "4", "--temperature", "1"];
    let args = args.iter().chain(&["--max-tokens", "40", "--context", "64", "--stop", "e", "--seed", "5"]).chain(more);
    dots().args(args).current_dir(folder).output().unwrap()
}

fn problems(folder: &Path) {
    let question = |n: usize| json!([{ "role": "user", "content": format!("What is {n}?") }]);
    let mut lines: Vec<Value> = (0..6).map(|n| json!({ "messages": question(n), "tests": ["x = 1"] })).collect();
    lines.push(json!({ "messages": question(6), "answer": "no model of random weights says this" }));
    fs::write(folder.join("problems.jsonl"), lines.iter().map(|line| format!("{line}\n")).collect::<String>()).unwrap();
}

#[test]
#[cfg(target_os = "linux")]
fn answers_are_judged_in_the_sandbox_and_a_cut_journal_is_gone_on_with_to_the_same_answers() {
    let folder = tempfile::tempdir().unwrap();
    problems(folder.path());
    let output = sample(folder.path(), &["--threads", "1"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let journal = folder.path().join("kept.samples.jsonl");
    let whole = fs::read_to_string(&journal).unwrap();
    let verdicts: Vec<Value> = whole
        .lines()
        .skip(1)
        .flat_map(|line| {
            let done: Value = serde_json::from_str(line).unwrap();
            done["samples"].as_array().unwrap().iter().map(|sample| sample["verdict"].clone()).collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(verdicts.len(), 28);
    assert!(verdicts.iter().any(|verdict| verdict == "failed"), "babble is no Python: {verdicts:?}");
    let report: Value =
        serde_json::from_str(&fs::read_to_string(folder.path().join("kept.report.json")).unwrap()).unwrap();
    assert_eq!(report["problems"], 7);
    let kept = fs::read_to_string(folder.path().join("kept.jsonl")).unwrap();
    assert_eq!(report["kept"], kept.lines().count());

    fs::write(&journal, &whole.as_bytes()[..whole.len() / 2]).unwrap();
    fs::remove_file(folder.path().join("kept.jsonl")).unwrap();
    let output = sample(folder.path(), &["--threads", "2", "--concurrency", "3"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(fs::read_to_string(folder.path().join("kept.jsonl")).unwrap(), kept);
    let sorted = |text: &str| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(&fs::read_to_string(&journal).unwrap()), sorted(&whole));
}

#[test]
fn one_answer_for_many_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(
        folder.path().join("problems.jsonl"),
        "{\"messages\": [{\"role\": \"user\", \"content\": \"1 + 1\"}], \"answer\": 2}",
    )
    .unwrap();
    let args = ["train", "sample", MODEL, "problems.jsonl", "-o", "kept.jsonl", "--temperature", "0"];
    let output = dots_in(folder.path(), &args);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && error.contains("--temperature: expected above 0"), "{error}");
}
