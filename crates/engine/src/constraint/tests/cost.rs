//! What forms cost on Qwen 2's vocabulary, which dots.llm1's is but for its special tokens.
//!
//!     cargo test -p dots-engine --lib what_forms_cost -- --ignored --nocapture

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use dots_model::{
    checkpoint::TokenizerSource,
    tokenizer::{Specials, Tokenizer},
};
use serde_json::{Map, json};

use super::*;
use crate::constraint::{CallRule, FreeText, Function, ToolCalls};

fn qwen2() -> Tokenizer {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/qwen2-tokenizer");
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    let printable = |code: &u32| matches!(code, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let alphabet = (0..256).filter(printable).chain(0x100..0x144);
    let merges = read("merges.txt");
    let tokens = alphabet.map(|code| char::from_u32(code).unwrap().to_string());
    let tokens = tokens.chain(merges.lines().map(|merge| merge.replace(' ', "")));
    let vocab: Map<String, Value> = tokens.zip(0u32..).map(|(token, id)| (token, id.into())).collect();
    let mut file: Value = serde_json::from_str(&read("tokenizer-rest.json")).unwrap();
    file["model"]["vocab"] = vocab.into();
    file["model"]["merges"] =
        merges.lines().map(|merge| merge.split(' ').map(Value::from).collect::<Value>()).collect();
    let source =
        TokenizerSource::HuggingFace { path: "tokenizer.json".into(), tokenizer: file.to_string(), config: None };
    Tokenizer::new(&source).unwrap()
}

fn person() -> Value {
    json!({
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "age": {"type": "integer", "minimum": 0, "maximum": 150},
            "email": {"type": "string", "format": "email"},
            "tags": {"type": "array", "items": {"enum": ["new", "old", "gone"]}},
            "address": {"type": "object", "properties": {"street": {"type": "string", "maxLength": 40}, "zip": {"type": "string", "pattern": "^[0-9]{5}$"}}, "required": ["street", "zip"]},
        },
        "required": ["name", "age", "email", "tags", "address"],
        "additionalProperties": false,
    })
}

#[test]
#[ignore = "a measurement"]
fn what_forms_cost() {
    let tokenizer = Arc::new(qwen2());
    let eos = tokenizer.token_id("<|endoftext|>").unwrap();
    let grammars = Grammars::new(tokenizer.clone(), vec![eos]);
    let started = Instant::now();
    grammars.compile(&ConstraintSpec::Regex("a".to_owned())).unwrap();
    println!("{} tokens made ready in {:?}", tokenizer.vocab_size(), started.elapsed());

    let answer = r#"{"name": "Ада Лавлейс 愛達", "age": 36, "email": "ada@example.com", "tags": ["new", "old"], "address": {"street": "12 St James's Square", "zip": "10115"}}"#;
    let call = r#"I will look that up for you, one moment please. <tool_call>
{"name": "person", "arguments": {"name": "Ada", "age": 36, "email": "ada@example.com", "tags": [], "address": {"street": "x", "zip": "10115"}}}
</tool_call>"#;
    let functions = vec![Function { name: "person".to_owned(), parameters: person() }];
    let calls = ToolCalls { functions, rule: CallRule::Auto(FreeText::Any), parallel: true };
    let fragment = "start: item*\nitem: /[a-z]/ | \"(\" item* \")\"\n";
    let cases = [
        ("any object", schema(json!({"type": "object"})), answer),
        ("a person", schema(person()), answer),
        ("a tool, left to the model", ConstraintSpec::ToolCalls(calls), call),
        ("an expression", ConstraintSpec::Regex(r"\{.*\}".to_owned()), answer),
        ("a choice of 1,000", ConstraintSpec::Choice((0..1000).map(|i| format!("answer {i}")).collect()), "answer 77"),
        ("GBNF for JSON", ConstraintSpec::Grammar(super::gbnf::LLAMA_JSON.to_owned()), answer),
        ("hostile: letters as lexemes", ConstraintSpec::Grammar(fragment.to_owned()), "aaaa(bbbb(cccc)dddd(eeee))ffff"),
        (
            "hostile: a wide repetition",
            ConstraintSpec::Regex("(a|b|ab|ba|[a-c]{2,900}x?){1,900}".to_owned()),
            "abababababcabc",
        ),
        (
            "hostile: a long memory",
            ConstraintSpec::Regex("[ab]*a[ab]{300}".to_owned()),
            "abbaabababbabbabababbabaabaaabbababa",
        ),
    ];
    println!(
        "{:>28} {:>11} {:>11} {:>7} {:>11} {:>11} {:>11}",
        "form", "compile", "copy", "masks", "mean", "p95", "most"
    );
    for (name, spec, text) in cases {
        let started = Instant::now();
        let constraint = match grammars.compile(&spec) {
            Ok(constraint) => constraint,
            Err(error) => {
                println!("{name:>28} {:>11.1?} {error}", started.elapsed());
                continue;
            }
        };
        let compiled = started.elapsed();
        let started = Instant::now();
        let mut state = constraint.begin();
        let copied = started.elapsed();
        let mut took: Vec<Duration> = Vec::new();
        for id in tokenizer.encode(text, Specials::AsText) {
            let started = Instant::now();
            let accepted = state.accept(id);
            took.push(started.elapsed());
            match accepted {
                Ok(false) => {}
                Ok(true) => break,
                Err(error) => {
                    println!("{name:>28} ended after {} masks: {error}", took.len());
                    break;
                }
            }
        }
        took.sort_unstable();
        let mean = took.iter().sum::<Duration>() / took.len() as u32;
        let (p95, most) = (took[took.len() * 95 / 100], took[took.len() - 1]);
        println!(
            "{name:>28} {compiled:>11.1?} {copied:>11.1?} {:>7} {mean:>11.1?} {p95:>11.1?} {most:>11.1?}",
            took.len()
        );
    }
}
