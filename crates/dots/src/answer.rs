//! One request from its first event to its last, with the time that it took.

use std::{
    future::poll_fn,
    io,
    time::{Duration, Instant},
};

use anyhow::bail;
use dots_engine::{Event, Events, Finish};
use futures_core::Stream;

use crate::units;

/// What came back.
#[derive(Debug)]
pub struct Answer {
    /// Its text.
    pub text: String,
    /// How it ended; `None` where the user stopped it.
    pub finish: Option<Finish>,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens generated.
    pub completion_tokens: usize,
    /// From the request to the first token.
    pub first_token: Option<Duration>,
    /// From the first token to the last.
    pub decoding: Duration,
}

impl Answer {
    /// `12 prompt tokens, 48 completion tokens, 23.1 tokens/s (310.0 GB/s of weights), first token after 0.21 s`.
    pub fn stats(&self, active_bytes: u64) -> String {
        let mut line = format!("{} prompt tokens, {} completion tokens", self.prompt_tokens, self.completion_tokens);
        let seconds = self.decoding.as_secs_f64();
        if self.completion_tokens > 1 && seconds > 0.0 {
            // The first token belongs to the prompt's step.
            let tokens_per_second = (self.completion_tokens - 1) as f64 / seconds;
            let gb_per_second = tokens_per_second * active_bytes as f64 / 1e9;
            line += &format!(", {tokens_per_second:.1} tokens/s ({gb_per_second:.1} GB/s of weights)");
        }
        if let Some(first_token) = self.first_token {
            line += &format!(", first token after {}", units::seconds(first_token));
        }
        line
    }
}

/// Follows the events of a request that was submitted at `start`, giving each piece of text to `show`, until the answer
/// ends or `stop` completes, which cancels it.
pub async fn follow(
    start: Instant,
    events: Events,
    prompt_tokens: usize,
    stop: impl Future<Output = ()>,
    mut show: impl FnMut(&str) -> io::Result<()>,
) -> anyhow::Result<Answer> {
    let mut events = Box::pin(events);
    let mut stop = std::pin::pin!(stop);
    let mut first = None;
    let mut answer = Answer {
        text: String::new(),
        finish: None,
        prompt_tokens,
        completion_tokens: 0,
        first_token: None,
        decoding: Duration::ZERO,
    };
    loop {
        let event = tokio::select! {
            biased;
            () = &mut stop => return Ok(answer),
            event = poll_fn(|cx| events.as_mut().poll_next(cx)) => event,
        };
        match event {
            Some(Event::Token(token)) => {
                let first = *first.get_or_insert_with(Instant::now);
                answer.first_token = Some(first - start);
                answer.decoding = first.elapsed();
                answer.completion_tokens += 1;
                answer.text += &token.text;
                show(&token.text)?;
            }
            Some(Event::Finished(finish)) => {
                answer.text += &finish.text;
                show(&finish.text)?;
                answer.completion_tokens = finish.completion_tokens;
                answer.finish = Some(finish);
                return Ok(answer);
            }
            Some(Event::Prompt(_) | Event::Embedding(_)) => {}
            Some(Event::Failed(failure)) => bail!("{failure}"),
            None => bail!("the engine stopped before the answer was complete"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speed_leaves_the_first_token_to_the_prompt() {
        let answer = Answer {
            text: String::new(),
            finish: None,
            prompt_tokens: 12,
            completion_tokens: 11,
            first_token: Some(Duration::from_millis(210)),
            decoding: Duration::from_secs(2),
        };
        assert_eq!(
            answer.stats(3_000_000_000),
            "12 prompt tokens, 11 completion tokens, 5.0 tokens/s (15.0 GB/s of weights), first token after 0.21 s"
        );
    }

    #[test]
    fn one_token_has_no_speed() {
        let answer = Answer {
            text: String::new(),
            finish: None,
            prompt_tokens: 1,
            completion_tokens: 1,
            first_token: None,
            decoding: Duration::ZERO,
        };
        assert_eq!(answer.stats(1), "1 prompt tokens, 1 completion tokens");
    }
}
