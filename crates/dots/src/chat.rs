//! `dots chat`: a conversation in the terminal.

use std::{
    future::poll_fn,
    io::{self, BufRead, IsTerminal, StdinLock, Write},
    path::PathBuf,
    pin::Pin,
    sync::Arc,
    task::Poll,
    time::Instant,
};

use anyhow::{anyhow, bail};
use dots_engine::{Breakers, Finish, FinishReason, Request, SubmitError};
use dots_model::template::ChatTemplate;
use rustyline::{DefaultEditor, error::ReadlineError};
use tokio::runtime::Runtime;

use crate::{
    answer::{self, Answer},
    cli::ChatArgs,
    flags::sampling::SamplingArgs,
    inside,
    load::{self, Running, Users},
    runtime,
    terminal::{MOST_INPUT_BYTES, Style, clean},
    transcript::{self, Input, Transcript},
};

pub fn run(args: ChatArgs) -> anyhow::Result<()> {
    let greeting = inside::is_meant(args.model.as_deref()).then(inside::greeting);
    let checkpoint = load::open(args.model.as_deref())?;
    let template = load::template(&checkpoint)?;
    let running = load::start(checkpoint, &args.engine, Users::One)?;
    let breakers = args.sampling.breakers(&running.tokenizer);
    let interactive = io::stdin().is_terminal() && io::stdout().is_terminal();
    let mut chat = Chat {
        running,
        template,
        sampling: args.sampling,
        breakers,
        transcript: Transcript::new(args.system),
        greeting,
        runtime: runtime::waiting()?,
        interactive,
        style: Style::stdout(),
    };
    if interactive {
        // From here on: a Ctrl-C between two answers must not end the program either.
        drop(interrupt(&chat.runtime));
    }
    if interactive { chat.talk(&mut Editor::new()?) } else { chat.talk(&mut Lines(io::stdin().lock())) }
}

/// Where messages come from.
trait Source {
    /// The next message or command, or `None` at the end.
    fn next(&mut self) -> anyhow::Result<Option<String>>;
}

struct Chat {
    running: Running,
    template: ChatTemplate,
    sampling: SamplingArgs,
    breakers: Option<Arc<Breakers>>,
    transcript: Transcript,
    /// What stands above the conversation.
    greeting: Option<&'static str>,
    runtime: Runtime,
    interactive: bool,
    style: Style,
}

impl Chat {
    fn talk(&mut self, source: &mut dyn Source) -> anyhow::Result<()> {
        if self.interactive {
            if let Some(greeting) = self.greeting {
                self.note(greeting)?;
            }
            self.note("/help lists the commands. Ctrl-C stops an answer, Ctrl-D leaves.")?;
        }
        while let Some(line) = source.next()? {
            let done = match transcript::parse(&line) {
                Ok(Input::Empty) => Ok(()),
                Ok(Input::Exit) => break,
                Ok(Input::Help) => self.note(transcript::HELP),
                Ok(Input::Say(text)) => self.say(&text),
                Ok(Input::System(system)) => {
                    let note =
                        if system.is_some() { "The instructions are set." } else { "There are no instructions." };
                    self.transcript.set_system(system);
                    self.note(note)
                }
                Ok(Input::Reset) => {
                    self.transcript.reset();
                    self.note("The conversation is forgotten.")
                }
                Ok(Input::Save(path)) => match self.transcript.save(&path) {
                    Ok(()) => self.note(&format!("Saved to {}.", path.display())),
                    Err(error) => Err(error),
                },
                Err(wrong) => Err(anyhow!("{wrong}")),
            };
            match done {
                // In a terminal the next line may be better; a script should not go on as if nothing had happened.
                Err(error) if self.interactive && !error.is::<io::Error>() => {
                    writeln!(io::stdout(), "{}", self.style.bold(&clean(&error.to_string())))?;
                }
                done => done?,
            }
        }
        Ok(())
    }

    /// A word from the program itself, which only a person reads.
    fn note(&self, text: &str) -> anyhow::Result<()> {
        if self.interactive {
            writeln!(io::stdout(), "{}", self.style.dim(&clean(text)))?;
        }
        Ok(())
    }

    /// Says `text` to the model and shows its answer. What was not answered at all is taken back.
    fn say(&mut self, text: &str) -> anyhow::Result<()> {
        self.transcript.user(text);
        let answer = match self.answer() {
            Ok(answer) => answer,
            Err(error) => {
                self.transcript.take_back();
                return Err(error);
            }
        };
        if answer.finish.is_none() && answer.text.is_empty() {
            self.transcript.take_back();
        } else {
            self.transcript.assistant(&answer.text);
        }
        if !self.interactive {
            return Ok(());
        }
        match &answer.finish {
            None => self.note("(stopped)")?,
            Some(Finish { reason: FinishReason::Length, .. }) => self.note(&self.why_cut(&answer))?,
            Some(_) => {}
        }
        self.note(&answer.stats(self.running.active_bytes))
    }

    fn why_cut(&self, answer: &Answer) -> String {
        let (used, context) = (answer.prompt_tokens + answer.completion_tokens, self.running.max_model_len);
        if used >= context {
            format!("(cut: the context is full, {used} of {context} tokens; {})", self.more_room())
        } else {
            format!("(cut after {} tokens, as --max-tokens says)", answer.completion_tokens)
        }
    }

    fn more_room(&self) -> String {
        let longest = self.running.checkpoint.config.max_position_embeddings;
        if self.running.max_model_len < longest {
            format!("/reset begins anew, --max-model-len makes room for up to {longest}")
        } else {
            "/reset begins anew".to_owned()
        }
    }

    /// Streams the model's answer to the conversation so far.
    fn answer(&mut self) -> anyhow::Result<Answer> {
        // Without a person Ctrl-C ends the program, and nothing needs to be caught.
        let stop = if self.interactive { interrupt(&self.runtime) } else { Box::pin(std::future::pending()) };
        let running = &self.running;
        let prompt = self
            .template
            .encode(&running.tokenizer, &self.transcript.messages(), true)
            .map_err(|error| anyhow!("{}: chat_template: {error}", running.checkpoint.path.display()))?;
        let prompt_tokens = prompt.len();
        let room = running.max_model_len.saturating_sub(prompt_tokens);
        if room == 0 {
            bail!(
                "the context is full: the conversation takes {prompt_tokens} tokens, and the context holds {}; {}",
                running.max_model_len,
                self.more_room()
            );
        }
        let mut sampling = self.sampling.over(&running.checkpoint.generation);
        sampling.dry.breakers = self.breakers.clone();
        let request = Request {
            prompt,
            sampling,
            // What is left of the context is less than what was asked for: an answer that is cut says so.
            max_tokens: self.sampling.max_tokens.map(|most| most.min(room)),
            stop: self.sampling.stop.clone(),
            ..Request::default()
        };
        let start = Instant::now();
        let events = match running.engine.submit(request) {
            Ok(events) => events,
            Err(error @ SubmitError::TooLong { .. }) => bail!("{error} ({})", self.more_room()),
            Err(error) => return Err(error.into()),
        };

        let interactive = self.interactive;
        let mut out = io::stdout().lock();
        let show = |text: &str| {
            let text = if interactive { clean(text) } else { text.into() };
            out.write_all(text.as_bytes())?;
            out.flush()
        };
        let answer = self.runtime.block_on(answer::follow(start, events, prompt_tokens, stop, show));
        // The line ends whatever happened, so that an error message begins on its own.
        writeln!(io::stdout())?;
        answer
    }
}

/// Completes at the first Ctrl-C after this call. Once called, Ctrl-C does not end the program any more.
fn interrupt(runtime: &Runtime) -> Pin<Box<dyn Future<Output = ()>>> {
    let mut pressed: Pin<Box<dyn Future<Output = ()>>> = Box::pin(async {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending().await
        }
    });
    runtime.block_on(async {
        // Lets the runtime see, and forget, what was pressed before.
        tokio::task::yield_now().await;
        // The signal is listened for from the first poll on, so that one comes now.
        let is_ready = poll_fn(|cx| Poll::Ready(pressed.as_mut().poll(cx).is_ready())).await;
        if is_ready {
            pressed = Box::pin(std::future::ready(()));
        }
    });
    pressed
}

/// Lines of standard input where it is no terminal.
struct Lines(StdinLock<'static>);

impl Source for Lines {
    fn next(&mut self) -> anyhow::Result<Option<String>> {
        let mut message = String::new();
        loop {
            // Lines may go on for ever, too.
            let room = (MOST_INPUT_BYTES + 1).saturating_sub(message.len() as u64);
            let mut bytes = Vec::new();
            let read = io::Read::take(&mut self.0, room)
                .read_until(b'\n', &mut bytes)
                .map_err(|error| anyhow!("standard input: {error}"))?;
            if read as u64 == room {
                bail!("standard input: expected messages of at most {MOST_INPUT_BYTES} bytes, found more");
            }
            let line = String::from_utf8(bytes).map_err(|_| anyhow!("standard input: expected UTF-8"))?;
            if read == 0 {
                return Ok((!message.is_empty()).then_some(message));
            }
            if !goes_on(&mut message, line.trim_end_matches(['\n', '\r'])) {
                return Ok(Some(message));
            }
        }
    }
}

/// Appends a line to a message; whether its end asks for one more.
fn goes_on(message: &mut String, line: &str) -> bool {
    match line.strip_suffix('\\') {
        Some(line) => {
            message.push_str(line);
            message.push('\n');
            true
        }
        None => {
            message.push_str(line);
            false
        }
    }
}

/// Lines that a person edits, with a history that lasts.
struct Editor {
    editor: DefaultEditor,
    history: Option<PathBuf>,
}

impl Editor {
    fn new() -> anyhow::Result<Self> {
        // A paste comes as one message, its newlines included, and waits for Enter.
        let config = rustyline::Config::builder().bracketed_paste(true).auto_add_history(false).build();
        let mut editor =
            DefaultEditor::with_config(config).map_err(|error| anyhow!("the terminal cannot be edited on: {error}"))?;
        let history = history_file();
        if let Some(path) = &history
            && let Err(error) = editor.load_history(path)
        {
            tracing::debug!(path = %path.display(), %error, "no history yet");
        }
        Ok(Self { editor, history })
    }

    fn remember(&mut self, message: &str) {
        let Some(path) = &self.history else { return };
        let kept = self.editor.add_history_entry(message).and_then(|_| {
            if let Some(folder) = path.parent() {
                std::fs::create_dir_all(folder)?;
            }
            self.editor.append_history(path)
        });
        if let Err(error) = kept {
            tracing::debug!(path = %path.display(), %error, "the history is not kept");
        }
    }
}

impl Source for Editor {
    fn next(&mut self) -> anyhow::Result<Option<String>> {
        let mut message = String::new();
        let mut interrupted = false;
        loop {
            let prompt = if message.is_empty() { "> " } else { ". " };
            match self.editor.readline(prompt) {
                Ok(line) => {
                    interrupted = false;
                    if !goes_on(&mut message, &line) {
                        if !message.trim().is_empty() {
                            self.remember(&message);
                        }
                        return Ok(Some(message));
                    }
                }
                Err(ReadlineError::Interrupted) if interrupted => return Ok(None),
                Err(ReadlineError::Interrupted) => {
                    interrupted = true;
                    message.clear();
                }
                Err(ReadlineError::Eof) => return Ok(None),
                Err(error) => bail!("the terminal: {error}"),
            }
        }
    }
}

/// `$XDG_STATE_HOME/dots/chat_history`, or below `~/.local/state`.
fn history_file() -> Option<PathBuf> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")))?;
    Some(state.join("dots/chat_history"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backslash_at_its_end_carries_a_line_on() {
        let mut message = String::new();
        assert!(goes_on(&mut message, "one\\"));
        assert!(!goes_on(&mut message, "two"));
        assert_eq!(message, "one\ntwo");
    }
}
