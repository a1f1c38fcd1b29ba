//! Programs of answers, run against tests in the sandbox. Without the usual harness: this program is the sandbox's helper too, and
//! has to become it before there is a second thread.

use std::{path::Path, time::Duration};

use dots_sandbox::Python;
use dots_train::verify::{
    Check, Verdict, Verifier,
    code::{self, Tests},
};
use serde_json::{Value, json};

fn main() {
    dots_sandbox::enter();
    let python = Python::new(Some(Path::new("/usr/bin/python3")), None).unwrap();
    let verifier = Verifier { python: Some(python), limits: code::limits(Duration::from_secs(5)) };
    let verdict =
        |tests: &Value, answer: &str| verifier.verify(&Check::Tests(Tests::of(tests).unwrap()), answer).unwrap();

    let add = json!(["assert add(1, 2) == 3", "assert add(-1, 1) == 0"]);
    let right = "Here it is:\n```python\ndef add(a, b):\n    return a + b\n```\nIt adds.";
    for (answer, expected) in [
        (right, Verdict::Accepted),
        ("```python\ndef add(a, b):\n    return a - b\n```", Verdict::Failed),
        ("```python\ndef add(a, b)\n```", Verdict::Failed),
        ("```python\nimport socket\nsocket.create_connection(('1.1.1.1', 80))\n```", Verdict::Failed),
        ("```python\ndef add(a, b):\n    while True: pass\n```", Verdict::Time),
        ("```python\nwhile True: print('x' * 1000)\n```", Verdict::TooMuch),
        ("I cannot.\n```\n```", Verdict::NoAnswer),
    ] {
        assert_eq!(verdict(&add, answer), expected, "{answer}");
    }
    for leaves_early in
        ["import sys; sys.exit(0)", "import os; os._exit(0)", "raise SystemExit", "print('0' * 32); quit()"]
    {
        assert_eq!(verdict(&add, leaves_early), Verdict::Failed, "{leaves_early}: no test was run");
    }

    let double = json!([{ "input": "1\n", "output": "2\n" }, { "input": "21", "output": "42" }]);
    assert_eq!(verdict(&double, "```python\nprint(2 * int(input()))\n```"), Verdict::Accepted);
    assert_eq!(verdict(&double, "```python\nprint(2)\n```"), Verdict::Failed, "the second run tells");

    let without = Verifier::default().verify(&Check::Tests(Tests::of(&add).unwrap()), right);
    assert!(without.unwrap_err().to_string().contains("python"), "no program is taken to be right unseen");
    println!("programs are judged by their tests");
}
