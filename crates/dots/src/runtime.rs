//! What asynchronous work runs on.

use anyhow::anyhow;
use tokio::runtime::{Builder, Runtime};

/// Only the thread that blocks on it: for what mostly waits, as the engine has its own threads.
pub fn waiting() -> anyhow::Result<Runtime> {
    built(&mut Builder::new_current_thread())
}

/// Two threads, which leave the others to the engine: for servers, where one connection should not hold up all others.
pub fn serving() -> anyhow::Result<Runtime> {
    built(Builder::new_multi_thread().worker_threads(2))
}

fn built(builder: &mut Builder) -> anyhow::Result<Runtime> {
    builder.enable_all().build().map_err(|error| anyhow!("the async runtime does not start: {error}"))
}
