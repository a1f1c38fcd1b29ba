//! Which share of times is no longer than a time.

use std::fmt::Write as _;

use super::{
    super::statistics::Distribution,
    chart::{Scale, Svg, time},
};

/// Steps of a curve from 0 to 100 %.
const STEPS: usize = 200;

/// The curve of `times`, with marks at p50, p95 and p99, and at a limit where there is one.
pub fn cdf(name: &str, times: &Distribution, limit_ms: Option<f64>) -> String {
    let mut svg = Svg::new(520.0, 230.0);
    let ((left, right), (bottom, top)) = svg.frame();
    // A few chunks that came in one packet should not stretch the axis over orders of magnitude.
    let (Some(least), Some(most)) = (times.percentile(1.0), times.most()) else {
        svg.text(260.0, 115.0, "middle", "nothing to show");
        return svg.finish(&format!("{name}: nothing to show"));
    };
    let x = Scale::times(least, most, left, right);
    let y = Scale::linear(100.0, bottom, top);
    svg.x_axis(&x, time);
    svg.y_axis(&y, |percent| format!("{percent} %"));

    let mut curve = String::new();
    for step in 0..=STEPS {
        let percent = 100.0 * step as f64 / STEPS as f64;
        let command = if step == 0 { 'M' } else { 'L' };
        let _ = write!(curve, "{command}{:.1} {:.1}", x.at(times.percentile(percent).unwrap_or(0.0)), y.at(percent));
    }
    svg.path("area", &format!("{curve}V{bottom:.1}H{:.1}Z", x.at(least)));
    svg.path("line", &curve);
    if let Some(limit) = limit_ms.map(|ms| ms / 1e3).filter(|&limit| x.holds(limit)) {
        svg.vertical("limit", x.at(limit));
        // Below, where no curve runs along the top.
        let (place, class) = if x.at(limit) < left + 50.0 { (5.0, "limit-name") } else { (-5.0, "limit-name end") };
        svg.text(x.at(limit) + place, bottom - 6.0, class, "limit");
    }
    for percent in [50.0, 95.0, 99.0] {
        let Some(value) = times.percentile(percent) else { continue };
        svg.dot(x.at(value), y.at(percent));
    }
    let at = |percent| times.percentile(percent).map_or_else(String::new, time);
    // In the corner that the curve leaves free.
    let at_right = times.percentile(50.0).is_some_and(|median| x.at(median) < (left + right) / 2.0);
    for (line, percent) in [50.0, 95.0, 99.0].into_iter().enumerate() {
        let down = 17.0 * line as f64;
        let (place, class) = match at_right {
            true => ((right - 8.0, bottom - 46.0 + down), "end strong"),
            false => ((left + 10.0, top + 18.0 + down), "strong"),
        };
        svg.text(place.0, place.1, class, &format!("p{percent} {}", at(percent)));
    }
    // Bands to point at.
    for percent in 0..100 {
        let (low, high) = (f64::from(percent), f64::from(percent + 1));
        let title = format!("{name}: {high} % within {}", at(high));
        svg.rect("hover", (left, y.at(high)), (right - left, y.at(low) - y.at(high)), &title);
    }
    svg.finish(&format!("{name}: p50 {}, p95 {}, p99 {}", at(50.0), at(95.0), at(99.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_shows_its_percentiles_and_a_limit_that_lies_on_it() {
        let times = Distribution::of((1..=101).map(|time| f64::from(time) / 1e3));
        let plot = cdf("TTFT", &times, Some(60.0));
        assert!(plot.contains("p50 51 ms") && plot.contains("class=\"limit\""), "{plot}");
        assert!(!cdf("TTFT", &times, Some(6_000.0)).contains("class=\"limit\""), "beyond the axis");
    }

    #[test]
    fn equal_times_and_no_times_have_a_picture_too() {
        for times in [Distribution::of([0.5; 9]), Distribution::of([0.0]), Distribution::default()] {
            let plot = cdf("ITL", &times, None);
            assert!(plot.ends_with("</svg>") && !plot.contains("NaN") && !plot.contains("inf"), "{plot}");
        }
    }
}
