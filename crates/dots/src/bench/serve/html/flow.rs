//! What happened when: tokens a second, and how many requests ran.

use std::fmt::Write as _;

use super::{
    super::record::Record,
    chart::{Scale, Svg, TOP, round_up, time, trimmed},
};

/// About as many steps of time.
const STEPS: f64 = 100.0;
const WIDTH: f64 = 1080.0;

/// A run cut into steps of the same length.
pub struct Flow {
    pub step_seconds: f64,
    /// Output tokens of each.
    tokens: Vec<f64>,
    /// At the middle of each.
    running: Vec<usize>,
    /// Of those, without text yet.
    waiting: Vec<usize>,
}

impl Flow {
    /// Of these requests, whose last ends after `seconds`.
    pub fn of(records: &[Record], seconds: f64) -> Self {
        let step_seconds = round_up((seconds / STEPS).max(1e-3));
        let steps = ((seconds / step_seconds).ceil() as usize).clamp(1, 2 * STEPS as usize + 2);
        let step_of = |at: f64| ((at / step_seconds) as usize).min(steps - 1);
        let mut flow =
            Self { step_seconds, tokens: vec![0.0; steps], running: vec![0; steps], waiting: vec![0; steps] };
        for record in records {
            let tokens_of_chunk = record.tokens() as f64 / record.text_at.len().max(1) as f64;
            for at in &record.text_at {
                flow.tokens[step_of(record.start + at)] += tokens_of_chunk;
            }
            let first = record.start + record.ttft().unwrap_or(record.e2e);
            for step in step_of(record.start)..=step_of(record.end()) {
                let middle = (step as f64 + 0.5) * step_seconds;
                if (record.start..record.end()).contains(&middle) {
                    flow.running[step] += 1;
                    flow.waiting[step] += usize::from(middle < first);
                }
            }
        }
        flow
    }

    fn end(&self) -> f64 {
        self.tokens.len() as f64 * self.step_seconds
    }

    /// Output tokens a second.
    pub fn tokens_plot(&self) -> String {
        let mut svg = Svg::new(WIDTH, 210.0);
        let ((left, right), (bottom, top)) = svg.frame();
        let rates: Vec<f64> = self.tokens.iter().map(|tokens| tokens / self.step_seconds).collect();
        let most = rates.iter().copied().fold(0.0, f64::max);
        let (x, y) = (Scale::linear(self.end(), left, right), Scale::linear(most * 1.05, bottom, top));
        svg.x_axis(&x, time);
        svg.y_axis(&y, |rate| trimmed(rate, 2));
        let steps = self.steps(&rates, &x, &y);
        svg.path("area", &format!("M{left:.1} {bottom:.1}{}V{bottom:.1}Z", steps.replacen('M', "L", 1)));
        svg.path("line", &steps);
        self.bands(&mut svg, &x, |step| format!("{} output tokens/s", trimmed(rates[step], 1)));
        svg.finish(&format!("output tokens a second over time, {} at most", trimmed(most, 1)))
    }

    /// Requests that ran, and of those the ones that waited for their first text.
    pub fn running_plot(&self) -> String {
        let mut svg = Svg::new(WIDTH, 150.0);
        let ((left, right), (bottom, top)) = svg.frame();
        let numbers = |counts: &[usize]| counts.iter().map(|&count| count as f64).collect::<Vec<f64>>();
        let most = self.running.iter().copied().max().unwrap_or(0);
        let (x, y) = (Scale::linear(self.end(), left, right), Scale::linear(most as f64 * 1.1, bottom, top));
        svg.x_axis(&x, time);
        svg.y_axis(&y, |count| if count.fract() == 0.0 { trimmed(count, 0) } else { String::new() });
        svg.path("line wait", &self.steps(&numbers(&self.waiting), &x, &y));
        svg.path("line", &self.steps(&numbers(&self.running), &x, &y));
        self.bands(&mut svg, &x, |step| {
            format!("{} running, {} of them without text yet", self.running[step], self.waiting[step])
        });
        svg.finish(&format!("requests running over time, {most} at most"))
    }

    /// A line with stairs.
    fn steps(&self, values: &[f64], x: &Scale, y: &Scale) -> String {
        let mut path = String::new();
        for (step, &value) in values.iter().enumerate() {
            let begin = if step == 0 {
                format!("M{:.1} {:.1}", x.at(0.0), y.at(value))
            } else {
                format!("V{:.1}", y.at(value))
            };
            let _ = write!(path, "{begin}H{:.1}", x.at((step + 1) as f64 * self.step_seconds));
        }
        path
    }

    /// Bands to point at.
    fn bands(&self, svg: &mut Svg, x: &Scale, title: impl Fn(usize) -> String) {
        let bottom = svg.frame().1.0;
        for step in 0..self.tokens.len() {
            let (from, to) = (step as f64 * self.step_seconds, (step + 1) as f64 * self.step_seconds);
            let title = format!("{} to {}: {}", time(from), time(to), title(step));
            svg.rect("hover", (x.at(from), TOP), (x.at(to) - x.at(from), bottom - TOP), &title);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_and_every_running_request_is_in_its_step() {
        let records = [
            Record { start: 0.0, text_at: vec![50.0, 99.9], e2e: 99.9, output_tokens: Some(6), ..Record::default() },
            Record { start: 20.0, text_at: vec![], e2e: 10.0, output_tokens: Some(0), ..Record::default() },
        ];
        let flow = Flow::of(&records, 99.9);
        assert_eq!((flow.step_seconds, flow.tokens.len()), (1.0, 100));
        assert_eq!((flow.tokens[50], flow.tokens[99], flow.tokens.iter().sum::<f64>()), (3.0, 3.0, 6.0));
        assert_eq!((flow.running[10], flow.running[25], flow.running[30], flow.running[98]), (1, 2, 1, 1));
        assert_eq!((flow.waiting[25], flow.waiting[49], flow.waiting[50]), (2, 1, 0));
    }

    #[test]
    fn a_run_of_nothing_has_a_plot() {
        let flow = Flow::of(&[], 0.0);
        assert!(flow.tokens_plot().contains("<svg") && !flow.running_plot().contains("NaN"));
    }
}
