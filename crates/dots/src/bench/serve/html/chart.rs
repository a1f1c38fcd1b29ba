//! Axes: where a number stands, and the round numbers beside them.

use std::fmt::Write as _;

/// Room around a plot for its numbers.
pub const LEFT: f64 = 52.0;
pub const RIGHT: f64 = 14.0;
pub const TOP: f64 = 10.0;
pub const BOTTOM: f64 = 24.0;

/// From numbers to places.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    low: f64,
    high: f64,
    log: bool,
    from: f64,
    to: f64,
}

impl Scale {
    /// Evenly from 0 to `high`, or 1 where there is nothing to show, over places `from` to `to`.
    pub fn linear(high: f64, from: f64, to: f64) -> Self {
        Self { low: 0.0, high: if high > 0.0 { high } else { 1.0 }, log: false, from, to }
    }

    /// For times that may differ by orders of magnitude: by their logarithms where they do, else from 0.
    pub fn times(least: f64, most: f64, from: f64, to: f64) -> Self {
        /// Ratio beyond which small times would be one line at the left.
        const WIDE: f64 = 30.0;
        /// Below this, clocks say nothing: chunks that came in one packet.
        const SHORTEST: f64 = 1e-5;
        let low = least.max(SHORTEST);
        if most / low > WIDE {
            return Self { low, high: most, log: true, from, to };
        }
        Self::linear(most, from, to)
    }

    pub fn at(&self, value: f64) -> f64 {
        let share = if self.log {
            (value.max(self.low) / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        self.from + share.clamp(0.0, 1.0) * (self.to - self.from)
    }

    /// Whether a value lies on the axis.
    pub fn holds(&self, value: f64) -> bool {
        (self.low..=self.high).contains(&value)
    }

    /// Round numbers along the axis, about `wanted` of them.
    pub fn ticks(&self, wanted: usize) -> Vec<f64> {
        if !self.log {
            let step = round_up((self.high - self.low) / wanted.max(1) as f64);
            return (0..=2 * wanted + 2)
                .map(|tick| tick as f64 * step)
                .take_while(|&tick| tick <= self.high * 1.0001)
                .collect();
        }
        let decades = (self.high / self.low).log10();
        let steps: &[f64] = if decades > 3.0 {
            &[1.0]
        } else if decades > 1.7 {
            &[1.0, 3.0]
        } else {
            &[1.0, 2.0, 5.0]
        };
        let first = self.low.log10().floor() as i32;
        (first..first + 20)
            .flat_map(|power| steps.iter().map(move |step| step * 10f64.powi(power)))
            .filter(|&tick| self.holds(tick))
            .collect()
    }
}

/// The next of 1, 2, 5, 10, 20, ...
pub fn round_up(number: f64) -> f64 {
    let power = 10f64.powf(number.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|step| step * power).find(|&step| step >= number * 0.9999).unwrap_or(number)
}

/// `250 ms`, `1.5 s`, `2 min`.
pub fn time(seconds: f64) -> String {
    match seconds {
        0.0 => "0".to_owned(),
        ..0.000_999_5 => format!("{:.0} µs", 1e6 * seconds),
        ..0.099_95 => format!("{} ms", trimmed(1e3 * seconds, 1)),
        ..0.999_5 => format!("{:.0} ms", 1e3 * seconds),
        ..600.0 => format!("{} s", trimmed(seconds, 2)),
        _ => format!("{} min", trimmed(seconds / 60.0, 1)),
    }
}

/// A number without the zeros that end it.
pub fn trimmed(number: f64, digits: usize) -> String {
    let text = format!("{number:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// Text between tags.
pub fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            // HTML knows no other control characters.
            c if c.is_control() && c != '\n' && c != '\t' => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

/// A plot that is being drawn.
pub struct Svg {
    pub width: f64,
    pub height: f64,
    body: String,
}

impl Svg {
    pub fn new(width: f64, height: f64) -> Self {
        Self { width, height, body: String::new() }
    }

    /// The places of the horizontal axis's ends, and of the vertical's, upwards.
    pub fn frame(&self) -> ((f64, f64), (f64, f64)) {
        ((LEFT, self.width - RIGHT), (self.height - BOTTOM, TOP))
    }

    pub fn x_axis(&mut self, scale: &Scale, label: impl Fn(f64) -> String) {
        let bottom = self.height - BOTTOM;
        // As many as leave room for their labels.
        for tick in scale.ticks((self.width / 90.0) as usize) {
            let x = scale.at(tick);
            let _ = write!(self.body, r#"<path class="grid" d="M{x:.1} {TOP}V{bottom:.1}"/>"#);
            self.text(x, self.height - 6.0, "middle", &label(tick));
        }
    }

    pub fn y_axis(&mut self, scale: &Scale, label: impl Fn(f64) -> String) {
        let right = self.width - RIGHT;
        for tick in scale.ticks(5) {
            let y = scale.at(tick);
            let _ = write!(self.body, r#"<path class="grid" d="M{LEFT} {y:.1}H{right:.1}"/>"#);
            self.text(LEFT - 8.0, y + 4.0, "end", &label(tick));
        }
    }

    pub fn text(&mut self, x: f64, y: f64, class: &str, text: &str) {
        let text = escaped(text);
        let _ = write!(self.body, r#"<text class="{class}" x="{x:.1}" y="{y:.1}">{text}</text>"#);
    }

    pub fn path(&mut self, class: &str, d: &str) {
        let _ = write!(self.body, r#"<path class="{class}" d="{d}"/>"#);
    }

    /// A vertical line from the top to the bottom.
    pub fn vertical(&mut self, class: &str, x: f64) {
        let bottom = self.height - BOTTOM;
        self.path(class, &format!("M{x:.1} {TOP}V{bottom:.1}"));
    }

    pub fn dot(&mut self, x: f64, y: f64) {
        let _ = write!(self.body, r#"<circle class="dot" cx="{x:.1}" cy="{y:.1}" r="3.5"/>"#);
    }

    /// A rectangle; a title is shown when one points at it.
    pub fn rect(&mut self, class: &str, (x, y): (f64, f64), (width, height): (f64, f64), title: &str) {
        let title = escaped(title);
        let _ = write!(
            self.body,
            r#"<rect class="{class}" x="{x:.2}" y="{y:.2}" width="{width:.2}" height="{height:.2}"><title>{title}</title></rect>"#
        );
    }

    /// The whole. `label` is what is read to those who do not see it.
    pub fn finish(self, label: &str) -> String {
        let Self { width, height, body } = self;
        let label = escaped(label);
        format!(r#"<svg viewBox="0 0 {width} {height}" role="img" aria-label="{label}">{body}</svg>"#)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_on_the_axis() {
        assert_eq!(Scale::linear(100.0, 0.0, 1.0).ticks(4), [0.0, 50.0, 100.0]);
        let ticks = Scale::linear(7.3, 0.0, 1.0).ticks(6);
        assert_eq!(ticks, [0.0, 2.0, 4.0, 6.0]);
        let ticks = Scale::times(0.004, 3.0, 0.0, 1.0).ticks(6);
        assert!(ticks.len() >= 4 && ticks.iter().all(|tick| (0.004..=3.0).contains(tick)), "{ticks:?}");
    }

    #[test]
    fn scales_stay_inside_their_places_whatever_they_are_given() {
        for scale in [Scale::linear(0.0, 5.0, 9.0), Scale::times(0.0, 0.0, 5.0, 9.0), Scale::times(0.0, 60.0, 5.0, 9.0)]
        {
            for value in [-1.0, 0.0, 1e-9, 3.0, 1e9] {
                assert!((5.0..=9.0).contains(&scale.at(value)), "{scale:?} {value}");
            }
        }
    }

    #[test]
    fn times_take_the_unit_that_keeps_them_short() {
        let shown = [0.0, 0.000_02, 0.0125, 0.25, 1.5, 90.0, 1200.0].map(time);
        assert_eq!(shown, ["0", "20 µs", "12.5 ms", "250 ms", "1.5 s", "90 s", "20 min"]);
    }

    #[test]
    fn no_text_ends_its_tag() {
        assert_eq!(escaped("<script>\"'&\u{1b}"), "&lt;script&gt;&quot;&#39;&amp;\u{fffd}");
    }
}
