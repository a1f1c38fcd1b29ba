//! Each request as a bar from its start to its end.

use super::{
    super::record::{Outcome, Record},
    chart::{BOTTOM, LEFT, Scale, Svg, TOP, round_up, time},
};

const WIDTH: f64 = 1080.0;
/// More bars are finer than a screen's lines, and more than a browser likes.
const MOST_BARS: usize = 1_000;

/// The bars of `records`, which are in the order in which they went out, and how many of them are left out between two.
pub fn timeline(records: &[Record], seconds: f64) -> (String, usize) {
    let every = records.len().div_ceil(MOST_BARS).max(1);
    let shown: Vec<&Record> = records.iter().step_by(every).collect();
    let bar = (640.0 / shown.len().max(1) as f64).clamp(0.6, 14.0);
    let mut svg = Svg::new(WIDTH, TOP + bar * shown.len().max(1) as f64 + BOTTOM);
    let ((left, right), _) = svg.frame();
    let x = Scale::linear(seconds, left, right);
    svg.x_axis(&x, time);
    let thickness = if bar > 3.0 { bar - 1.0 } else { bar };
    // Numbers at the left as far apart as can be read.
    let numbered = round_up((18.0 / bar).max(1.0)) as usize;
    for (row, record) in shown.iter().enumerate() {
        let y = TOP + bar * row as f64;
        if row % numbered == 0 {
            svg.text(LEFT - 8.0, y + bar / 2.0 + 4.0, "end", &record.index.to_string());
        }
        let title = title(record);
        let (start, end) = (x.at(record.start), x.at(record.end()));
        // A bar that is too short to be seen was there all the same.
        let width = |from: f64, to: f64| (to - from).max(0.8);
        let after = match record.outcome {
            Outcome::Answered => "answering",
            Outcome::Failed(_) => "failed",
            Outcome::Stopped => "stopped",
        };
        match record.ttft() {
            Some(ttft) => {
                let first = x.at(record.start + ttft);
                svg.rect("waiting", (start, y), (width(start, first), thickness), &title);
                svg.rect(after, (first, y), (width(first, end), thickness), &title);
            }
            None => svg.rect(after, (start, y), (width(start, end), thickness), &title),
        }
    }
    (svg.finish("each request from its start to its end"), every - 1)
}

fn title(record: &Record) -> String {
    let mut words = format!("request {} at {}", record.index, time(record.start));
    if let Some(ttft) = record.ttft() {
        words += &format!("\nfirst text after {}", time(ttft));
    }
    let (input, output) = (record.prompt_tokens.unwrap_or(record.asked.prompt_tokens), record.tokens());
    words +=
        &format!("\nend after {}, {input} tokens in, {output} of {} out", time(record.e2e), record.asked.output_tokens);
    match &record.outcome {
        Outcome::Answered => {}
        Outcome::Failed(failure) => words += &format!("\n{}: {}", failure.kind.name(), failure.message),
        Outcome::Stopped => words += "\nstopped",
    }
    words
}
