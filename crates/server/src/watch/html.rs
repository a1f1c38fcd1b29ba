//! The page in one file: its scripts joined to one, its styles beside them, and the runs' data.
//!
//! The scripts are modules that import each other by relative names, which a file without a server cannot do. So they are
//! written such that without their `import` and `export` they are one script: no name stands twice at the top of two of them,
//! and each import is one line. What the browser may run is told to it by the hashes of these very texts.

use base64::{Engine, engine::general_purpose::STANDARD};
use ring::digest::{SHA256, digest};
use serde_json::Value;

use super::find;

/// What imports nothing comes first.
const SCRIPTS: &[&str] = &[
    "words-en.js",
    "words-ko.js",
    "words-zh.js",
    "words.js",
    "dom.js",
    "scale.js",
    "colour.js",
    "feed.js",
    "plot.js",
    "heat.js",
    "cards.js",
    "charts.js",
    "app.js",
];

const STYLES: &[&str] = &["style.css", "watch.css"];

fn text(name: &str) -> &'static str {
    find(name).and_then(|(_, bytes)| std::str::from_utf8(bytes).ok()).unwrap_or_default()
}

/// The scripts as one.
fn script() -> String {
    let lines = SCRIPTS.iter().flat_map(|name| text(name).lines());
    let own = lines.filter(|line| !line.starts_with("import "));
    own.flat_map(|line| [line.strip_prefix("export ").unwrap_or(line), "\n"]).collect()
}

fn hash(text: &str) -> String {
    format!("'sha256-{}'", STANDARD.encode(digest(&SHA256, text.as_bytes())))
}

/// The page with what is told of its runs.
pub fn page(runs: &Value) -> String {
    let first = text("first.js");
    let script = script();
    let style: String = STYLES.iter().map(|name| text(name)).collect();
    let policy = format!(
        "default-src 'none'; script-src {} {}; style-src {}; img-src data:; base-uri 'none'; form-action 'none'; \
         require-trusted-types-for 'script'; trusted-types 'none'",
        hash(first),
        hash(&script),
        hash(&style),
    );
    // Nothing in the data can end its element.
    let data = runs.to_string().replace('<', "\\u003c");
    let icon = STANDARD.encode(text("icon.svg"));
    let mut page = String::new();
    for line in text("index.html").lines() {
        if line.starts_with("<link rel=\"stylesheet\"") || line.contains("src=\"page/first.js\"") {
            continue;
        }
        if line.starts_with("<link rel=\"icon\"") {
            page.push_str(&format!("<link rel=\"icon\" href=\"data:image/svg+xml;base64,{icon}\">\n"));
        } else if line.contains("src=\"page/app.js\"") {
            page.push_str(&format!("<style>{style}</style>\n<script>{first}</script>\n"));
        } else if line.starts_with("</body>") {
            page.push_str(&format!("<script type=\"application/json\" id=\"data\">{data}</script>\n"));
            page.push_str(&format!("<script type=\"module\">{script}</script>\n{line}\n"));
        } else {
            page.push_str(line);
            page.push('\n');
            if line.starts_with("<meta charset") {
                page.push_str(&format!("<meta http-equiv=\"Content-Security-Policy\" content=\"{policy}\">\n"));
            }
        }
    }
    page
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_scripts_are_one_without_their_imports() {
        let script = script();
        let mut names = BTreeSet::new();
        for line in script.lines() {
            assert!(!line.starts_with("export ") && !line.starts_with("} from"), "{line}");
            let words: Vec<&str> = line.split(|c: char| !(c.is_alphanumeric() || c == '_')).collect();
            let words: Vec<&str> = words.into_iter().filter(|word| *word != "async").collect();
            if let [kind, name, ..] = words[..]
                && ["const", "let", "function", "class"].contains(&kind)
            {
                assert!(names.insert(name.to_owned()), "{name} stands twice at the top");
            }
        }
        assert!(names.contains("ENGLISH") && names.len() > 30);
        assert!(!script.contains("</script") && !script.contains("<!--"));
    }

    #[test]
    fn no_run_can_leave_its_place_in_the_file() {
        let page = page(&serde_json::json!([{ "name": "</script><script>alert(1)</script>" }]));
        assert!(page.contains(r"\u003c/script>") && !page.contains("alert(1)</script>\n<script"));
        assert_eq!(page.matches("<script").count(), 3);
        assert!(!page.contains("src=\"page/") && !page.contains("href=\"page/"));
    }
}
