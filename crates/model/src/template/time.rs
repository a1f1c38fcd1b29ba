//! `strftime_now`: the date that some templates tell the model. In UTC, since no time zone is read.

use std::{
    fmt::Write,
    time::{SystemTime, UNIX_EPOCH},
};

const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// `now` by Python's `strftime` in the C locale. `Err` is the directive that is not known.
pub(super) fn strftime(now: SystemTime, format: &str) -> Result<String, String> {
    let seconds = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (days, second) = ((seconds / 86_400) as i64, seconds % 86_400);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let (year, month, day) = civil(days);
    let weekday = (days + 4).rem_euclid(7) as usize;
    let (day_name, month_name) = (DAYS[weekday], MONTHS[month as usize - 1]);
    let day_of_year = days - days_from_civil(year, 1, 1) + 1;
    let hour_12 = (hour + 11) % 12 + 1;
    let half = if hour < 12 { "AM" } else { "PM" };

    let mut text = String::new();
    let mut rest = format.chars();
    while let Some(c) = rest.next() {
        if c != '%' {
            text.push(c);
            continue;
        }
        let directive = rest.next();
        // glibc's `%-d`: no padding.
        let (padded, directive) = if directive == Some('-') { (false, rest.next()) } else { (true, directive) };
        let mut number = |value: i64, width: usize| match padded {
            true => write!(text, "{value:0width$}"),
            false => write!(text, "{value}"),
        };
        let written = match directive {
            Some('Y') => number(year, 4),
            Some('y') => number(year.rem_euclid(100), 2),
            Some('m') => number(month, 2),
            Some('d') => number(day, 2),
            Some('H') => number(hour as i64, 2),
            Some('I') => number(hour_12 as i64, 2),
            Some('M') => number(minute as i64, 2),
            Some('S') => number(second as i64, 2),
            Some('j') => number(day_of_year, 3),
            Some('w') => number(weekday as i64, 1),
            Some('u') => number((weekday as i64 + 6) % 7 + 1, 1),
            Some('s') => number(seconds as i64, 1),
            Some('e') if padded => write!(text, "{day:2}"),
            Some('e') => number(day, 2),
            Some('A') => write!(text, "{day_name}"),
            Some('a') => write!(text, "{}", &day_name[..3]),
            Some('B') => write!(text, "{month_name}"),
            Some('b' | 'h') => write!(text, "{}", &month_name[..3]),
            Some('p') => write!(text, "{half}"),
            Some('Z') => write!(text, "UTC"),
            Some('z') => write!(text, "+0000"),
            Some('F') => write!(text, "{year:04}-{month:02}-{day:02}"),
            Some('D' | 'x') => write!(text, "{month:02}/{day:02}/{:02}", year.rem_euclid(100)),
            Some('T' | 'X') => write!(text, "{hour:02}:{minute:02}:{second:02}"),
            Some('R') => write!(text, "{hour:02}:{minute:02}"),
            Some('c') => {
                write!(text, "{} {} {day:2} {hour:02}:{minute:02}:{second:02} {year}", &day_name[..3], &month_name[..3])
            }
            Some('n') => writeln!(text),
            Some('t') => write!(text, "\t"),
            Some('%') => write!(text, "%"),
            Some(other) => return Err(format!("%{other}")),
            None => return Err("% at the end".into()),
        };
        written.map_err(|error| error.to_string())?;
    }
    Ok(text)
}

/// Year, month and day of a day since 1970 (Howard Hinnant, <https://howardhinnant.github.io/date_algorithms.html>).
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// The inverse of [`civil`].
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    year.div_euclid(400) * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::{civil, days_from_civil, strftime};

    #[test]
    fn a_moment_is_written_as_python_writes_it() {
        // datetime.fromtimestamp(1709210096, timezone.utc).strftime(...)
        let now = UNIX_EPOCH + Duration::from_secs(1_709_210_096);
        for (format, expected) in [
            ("%Y-%m-%d", "2024-02-29"),
            ("%d %b %Y", "29 Feb 2024"),
            ("%A, %B %d, %Y", "Thursday, February 29, 2024"),
            ("%H:%M:%S %I %p %j %-m %w %u %y %%", "12:34:56 12 PM 060 2 4 4 24 %"),
            ("%c|%x|%X|%F", "Thu Feb 29 12:34:56 2024|02/29/24|12:34:56|2024-02-29"),
        ] {
            assert_eq!(strftime(now, format).as_deref(), Ok(expected));
        }
        assert_eq!(strftime(now, "%Q"), Err("%Q".into()));
    }

    #[test]
    fn days_and_dates_agree_for_800_years() {
        for days in 0..300_000 {
            let (year, month, day) = civil(days);
            assert_eq!(days_from_civil(year, month, day), days);
        }
    }
}
