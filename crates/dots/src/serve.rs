//! `dots serve`: the model behind an OpenAI-compatible API.

use std::{
    io::{self, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    sync::Arc,
};

use anyhow::{anyhow, bail};
use dots_server::{Served, ServerOptions};
use serde_json::json;
use tokio::net::TcpListener;

use crate::{
    cli::{NoModel, ServeArgs},
    load::{self, Users},
};

pub fn run(args: ServeArgs) -> anyhow::Result<()> {
    let model = args.model.or(args.model_flag).ok_or(NoModel)?;
    if args.tensor_parallel_size > 1 {
        say(&format!(
            "--tensor-parallel-size {}: this machine has one device for the model, its processor, which runs all of it.",
            args.tensor_parallel_size
        ));
    }
    if args.trust_remote_code {
        say("--trust-remote-code: nothing to trust, no code that comes with a model is ever run.");
    }
    let checkpoint = load::open(Some(&model))?;
    let template = load::template(&checkpoint)?;
    let model_names = if args.served_model_name.is_empty() { names_of(&model) } else { args.served_model_name };

    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| anyhow!("the async runtime does not start: {error}"))?;
    // The port is taken first: one that is taken already should not cost a load.
    let listener = runtime.block_on(listen(&args.host, args.port))?;
    let address = listener.local_addr().map_err(|error| anyhow!("{}:{}: {error}", args.host, args.port))?;
    let running = load::start(checkpoint, &args.engine, Users::Many)?;

    say(&format!("Serving {} on http://{address}", model_names.join(", ")));
    if args.api_key.is_none() && !address.ip().is_loopback() {
        say("Anyone who reaches this address may use it: --api-key asks for a key.");
    }
    say(&format!("Try:\n{}", curl(address, &model_names[0], args.api_key.is_some())));

    let served = Served {
        engine: running.engine,
        tokenizer: Arc::clone(&running.tokenizer),
        template,
        defaults: running.checkpoint.generation,
    };
    let options = ServerOptions { model_names, api_key: args.api_key };
    runtime
        .block_on(dots_server::serve(listener, options, served, stop_signal()))
        .map_err(|error| anyhow!("http://{address}: {error}"))?;
    say("Stopped.");
    Ok(())
}

/// A line for whoever started the server.
fn say(text: &str) {
    // A server goes on when nobody reads its words.
    let _ = writeln!(io::stderr(), "{text}");
}

/// What requests may call a model that nobody named: as it was typed, and a path's last part.
fn names_of(model: &str) -> Vec<String> {
    let typed = model.trim_end_matches('/');
    let typed = if typed.is_empty() { model } else { typed };
    let mut names = vec![typed.to_owned()];
    if Path::new(model).exists()
        && let Some(last) = Path::new(typed).file_name().and_then(|name| name.to_str())
        && last != typed
    {
        names.push(last.to_owned());
    }
    names
}

async fn listen(host: &str, port: u16) -> anyhow::Result<TcpListener> {
    // Users write an IPv6 address with its brackets or without.
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    match TcpListener::bind((host, port)).await {
        Ok(listener) => Ok(listener),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            bail!("--port {port}: {host} has it in use already; --port 0 takes a free one")
        }
        Err(error) => bail!("--host {host} --port {port}: {error}"),
    }
}

/// A call that a shell understands as it is.
fn curl(address: SocketAddr, model: &str, with_key: bool) -> String {
    // The address that means "every one" is none that can be called.
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    let body = json!({ "model": model, "messages": [{ "role": "user", "content": "Hello" }], "max_tokens": 64 });
    let body = body.to_string().replace('\'', r"'\''");
    let key = if with_key { " -H \"Authorization: Bearer $DOTS_API_KEY\"" } else { "" };
    let url = SocketAddr::new(ip, address.port());
    format!("  curl http://{url}/v1/chat/completions -H 'Content-Type: application/json'{key} \\\n    -d '{body}'")
}

/// Completes at Ctrl-C or a request to terminate. A second one stops at once.
async fn stop_signal() {
    wait_for_signal().await;
    say("Stopping: running answers end first. Once more stops at once.");
    tokio::spawn(async {
        wait_for_signal().await;
        std::process::exit(130);
    });
}

#[cfg(unix)]
async fn wait_for_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let terminate = async {
        match signal(SignalKind::terminate()) {
            Ok(mut signal) => signal.recv().await,
            // Without its handler the signal ends the program by itself.
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = interrupt() => {}
        _ = terminate => {}
    }
}

#[cfg(not(unix))]
async fn wait_for_signal() {
    interrupt().await;
}

async fn interrupt() {
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_call_to_try_reaches_a_server_that_listens_everywhere() {
        let call = curl("0.0.0.0:8000".parse().unwrap(), "it's/dots", true);
        assert!(call.contains("http://127.0.0.1:8000/v1/chat/completions"), "{call}");
        assert!(call.contains("Bearer $DOTS_API_KEY"), "{call}");
        assert!(call.contains(r"it'\''s/dots"), "{call}");
    }

    #[test]
    fn a_path_may_be_called_by_its_last_part() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model");
        std::fs::create_dir(&path).unwrap();
        let typed = path.to_str().unwrap();
        assert_eq!(names_of(&format!("{typed}/")), [typed, "model"]);
        assert_eq!(names_of("owner/name"), ["owner/name"]);
    }
}
