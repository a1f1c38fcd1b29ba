//! What the tests of tokenizer and template read from `tests/fixtures`.
#![allow(dead_code, reason = "each test binary uses its share")]

use std::{
    path::{Path, PathBuf},
    sync::OnceLock,
};

use dots_model::{checkpoint::TokenizerSource, tokenizer::Tokenizer};
use serde_json::{Map, Value};

pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures").join(name)
}

pub fn text(name: &str) -> String {
    std::fs::read_to_string(fixture(name)).unwrap()
}

pub fn json(name: &str) -> Value {
    serde_json::from_str(&text(name)).unwrap()
}

/// Qwen2's tokens in order of id, and its merges.
pub fn qwen2_vocabulary() -> (Vec<String>, Vec<String>) {
    let printable = |code: &u32| matches!(code, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let alphabet = (0..256).filter(printable).chain(0x100..0x144);
    let mut tokens: Vec<String> = alphabet.map(|code| char::from_u32(code).unwrap().to_string()).collect();
    let merges: Vec<String> = text("qwen2-tokenizer/merges.txt").lines().map(str::to_owned).collect();
    tokens.extend(merges.iter().map(|merge| merge.replace(' ', "")));
    (tokens, merges)
}

/// Qwen2's `tokenizer.json` as it is published.
pub fn qwen2_json() -> String {
    let (tokens, merges) = qwen2_vocabulary();
    let mut file = json("qwen2-tokenizer/tokenizer-rest.json");
    let vocab: Map<String, Value> = tokens.into_iter().zip(0u32..).map(|(token, id)| (token, id.into())).collect();
    file["model"]["vocab"] = vocab.into();
    file["model"]["merges"] = merges.iter().map(|merge| merge.split(' ').map(Value::from).collect::<Value>()).collect();
    file.to_string()
}

pub fn hugging_face(tokenizer: impl Into<String>, config: Option<Value>) -> TokenizerSource {
    TokenizerSource::HuggingFace { path: "tokenizer.json".into(), tokenizer: tokenizer.into(), config }
}

/// The tokenizer of the `hf` golden.
pub fn golden() -> &'static Tokenizer {
    static GOLDEN: OnceLock<Tokenizer> = OnceLock::new();
    GOLDEN.get_or_init(|| {
        let config = json("goldens/hf/tokenizer_config.json");
        Tokenizer::new(&hugging_face(text("goldens/hf/tokenizer.json"), Some(config))).unwrap()
    })
}

pub fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}
