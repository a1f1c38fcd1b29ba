//! Packed checkpoints that are broken or lie: each gets its one message, none a panic.

mod support;

use std::{fs, path::Path};

use dots_model::Checkpoint;
use serde_json::{Value, json};
use support::{files, options, pack};

const FIRST: &str = "model-00001-of-00004.safetensors";
const SECOND: &str = "model-00002-of-00004.safetensors";

fn packed() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    pack("hf", folder.path(), &options("q4", &[]));
    folder
}

fn message(folder: &Path) -> String {
    let error = Checkpoint::open(folder).expect_err("a spoilt checkpoint opened").to_string();
    error.replace(&format!("{}/", folder.display()), "")
}

fn header_bytes(file: &[u8]) -> usize {
    8 + u64::from_le_bytes(*file.first_chunk().unwrap()) as usize
}

#[test]
fn a_flipped_bit_in_any_byte_of_a_header_is_refused() {
    let folder = packed();
    for (name, step) in [(FIRST, 1), (SECOND, 13)] {
        let path = folder.path().join(name);
        let whole = fs::read(&path).unwrap();
        for at in (0..header_bytes(&whole)).step_by(step) {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << (at / step % 8);
            fs::write(&path, &bytes).unwrap();
            let found = message(folder.path());
            assert!(found.starts_with(name) || found.contains("lm_head"), "byte {at}: {found}");
        }
        fs::write(&path, &whole).unwrap();
    }
    Checkpoint::open(folder.path()).unwrap();
}

#[test]
fn a_file_that_is_cut_short_or_long_is_refused() {
    let folder = packed();
    let path = folder.path().join(SECOND);
    let whole = fs::read(&path).unwrap();
    for length in [0, 7, 8, 100, 4096, header_bytes(&whole), whole.len() / 2, whole.len() - 64, whole.len() - 1] {
        fs::write(&path, &whole[..length]).unwrap();
        let found = message(folder.path());
        assert!(found.starts_with(SECOND), "{length}: {found}");
    }
    fs::write(&path, [&whole[..], b"x"].concat()).unwrap();
    assert!(message(folder.path()).starts_with(SECOND));
}

/// What a liar writes: the header altered, its checksum right.
fn forged(folder: &Path, name: &str, edit: impl FnOnce(&mut Value)) -> String {
    use dots_model::checkpoint::container::{checksum_digits, header_checksum};
    let path = folder.join(name);
    let whole = fs::read(&path).unwrap();
    let end = header_bytes(&whole);
    let mut header: Value = serde_json::from_slice(&whole[8..end]).unwrap();
    edit(&mut header);
    let header = header.to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    if let Some(digits) = checksum_digits(&bytes) {
        let checksum = format!("{:08x}", header_checksum(&bytes).unwrap());
        bytes[digits].copy_from_slice(checksum.as_bytes());
    }
    bytes.extend(&whole[end..]);
    fs::write(&path, bytes).unwrap();
    let found = message(folder);
    fs::write(&path, whole).unwrap();
    found
}

#[test]
fn metadata_that_lies_is_refused_even_with_its_checksum_right() {
    let folder = packed();
    let head = "lm_head.weight";
    let meta = |key: &str, value: Value| forged(folder.path(), FIRST, |header| header["__metadata__"][key] = value);
    let tensors = |kind: &str, rows: u64, cols: u64| {
        let text = json!({ head: [kind, rows, cols], "model.embed_tokens.weight": ["Q6_D", 512, 64] }).to_string();
        meta("dots.tensors", json!(text))
    };
    for (found, expected) in [
        (
            meta("dots.version", json!("2")),
            "dots.version: expected \"1\", which this version of dots reads, found \"2\"",
        ),
        (meta("dots.layout", json!("rows")), "dots.layout: expected \"dots-panel-16x32-v1\", which this version"),
        (meta("dots.pack", json!("elsewhere")), "dots.pack: expected elsewhere"),
        (meta("dots.pack", json!(null)), "dots.pack: expected a text, found null"),
        (meta("dots.config", json!("0000000g")), "dots.config: expected eight hexadecimal digits, found \"0000000g\""),
        (meta("dots.config", json!("00000000")), "config.json: file: expected the checksum 00000000"),
        (meta("dots.tensors", json!("[")), "dots.tensors: expected JSON, found"),
        (meta("dots.tensors", json!("[]")), "dots.tensors: expected an object, found a list of 0"),
        (meta("dots.tensors", json!({})), "dots.tensors: expected types and shapes of tensors, found an object"),
        (tensors("Q6_D", 512, 65), "lm_head.weight: expected a matrix of Q6_D, found [512, 65]"),
        (tensors("Q6_D", 0, 64), "lm_head.weight: expected a matrix of Q6_D, found [0, 64]"),
        (tensors("Q6_D", u64::MAX, 64), "lm_head.weight: expected a matrix of Q6_D"),
        (tensors("Q6_D", 1 << 60, 1 << 60), "lm_head.weight: expected a matrix of Q6_D"),
        (tensors("Q6_D", 496, 64), "bytes for [496, 64] of Q6_D, found"),
        (tensors("Q8_D", 512, 64), "bytes for [512, 64] of Q8_D, found"),
        (tensors("Q6_D", 256, 128), "lm_head.weight: expected"),
        (tensors("Q4_K", 512, 64), "dots.tensors.lm_head.weight: expected a packed type, rows and columns, found"),
        (tensors("Q9_D", 512, 64), "dots.tensors.lm_head.weight: expected a packed type, rows and columns, found"),
        (forged(folder.path(), FIRST, |header| header[head]["dtype"] = json!("I8")), "expected dtype U8 for Q6_D"),
        (
            forged(folder.path(), FIRST, |header| {
                header["__metadata__"]["dots.tensors"] = json!("{}");
            }),
            "expected dtype F32, F16, BF16 or F8_E4M3, found \"U8\"",
        ),
        (
            forged(folder.path(), FIRST, |header| {
                let text = header["__metadata__"]["dots.tensors"].as_str().unwrap();
                let text = format!("{},\"nobody\":[\"Q4_D\",16,32]}}", text.strip_suffix('}').unwrap());
                header["__metadata__"]["dots.tensors"] = json!(text);
            }),
            "nobody: expected this tensor, which dots.tensors describes, found nothing",
        ),
        (
            forged(folder.path(), FIRST, |header| drop(header.as_object_mut().unwrap().remove("__metadata__"))),
            "dots.pack: expected a file that is not packed, as ",
        ),
    ] {
        assert!(found.contains(expected), "expected {expected:?} in {found:?}");
    }
    let found = forged(folder.path(), FIRST, |header| {
        drop(header["__metadata__"].as_object_mut().unwrap().remove("dots.checksum"));
    });
    assert_eq!(found, format!("{FIRST}: dots.checksum: expected eight hexadecimal digits, found nothing"));
}

#[test]
fn files_of_two_checkpoints_are_not_mixed() {
    let (one, other) = (packed(), tempfile::tempdir().unwrap());
    pack("hf", other.path(), &options("q6", &[]));
    fs::copy(other.path().join(SECOND), one.path().join(SECOND)).unwrap();
    let found = message(one.path());
    assert!(found.starts_with(&format!("{SECOND}: dots.pack: expected ")), "{found}");
}

#[test]
fn another_config_than_the_one_that_it_was_packed_with_is_refused() {
    let folder = packed();
    let path = folder.path().join("config.json");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("\"num_experts_per_tok\": 6", "\"num_experts_per_tok\": 5")).unwrap();
    let found = message(folder.path());
    assert!(found.starts_with("config.json: file: expected the checksum "), "{found}");
}

#[test]
fn a_file_that_cannot_be_written_is_named_and_leaves_no_half() {
    let folder = tempfile::tempdir().unwrap();
    // A folder stands where the third file would be written aside.
    stop_after_two(folder.path());
    fs::create_dir(folder.path().join("model-00003-of-00004.safetensors.part")).unwrap();
    let source = support::open(&support::golden("hf"));
    let error = dots_pack::pack(&source, folder.path(), &options("q4", &[]), &mut ()).unwrap_err().to_string();
    assert!(error.contains("model-00003-of-00004.safetensors.part: "), "{error}");
    assert!(error.contains("what is finished stays"), "{error}");
    fs::remove_dir(folder.path().join("model-00003-of-00004.safetensors.part")).unwrap();
    assert!(
        files(folder.path()).keys().all(|name| name.ends_with(".part") || [FIRST, SECOND].contains(&name.as_str()))
    );
    assert_eq!(pack("hf", folder.path(), &options("q4", &[])).resumed, 2);
}

fn stop_after_two(folder: &Path) {
    struct Stop;
    impl dots_pack::Progress for Stop {
        fn file(&mut self, name: &str) {
            assert!(!name.contains("00003"), "stopped");
        }
    }
    let source = support::open(&support::golden("hf"));
    let work = || dots_pack::pack(&source, folder, &options("q4", &[]), &mut Stop);
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).is_err());
}
