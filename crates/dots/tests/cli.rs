//! The program as its users run it, on the small random models of `tests/fixtures`.

mod support;

use std::{fs, io::Write, path::Path};

use serde_json::Value;
use support::{Ran, dots, fixture, golden_cases, ran_with_input};

/// Flags under which an answer is the golden one.
const GREEDY: [&str; 4] = ["--arithmetic", "exact", "--temperature", "0"];

fn complete(model: &Path, text: &str, more: &[&str]) -> Ran {
    let mut command = dots();
    command.arg("complete").arg(model).arg(text).args(GREEDY).args(more);
    Ran::of(command)
}

fn inspect_json(model: &Path, more: &[&str]) -> Value {
    let mut command = dots();
    command.arg("inspect").arg(model).arg("--json").args(more);
    serde_json::from_str(&Ran::of(command).succeeded().stdout).unwrap()
}

#[test]
fn without_a_command_it_says_how_to_get_a_model() {
    let ran = Ran::of(dots()).succeeded();
    assert!(ran.stdout.contains("rednote-hilab/dots.llm1.inst") && ran.stdout.contains(".gguf"), "{ran:?}");
}

#[test]
fn without_a_model_a_command_says_so_and_fails() {
    // Most take the one inside, where there is one: `inside.rs`.
    let commands: &[&str] = if cfg!(model_inside) {
        &["compare --text README.md"]
    } else {
        &["chat", "compare --text README.md", "complete", "inspect", "serve"]
    };
    for command in commands {
        let mut dots = dots();
        dots.args(command.split(' '));
        let ran = Ran::of(dots);
        assert_eq!(ran.code, Some(2), "{command}: {ran:?}");
        assert!(ran.stdout.is_empty() && ran.stderr.contains("rednote-hilab/dots.llm1.inst"), "{command}: {ran:?}");
    }
}

#[test]
fn inspect_shows_the_facts_of_a_folder() {
    let mut command = dots();
    command.arg("inspect").arg(fixture("hf"));
    let ran = Ran::of(command).succeeded();
    for fact in [
        "Hugging Face",
        "in 2 files",
        "3: 1 dense, 2 mixtures of experts",
        "4 query heads, 4 key and value heads, 16 wide",
        "16 routed, 6 a token, 2 shared, 32 wide",
        "256 tokens",
        "BF16",
        "506 <|endofresponse|>",
        "500, 506",
        "its own: {% for m in messages %}",
        "f32",
    ] {
        assert!(ran.stdout.contains(fact), "{fact} is not in\n{}", ran.stdout);
    }
    assert!(!ran.stdout.contains('\x1b'), "no colours but on a terminal");
}

#[test]
fn inspect_counts_what_the_files_hold() {
    let report = inspect_json(&fixture("hf"), &["--context", "64", "--context", "256"]);
    // Two tables of 512 x 64, three layers of attention, one dense MLP, two of 16 experts, 2 shared ones and a router.
    let (hidden, expert) = (64, 3 * 64 * 32);
    let layer = 4 * hidden * hidden + 2 * hidden + 2 * 16;
    let moe = 16 * expert + 2 * expert + 16 * hidden + 16;
    let total = 2 * 512 * hidden + 3 * layer + 3 * hidden * 160 + 2 * moe + hidden;
    assert_eq!(report["parameters"]["total"], total);
    let files: u64 = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
        .iter()
        .map(|name| fs::metadata(fixture("hf").join(name)).unwrap().len())
        .sum();
    assert_eq!(report["disk_bytes"], files);
    let contexts: Vec<&Value> =
        report["memory"].as_array().unwrap().iter().map(|plan| &plan["context_tokens"]).collect();
    assert_eq!(contexts, [64, 64, 64, 64, 256, 256, 256, 256]);
    for plan in report["memory"].as_array().unwrap() {
        // Keys and values of 4 heads in each of 3 layers. Heads of 16 take the room of 32.
        let tokens = plan["context_tokens"].as_u64().unwrap();
        let head_bytes = match plan["cache_type"].as_str().unwrap() {
            "f32" => 32 * 4,
            "bf16" => 32 * 2,
            "q8" => 32 + 4,
            "q4" => 32 / 2 + 2 * 2,
            other => panic!("{other}"),
        };
        assert_eq!(plan["cache_bytes"], tokens * 3 * 2 * 4 * head_bytes, "{plan}");
    }
}

#[test]
fn inspect_shows_the_types_of_a_gguf_file() {
    let goldens: Value = serde_json::from_str(&fs::read_to_string(fixture("gguf/golden.json")).unwrap()).unwrap();
    for name in ["dots1-Q4_K_M.gguf", "dots1-IQ4_XS.gguf", "dots1-Q2_K.gguf"] {
        let report = inspect_json(&fixture("gguf").join(name), &[]);
        assert_eq!(report["format"], "GGUF");
        let found: Vec<&str> =
            report["tensors"]["types"].as_array().unwrap().iter().map(|kind| kind["type"].as_str().unwrap()).collect();
        let mut expected: Vec<&str> =
            goldens[name]["tensor_types"].as_object().unwrap().keys().map(String::as_str).collect();
        let mut sorted = found.clone();
        sorted.sort_unstable();
        expected.sort_unstable();
        assert_eq!(sorted, expected, "{name}");
    }
}

#[test]
fn inspect_does_without_a_tokenizer() {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(fixture("hf")).unwrap() {
        let entry = entry.unwrap();
        if !entry.file_name().to_str().unwrap().starts_with("tokenizer") {
            fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
        }
    }
    let mut command = dots();
    command.arg("inspect").arg(folder.path());
    let ran = Ran::of(command).succeeded();
    assert!(ran.stdout.contains("none; chat, complete and serve need one"), "{}", ran.stdout);

    complete(folder.path(), "The", &[]).failed_saying(&["tokenizer", "expected", "found none"]);
}

#[test]
fn inspect_knows_what_the_published_model_takes() {
    let mut command = dots();
    command.args(["inspect", "--published"]);
    let ran = Ran::of(command).succeeded();
    for fact in ["142.8 B parameters, 13.4 B", "Q4_K", "32768", "31.0"] {
        assert!(ran.stdout.contains(fact), "{fact} is not in\n{}", ran.stdout);
    }
}

#[test]
fn the_readmes_table_is_what_inspect_counts() {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../README.md")).unwrap();
    let mut command = dots();
    command.args(["inspect", "--published"]);
    let counted = Ran::of(command).succeeded().stdout;
    let types = counted.lines().skip_while(|line| !line.contains("read a token")).skip(1);
    // A name may be two words: columns lie two spaces apart.
    let cells = |line: &str| -> Vec<String> {
        line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).map(str::to_owned).collect()
    };
    let rows: Vec<Vec<String>> = types.take_while(|line| !line.is_empty()).map(cells).collect();
    assert_eq!(rows.len(), 18, "{counted}");
    for row in rows {
        let row = format!("| {} |", row.join(" | "));
        assert!(readme.lines().any(|line| line == row), "{row} is not in README.md");
    }
}

#[test]
fn a_reader_who_leaves_early_is_no_error() {
    let mut command = dots();
    command.arg("inspect").arg(fixture("hf"));
    let ran = Ran::with_closed_stdout(command);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(!ran.stderr.contains("panicked"), "{ran:?}");
}

#[test]
fn greedy_completions_are_the_golden_ones() {
    for case in golden_cases("hf") {
        let (text, expected) = (case["text"].as_str().unwrap(), case["greedy_text"].as_str().unwrap());
        let ran = complete(&fixture("hf"), text, &["--max-tokens", "24", "--ignore-eos"]).succeeded();
        assert_eq!(ran.stdout, expected, "{text:?}");
    }
}

#[test]
fn a_text_from_standard_input_is_the_same_text() {
    let model = fixture("hf");
    let direct = complete(&model, "The early bird", &["--max-tokens", "8"]).succeeded().stdout;
    for text in [None, Some("-")] {
        let mut command = dots();
        command.arg("complete").arg(&model).args(text).args(GREEDY).args(["--max-tokens", "8"]);
        assert_eq!(ran_with_input(command, "The early bird\n").succeeded().stdout, direct);
    }
    let mut command = dots();
    command.arg("complete").arg(&model);
    ran_with_input(command, "").failed_saying(&["empty"]);
}

#[test]
fn echo_puts_the_text_first_and_stats_go_to_stderr() {
    let model = fixture("hf");
    let plain = complete(&model, "The early bird", &["--max-tokens", "8"]).succeeded();
    let told = complete(&model, "The early bird", &["--max-tokens", "8", "--echo", "--stats"]).succeeded();
    assert_eq!(told.stdout, format!("The early bird{}", plain.stdout));
    assert!(told.stderr.contains("8 completion tokens"), "{}", told.stderr);
    assert!(!plain.stderr.contains("completion tokens"), "{}", plain.stderr);
    assert!(plain.stderr.contains("memory for a context of 256 tokens"), "the plan is said: {}", plain.stderr);
}

#[test]
fn a_stop_text_ends_the_completion_and_is_left_out() {
    let cases = golden_cases("hf");
    let (text, whole) = (cases[1]["text"].as_str().unwrap(), cases[1]["greedy_text"].as_str().unwrap());
    let stop = " early";
    let (before, _) = whole.split_once(stop).expect("the golden text contains the stop text");
    let ran = complete(&fixture("hf"), text, &["--max-tokens", "24", "--ignore-eos", "--stop", stop]).succeeded();
    assert_eq!(ran.stdout, before);
}

#[test]
fn a_seed_gives_the_same_completion_on_any_number_of_threads() {
    let sampled = |threads: &str| {
        let more = ["--temperature", "1.5", "--seed", "7", "--max-tokens", "16", "--threads", threads];
        let mut command = dots();
        command.arg("complete").arg(fixture("hf")).arg("The early bird").args(more);
        Ran::of(command).succeeded().stdout
    };
    assert_eq!(sampled("1"), sampled("2"));
}

#[test]
fn a_piped_chat_prints_the_answers_and_keeps_the_history() {
    let folder = tempfile::tempdir().unwrap();
    let saved = folder.path().join("saved.json");
    let mut command = dots();
    command.arg("chat").arg(fixture("hf")).args(GREEDY).args(["--max-tokens", "8"]);
    let script = format!("/system Be brief.\nHello\nAnd then \\\nmore?\n/save {}\n/exit\nunread\n", saved.display());
    let ran = ran_with_input(command, &script).succeeded();

    let messages: Vec<Value> = serde_json::from_str(&fs::read_to_string(&saved).unwrap()).unwrap();
    let roles: Vec<&str> = messages.iter().map(|message| message["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["system", "user", "assistant", "user", "assistant"]);
    assert_eq!(messages[0]["content"], "Be brief.");
    assert_eq!(messages[3]["content"], "And then \nmore?");
    let answers: String =
        [&messages[2], &messages[4]].map(|message| format!("{}\n", message["content"].as_str().unwrap())).concat();
    assert_eq!(ran.stdout, answers);
}

#[test]
fn a_reset_forgets() {
    let chat = |script: &str| {
        let mut command = dots();
        command.arg("chat").arg(fixture("hf")).args(GREEDY).args(["--max-tokens", "8"]);
        ran_with_input(command, script).succeeded().stdout
    };
    let once = chat("Hello\n");
    assert_eq!(chat("Hello\n/reset\nHello\n"), format!("{once}{once}"));
}

#[test]
fn a_full_context_is_said_with_its_numbers() {
    let mut command = dots();
    command.arg("chat").arg(fixture("hf")).args(["--max-model-len", "32"]);
    let line = "The early bird catches the worm. ".repeat(8);
    ran_with_input(command, &line).failed_saying(&["context is full", "32", "/reset"]);
}

#[test]
fn a_saved_chat_does_not_overwrite_a_strangers_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("precious.txt");
    fs::write(&path, "precious").unwrap();
    let mut command = dots();
    command.arg("chat").arg(fixture("hf"));
    ran_with_input(command, &format!("/save {}\n", path.display())).failed_saying(&["precious.txt", "already"]);
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn bad_checkpoints_get_one_message_and_exit_code_1() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::File::create(&path).unwrap().write_all(bytes).unwrap();
        path
    };
    let gguf = fs::read(fixture("gguf/dots1-Q4_0.gguf")).unwrap();
    let bad = [
        write("empty.gguf", b""),
        write("magic.gguf", b"GGML and then some"),
        write("cut-in-header.gguf", &gguf[..1000]),
        write("cut-in-tensors.gguf", &gguf[..gguf.len() - 1000]),
        write("page.html", b"<html>"),
        folder.path().join("missing/model.gguf"),
    ];
    for model in &bad {
        for command in ["inspect", "complete", "chat", "serve"] {
            let mut dots = dots();
            dots.arg(command).arg(model);
            let ran = ran_with_input(dots, "Hello\n");
            let name = model.file_name().unwrap().to_str().unwrap();
            ran.failed_saying(&[name]);
        }
    }
}

#[test]
fn lengths_beyond_the_model_are_refused() {
    complete(&fixture("hf"), "The", &["--max-model-len", "257"]).failed_saying(&["--max-model-len", "256", "257"]);
    complete(&fixture("hf"), "The", &["--max-tokens", "256"]).failed_saying(&["256", "257"]);
    let mut command = dots();
    command.arg("inspect").arg(fixture("hf")).args(["--context", "257"]);
    Ran::of(command).failed_saying(&["--context", "256", "257"]);
}

#[test]
fn numbers_out_of_range_are_a_wrong_call() {
    let ran = complete(&fixture("hf"), "The", &["--top-p", "nan"]);
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert!(ran.stderr.contains("--top-p"), "{ran:?}");
}

#[test]
fn a_stream_without_an_end_does_not_fill_the_memory() {
    let endless = "x\\\n".repeat((8 << 20) / 2);
    for command in ["complete", "chat"] {
        let mut dots = dots();
        dots.arg(command).arg(fixture("hf"));
        ran_with_input(dots, &endless).failed_saying(&["standard input", "at most 8388608 bytes"]);
    }
}
