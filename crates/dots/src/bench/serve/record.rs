//! What one request came to.

use super::lengths::Length;

/// A request and its times. Seconds, from its own start where nothing else is said.
#[derive(Debug, Clone, Default)]
pub struct Record {
    /// Which request of the run, from 0.
    pub index: usize,
    /// What was asked for.
    pub asked: Length,
    /// When it went out, from the start of the run.
    pub start: f64,
    /// When each chunk that had text came.
    pub text_at: Vec<f64>,
    /// When the last chunk came that had text or a reason to end; of a request that failed or was stopped, when that was.
    pub e2e: f64,
    /// As the server counted.
    pub prompt_tokens: Option<usize>,
    /// As the server counted.
    pub output_tokens: Option<usize>,
    /// Of the prompt, those that the server says it had computed before.
    pub cached_tokens: Option<usize>,
    /// Why the answer ended, in the server's words.
    pub finish_reason: Option<String>,
    /// How it ended.
    pub outcome: Outcome,
}

/// How a request ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Outcome {
    /// Answered to the end.
    #[default]
    Answered,
    /// Not answered, or not to the end.
    Failed(Failure),
    /// It was running when the run was stopped.
    Stopped,
}

/// Why a request was not answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub kind: FailureKind,
    /// What was found, in the words of the server or of the system.
    pub message: String,
}

/// What went wrong, as errors are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FailureKind {
    /// No connection.
    Connect,
    /// Another status than 200.
    Status(u16),
    /// An error in the middle of the stream.
    InStream,
    /// The stream ended, or its connection, before the answer did.
    BrokenOff,
    /// The time limit of a request.
    TimedOut,
    /// Something that is no stream of an OpenAI-compatible server.
    NotUnderstood,
}

impl FailureKind {
    /// As people read it.
    pub fn name(self) -> String {
        match self {
            Self::Connect => "no connection".to_owned(),
            Self::Status(status) => format!("HTTP {status}"),
            Self::InStream => "error in the stream".to_owned(),
            Self::BrokenOff => "broke off".to_owned(),
            Self::TimedOut => "timed out".to_owned(),
            Self::NotUnderstood => "not understood".to_owned(),
        }
    }

    /// As programs read it.
    pub fn key(self) -> String {
        match self {
            Self::Connect => "connect".to_owned(),
            Self::Status(status) => format!("http_{status}"),
            Self::InStream => "error_in_stream".to_owned(),
            Self::BrokenOff => "broken_off".to_owned(),
            Self::TimedOut => "timed_out".to_owned(),
            Self::NotUnderstood => "not_understood".to_owned(),
        }
    }
}

impl Failure {
    /// A failure with a message that fits a line: what a server says may be a whole page.
    pub fn new(kind: FailureKind, message: impl AsRef<str>) -> Self {
        const MOST_CHARACTERS: usize = 200;
        Self { kind, message: crate::terminal::first_line(message.as_ref(), MOST_CHARACTERS) }
    }
}

impl Record {
    /// Time to the first text.
    pub fn ttft(&self) -> Option<f64> {
        self.text_at.first().copied()
    }

    /// Inter-token latencies: the pauses between chunks of text.
    pub fn gaps(&self) -> impl Iterator<Item = f64> {
        self.text_at.windows(2).map(|pair| pair[1] - pair[0])
    }

    /// Tokens of the answer: as the server counted, or its chunks where it did not.
    pub fn tokens(&self) -> usize {
        self.output_tokens.unwrap_or(self.text_at.len())
    }

    /// Time of an output token after the first, on average.
    pub fn tpot(&self) -> Option<f64> {
        let tokens = self.tokens();
        self.ttft().filter(|_| tokens > 1).map(|ttft| (self.e2e - ttft) / (tokens - 1) as f64)
    }

    /// When it ended, from the start of the run.
    pub fn end(&self) -> f64 {
        self.start + self.e2e
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_of_several_tokens_is_one_gap_and_several_tokens() {
        let record = Record { text_at: vec![0.5, 0.75, 1.5], e2e: 1.5, output_tokens: Some(5), ..Record::default() };
        assert_eq!(record.ttft(), Some(0.5));
        assert_eq!(record.gaps().collect::<Vec<_>>(), [0.25, 0.75]);
        assert_eq!(record.tpot(), Some(0.25));
    }

    #[test]
    fn chunks_are_counted_where_the_server_counts_nothing() {
        let record = Record { text_at: vec![0.5, 1.0, 1.5], e2e: 1.5, ..Record::default() };
        assert_eq!((record.tokens(), record.tpot()), (3, Some(0.5)));
    }

    #[test]
    fn a_message_is_one_short_line_without_commands() {
        let failure = Failure::new(FailureKind::Status(500), format!("\x1b[2J{}\nmore", "x".repeat(300)));
        assert!(failure.message.chars().count() <= 201 && !failure.message.contains(['\x1b', '\n']));
    }
}
