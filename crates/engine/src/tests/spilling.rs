//! Blocks that come back from disk.

use std::{fs, path::PathBuf};

use dots_model::executor::BLOCK_TOKENS;

use super::fake::*;
use crate::{Event, Request, SamplingParams, SpillOptions, spill::Spill};

fn options(folder: &tempfile::TempDir) -> SpillOptions {
    SpillOptions { folder: folder.path().join("spill"), limit_bytes: 1 << 20, key: [7; 32] }
}

fn request(first: u32, prompt_tokens: usize) -> Request {
    Request {
        prompt: (0..prompt_tokens as u32).map(|index| (index * 7 + first) % 128).collect(),
        max_tokens: Some(10),
        sampling: SamplingParams { seed: Some(1), ..SamplingParams::default() },
        ignore_eos: true,
        ..Request::default()
    }
}

/// Answers in a process of its own, as it were: tokens of the prompt that were not computed. The answer is the right one.
fn ask(options: &SpillOptions, size: Size, request: &Request) -> usize {
    let mut engine = ManualEngine::with_spill(size, options);
    let mut events = engine.submit(request.clone()).unwrap();
    engine.run_until_idle();
    engine.stepper.end();
    let (mut tokens, mut cached) = (Vec::new(), None);
    for event in come(&mut events) {
        match event {
            Event::Token(token) => tokens.push(token.id),
            Event::Finished(finish) => cached = Some(finish.cached_tokens),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(tokens, expected_answer(request, &limits(ROOMY)).tokens);
    cached.unwrap()
}

fn files(options: &SpillOptions) -> Vec<PathBuf> {
    let folders = fs::read_dir(&options.folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> =
        folders.flat_map(|folder| fs::read_dir(folder).unwrap()).map(|e| e.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn a_chat_goes_on_after_a_restart_without_its_prefill() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(&folder);
    assert_eq!(ask(&options, ROOMY, &request(1, 300)), 0);
    assert_eq!(files(&options).len(), 9);
    // Nine blocks, in two steps of eight; a step of few tokens reads them as well.
    for max_batch_tokens in [1, 64] {
        assert_eq!(ask(&options, Size { max_batch_tokens, ..ROOMY }, &request(1, 300)), 288);
    }
    assert_eq!(ask(&options, ROOMY, &request(2, 300)), 0);
}

#[test]
fn what_others_pushed_out_of_the_cache_comes_back_too() {
    let folder = tempfile::tempdir().unwrap();
    let mut engine = ManualEngine::with_spill(Size { cache_blocks: 8, ..ROOMY }, &options(&folder));
    let mut cached = |first| {
        let mut events = engine.submit(request(first, 200)).unwrap();
        engine.run_until_idle();
        // The disk is given its time.
        while engine.stepper.idle() {}
        std::thread::sleep(std::time::Duration::from_millis(50));
        let Some(Event::Finished(finish)) = come(&mut events).pop() else { panic!("no end") };
        finish.cached_tokens
    };
    assert_eq!([cached(1), cached(2), cached(1)], [0, 0, 192]);
}

#[test]
fn blocks_of_other_weights_are_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let mine = options(&folder);
    let other = SpillOptions { key: [8; 32], ..mine.clone() };
    ask(&mine, ROOMY, &request(1, 100));
    assert_eq!(ask(&other, ROOMY, &request(1, 100)), 0);
    assert_eq!(ask(&mine, ROOMY, &request(1, 100)), 96);
    // One key's first digits are another's too: the header tells.
    let mut key = [7; 32];
    key[31] = 8;
    assert_eq!(ask(&SpillOptions { key, ..mine }, ROOMY, &request(1, 100)), 0);
}

#[test]
fn a_broken_file_costs_time_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(&folder);
    ask(&options, ROOMY, &request(1, 100));
    let whole: Vec<_> = files(&options).iter().map(|path| fs::read(path).unwrap()).collect();
    for at in [0, 8, 40, 72, 76, whole[0].len() - 1] {
        for (path, bytes) in files(&options).iter().zip(&whole) {
            let mut broken = bytes.clone();
            broken[at] ^= 1;
            fs::write(path, broken).unwrap();
        }
        assert_eq!(ask(&options, ROOMY, &request(1, 100)), 0, "byte {at}");
        assert_eq!(ask(&options, ROOMY, &request(1, 100)), 96, "written anew");
    }
    for (path, bytes) in files(&options).iter().zip(&whole) {
        fs::write(path, &bytes[..bytes.len() - 1]).unwrap();
    }
    assert_eq!(ask(&options, ROOMY, &request(1, 100)), 0, "cut short");
}

#[test]
fn no_more_is_kept_than_allowed_and_what_was_used_last_stays() {
    let folder = tempfile::tempdir().unwrap();
    let options = SpillOptions { limit_bytes: 7 * (76 + 256), ..options(&folder) };
    for first in [1, 2] {
        ask(&options, ROOMY, &request(first, 100));
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    ask(&options, ROOMY, &request(1, 100));
    std::thread::sleep(std::time::Duration::from_millis(20));
    ask(&options, ROOMY, &request(3, 100));
    assert!(files(&options).len() <= 7);
    assert_eq!(ask(&options, ROOMY, &request(1, 100)), 96);
}

#[test]
fn a_folder_that_cannot_be_written_takes_no_answer_away() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(&folder);
    let mut engine = ManualEngine::with_spill(ROOMY, &options);
    fs::remove_dir_all(&options.folder).unwrap();
    let events = engine.submit(request(1, 100)).unwrap();
    engine.run_until_idle();
    engine.stepper.end();
    assert_eq!(answer(events, 100), expected_answer(&request(1, 100), &limits(ROOMY)));
}

#[cfg(unix)]
#[test]
fn a_folder_that_others_write_is_not_used() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let folder = tempfile::tempdir().unwrap();
    let options = options(&folder);
    let of_key = options.folder.join("0707070707070707");
    fs::create_dir_all(&of_key).unwrap();
    fs::set_permissions(&of_key, fs::Permissions::from_mode(0o777)).unwrap();
    let refused = |why: &str| {
        let error = Spill::open(&options, 8 * BLOCK_TOKENS).err().unwrap().to_string();
        assert!(error.contains("0707070707070707: expected a folder") && error.contains(why), "{error}");
    };
    refused("mode 777");

    let elsewhere = folder.path().join("elsewhere");
    fs::rename(&of_key, &elsewhere).unwrap();
    fs::set_permissions(&elsewhere, fs::Permissions::from_mode(0o700)).unwrap();
    symlink(&elsewhere, &of_key).unwrap();
    refused("a link");
}

#[cfg(unix)]
#[test]
fn a_link_in_the_place_of_a_new_file_leads_nowhere() {
    use std::os::unix::fs::symlink;
    let folder = tempfile::tempdir().unwrap();
    let options = options(&folder);
    assert_eq!(ask(&options, ROOMY, &request(1, 40)), 0);
    let file = files(&options).remove(0);
    fs::remove_file(&file).unwrap();
    let precious = folder.path().join("precious");
    fs::write(&precious, "mine").unwrap();
    symlink(&precious, file.with_extension(format!("{}.part", std::process::id()))).unwrap();
    assert_eq!(ask(&options, ROOMY, &request(1, 40)), 0);
    assert_eq!(fs::read(&precious).unwrap(), b"mine");
    assert_eq!(ask(&options, ROOMY, &request(1, 40)), 32);
}

#[test]
fn what_a_killed_process_left_half_is_removed_once_it_is_old() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(&folder);
    ask(&options, ROOMY, &request(1, 40));
    let file = files(&options).remove(0);
    let halves = ["1.part", "2.part"].map(|suffix| file.with_extension(suffix));
    halves.iter().for_each(|half| fs::write(half, "half").unwrap());
    let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(7200);
    fs::File::options().write(true).open(&halves[0]).unwrap().set_modified(long_ago).unwrap();
    ask(&options, ROOMY, &request(1, 40));
    assert_eq!(halves.map(|half| half.exists()), [false, true]);
}
