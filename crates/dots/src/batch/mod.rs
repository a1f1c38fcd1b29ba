//! `dots batch`: requests from a file, answered by the server's own routes without a socket.

mod args;
mod input;
mod output;

#[cfg(unix)]
use std::os::unix::fs::MetadataExt;
use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read, Write},
    path::Path,
    time::Duration,
};

use anyhow::{anyhow, bail};
use dots_server::{InProcess, Reply, ServerOptions};
use tokio::task::JoinSet;

pub use args::{BatchArgs, EXAMPLES};
use input::{Job, Lines, Refused};
use output::{Line, Names, Output};

use crate::{
    load::{self, NoModel, Users},
    progress::Meter,
    runtime,
    serve::names_of,
};

/// Before a request that found the queue full is sent again, where the server does not say.
const RETRY_AFTER: Duration = Duration::from_secs(1);

pub fn run(args: BatchArgs) -> anyhow::Result<()> {
    let model = args.model.ok_or(NoModel)?;
    // Before the model is loaded, which takes longer than to find a name mistyped.
    let total = count_lines(&args.input)?;
    let input = open(&args.input)?;
    if is_same_file(&args.input, &args.output) {
        bail!(
            "{}: expected another file for the answers than that of the requests, found the same; name another after -o",
            args.output.display()
        );
    }
    let output = Output::open(&args.output)?;
    let done_before = output.done_count;

    let checkpoint = load::open(Some(&model))?;
    let template = load::template(&checkpoint)?;
    let model_names = if args.served_model_name.is_empty() { names_of(&model) } else { args.served_model_name };
    let running = load::start(checkpoint, &args.engine, Users::batch(args.concurrency))?;
    let served = running.served(template);
    let server = InProcess::new(ServerOptions { model_names, ..ServerOptions::default() }, served);
    let mut meter = meter(total, done_before);
    let runtime = runtime::waiting()?;
    let name = args.input.display().to_string();
    let counts = runtime.block_on(answer_all(input, output, &server, args.concurrency, &mut meter)).map_err(
        |failed| match failed {
            Failed::Reading(error) => anyhow!("{name}: {error}"),
            Failed::Writing(error) => anyhow!("{}: {error}", args.output.display()),
            Failed::Answering { line, reason } => anyhow!(
                "{name}: line {line}: expected an answer, found a server that gives none any more: {reason}; start the \
                     same command again, which goes on here"
            ),
        },
    )?;
    drop(meter);
    let before = if counts.before > 0 { format!(", {} answered before", counts.before) } else { String::new() };
    let _ = writeln!(io::stderr(), "{} answered, {} refused{before}.", counts.answered, counts.refused);
    Ok(())
}

/// What became of the lines.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Counts {
    /// With status 200.
    answered: usize,
    /// With an error, the server's or the line's own.
    refused: usize,
    /// In the output already.
    before: usize,
}

enum Failed {
    Reading(io::Error),
    Writing(io::Error),
    /// The server answers nothing any more; the line has none.
    Answering {
        line: usize,
        reason: String,
    },
}

/// Answers every line that the output has no answer to, `concurrency` at once.
async fn answer_all(
    input: impl BufRead,
    mut output: Output,
    server: &InProcess,
    concurrency: usize,
    meter: &mut Meter,
) -> Result<Counts, Failed> {
    let mut lines = Lines::new(input);
    let mut seen = Names::default();
    let mut counts = Counts::default();
    let mut running = JoinSet::new();
    let mut more = true;
    loop {
        while more && running.len() < concurrency {
            let Some(line) = lines.next().map_err(Failed::Reading)? else {
                more = false;
                break;
            };
            let line = line.and_then(|job| if seen.insert(&job.custom_id) { Ok(job) } else { Err(twice(&job)) });
            match line {
                Ok(job) if output.done.contains(&job.custom_id) => counts.before += 1,
                Err(refused) if output.done.contains(&output::id(refused.line)) => counts.before += 1,
                Ok(job) => {
                    running.spawn(answer(server.clone(), job));
                }
                Err(refused) => {
                    output.add(&Line::refused(&refused)).map_err(Failed::Writing)?;
                    counts.refused += 1;
                    one_more(meter);
                }
            }
        }
        let Some(ended) = running.join_next().await else { break };
        match ended {
            Ok(answered) => {
                let (line, is_answer) = answered?;
                output.add(&line).map_err(Failed::Writing)?;
                *(if is_answer { &mut counts.answered } else { &mut counts.refused }) += 1;
            }
            // Its line has no answer, so the next run asks again.
            Err(error) => tracing::error!(%error, "a request was lost"),
        }
        one_more(meter);
    }
    output.finish().map_err(Failed::Writing)?;
    Ok(counts)
}

fn twice(job: &Job) -> Refused {
    let message = format!("line {}: custom_id: expected one that no line before has, found it again", job.line);
    Refused { line: job.line, code: "duplicate_custom_id", message }
}

/// The answer to one request, and whether it is one.
async fn answer(server: InProcess, job: Job) -> Result<(Line, bool), Failed> {
    loop {
        let Some(reply) = server.post(&job.url, job.body.clone()).await else {
            let message = format!("line {}: url: expected an address", job.line);
            return Ok((Line::refused(&Refused { line: job.line, code: "invalid_line", message }), false));
        };
        match meaning(&reply) {
            Meaning::Answer => {
                let line = Line::answered(job.line, &job.custom_id, reply.status, &reply.body);
                return Ok((line, reply.status == 200));
            }
            Meaning::Later(wait) => tokio::time::sleep(wait).await,
            Meaning::Never => {
                let reason = String::from_utf8_lossy(&reply.body).into_owned();
                return Err(Failed::Answering { line: job.line, reason });
            }
        }
    }
}

/// What a reply says of its request.
#[derive(Debug, PartialEq, Eq)]
enum Meaning {
    /// It is answered, be it with an error of its own. What is written is never asked again, so only this is.
    Answer,
    /// The server has its hands full.
    Later(Duration),
    /// The server has stopped, which says nothing of the request.
    Never,
}

fn meaning(reply: &Reply) -> Meaning {
    match (reply.status, reply.retry_after) {
        (429, wait) => Meaning::Later(wait.unwrap_or(RETRY_AFTER)),
        (503, Some(wait)) => Meaning::Later(wait),
        (503, None) => Meaning::Never,
        _ => Meaning::Answer,
    }
}

/// Whether two paths are one file, however they name it. What is missing is no other's.
fn is_same_file(one: &Path, other: &Path) -> bool {
    #[cfg(unix)]
    let file = |path: &Path| std::fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino()));
    #[cfg(not(unix))]
    let file = |path: &Path| std::fs::canonicalize(path);
    matches!((file(one), file(other)), (Ok(one), Ok(other)) if one == other)
}

fn open(path: &Path) -> anyhow::Result<BufReader<File>> {
    let file = File::open(path).map_err(|error| anyhow!("{}: {error}", path.display()))?;
    Ok(BufReader::new(file))
}

/// Lines of a file, for the progress bar; `None` for what can be read only once.
fn count_lines(path: &Path) -> anyhow::Result<Option<u64>> {
    let is_file = std::fs::metadata(path).is_ok_and(|metadata| metadata.is_file());
    if !is_file {
        return Ok(None);
    }
    let fail = |error| anyhow!("{}: {error}", path.display());
    let mut file = File::open(path).map_err(fail)?;
    let mut buffer = vec![0; 1 << 16];
    let (mut lines, mut last) = (0, b'\n');
    loop {
        let length = file.read(&mut buffer).map_err(fail)?;
        if length == 0 {
            return Ok(Some(lines + u64::from(last != b'\n')));
        }
        lines += buffer[..length].iter().filter(|&&byte| byte == b'\n').count() as u64;
        last = buffer[length - 1];
    }
}

fn meter(total: Option<u64>, done_before: usize) -> Meter {
    let template = match total {
        Some(_) => "{bar:30} {human_pos} of {human_len} requests, {per_sec}, {eta} left",
        None => "{spinner} {human_pos} requests, {per_sec}",
    };
    Meter::new(template, total).after(done_before as u64)
}

/// One request more has its answer.
fn one_more(meter: &mut Meter) {
    meter.advance(1, |bar| {
        let of = bar.length().map_or_else(String::new, |total| format!(" of {total}"));
        format!("{}{of} requests, {:.1} requests/s", bar.position(), bar.per_sec())
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_about_the_request_is_its_answer() {
        let reply = |status, seconds: Option<u64>| {
            meaning(&Reply { status, body: Vec::new(), retry_after: seconds.map(Duration::from_secs) })
        };
        for status in [200, 400, 404, 413, 500] {
            assert_eq!(reply(status, None), Meaning::Answer, "{status}");
        }
        assert_eq!(reply(429, Some(7)), Meaning::Later(Duration::from_secs(7)));
        assert_eq!(reply(429, None), Meaning::Later(RETRY_AFTER));
        assert_eq!(reply(503, Some(2)), Meaning::Later(Duration::from_secs(2)));
        assert_eq!(reply(503, None), Meaning::Never);
    }
}
