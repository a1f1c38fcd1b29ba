//! How the server presents itself, and what it allows.

use std::time::Duration;

use crate::{cors::Origins, keys::Keys, local_names::LocalNames, otlp::Exporter, tls::Tls};

/// How the server presents itself.
#[derive(Debug, Clone, Default)]
pub struct ServerOptions {
    /// Names that requests may call the model by; the first is the one shown. Not empty.
    pub model_names: Vec<String>,
    /// With a key, requests need it.
    pub keys: Keys,
    /// What one key's requests have left in the cache serves every key's, and is told by `cached_tokens`.
    pub shares_cache: bool,
    /// Encrypts every connection.
    pub tls: Option<Tls>,
    /// Whose pages may call this server.
    pub cors: Origins,
    /// By which names it is called, where it is for this machine only and asks for no key.
    pub local_names: LocalNames,
    /// What a client may take.
    pub limits: Limits,
    /// A request's `priority` counts; without it one that sets it is refused.
    pub allows_priority: bool,
    /// Longest wait, after the server was asked to stop, for answers that run.
    pub drain: Duration,
    /// Where finished requests are told of as spans.
    pub traces: Option<Exporter>,
    /// What was planned at start, for `/metrics`.
    pub memory: PlannedMemory,
}

/// What one client may take of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest body.
    pub body_bytes: usize,
    /// Largest head: request line and headers.
    pub header_bytes: usize,
    /// Most headers.
    pub headers: usize,
    /// A head must be whole after this long, an idle connection is closed after it, and of a body 64 KiB, or its rest, must
    /// come within it.
    pub read: Duration,
    /// Of an answer 64 KiB, or all that is ready, must be taken within this.
    pub stall: Duration,
    /// Most connections; more wait unaccepted.
    pub connections: usize,
}

/// What must move within [`Limits::read`] and [`Limits::stall`] at least, where there is more to move.
pub const PROGRESS_BYTES: usize = 64 << 10;

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes: 8 << 20,
            header_bytes: 32 << 10,
            headers: 100,
            read: Duration::from_secs(30),
            stall: Duration::from_secs(60),
            connections: 4096,
        }
    }
}

/// Bytes taken at start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PlannedMemory {
    /// Weights, mapped or not.
    pub weights_bytes: u64,
    /// Keys and values.
    pub cache_bytes: u64,
    /// All else of the executor.
    pub buffers_bytes: u64,
}
