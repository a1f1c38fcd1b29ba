//! OpenAI's requests and responses. Everything here is a pure function of JSON and events.

pub mod chat_request;
pub mod chat_response;
pub mod completion_request;
pub mod completion_response;
pub mod embedding_request;
pub mod fields;
pub mod generation;
pub mod logprobs;
pub mod responses;
pub mod routing;
pub mod sampling;
pub mod scheduling;
pub mod score_request;
pub mod structured;
pub mod texts;
pub mod token_request;
pub mod tool_parser;
pub mod tools;

use std::{
    hash::{BuildHasher, RandomState},
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
};

use dots_engine::FinishReason;
use serde::Serialize;

pub use generation::{Generation, StreamOptions};

/// Which server gave an answer.
pub const SYSTEM_FINGERPRINT: &str = concat!("dots-", env!("CARGO_PKG_VERSION"));

/// What every response and every chunk of one begins with.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Head {
    pub id: String,
    pub object: &'static str,
    /// Seconds since 1970.
    pub created: u64,
    pub model: String,
    pub system_fingerprint: &'static str,
}

impl Head {
    /// `prefix` is `chatcmpl` or `cmpl`.
    pub fn new(prefix: &str, object: &'static str, model: String) -> Self {
        Self {
            id: format!("{prefix}-{}", unique_id()),
            object,
            created: crate::unix_seconds(),
            model,
            system_fingerprint: SYSTEM_FINGERPRINT,
        }
    }
}

/// Differs between requests and between processes; it is a name and no secret.
pub fn unique_id() -> String {
    static KEYS: LazyLock<[RandomState; 2]> = LazyLock::new(|| [RandomState::new(), RandomState::new()]);
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{:016x}{:016x}", KEYS[0].hash_one(count), KEYS[1].hash_one(count))
}

/// OpenAI's word for how an answer ended.
pub fn finish_reason(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
    }
}

/// The JSON of a shape of ours: none has a key that is not a string.
pub fn to_json(shape: &impl Serialize) -> String {
    serde_json::to_string(shape).expect("string keys and plain values serialise")
}
