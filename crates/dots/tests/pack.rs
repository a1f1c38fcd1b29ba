//! `dots pack` and `dots export` as their users run them.

mod support;

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use support::{DOTS, Ran, apart, dots, fixture};

fn pack(model: &Path, out: &Path, more: &[&str]) -> Command {
    let mut command = dots();
    command.arg("pack").arg(model).arg(out).args(more);
    command
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_packed_model_says_what_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("q6");
    let ran = Ran::of(pack(&fixture("hf"), &out, &["--type", "q6", "--tensor", "*.o_proj.*=q8"])).succeeded();
    assert!(ran.stdout.contains("bits a weight") && ran.stdout.contains("Q6_D"), "{ran:?}");
    let mut inspect = dots();
    inspect.arg("inspect").arg(&out);
    let shown = Ran::of(inspect).succeeded().stdout;
    for fact in ["packed by dots", "hf as q6 with 1 exceptions", "in 4 files", "Q8_D", "Q6_D", "bits a weight"] {
        assert!(shown.contains(fact), "{fact} is not in\n{shown}");
    }
    let mut inspect = dots();
    inspect.arg("inspect").arg(&out).arg("--json");
    let json: serde_json::Value = serde_json::from_str(&Ran::of(inspect).succeeded().stdout).unwrap();
    assert_eq!(json["packed_from"]["recipe"], "q6");
    assert!((6.0..8.0).contains(&json["tensors"]["bits_per_weight"].as_f64().unwrap()));
}

#[test]
fn wrong_calls_are_refused_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    for (more, said) in [
        (&["--type", "q7"][..], "expected one of q8, q6, q5, q4, q4s, q3, bf16"),
        (&["--tensor", "lm_head.weight"], "expected PATTERN=TYPE"),
        (&["--tensor", "nobody=q8"], "nobody: no tensor of this model has such a name"),
        (&["--calibrate", "/nowhere/text"], "/nowhere/text: No such file"),
    ] {
        let ran = Ran::of(pack(&fixture("hf"), &out, more));
        assert!(ran.code != Some(0) && ran.stderr.contains(said), "{more:?}: {ran:?}");
        assert!(!out.exists());
    }
    let ran = Ran::of(pack(&fixture("hf"), &fixture("hf"), &[]));
    assert!(ran.code == Some(1) && ran.stderr.contains("the checkpoint itself"), "{ran:?}");
}

#[test]
fn a_killed_run_goes_on_and_ends_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, killed) = (folder.path().join("whole"), folder.path().join("killed"));
    Ran::of(pack(&fixture("hf"), &whole, &[])).succeeded();
    // Killed ever later, until a run is through before its end comes.
    for millis in (0..).step_by(3) {
        let mut command = pack(&fixture("hf"), &killed, &[]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(millis) && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        child.kill().unwrap();
        let ended = child.wait().unwrap().success();
        // What bears its last name is whole, whenever the end came.
        if let Ok(index) = fs::read(killed.join("model.safetensors.index.json")) {
            assert!(serde_json::from_slice::<serde_json::Value>(&index).is_ok(), "after {millis} ms");
        }
        if ended {
            break;
        }
    }
    Ran::of(pack(&fixture("hf"), &killed, &[])).succeeded();
    assert_eq!(names(&whole), names(&killed));
    for name in names(&whole) {
        assert!(fs::read(whole.join(&name)).unwrap() == fs::read(killed.join(&name)).unwrap(), "{name}");
    }
}

/// `ulimit -f` is a full disk that needs no rights; the signal that comes with it must be ignored to get the error.
#[cfg(unix)]
#[test]
fn on_a_full_disk_it_says_so_and_leaves_no_half_file() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let limited = |what: &[&str]| {
        let mut command = apart("sh");
        command.args(["-c", "trap '' XFSZ; ulimit -f 100; exec \"$0\" \"$@\""]).arg(DOTS);
        command.args(what);
        Ran::of(command)
    };
    let (model, text) = (fixture("hf"), out.to_str().unwrap());
    let model = model.to_str().unwrap();
    let ran = limited(&["pack", model, text, "--type", "bf16"]);
    assert!(ran.code == Some(1) && ran.stderr.contains("safetensors.part: File too large"), "{ran:?}");
    assert!(ran.stderr.contains("the same command goes on from there"), "{ran:?}");
    assert!(names(&out).iter().all(|name| name.ends_with(".part")), "{:?}", names(&out));
    Ran::of(pack(&fixture("hf"), &out, &["--type", "bf16"])).succeeded();
    assert!(names(&out).iter().all(|name| !name.ends_with(".part")), "{:?}", names(&out));

    let gguf = folder.path().join("x.gguf");
    let ran = limited(&["export", model, "--gguf", gguf.to_str().unwrap()]);
    assert!(ran.code == Some(1) && ran.stderr.contains("x.gguf.part: File too large"), "{ran:?}");
    assert!(!gguf.exists());
}

#[test]
fn an_exported_file_answers_as_its_source_does() {
    let folder = tempfile::tempdir().unwrap();
    let gguf = folder.path().join("dots.gguf");
    let mut export = dots();
    export.arg("export").arg(fixture("hf")).arg("--gguf").arg(&gguf);
    let ran = Ran::of(export).succeeded();
    assert!(ran.stdout.contains("dots.gguf: ") && ran.stderr.contains("exporting: "), "{ran:?}");
    let complete = |model: &Path| {
        let mut command = dots();
        command.arg("complete").arg(model).arg("The early bird");
        command.args(["--temperature", "0", "--max-tokens", "12", "--ignore-eos"]);
        Ran::of(command).succeeded().stdout
    };
    assert_eq!(complete(&fixture("hf")), complete(&gguf));
}
