//! Compiling constraints: the tokens as `llguidance` sees them, the bounds, and the grammars' sources.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, OnceLock},
    thread,
};

use dots_model::tokenizer::Tokenizer;
use llguidance::{
    Matcher, ParserFactory,
    api::{ParserLimits, TopLevelGrammar},
    toktrie::{ApproximateTokEnv, INVALID_TOKEN, TokEnv, TokRxInfo, TokTrie},
};
use serde_json::Value;

use super::{Constraint, ConstraintError, ConstraintSpec, gbnf, schema, tool_calls::lark_string};

/// Most bytes of a regular expression, of a grammar, or of all choices together.
pub const MAX_SOURCE_BYTES: usize = 64 << 10;

/// Most bytes of a schema's JSON.
const MAX_SCHEMA_BYTES: usize = 1 << 20;

/// Longest token that the trie takes; llguidance's own limit is 1,024.
const MAX_TOKEN_BYTES: usize = 1000;

/// Compiling recurses: into each level of a schema that [`schema::check`] lets through, at up to 4.6 KB, into each name of
/// one object, into the rules of a grammar of [`MAX_SOURCE_BYTES`]: some 17 MB at the most. Half of this and half of those
/// where addresses have 32 bits. Stack that is not reached costs addresses and no memory.
pub(super) const STACK_BYTES: usize = if cfg!(target_pointer_width = "64") { 128 << 20 } else { 64 << 20 };

/// Bounds of one constraint. Compiling takes at most some 100 ms and a step some 20 ms (at llguidance's own figures of 50,000
/// fuel and 20,000 items a millisecond), a lexer's states at most some 40 MB.
fn limits() -> ParserLimits {
    ParserLimits {
        max_items_in_row: 2000,
        initial_lexer_fuel: 1_000_000,
        step_lexer_fuel: 200_000,
        step_max_items: 50_000,
        max_lexer_states: 20_000,
        max_grammar_size: 200_000,
        precompute_large_lexemes: true,
        verbose_errors: false,
    }
}

/// Compiles constraints for one tokenizer. Costs nothing until the first is asked for.
#[derive(Clone)]
pub struct Grammars(Arc<Shared>);

struct Shared {
    tokens: Box<dyn Fn() -> Tokens + Send + Sync>,
    factory: OnceLock<Result<ParserFactory, String>>,
}

/// Tokens by their ids, in the bytes that llguidance knows.
pub(super) struct Tokens {
    /// Empty where an id stands for no text; a special token's text behind [`TokTrie::SPECIAL_TOKEN_MARKER`].
    pub words: Vec<Vec<u8>>,
    pub eos_token_ids: Vec<u32>,
}

impl std::fmt::Debug for Grammars {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Grammars").finish_non_exhaustive()
    }
}

impl Grammars {
    /// For the ids of `tokenizer`; `eos_token_ids` are those that end a turn.
    pub fn new(tokenizer: Arc<Tokenizer>, eos_token_ids: Vec<u32>) -> Self {
        Self::with_tokens(move || tokens_of(&tokenizer, &eos_token_ids))
    }

    pub(super) fn with_tokens(tokens: impl Fn() -> Tokens + Send + Sync + 'static) -> Self {
        Self(Arc::new(Shared { tokens: Box::new(tokens), factory: OnceLock::new() }))
    }

    /// Compiles a constraint, on a thread of its own that this call waits for. Not for the engine's thread, nor for one that
    /// is async.
    pub fn compile(&self, spec: &ConstraintSpec) -> Result<Constraint, ConstraintError> {
        self.compile_within(STACK_BYTES, spec)
    }

    pub(super) fn compile_within(
        &self,
        stack_bytes: usize,
        spec: &ConstraintSpec,
    ) -> Result<Constraint, ConstraintError> {
        let run = || {
            let grammar = grammar(spec)?;
            let factory = self.0.factory.get_or_init(|| factory((self.0.tokens)())).as_ref();
            let factory = factory.map_err(|error| ConstraintError::Tokenizer(error.clone()))?;
            Constraint::new(Matcher::new(factory.create_parser(grammar)))
        };
        thread::scope(|scope| {
            let thread = thread::Builder::new().name("dots-grammar".to_owned()).stack_size(stack_bytes);
            match thread.spawn_scoped(scope, run).map(|running| running.join()) {
                Ok(Ok(compiled)) => compiled,
                Ok(Err(_)) => Err(ConstraintError::Invalid("the compiler failed on it".to_owned())),
                Err(error) => Err(ConstraintError::Tokenizer(format!("no thread: {error}"))),
            }
        })
    }
}

fn grammar(spec: &ConstraintSpec) -> Result<TopLevelGrammar, ConstraintError> {
    let bounded = |bytes: usize, most: usize| match bytes <= most {
        true => Ok(()),
        false => Err(ConstraintError::Invalid(format!("expected at most {most} bytes, found {bytes}"))),
    };
    let checked = |schema: &Value| schema::check(schema).map_err(ConstraintError::Invalid);
    Ok(match spec {
        ConstraintSpec::JsonSchema { schema, white_space } => {
            bounded(schema.to_string().len(), MAX_SCHEMA_BYTES)?;
            checked(schema)?;
            TopLevelGrammar::from_json_schema(schema::prepared(schema, *white_space))
        }
        ConstraintSpec::Regex(regex) => {
            bounded(regex.len(), MAX_SOURCE_BYTES)?;
            TopLevelGrammar::from_regex(without_anchors(regex))
        }
        ConstraintSpec::Choice(texts) => {
            bounded(texts.iter().map(String::len).sum(), MAX_SOURCE_BYTES)?;
            let texts: Vec<String> = texts.iter().map(|text| lark_string(text)).collect();
            TopLevelGrammar::from_lark(format!("start: CHOICE\nCHOICE: {}\n", texts.join(" | ")))
        }
        ConstraintSpec::Grammar(source) => {
            bounded(source.len(), MAX_SOURCE_BYTES)?;
            let lark = match gbnf::is_gbnf(source) {
                true => gbnf::to_lark(source).map_err(ConstraintError::Invalid)?,
                false => {
                    embedded_schemas(source).try_for_each(|schema| checked(&schema))?;
                    source.clone()
                }
            };
            TopLevelGrammar::from_lark(lark)
        }
        ConstraintSpec::ToolCalls(calls) => {
            bounded(calls.schemas().map(|schema| schema.to_string().len()).sum(), MAX_SCHEMA_BYTES)?;
            calls.schemas().try_for_each(checked)?;
            TopLevelGrammar::from_lark(calls.to_lark())
        }
    })
}

/// Every schema in a grammar, which llguidance reads up to its end: `%json {...}`. Also what stands so in a text, as long as
/// that is JSON.
fn embedded_schemas(lark: &str) -> impl Iterator<Item = Value> {
    lark.match_indices("%json").filter_map(|(at, name)| {
        let mut values = serde_json::Deserializer::from_str(&lark[at + name.len()..]).into_iter();
        values.next()?.ok()
    })
}

/// The whole answer matches anyway, and llguidance has no anchors.
fn without_anchors(regex: &str) -> &str {
    let regex = regex.strip_prefix('^').unwrap_or(regex);
    match regex.strip_suffix('$') {
        Some(rest) if rest.bytes().rev().take_while(|&byte| byte == b'\\').count() % 2 == 0 => rest,
        _ => regex,
    }
}

fn tokens_of(tokenizer: &Tokenizer, eos_token_ids: &[u32]) -> Tokens {
    let words = (0..tokenizer.vocab_size() as u32).map(|id| {
        let bytes = tokenizer.token_bytes(id);
        match tokenizer.is_special(id) {
            true => [&[TokTrie::SPECIAL_TOKEN_MARKER], bytes].concat(),
            // The marker is no byte of UTF-8, so no form allows a token that holds it.
            false if bytes.contains(&TokTrie::SPECIAL_TOKEN_MARKER) => Vec::new(),
            false => bytes.to_vec(),
        }
    });
    Tokens { words: words.collect(), eos_token_ids: eos_token_ids.to_vec() }
}

fn factory(mut tokens: Tokens) -> Result<ParserFactory, String> {
    // llguidance asserts its bounds; a tokenizer beyond them costs constraints and nothing else.
    let build = || {
        for word in tokens.words.iter_mut().filter(|word| word.len() > MAX_TOKEN_BYTES) {
            word.clear();
        }
        let vocab_size = tokens.words.len() as u32;
        tokens.eos_token_ids.retain(|&id| id < vocab_size);
        let eos = tokens.eos_token_ids.first().copied().unwrap_or(INVALID_TOKEN);
        let mut trie = TokTrie::from(&TokRxInfo::new(vocab_size, eos), &tokens.words);
        if !tokens.eos_token_ids.is_empty() {
            trie = trie.with_eos_tokens(&tokens.eos_token_ids);
        }
        let tokens: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let mut factory = ParserFactory::new_simple(&tokens).map_err(|error| error.to_string())?;
        factory.quiet();
        *factory.limits_mut() = limits();
        Ok(factory)
    };
    match catch_unwind(AssertUnwindSafe(build)) {
        Ok(built) => built,
        Err(_) => Err("its tokens are beyond llguidance's bounds".to_owned()),
    }
}
