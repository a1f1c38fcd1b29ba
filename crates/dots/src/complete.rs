//! `dots complete`: continues a text.

use std::{
    io::{self, IsTerminal, Read, Write},
    path::Path,
    time::Instant,
};

use anyhow::{anyhow, bail};
use dots_engine::Request;
use dots_model::tokenizer::Specials;

use crate::{
    answer,
    cli::CompleteArgs,
    inside,
    load::{self, Users},
    runtime,
    terminal::{MOST_INPUT_BYTES, Style, clean},
};

pub fn run(args: CompleteArgs) -> anyhow::Result<()> {
    let (model, text) = match (args.model, args.text) {
        (Some(text), None) if is_text(&text) && inside::is_there() => (None, Some(text)),
        typed => typed,
    };
    let checkpoint = load::open(model.as_deref())?;
    let text = match text {
        Some(text) if text != "-" => text,
        _ => standard_input()?,
    };
    if text.is_empty() {
        bail!("the text to continue is empty");
    }
    let running = load::start(checkpoint, &args.engine, Users::One)?;
    let prompt = running.tokenizer.encode(&text, Specials::Parse);
    let prompt_tokens = prompt.len();
    let mut sampling = args.sampling.over(&running.checkpoint.generation);
    sampling.dry.breakers = args.sampling.breakers(&running.tokenizer);
    let request = Request {
        prompt,
        sampling,
        max_tokens: args.sampling.max_tokens,
        stop: args.sampling.stop,
        ignore_eos: args.ignore_eos,
        ..Request::default()
    };

    let on_terminal = io::stdout().is_terminal();
    let mut out = io::stdout().lock();
    let mut show = |text: &str| {
        let text = if on_terminal { clean(text) } else { text.into() };
        out.write_all(text.as_bytes())?;
        out.flush()
    };
    let runtime = runtime::waiting()?;
    let start = Instant::now();
    let events = running.engine.submit(request)?;
    if args.echo {
        show(&text)?;
    }
    // Ctrl-C ends the program as it does every other.
    let answer = runtime.block_on(answer::follow(start, events, prompt_tokens, std::future::pending(), &mut show))?;
    if on_terminal {
        show("\n")?;
    }
    if args.stats || (on_terminal && io::stderr().is_terminal()) {
        let stats = answer.stats(running.active_bytes);
        let _ = writeln!(io::stderr(), "{}", Style::stderr().dim(&stats));
    }
    Ok(())
}

/// Whether what stands alone can only be text: a name of a model that has white space in it is one of a file that is there.
fn is_text(typed: &str) -> bool {
    typed.contains(char::is_whitespace) && !Path::new(typed).exists()
}

/// All of standard input, without the one newline that files and `echo` end in.
fn standard_input() -> anyhow::Result<String> {
    if io::stdin().is_terminal() {
        let _ = writeln!(io::stderr(), "The text to continue; Ctrl-D on a line of its own ends it:");
    }
    let mut bytes = Vec::new();
    let input = io::stdin().lock().take(MOST_INPUT_BYTES + 1).read_to_end(&mut bytes);
    input.map_err(|error| anyhow!("standard input: {error}"))?;
    if bytes.len() as u64 > MOST_INPUT_BYTES {
        bail!("standard input: expected at most {MOST_INPUT_BYTES} bytes, found more");
    }
    let mut text = String::from_utf8(bytes).map_err(|error| {
        anyhow!("standard input: expected UTF-8, found another byte at {}", error.utf8_error().valid_up_to())
    })?;
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(text)
}
