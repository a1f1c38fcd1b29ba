//! What depends on who reads: colours, and text that comes from strangers.

use std::{
    borrow::Cow,
    io::{self, IsTerminal, Write},
};

/// Most bytes of one text from standard input: more than any context holds. A stream without an end must not fill the memory.
pub const MOST_INPUT_BYTES: u64 = 8 << 20;

/// Whether to colour.
#[derive(Debug, Clone, Copy)]
pub struct Style {
    on: bool,
}

impl Style {
    /// For what goes to standard output.
    pub fn stdout() -> Self {
        Self::on(io::stdout().is_terminal())
    }

    /// For what goes to standard error.
    pub fn stderr() -> Self {
        Self::on(io::stderr().is_terminal())
    }

    /// On a terminal, unless `NO_COLOR` is set (<https://no-color.org>) or the terminal has none.
    fn on(terminal: bool) -> Self {
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let unable = std::env::var_os("TERM").is_some_and(|value| value == "dumb");
        Self { on: terminal && !unwanted && !unable }
    }

    /// Whether it colours.
    pub fn is_on(self) -> bool {
        self.on
    }

    /// Less loud than the rest.
    pub fn dim(self, text: &str) -> String {
        self.wrap("2", text)
    }

    /// Louder than the rest.
    pub fn bold(self, text: &str) -> String {
        self.wrap("1", text)
    }

    fn wrap(self, code: &str, text: &str) -> String {
        if self.on { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// A line for whoever started the program, on standard error. The program goes on when nobody reads its words.
pub fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// `text` with nothing in it that commands a terminal: what a model or a file says is no reason to move the cursor.
pub fn clean(text: &str) -> Cow<'_, str> {
    let commands = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    if text.contains(commands) { text.replace(commands, "\u{fffd}").into() } else { text.into() }
}

/// The first line of a stranger's text, at most `most` characters of it.
pub fn first_line(text: &str, most: usize) -> String {
    let line = text.trim_start().lines().next().unwrap_or("");
    let mut short: String = clean(line).chars().take(most).collect();
    if short.chars().count() < line.chars().count() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_sequences_do_not_reach_the_terminal() {
        assert_eq!(clean("a\x1b[2Jb\tc\n\u{9b}"), "a\u{fffd}[2Jb\tc\n\u{fffd}");
        assert_eq!(clean("plain"), "plain");
    }

    #[test]
    fn a_long_first_line_is_cut() {
        assert_eq!(first_line("\n  abcdef\nrest", 3), "abc…");
        assert_eq!(first_line("abc\nrest", 3), "abc");
    }
}
