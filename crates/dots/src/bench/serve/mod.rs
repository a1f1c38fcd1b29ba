//! `dots bench serve`: load on any server with OpenAI's API, and what it made of it.
//!
//! A run goes through one file after another: `args` reads what was typed; `target` finds the server and `words` learns from
//! its tokenizer how to make prompts of a length; `lengths`, `schedule` and `work` say what goes out when, from the seed alone;
//! `drive` sends it through `client`, which reads streams (`sse`, `chunk`) into a `record` each, while `live` shows how far it
//! is; `statistics` sums them up, and `report` and `html` show it.

mod args;
mod chunk;
mod client;
mod drive;
mod html;
mod lengths;
mod live;
mod output;
mod random;
mod record;
mod report;
mod schedule;
mod slo;
mod sse;
mod statistics;
mod target;
mod words;
mod work;

use std::{
    io::{self, Write},
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::bail;
use hyper::Method;
use serde_json::json;
use tokio::sync::watch;

pub use self::args::{BenchServeArgs, EXAMPLES};
use self::{
    client::Client,
    drive::{Run, drive},
    live::Counts,
    output::Output,
    record::Record,
    report::Report,
    schedule::Load,
    statistics::Summary,
    target::Target,
    words::{Counted, Prompts},
    work::{Asked, Endpoint, Work},
};
use crate::{open_files, runtime};

pub fn run(args: BenchServeArgs) -> anyhow::Result<()> {
    let to_stdout = args.json.as_deref() == Some(Path::new("-"));
    let json = args.json.as_deref().filter(|_| !to_stdout).map(|path| Output::try_at("--json", path)).transpose()?;
    let html = args.html.as_deref().map(|path| Output::try_at("--html", path)).transpose()?;
    let most_running = match args.load() {
        Load::Closed { concurrency } => concurrency.min(args.requests),
        Load::Open { .. } => args.requests,
    };
    // Beside connections, some files are open always.
    let wanted = most_running as u64 + 64;
    if let Some(given) = open_files::allow(wanted).filter(|&given| given < wanted) {
        let words =
            format!("running requests take up to {wanted} open files, and the system gives {given} (ulimit -n)");
        let _ = writeln!(io::stderr(), "{words}");
    }

    // One thread: what it measures should not depend on how threads take turns, and a stream costs it microseconds.
    let runtime = runtime::waiting()?;
    let report = runtime.block_on(measure(&args))?;
    // Connections to a server that does not answer need not be waited for.
    runtime.shutdown_background();

    if let Some(json) = json {
        json.write(|out| report.write_json(out))?;
    }
    if let Some(html) = html {
        html.write(|out| out.write_all(html::page(&report).as_bytes()))?;
    }
    let out = &mut io::stdout().lock();
    if to_stdout {
        report.write_json(out)?;
    } else {
        report.print(out)?;
    }
    if report.summary.answered == 0 && !report.interrupted {
        bail!("{}: no request was answered", report.url);
    }
    Ok(())
}

/// Everything between what was typed and what is shown.
async fn measure(args: &BenchServeArgs) -> anyhow::Result<Report> {
    let url = args.url.to_string();
    let target = Target::resolve(args.url.clone(), args.ca_file.as_deref()).await?;
    let client = Client::new(target, args.api_key.as_deref(), Duration::from_secs_f64(args.timeout))?;
    let model = match &args.model {
        Some(model) => model.clone(),
        None => client.first_model().await?,
    };
    let prompts = learn(&client, &model, args.endpoint).await;
    let shared_prefix_tokens = args.shared_prefix.unwrap_or(0);
    let work = Work {
        model: model.clone(),
        endpoint: args.endpoint,
        lengths: args.lengths,
        shared_prefix: prompts.shared_prefix(args.seed, shared_prefix_tokens),
        shared_prefix_tokens,
        prompts,
        seed: args.seed,
        temperature: args.temperature,
        ignore_eos: args.ignore_eos,
    };
    let requests = work.requests(args.requests)?;
    warm_up(&client, &work, args).await;

    let load = args.load();
    let counted = work.prompts.counted;
    let (stopper, stop) = watch::channel(false);
    let counts = Arc::new(Counts::default());
    let shown = tokio::spawn(live::show(Arc::clone(&counts), args.requests));
    let listening = tokio::spawn(stop_at_interrupt(stopper));
    let started = SystemTime::now();
    let run = Run { client, path: work.path(), requests, counts, stop };
    let records = drive(run, load, args.seed).await;
    let interrupted = listening.is_finished();
    listening.abort();
    shown.abort();
    // Its bar is gone only then.
    let _ = shown.await;

    Ok(Report {
        url,
        model,
        endpoint: args.endpoint,
        lengths: args.lengths,
        load,
        requests: args.requests,
        shared_prefix_tokens,
        counted,
        seed: args.seed,
        temperature: args.temperature,
        ignore_eos: args.ignore_eos,
        warmup: args.warmup,
        timeout_seconds: args.timeout,
        slo: args.slo,
        started,
        interrupted,
        summary: Summary::of(&records, args.slo.as_ref()),
        records,
    })
}

/// Asks what does not count, one at a time, from the end of the numbers, so that no measured prompt is known beforehand.
async fn warm_up(client: &Client, work: &Work, args: &BenchServeArgs) {
    for index in 0..args.warmup {
        let Asked { length, body } = work.request(usize::MAX - index);
        let mut record = Record { asked: length, ..Record::default() };
        client.stream(work.path(), body, &mut record, || {}).await;
    }
}

/// How to make prompts of a length for this server.
async fn learn(client: &Client, model: &str, endpoint: Endpoint) -> Prompts {
    let prompts = Prompts::learn(async |text: &str| count_tokens(client, model, text).await).await;
    if prompts.counted != Counted::Guessed {
        return prompts;
    }
    Prompts::learn_from_usage(async |text: &str| {
        let body = endpoint.body(model, "", text.to_owned(), 1);
        let answer = client.json(Method::POST, endpoint.path(), Some(&body)).await.ok()?;
        usize::try_from(answer.pointer("/usage/prompt_tokens")?.as_u64()?).ok()
    })
    .await
}

/// Tokens of `text` as the server counts them, at vLLM's `/tokenize` or llama.cpp's.
async fn count_tokens(client: &Client, model: &str, text: &str) -> Option<usize> {
    for body in [json!({ "model": model, "prompt": text, "add_special_tokens": false }), json!({ "content": text })] {
        let Ok(answer) = client.json(Method::POST, "/tokenize", Some(&body)).await else { continue };
        // One that does not know our field takes the text for empty.
        if let Some(tokens) =
            answer.get("tokens").and_then(|tokens| tokens.as_array()).filter(|tokens| !tokens.is_empty())
        {
            return Some(tokens.len());
        }
    }
    None
}

/// Stops the run at the first Ctrl-C, and the program at the second.
async fn stop_at_interrupt(stopper: watch::Sender<bool>) {
    if tokio::signal::ctrl_c().await.is_err() {
        return std::future::pending().await;
    }
    stopper.send_replace(true);
    tokio::spawn(async move {
        // Kept, for a receiver whose sender is gone waits for ever.
        let _stopper = stopper;
        if tokio::signal::ctrl_c().await.is_ok() {
            std::process::exit(130);
        }
    });
}
