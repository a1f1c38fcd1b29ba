//! Connections: how many, how encrypted, how long each may keep the server waiting, and how all of them end.

mod stall;

use std::{io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use axum::{Router, extract::Request};
use hyper::{body::Incoming, server::conn::http1, service::Service};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinSet,
    time::timeout,
};

use crate::{
    drain::Drain,
    metrics::Metrics,
    options::{Limits, PROGRESS_BYTES},
    tls::Tls,
};
use stall::Stall;

/// What the system may hold of an answer that its client does not take. It would take megabytes otherwise, in which a stream
/// that nobody reads is not seen to stall.
const SEND_BUFFER_BYTES: usize = 64 << 10;

/// Most that is held of what was read and is not yet used, and of what is not yet written; a connection's head must fit.
const BUFFER_BYTES: usize = 64 << 10;

/// For the last bytes of what ended, after all work has.
const LAST_BYTES: Duration = Duration::from_secs(2);

/// After the system had no room for one more connection.
const NO_ROOM: Duration = Duration::from_millis(200);

/// Where a request came from.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub SocketAddr);

/// What connections need to know of the server.
pub struct House {
    pub limits: Limits,
    pub tls: Option<Tls>,
    pub metrics: Arc<Metrics>,
    pub drain: Arc<Drain>,
    /// Longest wait, after the server was asked to stop, for work that runs.
    pub longest_drain: Duration,
}

/// Serves until `shutdown` completes, then until what runs has ended, or has been ended.
pub async fn serve(listener: TcpListener, router: Router, house: House, shutdown: impl Future<Output = ()>) {
    let house = Arc::new(house);
    let limits = house.limits;
    let places = Arc::new(Semaphore::new(limits.connections.min(Semaphore::MAX_PERMITS)));
    let closing = watch::Sender::new(false);
    let mut connections = JoinSet::new();
    {
        let mut drained = pin!(drained(&house.drain, shutdown, house.longest_drain));
        loop {
            let (stream, peer, place) = tokio::select! {
                taken = take(&listener, &places) => taken,
                () = &mut drained => break,
            };
            let connection =
                Connection { router: router.clone(), house: Arc::clone(&house), peer, closing: closing.subscribe() };
            connections.spawn(connection.serve(stream, place));
            while connections.try_join_next().is_some() {}
        }
    }
    drop(listener);
    closing.send_replace(true);
    let closed = async { while connections.join_next().await.is_some() {} };
    // What is left is aborted with the set.
    let _ = timeout(LAST_BYTES, closed).await;
}

/// Completes after `shutdown`, when no work runs any more; after `longest` what runs is cut.
///
/// Until then new connections are taken, so that whoever asks whether the server is ready hears that it is not, and whoever
/// brings work is told to go elsewhere.
async fn drained(drain: &Drain, shutdown: impl Future<Output = ()>, longest: Duration) {
    shutdown.await;
    drain.begin();
    if timeout(longest, drain.idle()).await.is_err() {
        tracing::warn!(running = drain.running(), "the time to end is over: what still runs is cut");
        drain.cut();
        let _ = timeout(LAST_BYTES, drain.idle()).await;
    }
}

/// The next connection, once there is a place for it.
async fn take(listener: &TcpListener, places: &Arc<Semaphore>) -> (TcpStream, SocketAddr, OwnedSemaphorePermit) {
    loop {
        let Ok(place) = Arc::clone(places).acquire_owned().await else { return std::future::pending().await };
        match listener.accept().await {
            Ok((stream, peer)) => return (stream, peer, place),
            // The client has gone again.
            Err(error) if is_the_clients(&error) => {}
            Err(error) => {
                tracing::error!(%error, "no connection can be taken");
                tokio::time::sleep(NO_ROOM).await;
            }
        }
    }
}

fn is_the_clients(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionRefused | ConnectionAborted | ConnectionReset)
}

struct Connection {
    router: Router,
    house: Arc<House>,
    peer: SocketAddr,
    closing: watch::Receiver<bool>,
}

impl Connection {
    async fn serve(self, stream: TcpStream, place: OwnedSemaphorePermit) {
        let house = Arc::clone(&self.house);
        house.metrics.http.connections.inc();
        // A streamed token is a small write that must not wait for the next one.
        let socket = socket2::SockRef::from(&stream);
        if let Err(error) = stream.set_nodelay(true).and_then(|()| socket.set_send_buffer_size(SEND_BUFFER_BYTES)) {
            tracing::debug!(%error, "socket options");
        }
        match &house.tls {
            None => self.http(stream).await,
            Some(tls) => match timeout(house.limits.read, tls.acceptor().accept(stream)).await {
                Ok(Ok(stream)) => self.http(stream).await,
                Ok(Err(error)) => tracing::debug!(peer = %self.peer, %error, "no TLS"),
                Err(_) => tracing::debug!(peer = %self.peer, "TLS was not agreed upon in time"),
            },
        }
        house.metrics.http.connections.dec();
        drop(place);
    }

    async fn http(mut self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let limits = self.house.limits;
        let router = TowerToHyperService::new(self.router);
        let peer = Peer(self.peer);
        let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(peer);
            router.call(request)
        });
        let io = TokioIo::new(Stall::new(stream, limits.stall, PROGRESS_BYTES));
        let mut connection = pin!(protocol(&limits).serve_connection(io, service));
        let mut closing = pin!(self.closing.wait_for(|closing| *closing));
        let mut is_closing = false;
        let ended = loop {
            tokio::select! {
                ended = connection.as_mut() => break ended,
                _ = &mut closing, if !is_closing => {
                    is_closing = true;
                    connection.as_mut().graceful_shutdown();
                }
            }
        };
        if let Err(error) = ended {
            if stall::is_stalled(&error) {
                self.house.metrics.http.stalled.inc();
                tracing::warn!(peer = %self.peer, "a client does not read its answer: its connection is closed");
            } else {
                tracing::debug!(peer = %self.peer, %error, "connection");
            }
        }
    }
}

fn protocol(limits: &Limits) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(limits.read)
        .max_headers(limits.headers)
        .max_header_size(limits.header_bytes)
        .max_buf_size(BUFFER_BYTES.max(limits.header_bytes));
    builder
}
