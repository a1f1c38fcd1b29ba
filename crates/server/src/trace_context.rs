//! `traceparent`: which trace of the caller's a request belongs to (W3C Trace Context, level 1).

use std::fmt;

use crate::openai::unique_id;

/// A place in a trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceContext {
    /// 32 hexadecimal digits, not all zero.
    pub trace_id: String,
    /// 16 hexadecimal digits, not all zero: this server's span.
    pub span_id: String,
    /// The caller's span.
    pub parent_id: Option<String>,
    /// Whether the caller records the trace.
    pub sampled: bool,
}

impl TraceContext {
    /// A span under the caller's, or the first of a new trace where `traceparent` is missing or none.
    pub fn under(traceparent: Option<&[u8]>) -> Self {
        let span_id = unique_id()[..16].to_owned();
        match traceparent.and_then(parse) {
            Some((trace_id, parent_id, sampled)) => {
                Self { trace_id: trace_id.to_owned(), span_id, parent_id: Some(parent_id.to_owned()), sampled }
            }
            None => Self { trace_id: unique_id(), span_id, parent_id: None, sampled: true },
        }
    }
}

/// As a `traceparent` of what this span calls.
impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{}-{}-{:02x}", self.trace_id, self.span_id, u8::from(self.sampled))
    }
}

/// Trace, parent and whether it is sampled. A later version may go on after the flags; version 255 is forbidden.
fn parse(header: &[u8]) -> Option<(&str, &str, bool)> {
    let text = std::str::from_utf8(header).ok()?;
    let (known, more) = text.split_at_checked(55)?;
    let mut parts = known.split('-');
    let mut hex = |digits: usize| {
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        parts.next().filter(|part| part.len() == digits && part.bytes().all(is_digit))
    };
    let (version, trace, parent, flags) = (hex(2)?, hex(32)?, hex(16)?, hex(2)?);
    let is_zero = |id: &str| id.bytes().all(|byte| byte == b'0');
    let goes_on = more.is_empty() || (version != "00" && more.starts_with('-'));
    if version == "ff" || is_zero(trace) || is_zero(parent) || !goes_on {
        return None;
    }
    Some((trace, parent, u8::from_str_radix(flags, 16).ok()? & 1 == 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const PARENT: &str = "00f067aa0ba902b7";

    #[test]
    fn a_caller_s_trace_goes_on() {
        let context = TraceContext::under(Some(format!("00-{TRACE}-{PARENT}-01").as_bytes()));
        assert_eq!(
            (context.trace_id.as_str(), context.parent_id.as_deref(), context.sampled),
            (TRACE, Some(PARENT), true)
        );
        let text = context.to_string();
        assert_eq!(parse(text.as_bytes()), Some((TRACE, context.span_id.as_str(), true)));
        assert_ne!(context.span_id, PARENT);
        assert!(!TraceContext::under(Some(format!("00-{TRACE}-{PARENT}-00").as_bytes())).sampled);
        assert!(parse(format!("01-{TRACE}-{PARENT}-03-later").as_bytes()).is_some());
    }

    #[test]
    fn what_is_no_traceparent_begins_a_new_trace() {
        let zero = "0".repeat(32);
        for wrong in [
            String::new(),
            "00".to_owned(),
            format!("00-{zero}-{PARENT}-01"),
            format!("00-{TRACE}-{}-01", &zero[..16]),
            format!("ff-{TRACE}-{PARENT}-01"),
            format!("00-{}-{PARENT}-01", TRACE.to_uppercase()),
            format!("00-{TRACE}-{PARENT}-01-more"),
            format!("00-{TRACE}-{PARENT}-0"),
            format!("00-{TRACE}-{PARENT}-0é"),
            format!("00_{TRACE}_{PARENT}_01"),
        ] {
            assert_eq!(parse(wrong.as_bytes()), None, "{wrong}");
            let context = TraceContext::under(Some(wrong.as_bytes()));
            assert_eq!((context.trace_id.len(), context.parent_id), (32, None));
        }
    }
}
