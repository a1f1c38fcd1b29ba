//! `dots serve`: the model behind HTTP.

mod args;
pub mod config;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use anyhow::{anyhow, bail};
use dots_server::{Exporter, Keys, LocalNames, Origins, PlannedMemory, ServerOptions, Tls};
use serde_json::json;
use tokio::net::TcpListener;

pub use args::{EXAMPLES, LogFormat, ServeArgs};

use crate::{
    inside,
    load::{self, Users},
    open_files, runtime, signals,
    terminal::say,
};

pub fn run(args: ServeArgs) -> anyhow::Result<()> {
    let model = args.model().map(str::to_owned);
    if args.tensor_parallel_size > 1 {
        say(&format!(
            "--tensor-parallel-size {}: this machine has one device for the model, its processor, which runs all of it.",
            args.tensor_parallel_size
        ));
    }
    if args.trust_remote_code {
        say("--trust-remote-code: nothing to trust, no code that comes with a model is ever run.");
    }
    // What is wrong with a key or a certificate is said before anything is loaded.
    let mut options = options(&args)?;
    allow_connections(options.limits.connections);
    let checkpoint = load::open(model.as_deref())?;
    let template = load::template(&checkpoint)?;
    options.model_names = match args.served_model_name.is_empty() {
        true => names_of(model.as_deref().unwrap_or(inside::NAME)),
        false => args.served_model_name,
    };

    let runtime = runtime::serving()?;
    // The port is taken first: one that is taken already should not cost a load.
    let listener = runtime.block_on(listen(&args.host, args.port))?;
    let address = listener.local_addr().map_err(|error| anyhow!("{}:{}: {error}", args.host, args.port))?;
    let users = Users::Many { max_sequences: args.scheduling.max_num_seqs, max_queue: args.scheduling.max_queue };
    let running = load::start(checkpoint, &args.engine, users)?;
    options.memory = PlannedMemory {
        weights_bytes: running.plan.weights_bytes,
        cache_bytes: running.plan.cache_bytes,
        buffers_bytes: running.plan.buffers_bytes,
    };

    let stop = signals::stop(&runtime);
    let scheme = if options.tls.is_some() { "https" } else { "http" };
    say(&format!("Serving {} on {scheme}://{address}", options.model_names.join(", ")));
    if options.keys.is_open() && !address.ip().is_loopback() {
        say("Anyone who reaches this address may use it: --api-key asks for a key.");
    }
    say(&format!("Chat in a browser at {scheme}://{}/", reachable(address)));
    say(&format!("Try:\n{}", curl(scheme, address, &options.model_names[0], !options.keys.is_open())));

    let served = running.served(template);
    runtime.block_on(async {
        tokio::spawn(signals::reload_on_hangup(options.keys.clone(), options.tls.clone()));
        dots_server::serve(listener, options, served, stop).await;
    });
    say("Stopped.");
    Ok(())
}

fn options(args: &ServeArgs) -> anyhow::Result<ServerOptions> {
    let access = &args.access;
    let tls = match (&access.tls_cert, &access.tls_key) {
        (Some(certificate), Some(key)) => Some(Tls::open(certificate, key)?),
        (None, None) => None,
        _ => bail!("--tls-cert and --tls-key: expected both or neither, found one"),
    };
    let traces = args.watch.otlp_endpoint.as_deref().map(Exporter::start).transpose();
    Ok(ServerOptions {
        model_names: Vec::new(),
        keys: Keys::new(&access.api_key, access.api_key_file.as_deref())?,
        shares_cache: access.share_cache_across_keys,
        tls,
        cors: Origins::new(access.cors_origin.clone()).map_err(|error| anyhow!("--cors-origin: {error}"))?,
        // Whoever typed the name calls it so.
        local_names: LocalNames::new([&access.allowed_host[..], std::slice::from_ref(&args.host)].concat()),
        limits: args.limits.limits(),
        allows_priority: args.scheduling.scheduling_policy == args::SchedulingPolicy::Priority,
        drain: Duration::from_secs(args.limits.drain_seconds),
        traces: traces.map_err(|error| anyhow!("--otlp-endpoint: {error}"))?,
        memory: PlannedMemory::default(),
    })
}

/// Each connection takes a file.
fn allow_connections(connections: usize) {
    // For the model's files and whatever else is open.
    let wanted = connections as u64 + 512;
    if let Some(given) = open_files::allow(wanted).filter(|&given| given < wanted) {
        tracing::warn!(given, wanted, "the system gives no more open files");
    }
}

/// What requests may call a model that nobody named: as it was typed, and a path's last part.
pub fn names_of(model: &str) -> Vec<String> {
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

/// The port, taken.
pub async fn listen(host: &str, port: u16) -> anyhow::Result<TcpListener> {
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

/// An address that can be called from here: the one that means "every one" is none.
pub fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// A call that a shell understands as it is.
fn curl(scheme: &str, address: SocketAddr, model: &str, with_key: bool) -> String {
    let body = json!({ "model": model, "messages": [{ "role": "user", "content": "Hello" }], "max_tokens": 64 });
    let body = body.to_string().replace('\'', r"'\''");
    let key = if with_key { " -H \"Authorization: Bearer $DOTS_API_KEY\"" } else { "" };
    let url = reachable(address);
    format!("  curl {scheme}://{url}/v1/chat/completions -H 'Content-Type: application/json'{key} \\\n    -d '{body}'")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_call_to_try_reaches_a_server_that_listens_everywhere() {
        let call = curl("http", "0.0.0.0:8000".parse().unwrap(), "it's/dots", true);
        assert!(call.contains("http://127.0.0.1:8000/v1/chat/completions"), "{call}");
        assert!(call.contains("Bearer $DOTS_API_KEY"), "{call}");
        assert!(call.contains(r"it'\''s/dots"), "{call}");
    }

    #[test]
    fn a_browser_is_sent_to_an_address_that_exists() {
        assert_eq!(reachable("0.0.0.0:8000".parse().unwrap()).to_string(), "127.0.0.1:8000");
        assert_eq!(reachable("[::]:80".parse().unwrap()).to_string(), "[::1]:80");
        assert_eq!(reachable("10.0.0.7:80".parse().unwrap()).to_string(), "10.0.0.7:80");
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
