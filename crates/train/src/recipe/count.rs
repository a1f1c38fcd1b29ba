//! Counts of tokens as people write them.

/// Largest count: whole numbers up to it are exact in `f64` too.
pub const MOST: u64 = 1 << 53;

/// What a count may look like.
pub const EXPECTED: &str =
    "a whole number such as 8192, \"8Ki\", \"40M\" or \"1.5T\" (k, M, B, T of 1000; Ki, Mi, Gi of 1024)";

const SUFFIXES: [(&str, u64); 10] = [
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
    ("Ti", 1 << 40),
    ("k", 1_000),
    ("K", 1_000),
    ("M", 1_000_000),
    ("B", 1_000_000_000),
    ("G", 1_000_000_000),
    ("T", 1_000_000_000_000),
];

/// Reads `40M`; `None` where it is no count, no whole number, or above [`MOST`].
pub fn parse(text: &str) -> Option<u64> {
    let text = text.trim();
    let (number, unit) = SUFFIXES
        .iter()
        .find_map(|(suffix, unit)| Some((text.strip_suffix(suffix)?.trim_end(), *unit)))
        .unwrap_or((text, 1));
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'_');
    if whole.is_empty() || !digits(whole) || !digits(fraction) || number.ends_with('.') {
        return None;
    }
    let plain = |text: &str| text.replace('_', "");
    let (whole, fraction) = (plain(whole), plain(fraction));
    let scale = 10u128.checked_pow(fraction.len().try_into().ok()?)?;
    let scaled: u128 = format!("{whole}{fraction}").parse().ok()?;
    let total = scaled.checked_mul(unit.into())?;
    let count = total.is_multiple_of(scale).then_some(total / scale)?;
    u64::try_from(count).ok().filter(|&count| count <= MOST)
}

/// `40M`, `1.5T`, `8192`: the shortest of the decimal forms that is exact.
pub fn shown(count: u64) -> String {
    for (suffix, unit) in [("T", 1_000_000_000_000), ("B", 1_000_000_000), ("M", 1_000_000), ("k", 1_000)] {
        if count >= unit && count.is_multiple_of(unit / 10) {
            let (whole, tenth) = (count / unit, count % unit / (unit / 10));
            return if tenth == 0 { format!("{whole}{suffix}") } else { format!("{whole}.{tenth}{suffix}") };
        }
    }
    count.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_exactly() {
        for (text, count) in [
            ("0", 0),
            ("8192", 8192),
            ("8_192", 8192),
            ("8Ki", 8192),
            ("64 Mi", 64 << 20),
            ("40M", 40_000_000),
            ("1.5T", 1_500_000_000_000),
            ("0.1k", 100),
            ("500k", 500_000),
            ("10T", 10_000_000_000_000),
        ] {
            assert_eq!(parse(text), Some(count), "{text}");
        }
    }

    #[test]
    fn what_is_no_whole_number_is_refused() {
        for text in ["", "M", "-1", "1.0001k", "1e6", "1.", ".5M", "8kk", "1 2", "9999999T", "0x10", "٣"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn counts_are_shown_in_their_shortest_exact_form() {
        for (count, text) in
            [(40_000_000, "40M"), (1_500_000_000_000, "1.5T"), (8192, "8192"), (200_000_000_000, "200B")]
        {
            assert_eq!(shown(count), text);
            assert_eq!(parse(text), Some(count));
        }
    }
}
