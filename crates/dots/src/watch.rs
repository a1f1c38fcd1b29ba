//! `dots watch`: training runs in the browser, while they run, or a report of them in one file.

use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use clap::Args;
use dots_model::aside;
use dots_server::Watch;

use crate::{
    runtime,
    serve::{listen, reachable},
    signals,
    terminal::say,
};

pub const EXAMPLES: &str = "\
Examples:
  dots watch runs/small
  dots watch runs/small runs/small-no-bias --port 0
  dots watch runs/small --html small.html

The page shows loss, rate, norms, speed, and what the experts do, and follows
the run while it trains. Nothing is written to the run's folder.";

#[derive(Debug, Args)]
pub struct WatchArgs {
    /// Folders of runs, shown side by side
    #[arg(required = true, value_name = "RUN")]
    pub runs: Vec<PathBuf>,
    /// Port; 0 takes a free one
    #[arg(long, default_value_t = 6007)]
    pub port: u16,
    /// Address to listen at: whoever reaches it may look
    #[arg(long, default_value = "127.0.0.1")]
    pub host: String,
    /// Write the page as it is now into one file that needs no server, and end
    #[arg(long, value_name = "OUT.html", conflicts_with_all = ["port", "host"])]
    pub html: Option<PathBuf>,
}

pub fn run(args: WatchArgs) -> anyhow::Result<()> {
    let watch = Watch::new(&args.runs)?;
    if let Some(out) = args.html {
        return write_report(&out, &watch.html());
    }
    let runtime = runtime::serving()?;
    let listener = runtime.block_on(listen(&args.host, args.port))?;
    let address = listener.local_addr().map_err(|error| anyhow!("{}:{}: {error}", args.host, args.port))?;
    let stop = signals::ended(&runtime);
    say(&format!("Watch at http://{}/", reachable(address)));
    if !address.ip().is_loopback() {
        say("Anyone who reaches this address may look.");
    }
    runtime.block_on(watch.serve(listener, stop));
    Ok(())
}

/// A report that was there stays whole until the new one is.
fn write_report(out: &Path, page: &str) -> anyhow::Result<()> {
    if out.file_name().is_none() {
        bail!("--html {}: expected a file's name", out.display());
    }
    aside::write(out, page.as_bytes()).with_context(|| format!("--html {}: it cannot be written", out.display()))?;
    say(&format!("Wrote {}.", out.display()));
    Ok(())
}
