use std::{collections::HashMap, fs, sync::Mutex};

use super::*;

/// Answers with a number that its seed chooses, right at times; counts what it was asked.
#[derive(Default)]
struct Guesser {
    asked: Mutex<HashMap<String, usize>>,
    /// Fails at this question.
    fails_at: Option<&'static str>,
}

impl Model for Guesser {
    fn admits(&self, messages: &[Message]) -> Result<(), (String, String)> {
        let long = messages[0].content.len() > 100;
        if long { Err(("a short prompt".to_owned(), "a long one".to_owned())) } else { Ok(()) }
    }

    fn answer(&self, messages: &[Message], seeds: &[u64]) -> Result<Vec<Answer>, String> {
        let question = &messages[0].content;
        if self.fails_at.is_some_and(|fails| question == fails) {
            return Err("it broke".to_owned());
        }
        *self.asked.lock().unwrap().entry(question.clone()).or_default() += 1;
        let answer =
            |&seed: &u64| Answer { text: format!("It is {}.", seed % 4), tokens: 3, is_finished: seed % 16 < 14 };
        Ok(seeds.iter().map(answer).collect())
    }
}

const SETTINGS: Settings = Settings { samples: 12, keep: 2, seed: 7, workers: 3 };

struct Bench {
    folder: tempfile::TempDir,
    problems: Problems,
}

impl Bench {
    fn new(lines: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("problems.jsonl");
        fs::write(&path, lines.join("\n")).unwrap();
        Self { problems: Problems::read(&path).unwrap(), folder }
    }

    fn of_ten() -> Self {
        let lines: Vec<String> = (0..10)
            .map(|n| format!(r#"{{"messages": [{{"role": "user", "content": "q{n}"}}], "answer": {}}}"#, n % 4))
            .collect();
        Self::new(&lines.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn out(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn sample(&self, model: &Guesser, settings: Settings, out: &Path) -> Result<End, DataError> {
        self.stopped_after(usize::MAX, model, settings, out)
    }

    /// Stops where this many problems are done.
    fn stopped_after(
        &self,
        problems: usize,
        model: &Guesser,
        settings: Settings,
        out: &Path,
    ) -> Result<End, DataError> {
        let stop = AtomicBool::new(false);
        let tell = &mut |progress: Progress| stop.store(progress.problems >= problems, Relaxed);
        let verifier = Verifier::default();
        let identity = json!("a guesser");
        let work = Work { problems: &self.problems, model, verifier: &verifier, settings, identity: &identity };
        sample(work, out, &stop, tell)
    }
}

#[test]
fn accepted_answers_become_chats_each_once_and_not_too_many() {
    let bench = Bench::of_ten();
    let out = bench.out("kept.jsonl");
    let End::Finished(report) = bench.sample(&Guesser::default(), SETTINGS, &out).unwrap() else { panic!("stopped") };
    let text = fs::read_to_string(&out).unwrap();
    assert_eq!(report.kept, text.lines().count());
    // All right answers to a problem have one text here.
    assert_eq!(report.kept, report.solved);
    for line in text.lines() {
        let chat: Value = serde_json::from_str(line).unwrap();
        let question: usize = chat["messages"][0]["content"].as_str().unwrap()[1..].parse().unwrap();
        assert_eq!(chat["messages"][1]["role"], "assistant");
        assert_eq!(chat["messages"][1]["content"], format!("It is {}.", question % 4));
    }
    assert_eq!(report.verdicts.values().sum::<usize>(), 120);
    assert_eq!(report.histogram.iter().sum::<usize>(), 10);
    assert!(
        report.accepted > report.kept
            && report.verdicts[&Verdict::Unfinished] > 0
            && report.verdicts[&Verdict::Wrong] > 0
    );
    assert_eq!(report.accept_rate, report.accepted as f64 / 120.0);
    let (samples, written) = beside(&out);
    assert_eq!(fs::read_to_string(samples).unwrap().lines().count(), 11, "what was rejected can be looked at");
    let written: Value = serde_json::from_str(&fs::read_to_string(written).unwrap()).unwrap();
    assert_eq!(written["accepted"], report.accepted);
}

#[test]
fn stopped_and_cut_short_it_goes_on_to_the_same_file() {
    let bench = Bench::of_ten();
    let whole = bench.out("whole.jsonl");
    bench.sample(&Guesser::default(), Settings { workers: 1, ..SETTINGS }, &whole).unwrap();

    let out = bench.out("parts.jsonl");
    let first = Guesser::default();
    let End::Stopped(progress) = bench.stopped_after(4, &first, SETTINGS, &out).unwrap() else { panic!("finished") };
    assert!((4..10).contains(&progress.problems) && !out.exists());
    // As a kill within a write leaves it.
    let (journal, _) = beside(&out);
    let mut text = fs::read_to_string(&journal).unwrap();
    text += r#"{"line":9,"samples":[{"verdict":"acc"#;
    fs::write(&journal, text).unwrap();
    let second = Guesser::default();
    assert!(matches!(bench.sample(&second, SETTINGS, &out).unwrap(), End::Finished(_)));
    assert_eq!(fs::read(&out).unwrap(), fs::read(&whole).unwrap());
    let (first, second) = (first.asked.into_inner().unwrap(), second.asked.into_inner().unwrap());
    assert_eq!(first.len() + second.len(), 10, "nothing is asked twice");
    assert!(matches!(bench.sample(&Guesser::default(), SETTINGS, &out).unwrap(), End::Finished(_)), "done is done");
}

#[test]
fn what_was_sampled_of_something_else_is_not_gone_on_with() {
    let bench = Bench::of_ten();
    let out = bench.out("kept.jsonl");
    bench.stopped_after(2, &Guesser::default(), SETTINGS, &out).unwrap();
    let error = bench.sample(&Guesser::default(), Settings { seed: 8, ..SETTINGS }, &out).unwrap_err().to_string();
    assert!(error.contains("seed: expected 8") && error.contains("found 7"), "{error}");
    let other = Bench::new(&[r#"{"messages": [{"role": "user", "content": "q"}], "answer": 1}"#]);
    let error = other.sample(&Guesser::default(), SETTINGS, &out).unwrap_err().to_string();
    assert!(error.contains("problems_sha256"), "{error}");
}

#[test]
fn a_failure_names_the_problem_and_loses_no_other() {
    let bench = Bench::of_ten();
    let out = bench.out("kept.jsonl");
    let broken = Guesser { fails_at: Some("q7"), ..Guesser::default() };
    let error = bench.sample(&broken, Settings { workers: 1, ..SETTINGS }, &out).unwrap_err().to_string();
    assert!(error.ends_with("line 8: it broke"), "{error}");
    let second = Guesser::default();
    bench.sample(&second, SETTINGS, &out).unwrap();
    assert_eq!(second.asked.into_inner().unwrap().len(), 3);
}

#[test]
fn a_problem_that_is_none_is_named_before_anything_runs() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("problems.jsonl");
    for (line, expected) in [
        ("{", "line 2: problem"),
        ("[]", "line 2: messages"),
        (r#"{"messages": [], "answer": 1}"#, "line 2: messages"),
        (r#"{"messages": [{"role": "assistant", "content": "x"}], "answer": 1}"#, "found one of \"assistant\""),
        (r#"{"messages": [{"role": "user", "content": "x"}]}"#, "found neither"),
        (r#"{"messages": [{"role": "user", "content": "x"}], "answer": 1, "tests": "x"}"#, "found both"),
        (r#"{"messages": [{"role": "user", "content": "x"}], "answer": " "}"#, "not blank"),
        (r#"{"messages": [{"role": "user", "content": "x"}], "answer": [1]}"#, "line 2: answer"),
        (r#"{"messages": [{"role": "user", "content": "x"}], "tests": []}"#, "line 2: tests"),
    ] {
        fs::write(&path, format!("\n{line}\n")).unwrap();
        let error = Problems::read(&path).unwrap_err().to_string();
        assert!(error.contains("problems.jsonl") && error.contains(expected), "{line}: {error}");
    }
    fs::write(&path, "\n \n").unwrap();
    assert!(Problems::read(&path).is_err());
    let long = "x".repeat(200);
    let bench = Bench::new(&[&format!(r#"{{"messages": [{{"role": "user", "content": "{long}"}}], "answer": 1}}"#)]);
    let error = bench.sample(&Guesser::default(), SETTINGS, &bench.out("kept.jsonl")).unwrap_err().to_string();
    assert!(error.ends_with("line 1: expected a short prompt, found a long one"), "{error}");
}

#[test]
fn files_that_were_not_sampled_are_left_as_they_are() {
    let bench = Bench::of_ten();
    let out = bench.out("kept.jsonl");
    let (journal, _) = beside(&out);
    for (path, expected) in [(&out, "kept.jsonl: exists, and no "), (&journal, "line 1: expected what was sampled")] {
        fs::write(path, "my notes").unwrap();
        let error = bench.sample(&Guesser::default(), SETTINGS, &out).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert_eq!(fs::read_to_string(path).unwrap(), "my notes");
        fs::remove_file(path).unwrap();
    }
    // A first line that a kill cut short is ours.
    bench.stopped_after(1, &Guesser::default(), SETTINGS, &out).unwrap();
    let whole = fs::read_to_string(&journal).unwrap();
    fs::write(&journal, &whole[..20]).unwrap();
    assert!(matches!(bench.sample(&Guesser::default(), SETTINGS, &out).unwrap(), End::Finished(_)));
}
