//! Expressions, choices, grammars, and what all forms share.

use serde_json::json;

use super::*;

fn regex(regex: &str) -> ConstraintSpec {
    ConstraintSpec::Regex(regex.to_owned())
}

#[test]
fn an_expression_matches_the_whole_answer() {
    let date = regex(r"^\d{4}-\d{2}$");
    assert!(accepts(&date, "2024-02"));
    for wrong in ["2024-0", "2024-022", "x2024-02", ""] {
        assert!(!accepts(&date, wrong), "{wrong:?}");
    }
    assert!(accepts(&regex("(yes|no)/?"), "yes/") && accepts(&regex("(yes|no)/?"), "no"));
    assert!(accepts(&regex(r"cost: \$"), "cost: $"));
    assert!(accepts(&regex("[α-ω]+"), "αβγ") && !accepts(&regex("[α-ω]+"), "abc"));
    assert!(accepts(&regex("a*"), "") && accepts(&regex("a*"), "aaa"));
}

#[test]
fn a_choice_is_one_of_its_texts() {
    let texts = ["yes", "yes, but", "no \"\\\u{7f}\n", "中文", "/"];
    let choice = ConstraintSpec::Choice(texts.map(str::to_owned).to_vec());
    for text in texts {
        assert!(accepts(&choice, text), "{text:?}");
    }
    for wrong in ["", "y", "yes,", "yes, but ", "no", "中"] {
        assert!(!accepts(&choice, wrong), "{wrong:?}");
    }
    let empty = ConstraintSpec::Choice(vec![String::new(), "a".to_owned()]);
    assert!(accepts(&empty, "") && accepts(&empty, "a") && !accepts(&empty, "b"));
}

#[test]
fn a_lark_grammar_may_recurse_and_name_special_tokens() {
    let sums =
        ConstraintSpec::Grammar("start: sum\nsum: INT (\"+\" (INT | \"(\" sum \")\"))*\nINT: /[0-9]+/\n".to_owned());
    assert!(accepts(&sums, "1+(22+(3+4))+5"));
    assert!(!accepts(&sums, "1+(2") && !accepts(&sums, "1+"));
    let thinking = compile(&ConstraintSpec::Grammar("start: <|think|> \"a\"".to_owned())).unwrap();
    let mut state = thinking.begin();
    assert!(is_allowed(&state, SPECIAL) && !is_allowed(&state, b'a'.into()));
    assert_eq!(state.accept(SPECIAL), Ok(false));
    assert_eq!(state.accept(b'a'.into()), Ok(true));
}

#[test]
fn an_answer_ends_where_nothing_may_follow() {
    let mut state = compile(&regex("ab?")).unwrap().begin();
    assert!(!is_allowed(&state, EOS));
    assert_eq!(state.accept(b'a'.into()), Ok(false));
    assert!(is_allowed(&state, EOS) && is_allowed(&state, b'b'.into()));
    assert_eq!(state.accept(b'b'.into()), Ok(true));

    // A model that does not end its turn where it may ends it by the id itself.
    let mut state = compile(&regex("ab?")).unwrap().begin();
    state.accept(b'a'.into()).unwrap();
    assert_eq!(state.accept(EOS), Ok(true));
}

#[test]
fn a_token_that_does_not_fit_is_an_error_and_no_panic() {
    let mut state = compile(&regex("ab")).unwrap().begin();
    assert!(state.accept(b'x'.into()).is_err());
    assert!(state.accept(b'a'.into()).is_err());
    assert!(compile(&regex("ab")).unwrap().begin().accept(u32::MAX).is_err());
}

#[test]
fn answers_of_one_constraint_know_nothing_of_each_other() {
    let constraint = compile(&schema(json!({"type": "object"}))).unwrap();
    let alone: Vec<_> =
        (0..20).map(|seed| babble(&compile(&schema(json!({"type": "object"}))).unwrap(), seed, 300)).collect();
    let shared: Vec<_> = (0..20).map(|seed| babble(&constraint, seed, 300)).collect();
    assert_eq!(alone, shared);
}

#[test]
fn white_space_is_bounded_and_can_be_refused() {
    let object = json!({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]});
    let loose = schema(object.clone());
    let spaces = |count: usize| format!("{{{}\"a\":1}}", " ".repeat(count));
    assert!(accepts(&loose, &spaces(1)) && !accepts(&loose, &spaces(2)));
    assert!(accepts(&loose, "{\n  \"a\" : 1\n}") && accepts(&loose, "{\n\t\"a\":\n1\n}"));
    assert!(!accepts(&loose, "{\n\n\"a\":1}") && !accepts(&loose, " {\"a\":1}") && !accepts(&loose, "{\"a\":1}\n"));
    let compact = ConstraintSpec::JsonSchema { schema: object, white_space: false };
    assert!(accepts(&compact, "{\"a\":1}") && !accepts(&compact, "{\"a\": 1}"));
}
