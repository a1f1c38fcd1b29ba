//! The page: one file that asks nothing of the network, in the reader's light or dark.

mod cdf;
mod chart;
mod flow;
mod timeline;

use std::{
    fmt::Write as _,
    time::{SystemTime, UNIX_EPOCH},
};

use self::{
    cdf::cdf,
    chart::{escaped, time},
    flow::Flow,
    timeline::timeline,
};
use super::{
    report::{Report, counted, milliseconds, rate},
    statistics::PERCENTILES,
};

const STYLE: &str = include_str!("style.css");

/// The whole page.
pub fn page(report: &Report) -> String {
    let title = escaped(&format!("{} under load", report.model));
    let outcome = escaped(&report.outcome());
    let url = escaped(&report.url);
    let settings = escaped(&report.settings());
    let started = utc(report.started);
    let stopped = if report.interrupted { " The run was stopped early." } else { "" };
    let body =
        [tiles(report), times(report), curves(report), flow(report), bars(report), errors(report), about(report)]
            .concat();
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n\
         <p>{outcome}.{stopped}</p>\n<p class=\"soft\">{url}, {settings}, {started}</p>\n{body}</main>\n</body>\n</html>\n"
    )
}

fn tiles(report: &Report) -> String {
    let summary = &report.summary;
    let mut tiles = vec![
        (rate(summary.per_second(summary.answered)), "requests/s"),
        (rate(summary.per_second(summary.output_tokens)), "output tokens/s"),
        (rate(summary.per_second(summary.input_tokens)), "input tokens/s"),
        (summary.ttft.percentile(50.0).map_or_else(|| "-".to_owned(), time), "TTFT, median"),
        (summary.itl.percentile(50.0).map_or_else(|| "-".to_owned(), time), "ITL, median"),
    ];
    if let Some(good) = summary.good {
        let share = 100.0 * good as f64 / (summary.answered + summary.failed).max(1) as f64;
        tiles.push((format!("{share:.0} %"), "within the limits"));
    }
    if summary.failed > 0 {
        tiles.push((summary.failed.to_string(), "failed"));
    }
    let tiles: Vec<String> = tiles
        .into_iter()
        .map(|(number, name)| format!("<div class=\"card\"><b>{}</b><span>{name}</span></div>", escaped(&number)))
        .collect();
    format!("<div class=\"tiles\">{}</div>\n", tiles.concat())
}

/// A table; of few columns, it is no wider than they need, and the last one of another may hold words.
fn table(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>, words: bool) -> String {
    let class = if head.len() < 4 && !words { " class=\"narrow\"" } else { "" };
    let mut html = format!("<div class=\"scroll\"><table{class}><thead><tr>");
    for (column, cell) in head.iter().enumerate() {
        let class = if words && column + 1 == head.len() { " style=\"text-align:left\"" } else { "" };
        let _ = write!(html, "<th scope=\"col\"{class}>{}</th>", escaped(cell));
    }
    html += "</tr></thead><tbody>";
    for row in rows {
        html += "<tr>";
        for (column, cell) in row.iter().enumerate() {
            let class = if words && column + 1 == row.len() { " class=\"words\"" } else { "" };
            let _ = write!(html, "<td{class}>{}</td>", escaped(cell));
        }
        html += "</tr>";
    }
    html + "</tbody></table></div>"
}

fn card(title: &str, note: &str, body: &str) -> String {
    let note = if note.is_empty() { String::new() } else { format!("<p class=\"note\">{note}</p>") };
    format!("<section class=\"card\"><h2>{title}</h2>{note}{body}</section>\n")
}

fn times(report: &Report) -> String {
    let rows = report.summary.times().map(|(name, _, times)| {
        let percentiles = PERCENTILES.map(|percent| times.percentile(percent));
        let cells = [times.mean()].into_iter().chain(percentiles).chain([times.most()]);
        let cells = cells.map(|time| time.map_or_else(|| "-".to_owned(), milliseconds));
        [name.to_owned()].into_iter().chain(cells).chain([times.count().to_string()]).collect()
    });
    let head = ["ms", "mean", "p50", "p90", "p95", "p99", "most", "count"];
    let summary = &report.summary;
    let counts = [
        ("requests", summary.answered),
        ("input tokens", summary.input_tokens),
        ("output tokens", summary.output_tokens),
    ];
    let counts = counts.map(|(name, count)| vec![name.to_owned(), count.to_string(), rate(summary.per_second(count))]);
    let goodput =
        summary.good.map(|good| vec!["good requests".to_owned(), good.to_string(), rate(summary.per_second(good))]);
    let limits =
        report.slo.map_or_else(String::new, |slo| format!("Good requests kept {} (ms).", escaped(&slo.to_string())));
    let times = card("Times", "", &table(&head, rows, false));
    times
        + &card("Throughput", &limits, &table(&["", "in all", "per second"], counts.into_iter().chain(goodput), false))
}

fn curves(report: &Report) -> String {
    if report.summary.answered == 0 {
        return String::new();
    }
    let (summary, slo) = (&report.summary, report.slo.unwrap_or_default());
    let curve = |title: &str, note: &str, name, times, limit| card(title, note, &cdf(name, times, limit));
    let cards = [
        curve(
            "Time to first token",
            "Share of requests whose first text came within a time.",
            "TTFT",
            &summary.ttft,
            slo.ttft_ms,
        ),
        curve("Inter-token latency", "Share of pauses between chunks of text.", "ITL", &summary.itl, slo.itl_ms),
        curve(
            "Time per output token",
            "Share of requests, by their mean after the first.",
            "TPOT",
            &summary.tpot,
            slo.tpot_ms,
        ),
        curve("End to end", "Share of requests that ended within a time.", "end to end", &summary.e2e, slo.e2e_ms),
    ];
    format!("<div class=\"pair\">{}</div>\n", cards.concat())
}

fn flow(report: &Report) -> String {
    let end = report.records.iter().map(|record| record.end()).fold(0.0, f64::max);
    let flow = Flow::of(&report.records, end);
    let note = format!("Tokens a second over the run, in steps of {}.", time(flow.step_seconds));
    let running =
        "<span class=\"key answering\"></span>running<span class=\"key waiting\"></span>waiting for their first text";
    card("Output", &note, &flow.tokens_plot()) + &card("Requests at once", running, &flow.running_plot())
}

fn bars(report: &Report) -> String {
    let end = report.records.iter().map(|record| record.end()).fold(0.0, f64::max);
    let (plot, left_out) = timeline(&report.records, end);
    let mut note = String::from(
        "<span class=\"key waiting\"></span>until the first text<span class=\"key answering\"></span>answer<span class=\"key \
         failed\"></span>failed<span class=\"key stopped\"></span>stopped",
    );
    if left_out > 0 {
        let _ = write!(note, ". Of {} requests, one in {} is shown.", report.records.len(), left_out + 1);
    }
    card("Each request", &note, &plot)
}

fn errors(report: &Report) -> String {
    if report.summary.failures.is_empty() {
        return String::new();
    }
    let rows = report.summary.failures.iter();
    let rows = rows.map(|failures| vec![failures.kind.name(), failures.count.to_string(), failures.example.clone()]);
    card("Errors", "", &table(&["kind", "count", "for example"], rows, true))
}

fn about(report: &Report) -> String {
    let mut html = String::new();
    for note in report.notes() {
        let _ = write!(html, "<p>{}</p>", escaped(&note));
    }
    html += "<p>TTFT: from sending a request to its first text. ITL: every pause between two chunks of text. TPOT: from the first \
             text to the end, over the tokens after the first. End to end: to the last chunk. Times are of requests that were \
             answered, and rates are theirs over the whole run.</p>";
    let command = format!(
        "Made by <code>dots bench serve</code> {}: {}.",
        env!("CARGO_PKG_VERSION"),
        escaped(&format!("{} asked for, seed {}", counted(report.requests, "request"), report.seed))
    );
    format!("<section class=\"card soft\">{html}<p>{command}</p></section>\n")
}

/// `2025-11-25 02:40 UTC`.
fn utc(at: SystemTime) -> String {
    let seconds = at.duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let (days, minutes) = (seconds / 86_400, seconds % 86_400 / 60);
    let (year, month, day) = civil(days);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02} UTC", minutes / 60, minutes % 60)
}

/// The date so many days after 1970 began (Howard Hinnant, `chrono-Compatible Low-Level Date Algorithms`).
fn civil(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + 400 * era + u64::from(month <= 2), month, day_of_year - (153 * shifted + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_have_their_dates() {
        assert_eq!(
            [0, 11_016, 20_417, 19_782].map(civil),
            [(1970, 1, 1), (2000, 2, 29), (2025, 11, 25), (2024, 2, 29)]
        );
    }
}
