//! llama.cpp's grammars.

use super::*;

/// llama.cpp's `grammars/json.gbnf`.
pub const LLAMA_JSON: &str = r#"
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws
object ::=
  "{" ws (
            string ":" ws value
    ("," ws string ":" ws value)*
  )? "}" ws
array  ::=
  "[" ws (
            value
    ("," ws value)*
  )? "]" ws
string ::=
  "\"" (
    [^"\\\x7F\x00-\x1F] |
    "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) # escapes
  )* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws
# Optional space: by convention, applied in this grammar after literal chars when allowed
ws ::= | " " | "\n" [ \t]{0,20}
"#;

fn grammar(source: &str) -> ConstraintSpec {
    ConstraintSpec::Grammar(source.to_owned())
}

#[track_caller]
fn check(source: &str, right: &[&str], wrong: &[&str]) {
    let grammar = grammar(source);
    for text in right {
        assert!(accepts(&grammar, text), "{text:?} of {source}");
    }
    for text in wrong {
        assert!(!accepts(&grammar, text), "{text:?} of {source}");
    }
}

#[test]
fn literals_classes_and_repetitions() {
    check("root ::= \"a\\n\\x41\\u4e2d\\\"\"", &["a\nA中\""], &["a", ""]);
    check("root ::= [a-c0-9_]+", &["abc_09"], &["", "d", "-"]);
    check("root ::= [^a-c]", &["d", "中", "\n"], &["a", "dd"]);
    check("root ::= [-a\\]^/] \"/\"", &["-/", "]/", "^/", "//"], &["b/"]);
    check("root ::= . .", &["中\n"], &["a"]);
    check("root ::= \"a\"{2,3} \"b\"{2} \"c\"{1,} \"d\"? \"e\"*", &["aabbc", "aaabbccde"], &["abbc", "aabbbc"]);
    check("root ::= \"a\"{0,0} \"b\"", &["b"], &["ab"]);
    check("root ::= (\"a\" | \"b\" \"c\")+ | \"\"", &["", "abca"], &["b"]);
}

#[test]
fn rules_comments_and_lines() {
    let source = "# a list\nroot ::= item (\",\"\n  item)* # of items\n\nitem ::=\n  word |\n  number\nword ::= [a-z]+\nnumber ::= [0-9]+";
    check(source, &["a", "a,1,b"], &["", ",", "a,", "A"]);
    check("root ::= Foo-Bar\nFoo-Bar ::= \"x\" root-2\nroot-2 ::= \"y\"", &["xy"], &["x"]);
}

#[test]
fn arithmetic_recurses() {
    let source = r#"
root  ::= (expr "=" ws term "\n")+
expr  ::= term ([-+*/] term)*
term  ::= ident | num | "(" ws expr ")" ws
ident ::= [a-z] [a-z0-9_]* ws
num   ::= [0-9]+ ws
ws    ::= [ \t\n]*
"#;
    check(source, &["(a +1) *b2 = 7\n", "1=1\n1 = ( 2)\n"], &["(a=1\n", "1+=1\n"]);
}

#[test]
fn json_of_llama_cpp() {
    let source = LLAMA_JSON;
    check(
        source,
        &["{}", "{\"a\": [1, -2.5e3, {\"中\\u00e9\": null}], \"b\":true}"],
        &["{", "{\"a\"}", "[]", "{\"a\": 01}"],
    );
    let constraint = compile(&grammar(source)).unwrap();
    let mut ended = 0;
    for seed in 0..30 {
        if let Some(text) = babble(&constraint, seed, 400) {
            ended += 1;
            serde_json::from_str::<Value>(&text).unwrap();
        }
    }
    assert!(ended > 20, "{ended}");
}

#[test]
fn what_is_wrong_is_named_with_its_line() {
    let cases = [
        ("root ::= a\n", "line 1: there is no rule 'a'"),
        ("a ::= \"x\"", "there is no rule 'root'"),
        ("root ::= \"x\"\nroot ::= \"y\"", "line 2: the rule 'root' is there twice"),
        ("root ::= \"x", "line 1: expected '\"', found the end"),
        ("root ::= [a", "line 1: expected ']', found the end"),
        ("root ::= []", "line 1: a class of no characters"),
        ("root ::= [b-a]", "line 1: a range from 'b' to 'a' is empty"),
        ("root ::= (\"x\"", "line 1: expected ')', found the end"),
        ("root ::= \"x\" )", "line 1: expected an item or the line's end, found ')'"),
        ("root ::= \"x\"{2,1}", "line 1: expected a repetition's bounds in order before this, found '}'"),
        ("root ::= \"x\"{99999999999}", "line 1: expected a number up to 10000, found '9'"),
        ("root ::= \"\\q\"", "line 1: expected one of n r t \" \\ [ ] x u U after a backslash; before, found '\"'"),
        ("root ::= \"\\xZZ\"", "line 1: expected a character's code in 2 hexadecimal digits, found 'Z'"),
        ("root ::= !<|end|>", "line 1: expected an item ('!' before a token is not supported), found '!'"),
        ("root ::= \"a\"\n\n= ::=", "line 3: expected a rule's name, found '='"),
    ];
    for (source, message) in cases {
        assert_eq!(compile(&grammar(source)).unwrap_err().to_string(), message, "{source}");
    }
}
