//! What the system tells a server.

use dots_server::{Keys, Tls};

use super::say;

/// Completes at Ctrl-C or a request to terminate. A second one stops at once.
pub async fn stop() {
    interrupted_or_terminated().await;
    say("Stopping: running answers end first. Once more stops at once.");
    tokio::spawn(async {
        interrupted_or_terminated().await;
        std::process::exit(130);
    });
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

#[cfg(unix)]
async fn interrupted_or_terminated() {
    use tokio::signal::unix::{SignalKind, signal};
    let terminate = async {
        match signal(SignalKind::terminate()) {
            Ok(mut signal) => signal.recv().await,
            // Without its handler the signal ends the program by itself.
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = interrupted() => {}
        _ = terminate => {}
    }
}

#[cfg(not(unix))]
async fn interrupted_or_terminated() {
    interrupted().await;
}

async fn interrupted() {
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending().await
    }
}
