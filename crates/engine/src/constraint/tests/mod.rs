mod bombs;
mod calls;
mod cost;
mod engine;
mod forms;
mod gbnf;
mod refusals;
mod schemas;

use std::sync::LazyLock;

use dots_model::sample::uniform;
use llguidance::toktrie::TokTrie;
use serde_json::Value;

use super::{AnswerConstraint, Constraint, ConstraintError, ConstraintSpec, Grammars, compiler::Tokens};

/// Ids below are bytes.
const BYTES: u32 = 256;
const EOS: u32 = 256;
const SPECIAL: u32 = 257;
/// Tokens of several bytes, some of which cross what a grammar takes for a lexeme's end.
const WORDS: [&str; 12] = ["{\"", "\":", "\", \"", "true", "  ", "\n", "中", "}}", "\"}", "10", "<tool", "]}\n"];

fn grammars() -> &'static Grammars {
    static GRAMMARS: LazyLock<Grammars> = LazyLock::new(|| {
        Grammars::with_tokens(|| {
            let mut words: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte]).collect();
            words[255].clear();
            for special in ["<|end|>", "<|think|>"] {
                words.push([&[TokTrie::SPECIAL_TOKEN_MARKER], special.as_bytes()].concat());
            }
            words.extend(WORDS.map(|word| word.as_bytes().to_vec()));
            Tokens { words, eos_token_ids: vec![EOS] }
        })
    });
    &GRAMMARS
}

fn bytes_of(id: u32) -> Vec<u8> {
    match id {
        0..BYTES => vec![id as u8],
        EOS | SPECIAL => Vec::new(),
        id => WORDS[(id - SPECIAL - 1) as usize].as_bytes().to_vec(),
    }
}

fn compile(spec: &ConstraintSpec) -> Result<Constraint, ConstraintError> {
    grammars().compile(spec)
}

fn schema(schema: Value) -> ConstraintSpec {
    ConstraintSpec::JsonSchema { schema, white_space: true }
}

fn is_allowed(state: &AnswerConstraint, id: u32) -> bool {
    state.mask().get(id as usize / 32).is_some_and(|word| word >> (id % 32) & 1 == 1)
}

/// Whether `text` is a whole answer of this form.
fn accepts(spec: &ConstraintSpec, text: &str) -> bool {
    let mut state = compile(spec).unwrap().begin();
    let mut is_complete = false;
    for byte in text.bytes() {
        if is_complete || !is_allowed(&state, byte.into()) {
            return false;
        }
        is_complete = state.accept(byte.into()).unwrap();
    }
    is_complete || is_allowed(&state, EOS)
}

/// An answer of a model that says anything but likes to close what it has opened; `None` where it did not end.
fn babble(constraint: &Constraint, seed: u64, max_tokens: u64) -> Option<String> {
    let mut state = constraint.begin();
    let mut text = Vec::new();
    for position in 0..max_tokens {
        let weight = |id: u32| match id {
            EOS => 30.0,
            id if id < BYTES && b"\"]}".contains(&(id as u8)) => 20.0,
            _ => 1.0,
        };
        let allowed: Vec<u32> = (0..SPECIAL + 1 + WORDS.len() as u32).filter(|&id| is_allowed(&state, id)).collect();
        assert!(!allowed.is_empty() && !allowed.contains(&SPECIAL), "{:?}", String::from_utf8_lossy(&text));
        let mut draw = uniform(seed, position) * allowed.iter().map(|&id| weight(id)).sum::<f64>();
        let chosen = allowed.iter().find(|&&id| {
            draw -= weight(id);
            draw < 0.0
        });
        let id = *chosen.unwrap_or(&allowed[0]);
        if id == EOS {
            return Some(String::from_utf8(text).unwrap());
        }
        text.extend(bytes_of(id));
        if state.accept(id).unwrap_or_else(|error| panic!("{error} after {:?}", String::from_utf8_lossy(&text))) {
            return Some(String::from_utf8(text).unwrap());
        }
    }
    None
}
