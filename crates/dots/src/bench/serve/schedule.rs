//! When requests go out.

use std::{fmt, str::FromStr, time::Duration};

use super::random::{Purpose, Random};

/// What decides when the next request goes out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Load {
    /// Requests arrive as a Poisson process of this rate, however slowly they are answered.
    Open { requests_per_second: Rate },
    /// As many are always running; the next goes out when one ends.
    Closed { concurrency: usize },
}

/// Requests a second: above 0, and infinite where all go out at once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate(pub f64);

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse::<f64>() {
            Ok(rate) if rate >= 1e-6 => Ok(Self(rate)),
            _ => Err("expected requests a second, above 0, or inf for all at once".to_owned()),
        }
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open { requests_per_second: Rate(rate) } if rate.is_infinite() => f.write_str("all at once"),
            Self::Open { requests_per_second: Rate(rate) } => write!(f, "Poisson arrivals, {rate} requests/s"),
            Self::Closed { concurrency } => write!(f, "closed loop, {concurrency} at a time"),
        }
    }
}

/// When each request of a Poisson process goes out, after the first, which goes out at once.
pub fn arrivals(rate: Rate, seed: u64) -> impl Iterator<Item = Duration> {
    let mut random = Random::new(seed, Purpose::Arrivals, 0);
    let mut at_seconds = 0.0;
    std::iter::from_fn(move || {
        let arrival = Duration::try_from_secs_f64(at_seconds).unwrap_or(Duration::MAX);
        // An infinite rate leaves no pause.
        at_seconds += random.exponential() / rate.0;
        Some(arrival)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gaps(rate: f64, seed: u64, count: usize) -> Vec<f64> {
        let times: Vec<Duration> = arrivals(Rate(rate), seed).take(count + 1).collect();
        times.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect()
    }

    #[test]
    fn pauses_of_a_poisson_process_have_its_mean_and_spread() {
        let gaps = gaps(4.0, 1, 50_000);
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let spread = (gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64).sqrt();
        assert!((mean - 0.25).abs() < 0.005 && (spread - 0.25).abs() < 0.008, "{mean} {spread}");
    }

    #[test]
    fn counts_of_a_poisson_process_vary_as_much_as_their_mean() {
        let mut counts = vec![0f64; 2_000];
        for arrival in arrivals(Rate(10.0), 3).take_while(|arrival| arrival.as_secs() < 2_000) {
            counts[arrival.as_secs() as usize] += 1.0;
        }
        let mean = counts.iter().sum::<f64>() / counts.len() as f64;
        let variance = counts.iter().map(|count| (count - mean).powi(2)).sum::<f64>() / counts.len() as f64;
        assert!((mean - 10.0).abs() < 0.3 && (variance / mean - 1.0).abs() < 0.12, "{mean} {variance}");
    }

    #[test]
    fn pauses_of_different_seeds_know_nothing_of_each_other() {
        let (a, b) = (gaps(1.0, 1, 20_000), gaps(1.0, 2, 20_000));
        let correlation = a.iter().zip(&b).map(|(a, b)| (a - 1.0) * (b - 1.0)).sum::<f64>() / a.len() as f64;
        assert!(correlation.abs() < 0.03, "{correlation}");
        assert_eq!(gaps(1.0, 1, 100), gaps(1.0, 1, 100));
    }

    #[test]
    fn an_infinite_rate_sends_all_at_once() {
        assert!(arrivals("inf".parse().unwrap(), 1).take(100).all(|arrival| arrival.is_zero()));
    }

    #[test]
    fn rates_that_never_send_are_refused() {
        for text in ["0", "-1", "NaN", "1e-300", "fast"] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
    }
}
