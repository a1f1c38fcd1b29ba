//! Numbers as people read them.

use std::time::Duration;

/// `31.0 GiB`.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// `31.0`, in GiB, for the columns of a table.
pub fn gib(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / (1u64 << 30) as f64)
}

/// `142.8 B`, as parameters are counted.
pub fn parameters(count: u64) -> String {
    let count_f = count as f64;
    match count {
        1_000_000_000.. => format!("{:.1} B", count_f / 1e9),
        1_000_000.. => format!("{:.1} M", count_f / 1e6),
        1_000.. => format!("{:.1} K", count_f / 1e3),
        _ => count.to_string(),
    }
}

/// `0.21 s`, `1.9 ms`.
pub fn seconds(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds < 0.1 { format!("{:.1} ms", seconds * 1e3) } else { format!("{seconds:.2} s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_take_the_unit_that_keeps_them_short() {
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1024), "1.0 KiB");
        assert_eq!(bytes((1 << 30) - 1), "1.0 GiB");
        assert_eq!(bytes(33_285_996_544), "31.0 GiB");
        assert!(bytes(u64::MAX).ends_with("PiB"));
    }

    #[test]
    fn parameters_are_counted_in_thousands() {
        assert_eq!(parameters(142_774_381_696), "142.8 B");
        assert_eq!(parameters(999), "999");
    }
}
