//! What a request must keep to count as good.

use std::{fmt, str::FromStr};

use super::record::Record;

/// Limits in milliseconds, such as `ttft=500,itl=100,e2e=10000`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Slo {
    /// To the first text.
    pub ttft_ms: Option<f64>,
    /// Of every pause between two chunks of text.
    pub itl_ms: Option<f64>,
    /// Of the mean time of a token after the first, as vLLM's `--goodput tpot:MS`.
    pub tpot_ms: Option<f64>,
    /// To the end.
    pub e2e_ms: Option<f64>,
}

impl Slo {
    fn limits(&self) -> [(&'static str, Option<f64>); 4] {
        [("ttft", self.ttft_ms), ("itl", self.itl_ms), ("tpot", self.tpot_ms), ("e2e", self.e2e_ms)]
    }

    /// Whether an answered request kept every limit. One token has no pauses, so it keeps theirs.
    pub fn is_kept_by(&self, record: &Record) -> bool {
        let keeps = |limit: Option<f64>, seconds: Option<f64>| match (limit, seconds) {
            (Some(limit), Some(seconds)) => 1e3 * seconds <= limit,
            _ => true,
        };
        let longest_gap = record.gaps().max_by(f64::total_cmp);
        // An answer without text has no first text, and cannot have had it in time.
        (self.ttft_ms.is_none() || record.ttft().is_some())
            && keeps(self.ttft_ms, record.ttft())
            && keeps(self.itl_ms, longest_gap)
            && keeps(self.tpot_ms, record.tpot())
            && keeps(self.e2e_ms, Some(record.e2e))
    }
}

impl fmt::Display for Slo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limits = self.limits().into_iter().filter_map(|(name, limit)| limit.map(|limit| format!("{name}={limit}")));
        f.write_str(&limits.collect::<Vec<_>>().join(","))
    }
}

impl FromStr for Slo {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut slo = Self::default();
        for part in text.split(',') {
            let wrong =
                || format!("expected ttft, itl, tpot or e2e = milliseconds, such as ttft=500,itl=100, found {part:?}");
            let (name, limit) = part.split_once('=').ok_or_else(wrong)?;
            let limit: f64 =
                limit.trim().parse().ok().filter(|limit: &f64| limit.is_finite() && *limit > 0.0).ok_or_else(wrong)?;
            let slot = match name.trim() {
                "ttft" => &mut slo.ttft_ms,
                "itl" => &mut slo.itl_ms,
                "tpot" => &mut slo.tpot_ms,
                "e2e" | "e2el" => &mut slo.e2e_ms,
                _ => return Err(wrong()),
            };
            if slot.replace(limit).is_some() {
                return Err(format!("{} is given twice", name.trim()));
            }
        }
        Ok(slo)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// First text after 0.2 s, pauses of 0.1 and 0.3 s, five tokens, 0.6 s in all.
    fn record() -> Record {
        Record { text_at: vec![0.2, 0.3, 0.6], e2e: 0.6, output_tokens: Some(5), ..Record::default() }
    }

    #[test]
    fn every_limit_is_inclusive_and_all_of_them_count() {
        for (slo, kept) in [
            ("ttft=200", true),
            ("ttft=199", false),
            ("itl=301", true),
            ("itl=299", false),
            ("tpot=101", true),
            ("tpot=99", false),
            ("e2e=600", true),
            ("e2e=599", false),
            ("ttft=200,itl=301,tpot=101,e2e=600", true),
            ("ttft=200,itl=301,tpot=101,e2e=599", false),
        ] {
            assert_eq!(slo.parse::<Slo>().unwrap().is_kept_by(&record()), kept, "{slo}");
        }
    }

    #[test]
    fn one_token_keeps_every_limit_on_pauses_and_no_text_keeps_none_on_the_first() {
        let one = Record { text_at: vec![0.2], e2e: 0.2, output_tokens: Some(1), ..Record::default() };
        assert!("itl=1,tpot=1".parse::<Slo>().unwrap().is_kept_by(&one));
        let none = Record { text_at: vec![], ..one };
        assert!(!"ttft=1000".parse::<Slo>().unwrap().is_kept_by(&none));
    }

    #[test]
    fn limits_are_shown_as_they_are_typed() {
        assert_eq!("ttft=500,itl=100,e2e=10000.5".parse::<Slo>().unwrap().to_string(), "ttft=500,itl=100,e2e=10000.5");
        for text in ["", "ttft", "ttft=", "ttft=-1", "ttft=NaN", "first=3", "ttft=1,ttft=2"] {
            assert!(text.parse::<Slo>().is_err(), "{text}");
        }
    }
}
