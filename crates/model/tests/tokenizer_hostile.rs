//! Tokenizer files that are wrong or meant ill: an error that says what and where, never a panic.

mod common;

use std::time::{Duration, Instant};

use common::{hugging_face, json, text};
use dots_model::{Error, checkpoint::TokenizerSource, tokenizer::Tokenizer};
use proptest::prelude::*;
use serde_json::{Map, Value, json as value};

/// `field: expected …, found …` of the error that `source` gives.
fn refusal(source: &TokenizerSource) -> String {
    match Tokenizer::new(source) {
        Err(Error::Invalid { field, expected, found, .. }) => {
            assert!(found.len() < 1000, "{found}");
            format!("{field}: expected {expected}, found {found}")
        }
        other => panic!("{other:?}"),
    }
}

/// The refusal of the golden's `tokenizer.json` after `change`.
fn changed(change: impl Fn(&mut Value)) -> String {
    let mut file = json("goldens/hf/tokenizer.json");
    change(&mut file);
    refusal(&hugging_face(file.to_string(), None))
}

#[track_caller]
fn assert_mentions(message: &str, parts: &[&str]) {
    assert!(parts.iter().all(|part| message.contains(part)), "{message}");
}

#[test]
fn ids_out_of_bounds_or_used_twice_are_named() {
    assert_mentions(
        &changed(|file| file["model"]["vocab"]["he"] = 4_000_000_000u32.into()),
        &["model.vocab", "4000000000", "he"],
    );
    assert_mentions(
        &changed(|file| file["added_tokens"][0]["id"] = 4_294_967_295u32.into()),
        &["added_tokens", "4294967295"],
    );
    assert_mentions(&changed(|file| file["added_tokens"][0]["id"] = 1e20.into()), &["tokenizer.json"]);
    assert_mentions(&changed(|file| file["model"]["vocab"]["he"] = (-1).into()), &["tokenizer.json"]);
    assert_mentions(&changed(|file| file["added_tokens"][0]["id"] = 5.into()), &["one token for each id", "5 for"]);
    assert_mentions(
        &changed(|file| file["added_tokens"][0]["content"] = "<|system|>".into()),
        &["one id for each token", "<|system|>"],
    );
    assert_mentions(
        &changed(|file| file["model"]["vocab"]["<|system|>"] = 999.into()),
        &["one id for each token", "<|system|>"],
    );
}

#[test]
fn merges_that_name_what_is_not_there_are_refused() {
    // Longer than any token, where `tokenizers` itself would panic.
    let long = "x".repeat(5000);
    let file = |merges: Value| changed(move |file| file["model"]["merges"] = merges.clone());
    assert_mentions(&file(value!([[long, "a"]])), &["model.merges[0]"]);
    assert_mentions(&file(value!([["ĊmillĠ", "Ġ"]])), &["model.merges", "ĊmillĠ"]);
    assert_mentions(&file(value!([["mill", "mill"]])), &["model.merges"]);
    assert_mentions(&file(value!([["he"]])), &["tokenizer.json"]);
    assert_mentions(&file(value!([["h", "e", "x"]])), &["tokenizer.json"]);
    assert_mentions(&file(value!(["h e x"])), &["tokenizer.json"]);
    assert_mentions(&file(value!([7])), &["tokenizer.json"]);
    // A merge into a special token would let plain text become one.
    let into_special = changed(|file| {
        file["model"]["vocab"]["<|system|"] = 507.into();
        file["model"]["vocab"]["<|system|>"] = 501.into();
        file["model"]["merges"] = value!([["<|system|", ">"]]);
    });
    assert_mentions(&into_special, &["model.merges"]);
}

#[test]
fn what_is_no_byte_level_bpe_is_refused_by_name() {
    assert_mentions(&changed(|file| file["model"]["type"] = "Unigram".into()), &["model.type", "BPE", "Unigram"]);
    assert_mentions(
        &changed(|file| file["model"]["continuing_subword_prefix"] = "##".into()),
        &["continuing_subword_prefix", "##"],
    );
    assert_mentions(&changed(|file| file["model"]["dropout"] = 0.1.into()), &["dropout"]);
    assert_mentions(&changed(|file| file["model"]["byte_fallback"] = true.into()), &["byte_fallback"]);
    assert_mentions(&changed(|file| file["normalizer"] = value!({"type": "Lowercase"})), &["normalizer", "Lowercase"]);
    assert_mentions(
        &changed(|file| file["pre_tokenizer"] = value!({"type": "Metaspace"})),
        &["pre_tokenizer", "Metaspace"],
    );
    assert_mentions(&changed(|file| file["post_processor"] = value!({"type": "BertProcessing"})), &["post_processor"]);
    assert_mentions(
        &changed(|file| {
            file["post_processor"] = value!({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>"}}]})
        }),
        &["post_processor.single", "<s>"],
    );
    assert_mentions(
        &changed(|file| file["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "(unclosed".into()),
        &["pre_tokenizer"],
    );
    assert_mentions(
        &changed(|file| {
            file["decoder"] = value!(null);
            file["pre_tokenizer"] = value!(null);
        }),
        &["decoder", "ByteLevel"],
    );
}

#[test]
fn broken_files_and_configs_are_refused() {
    let whole = text("goldens/hf/tokenizer.json");
    for broken in ["", "null", "[]", "{}", "{\"model\":{}}", &"[".repeat(100_000), &"{\"a\":".repeat(100_000)] {
        assert_mentions(&refusal(&hugging_face(broken, None)), &["tokenizer.json"]);
    }
    for config in [
        value!({"add_bos_token": true, "bos_token": "<nowhere>"}),
        value!({"added_tokens_decoder": {"x": {"content": "y"}}}),
        value!({"added_tokens_decoder": {"600": 7}}),
    ] {
        refusal(&hugging_face(whole.as_str(), Some(config)));
    }
    for config in [value!(null), value!([]), value!({"bos_token": 7, "additional_special_tokens": {"a": 1}})] {
        Tokenizer::new(&hugging_face(whole.as_str(), Some(config))).unwrap();
    }
}

#[test]
fn hundreds_of_thousands_of_tokens_in_a_config_take_no_minutes() {
    let entry = |i| {
        let plain =
            ["single_word", "lstrip", "rstrip", "normalized", "special"].map(|name| (name.to_owned(), false.into()));
        Value::Object(plain.into_iter().chain([("content".to_owned(), format!("<{i}>").into())]).collect())
    };
    let entries: Map<String, Value> = (0..100_000).map(|i| ((1000 + i).to_string(), entry(i))).collect();
    let special: Vec<String> = (0..100_000).map(|i| format!("<{}>", 99_999 - i)).collect();
    let config = value!({ "added_tokens_decoder": entries, "additional_special_tokens": special });
    let start = Instant::now();
    let tokenizer = Tokenizer::new(&hugging_face(text("goldens/hf/tokenizer.json"), Some(config))).unwrap();
    assert_eq!(tokenizer.vocab_size(), 101_000);
    assert!(tokenizer.is_special(1000) && tokenizer.is_special(100_999));
    // Each looked for among all others is ten thousand million looks: minutes in a debug build.
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
}

#[test]
fn wrong_gguf_metadata_is_named() {
    let source = |pre: &str, tokens: &[&str], types: &[i32], merges: &[&str], bos| TokenizerSource::Gguf {
        path: "m.gguf".into(),
        pre: pre.into(),
        tokens: tokens.iter().map(|&token| token.into()).collect(),
        types: types.to_vec(),
        merges: merges.iter().map(|&merge| merge.into()).collect(),
        bos,
    };
    let abc = ["a", "b", "ab"];
    let error = Tokenizer::new(&source("llama-bpe", &abc, &[], &[], None)).unwrap_err();
    assert_mentions(&error.to_string(), &["m.gguf", "tokenizer.ggml.pre", "llama-bpe"]);
    assert_mentions(&refusal(&source("qwen2", &abc, &[1], &[], None)), &["token_type", "3 types", "found 1"]);
    assert_mentions(&refusal(&source("qwen2", &abc, &[1, 9, 1], &[], None)), &["token_type[1]", "found 9"]);
    assert_mentions(&refusal(&source("qwen2", &["a", "a"], &[], &[], None)), &["each token once"]);
    assert_mentions(&refusal(&source("qwen2", &["a", "a"], &[1, 3], &[], None)), &["one id for each token"]);
    for merge in ["ab", "a b c", " b", "a ", ""] {
        assert_mentions(&refusal(&source("qwen2", &abc, &[], &["a b", merge], None)), &["merges[1]"]);
    }
    assert_mentions(&refusal(&source("qwen2", &abc, &[], &["b a"], None)), &["merges"]);
    assert_mentions(&refusal(&source("qwen2", &abc, &[], &["a b"], Some(3))), &["bos_token_id", "found 3"]);
    let tokenizer = Tokenizer::new(&source("qwen2", &abc, &[], &["a b"], None)).unwrap();
    assert_eq!(tokenizer.vocab_size(), 3);
    assert_eq!(Tokenizer::new(&source("qwen2", &[], &[], &[], None)).unwrap().vocab_size(), 0);
}

proptest! {
    /// Cuts and overwrites anywhere: an error or a tokenizer that works, never a panic.
    #[test]
    fn a_damaged_file_never_panics(at in 0.0f64..1.0, with in "[\\[\\]{}\",:0-9a-z<|>\\\\]{0,4}", cut in any::<bool>()) {
        let whole = text("goldens/hf/tokenizer.json");
        let mut at = (whole.len() as f64 * at) as usize;
        while !whole.is_char_boundary(at) { at -= 1 }
        let mut end = (at + with.len()).min(whole.len());
        while !whole.is_char_boundary(end) { end += 1 }
        let after = if cut { "" } else { &whole[end..] };
        let damaged = format!("{}{with}{after}", &whole[..at]);
        if let Ok(tokenizer) = Tokenizer::new(&hugging_face(damaged, None)) {
            let ids = tokenizer.encode("The early <|response|> bird 不", dots_model::tokenizer::Specials::Parse);
            tokenizer.decode(&ids);
        }
    }
}
