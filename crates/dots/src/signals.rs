//! What the system tells a program that runs long.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
};

use dots_server::{Keys, Tls};
use tokio::runtime::Runtime;

use crate::{runtime, terminal::say};

/// Completes at Ctrl-C or a request to terminate that comes after this call. A second one stops at once.
pub fn stop(runtime: &Runtime) -> impl Future<Output = ()> + use<> {
    let _inside = runtime.enter();
    // Before anybody can know that there is something to stop. One listener for both: a signal between two would be lost.
    let mut stops = Stops::new();
    async move {
        stops.next().await;
        say("Stopping: running answers end first. Once more stops at once.");
        tokio::spawn(async move {
            stops.next().await;
            std::process::exit(130);
        });
    }
}

/// Sets `stop` at the first Ctrl-C or request to terminate, saying so, and leaves at the second.
pub fn listen(stop: Arc<AtomicBool>, said: &'static str) -> anyhow::Result<()> {
    let runtime = runtime::waiting()?;
    thread::spawn(move || {
        runtime.block_on(async {
            let mut stops = Stops::new();
            stops.next().await;
            stop.store(true, Relaxed);
            say(said);
            stops.next().await;
        });
        std::process::exit(130);
    });
    Ok(())
}

/// Completes at Ctrl-C or a request to terminate that comes after this call, where nothing that runs has to end first.
pub fn ended(runtime: &Runtime) -> impl Future<Output = ()> + use<> {
    let _inside = runtime.enter();
    let mut stops = Stops::new();
    async move { stops.next().await }
}

/// Reads keys and certificate again whenever SIGHUP comes. What cannot be read stays as it was.
#[cfg(unix)]
pub async fn reload_on_hangup(keys: Keys, tls: Option<Tls>) {
    use tokio::signal::unix::{SignalKind, signal};
    // Without its handler the signal ends the program by itself.
    let Ok(mut hangups) = signal(SignalKind::hangup()) else { return };
    while hangups.recv().await.is_some() {
        match keys.reload() {
            Ok(Some(count)) => say(&format!("Read {count} keys.")),
            Ok(None) => {}
            Err(error) => say(&format!("{error}; the keys stay as they were.")),
        }
        match tls.as_ref().map(Tls::reload) {
            Some(Ok(())) => say("Read the certificate."),
            Some(Err(error)) => say(&format!("{error}; the certificate stays as it was.")),
            None => {}
        }
    }
}

#[cfg(not(unix))]
pub async fn reload_on_hangup(_keys: Keys, _tls: Option<Tls>) {}

/// The signals that ask a program to stop. One without its handler ends the program by itself.
#[cfg(unix)]
struct Stops {
    interrupt: Option<tokio::signal::unix::Signal>,
    terminate: Option<tokio::signal::unix::Signal>,
}

#[cfg(unix)]
impl Stops {
    fn new() -> Self {
        use tokio::signal::unix::{SignalKind, signal};
        Self { interrupt: signal(SignalKind::interrupt()).ok(), terminate: signal(SignalKind::terminate()).ok() }
    }

    /// Completes at the first signal since the last call.
    async fn next(&mut self) {
        use tokio::signal::unix::Signal;
        async fn received(signal: &mut Option<Signal>) {
            if let Some(signal) = signal
                && signal.recv().await.is_some()
            {
                return;
            }
            std::future::pending().await
        }
        tokio::select! {
            () = received(&mut self.interrupt) => {}
            () = received(&mut self.terminate) => {}
        }
    }
}

#[cfg(not(unix))]
struct Stops;

#[cfg(not(unix))]
impl Stops {
    fn new() -> Self {
        Self
    }

    async fn next(&mut self) {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending().await
        }
    }
}
