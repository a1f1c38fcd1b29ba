//! A conversation in the terminal: what was typed, what was said, and where it was saved.

use std::{
    collections::HashSet,
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::{anyhow, bail};
use dots_model::{aside::Aside, template::Message};

/// What a line typed at the prompt asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Nothing.
    Empty,
    /// Say this to the model.
    Say(String),
    /// `/system TEXT`; `None` takes the instructions away.
    System(Option<String>),
    /// `/reset`.
    Reset,
    /// `/save FILE`.
    Save(PathBuf),
    /// `/help`.
    Help,
    /// `/exit`.
    Exit,
}

/// The commands, for `/help`.
pub const HELP: &str = "\
/system TEXT   instructions for the answers from here on; without TEXT, none
/reset         forget the conversation; the instructions stay
/save FILE     write the conversation to FILE, as JSON
/exit          leave (also Ctrl-D)
//...          say something that begins with a slash
A line that ends in a backslash goes on in the next. Ctrl-C stops an answer.";

/// Reads a line; the error says what is wrong with it.
pub fn parse(line: &str) -> Result<Input, String> {
    let line = line.trim();
    if line.is_empty() {
        return Ok(Input::Empty);
    }
    let Some(command) = line.strip_prefix('/') else { return Ok(Input::Say(line.to_owned())) };
    if command.starts_with('/') {
        return Ok(Input::Say(command.to_owned()));
    }
    let (name, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
    let rest = rest.trim();
    let alone = |input: Input| {
        if rest.is_empty() { Ok(input) } else { Err(format!("/{name} takes nothing after it, found {rest:?}")) }
    };
    match name {
        "system" => Ok(Input::System((!rest.is_empty()).then(|| rest.to_owned()))),
        "save" if rest.is_empty() => Err("/save needs the name of a file".to_owned()),
        "save" => Ok(Input::Save(rest.into())),
        "reset" => alone(Input::Reset),
        "help" | "?" => alone(Input::Help),
        "exit" | "quit" => alone(Input::Exit),
        _ => Err(format!("there is no command /{name}; /help lists them, and a message may begin with // for a slash")),
    }
}

/// The messages so far.
#[derive(Debug, Default)]
pub struct Transcript {
    system: Option<String>,
    turns: Vec<Message>,
    saved: HashSet<PathBuf>,
}

impl Transcript {
    /// An empty conversation under these instructions.
    pub fn new(system: Option<String>) -> Self {
        Self { system, ..Self::default() }
    }

    /// Everything that was said, instructions first.
    pub fn messages(&self) -> Vec<Message> {
        let system = self.system.iter().map(|text| message("system", text));
        system.chain(self.turns.iter().cloned()).collect()
    }

    /// Other instructions from here on.
    pub fn set_system(&mut self, system: Option<String>) {
        self.system = system;
    }

    /// The user said `text`.
    pub fn user(&mut self, text: &str) {
        self.turns.push(message("user", text));
    }

    /// The model answered `text`.
    pub fn assistant(&mut self, text: &str) {
        self.turns.push(message("assistant", text));
    }

    /// Takes back what was said last and could not be answered.
    pub fn take_back(&mut self) {
        self.turns.pop();
    }

    /// Forgets what was said; the instructions stay.
    pub fn reset(&mut self) {
        self.turns.clear();
    }

    /// Writes the messages to `path` as JSON, aside and then renamed. A file that this conversation did not write itself
    /// is left alone.
    pub fn save(&mut self, path: &Path) -> anyhow::Result<()> {
        let shown = path.display();
        if path.symlink_metadata().is_ok() && !self.saved.contains(path) {
            bail!("{shown}: a file of that name is there already and was not written by this conversation");
        }
        let name = path.file_name().ok_or_else(|| anyhow!("{shown}: expected the name of a file"))?;
        // Of this process, and new: `NAME.part` may be somebody's, and is left alone as any file is.
        let mut part = name.to_owned();
        part.push(format!(".{}.part", std::process::id()));
        let written = Aside::create_new(path, path.with_file_name(part)).and_then(|mut file| {
            serde_json::to_writer_pretty(&mut file, &self.messages())?;
            file.write_all(b"\n")?;
            file.finish()
        });
        written.map_err(|error| anyhow!("{shown}: {error}"))?;
        self.saved.insert(path.to_owned());
        Ok(())
    }
}

fn message(role: &str, content: &str) -> Message {
    Message::new(role, content)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn lines_are_messages_unless_they_begin_with_a_slash() {
        assert_eq!(parse("  hello "), Ok(Input::Say("hello".into())));
        assert_eq!(parse("//usr is a folder"), Ok(Input::Say("/usr is a folder".into())));
        assert_eq!(parse("   "), Ok(Input::Empty));
        assert_eq!(parse("/system  Be brief. "), Ok(Input::System(Some("Be brief.".into()))));
        assert_eq!(parse("/system"), Ok(Input::System(None)));
        assert_eq!(parse("/save a file.json"), Ok(Input::Save("a file.json".into())));
        assert_eq!(parse("/reset"), Ok(Input::Reset));
        for wrong in ["/save", "/usr/bin", "/reset now"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_reset_keeps_the_instructions() {
        let mut transcript = Transcript::new(Some("Be brief.".into()));
        transcript.user("Hello");
        transcript.assistant("Hi");
        assert_eq!(transcript.messages().len(), 3);
        transcript.reset();
        assert_eq!(transcript.messages(), [message("system", "Be brief.")]);
    }

    #[test]
    fn a_conversation_overwrites_its_own_file_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let (own, other) = (folder.path().join("own.json"), folder.path().join("other.json"));
        fs::write(&other, "precious").unwrap();
        let mut transcript = Transcript::new(None);
        transcript.user("Hello");
        transcript.save(&own).unwrap();
        transcript.assistant("Hi");
        transcript.save(&own).unwrap();
        let read: Vec<Message> = serde_json::from_str(&fs::read_to_string(&own).unwrap()).unwrap();
        assert_eq!(read, transcript.messages());

        assert!(transcript.save(&other).unwrap_err().to_string().contains("there already"));
        assert_eq!(fs::read_to_string(&other).unwrap(), "precious");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "nothing is left beside them");
    }
}
