//! Answers without their markup: LaTeX, Markdown and the many forms of a digit or a sign.

/// Stands where digits are grouped by a narrow space.
pub const GROUP: char = '\u{202f}';

/// LaTeX that means another text; the longer before what it begins with.
const COMMANDS: [(&str, &str); 34] = [
    ("\\dfrac", "\\frac"),
    ("\\tfrac", "\\frac"),
    ("\\cfrac", "\\frac"),
    ("\\text{", " {"),
    ("\\textbf{", "{"),
    ("\\textit{", "{"),
    ("\\mathrm{", " {"),
    ("\\mathbf{", "{"),
    ("\\mbox{", " {"),
    ("\\left", ""),
    ("\\right", ""),
    ("\\times", "×"),
    ("\\cdot", "×"),
    ("^{\\circ}", ""),
    ("^\\circ", ""),
    ("\\degree", ""),
    ("\\%", "%"),
    ("\\$", ""),
    ("\\(", ""),
    ("\\)", ""),
    ("\\[", ""),
    ("\\]", ""),
    ("\\ ", " "),
    ("\\,", "\u{202f}"),
    ("\\!", ""),
    ("\\;", " "),
    ("\\:", " "),
    ("\\quad", " "),
    ("{,}", ","),
    ("**", ""),
    ("$", ""),
    ("°", ""),
    ("~", " "),
    ("`", ""),
];

/// The fractions that are one character.
const VULGAR: [(char, &str); 9] = [
    ('½', "\\frac{1}{2}"),
    ('⅓', "\\frac{1}{3}"),
    ('⅔', "\\frac{2}{3}"),
    ('¼', "\\frac{1}{4}"),
    ('¾', "\\frac{3}{4}"),
    ('⅕', "\\frac{1}{5}"),
    ('⅙', "\\frac{1}{6}"),
    ('⅛', "\\frac{1}{8}"),
    ('⅜', "\\frac{3}{8}"),
];

/// The text with one form for each thing that is meant.
pub fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    'text: while let Some(first) = rest.chars().next() {
        for (from, to) in COMMANDS {
            if let Some(after) = rest.strip_prefix(from) {
                out += to;
                rest = after;
                continue 'text;
            }
        }
        rest = &rest[first.len_utf8()..];
        if let Some((_, fraction)) = VULGAR.iter().find(|(character, _)| *character == first) {
            out += fraction;
            continue;
        }
        out.push(match first {
            // Full-width forms lie as ASCII does.
            '\u{ff01}'..='\u{ff5e}' => char::from_u32(first as u32 - 0xfee0).unwrap_or(first),
            '\u{3000}' | '\u{a0}' => ' ',
            '\u{2009}' | '\u{2007}' => GROUP,
            '−' | '–' | '﹣' => '-',
            '。' => '.',
            other => other,
        });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_goes_and_what_is_said_stays() {
        for (text, expected) in [
            ("$\\dfrac{3}{4}$", "\\frac{3}{4}"),
            ("１２，５００％", "12,500%"),
            ("**42**", "42"),
            ("90^\\circ", "90"),
            ("12\\text{ km}", "12 { km}"),
            ("−5", "-5"),
            ("2½", "2\\frac{1}{2}"),
        ] {
            assert_eq!(plain(text), expected);
        }
    }
}
