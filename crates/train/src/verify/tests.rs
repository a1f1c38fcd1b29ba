use super::*;

fn verdict(expected: &str, answer: &str) -> Verdict {
    Verifier::default().verify(&Check::of_answer(expected).unwrap(), answer).unwrap()
}

#[test]
fn equal_numbers_are_equal_however_they_are_written() {
    for (expected, answer) in [
        ("42", "42"),
        ("42", "The answer is 42."),
        ("42", "3 + 4 is 7, so it is \\boxed{42}, not 7."),
        ("42", "First 7.\n#### 42"),
        ("42", "we get 6 * 7 = 42 apples in 2024? The answer is: $42$"),
        ("42", "6 times 7 makes 42"),
        ("1200", "\\boxed{1{,}200}"),
        ("1,200", "\\boxed{\\$1200}"),
        ("1234567", "it costs $1,234,567."),
        ("0.75", "\\boxed{\\frac{3}{4}}"),
        ("3/4", "\\boxed{0.750}"),
        ("3/4", "The answer is \\(\\dfrac{6}{8}\\)."),
        ("-3/4", "\\boxed{-\\frac34}"),
        ("1.5", "The answer is 1 1/2 cups"),
        ("2.5", "\\boxed{2\\frac{1}{2}}"),
        ("5/2", "answer: 2½"),
        ("1500", "\\boxed{1.5 \\times 10^{3}}"),
        ("0.0015", "The answer is 1.5e-3"),
        ("1024", "\\boxed{2^{10}}"),
        ("50%", "The answer is 0.5"),
        ("50", "The answer is 50 percent"),
        ("0.5", "\\boxed{50\\%}"),
        ("12", "\\boxed{12\\text{ km/h}}"),
        ("12 apples", "\\boxed{12}"),
        ("90", "\\boxed{90^\\circ}"),
        ("5", "\\boxed{x = 5}"),
        ("-5", "The answer is −5"),
        ("5000000", "The answer is 5 million dollars."),
        ("30000", "答案是3万元。"),
        ("325", "答案是三百二十五"),
        ("12", "所以答案为１２个。"),
        ("35000", "정답은 3만 5천 원입니다."),
        ("325", "정답은 삼백이십오"),
        ("0", "\\boxed{-0}"),
        ("123456789012345678901234567890", "\\boxed{123456789012345678901234567890}"),
        ("0.3", "\\boxed{0.3}"),
    ] {
        assert_eq!(verdict(expected, answer), Verdict::Accepted, "{expected} beside {answer}");
    }
}

#[test]
fn other_numbers_are_wrong_however_near() {
    for (expected, answer) in [
        ("42", "The answer is 43, not 42"),
        ("42", "42 is wrong; \\boxed{41}"),
        ("42", "-42"),
        ("1/3", "0.3333333333333333"),
        ("0.1", "0.1000000000000000055"),
        ("123456789012345678901234567890", "123456789012345678901234567891"),
        ("9007199254740993", "9007199254740992"),
        ("50%", "5"),
        ("7", "10-3"),
        ("12", "The answer is 1,200"),
        ("30000", "答案是3亿"),
    ] {
        assert_eq!(verdict(expected, answer), Verdict::Wrong, "{expected} beside {answer}");
    }
}

#[test]
fn what_is_no_number_is_no_answer() {
    for answer in [
        "",
        "I do not know.",
        "\\boxed{2x}",
        "\\boxed{2\\sqrt{3}}",
        "\\boxed{2\\pi}",
        "\\boxed{(1, 2)}",
        "\\boxed{2",
        "\\frac{1}{0}",
    ] {
        assert_ne!(verdict("2", answer), Verdict::Accepted, "{answer}");
    }
    assert_eq!(verdict("2", "I do not know."), Verdict::NoAnswer);
    assert_eq!(verdict("2", "\\boxed{2x}"), Verdict::NoAnswer);
}

#[test]
fn what_is_expected_is_a_number_only_where_all_of_it_is() {
    for (expected, is_number) in [
        ("42", true),
        ("$3.50", true),
        ("12 km", true),
        ("25%", true),
        ("三百", true),
        ("x+1", false),
        ("(1, 2)", false),
        ("3:4", false),
        ("2x", false),
        ("1, 2, 3", false),
        ("B", false),
        ("yes", false),
        ("3 or 4", false),
    ] {
        assert_eq!(matches!(Check::of_answer(expected), Some(Check::Number(_))), is_number, "{expected}");
    }
    assert!(Check::of_answer(" ").is_none());
}

#[test]
fn texts_are_compared_without_case_and_markup() {
    for (expected, answer) in [
        ("B", "The answer is (B)."),
        ("B", "\\boxed{\\text{B}}"),
        ("Paris", "It is far.\n**paris**"),
        ("(1, 2)", "\\boxed{(1, 2)}"),
        ("x+1", "answer: $x+1$"),
    ] {
        assert_eq!(verdict(expected, answer), Verdict::Accepted, "{expected} beside {answer}");
    }
    assert_eq!(verdict("B", "The answer is (C)."), Verdict::Wrong);
    assert_eq!(verdict("Paris", ""), Verdict::NoAnswer);
}

#[test]
fn hostile_answers_cost_little() {
    let long = "9".repeat(1 << 20);
    for answer in [
        long.clone(),
        format!("\\boxed{{{long}}}"),
        "\\frac{".repeat(200_000),
        "1/".repeat(200_000),
        "9^9".repeat(200_000),
        "1e999999999999999999999".to_owned(),
        "2^{99999999999}".to_owned(),
    ] {
        let start = std::time::Instant::now();
        assert_ne!(verdict("2", &answer), Verdict::Accepted);
        assert!(start.elapsed().as_secs() < 5, "{}", &answer[..20]);
    }
}
