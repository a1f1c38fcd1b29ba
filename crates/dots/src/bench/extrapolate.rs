//! What more layers would take, by a line through two models: all layers but the first are alike.

use super::{
    report::{Subject, median},
    run::Case,
};

/// One case, extrapolated.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Line {
    pub case: Case,
    /// Of one run.
    pub seconds: f64,
    /// As in [`super::run::Measured::work`].
    pub work: f64,
}

/// Times of a model with more layers than were measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Extrapolation {
    pub layers: usize,
    /// Layers of the two models measured.
    pub from: (usize, usize),
    /// All weights of the larger model.
    pub weights_bytes: u64,
    /// `None` where the deeper model was not slower, so that no line can be drawn.
    pub lines: Vec<Option<Line>>,
}

impl Extrapolation {
    /// Fits `time = a + b · layers` to the medians of two models that differ in layers only, case by case.
    pub fn new(few: &Subject, more: &Subject, layers: usize, weights_bytes: u64) -> Self {
        let at = |few_value: f64, more_value: f64| {
            let slope = (more_value - few_value) / (more.layers - few.layers) as f64;
            (slope > 0.0).then(|| more_value + slope * (layers - more.layers) as f64)
        };
        let lines = few.lines.iter().zip(&more.lines).map(|(few, more)| {
            let seconds = at(median(&few.seconds), median(&more.seconds))?;
            Some(Line { case: more.case, seconds, work: at(few.work as f64, more.work as f64)? })
        });
        Self { layers, from: (few.layers, more.layers), weights_bytes, lines: lines.collect() }
    }
}

#[cfg(test)]
mod tests {
    use dots_model::{Config, executor::Plan};

    use super::{
        super::{
            report::Products,
            run::{Measured, Phase},
        },
        *,
    };

    fn subject(layers: usize, seconds: &[f64], work: u64) -> Subject {
        let case = Case { phase: Phase::Decode, tokens: 1, depth: 0, batch: 1 };
        Subject {
            name: String::new(),
            layers,
            parameters: Config::dots_llm1().parameters(),
            plan: Plan::default(),
            instruction_set: "portable",
            threads: 1,
            products: Products::Int8,
            lines: vec![Measured { case, seconds: seconds.to_vec(), work }],
        }
    }

    #[test]
    fn a_line_through_two_medians() {
        // 3 s and 1 s a layer; 100 bytes and 10 a layer.
        let (few, more) = (subject(2, &[5.0, 4.0, 90.0], 120), subject(5, &[8.0, 8.0, 1.0], 150));
        let line = Extrapolation::new(&few, &more, 62, 0).lines[0].unwrap();
        assert_eq!((line.seconds, line.work), (65.0, 720.0));
    }

    #[test]
    fn no_line_where_the_deeper_model_was_faster() {
        let (few, more) = (subject(2, &[5.0], 120), subject(5, &[4.9], 150));
        assert_eq!(Extrapolation::new(&few, &more, 62, 0).lines, [None]);
    }
}
