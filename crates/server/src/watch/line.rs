//! One line of `metrics.jsonl`. The file is another program's: a line is read whole and rightly, or refused with its reason.

use std::collections::BTreeMap;

use serde::Deserialize;

/// Longest line that is read: a step of 62 layers with 128 experts takes 0.2 MB.
pub const MAX_LINE_BYTES: usize = 4 << 20;

/// Most layers with a router, experts of one, and both together.
const MAX_LAYERS: usize = 1024;
const MAX_EXPERTS: usize = 4096;
pub const MAX_CELLS: usize = 1 << 16;

/// Most sources of one validation.
const MAX_DOMAINS: usize = 64;

/// What JavaScript counts to.
const MAX_STEP: u64 = 1 << 53;

/// Longest name, and longest message, in characters.
const MAX_NAME: usize = 120;
const MAX_MESSAGE: usize = 2000;

/// What a line tells.
#[derive(Debug)]
pub enum Line {
    /// A step was taken.
    Step(Box<StepLine>),
    /// The model was measured on texts it does not learn from, by source.
    Validation {
        /// After which step.
        step: u64,
        /// Tokens until then.
        tokens: u64,
        /// Loss by source.
        losses: Vec<(String, f64)>,
    },
    /// A checkpoint was written.
    Checkpoint {
        /// After which step.
        step: u64,
        /// Its folder's name.
        name: String,
    },
    /// A program went on with the run after this step.
    Resumed {
        /// After which step.
        step: u64,
        /// Seconds since 1970.
        time: Option<f64>,
    },
    /// The run stopped.
    Error {
        /// In which step.
        step: u64,
        /// Why; it names layer and tensor.
        message: String,
    },
}

/// One step. All but its number may be missing.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct StepLine {
    pub step: u64,
    pub tokens: u64,
    pub phase: Option<String>,
    /// Seconds since 1970 at its end.
    pub time: Option<f64>,
    pub seconds: Option<f64>,
    pub loss: Option<f64>,
    pub sequence_loss: Option<f64>,
    pub learning_rate: Option<f64>,
    pub batch_tokens: Option<f64>,
    pub sequence_tokens: Option<f64>,
    pub gradient_norm: Option<f64>,
    pub weight_norm: Option<f64>,
    pub tokens_per_second: Option<f64>,
    pub flops_per_second: Option<f64>,
    pub peak_flops_per_second: Option<f64>,
    pub routers: Vec<Router>,
}

/// One layer's router in one step.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Router {
    pub layer: u32,
    /// Tokens, or the share of them, that each expert got: (experts).
    pub loads: Vec<f32>,
    /// What balancing adds to each expert's score: (experts), or empty.
    pub biases: Vec<f32>,
    /// Of the distribution over experts, in nats.
    pub entropy: Option<f64>,
}

#[derive(Deserialize)]
struct Kind {
    step: Option<u64>,
    #[serde(default)]
    tokens: u64,
    validation: Option<BTreeMap<String, Validation>>,
    checkpoint: Option<String>,
    resumed: Option<Resumed>,
    error: Option<String>,
    layer: Option<u64>,
    tensor: Option<String>,
    loss: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct Resumed {
    time: Option<f64>,
}

#[derive(Deserialize)]
struct Validation {
    loss: Option<f64>,
}

/// Reads one line; `Ok(None)` where it tells nothing that is shown here.
pub fn parse(bytes: &[u8]) -> Result<Option<Line>, String> {
    let kind: Kind = serde_json::from_slice(bytes).map_err(|error| format!("no line of metrics: {error}"))?;
    let step = kind.step.ok_or("`step`: expected a number, found none")?;
    for (field, number) in [("step", step), ("tokens", kind.tokens)] {
        if number >= MAX_STEP {
            return Err(format!("`{field}`: expected less than {MAX_STEP}, found {number}"));
        }
    }
    if let Some(error) = kind.error {
        let place =
            [kind.layer.map(|layer| format!("layer {layer}")), kind.tensor.map(|tensor| format!("tensor {tensor}"))];
        let place: Vec<String> = place.into_iter().flatten().filter(|place| !error.contains(place.as_str())).collect();
        let message = if place.is_empty() { error } else { format!("{error} ({})", place.join(", ")) };
        return Ok(Some(Line::Error { step, message: shortened(&message, MAX_MESSAGE) }));
    }
    if let Some(name) = kind.checkpoint {
        return Ok(Some(Line::Checkpoint { step, name: shortened(&name, MAX_NAME) }));
    }
    if let Some(resumed) = kind.resumed {
        return Ok(Some(Line::Resumed { step, time: resumed.time }));
    }
    if let Some(domains) = kind.validation {
        if domains.len() > MAX_DOMAINS {
            return Err(format!("`validation`: expected {MAX_DOMAINS} sources at most, found {}", domains.len()));
        }
        let losses =
            domains.into_iter().filter_map(|(name, one)| Some((shortened(&name, MAX_NAME), one.loss?))).collect();
        return Ok(Some(Line::Validation { step, tokens: kind.tokens, losses }));
    }
    if kind.loss.is_none() {
        return Ok(None);
    }
    let mut line: StepLine = serde_json::from_slice(bytes).map_err(|error| format!("no line of a step: {error}"))?;
    line.phase = line.phase.map(|name| shortened(&name, MAX_NAME));
    check(&line.routers)?;
    Ok(Some(Line::Step(Box::new(line))))
}

fn check(routers: &[Router]) -> Result<(), String> {
    let Some(first) = routers.first() else { return Ok(()) };
    let experts = first.loads.len();
    if routers.len() > MAX_LAYERS || experts > MAX_EXPERTS || routers.len() * experts > MAX_CELLS {
        return Err(format!("`routers`: {} layers of {experts} experts are too many to show", routers.len()));
    }
    for (index, router) in routers.iter().enumerate() {
        let expected = [experts, if router.biases.is_empty() { 0 } else { experts }];
        if [router.loads.len(), router.biases.len()] != expected {
            let found = (router.loads.len(), router.biases.len());
            return Err(format!(
                "`routers[{index}]`: expected {experts} loads and biases, found {} and {}",
                found.0, found.1
            ));
        }
        if let Some(load) = router.loads.iter().find(|load| !load.is_finite() || **load < 0.0) {
            return Err(format!("`routers[{index}].loads`: expected numbers from 0 on, found {load}"));
        }
    }
    Ok(())
}

/// The text without control characters, cut to so many characters.
pub fn shortened(text: &str, most: usize) -> String {
    let mut short: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(most).collect();
    if text.chars().nth(most).is_some() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_line_is_known() {
        let step = br#"{"step":120,"tokens":9,"phase":"stable","loss":3.21,"new":{"x":[1]},"gradient_norm":null,
            "routers":[{"layer":1,"loads":[1,0.5],"biases":[0.1,-0.1],"entropy":0.6}]}"#;
        let Ok(Some(Line::Step(line))) = parse(step) else { panic!() };
        assert_eq!((line.step, line.loss, line.gradient_norm, line.routers[0].layer), (120, Some(3.21), None, 1));
        let validation =
            br#"{"step":1,"tokens":2,"validation":{"en":{"loss":3.4,"targets":65000},"zh":{"loss":null}}}"#;
        let Ok(Some(Line::Validation { losses, .. })) = parse(validation) else { panic!() };
        assert_eq!(losses, [("en".to_owned(), 3.4)]);
        assert!(matches!(parse(br#"{"step":1,"checkpoint":"a"}"#), Ok(Some(Line::Checkpoint { .. }))));
        let resumed = br#"{"step":1,"resumed":{"time":5.5,"host":"here"}}"#;
        assert!(matches!(parse(resumed), Ok(Some(Line::Resumed { step: 1, time: Some(5.5) }))));
        let error = br#"{"step":7,"error":"loss is NaN","layer":3,"tensor":"up_proj"}"#;
        let Ok(Some(Line::Error { step: 7, message })) = parse(error) else { panic!() };
        assert_eq!(message, "loss is NaN (layer 3, tensor up_proj)");
        assert!(matches!(parse(br#"{"step":1,"note":"of a later version"}"#), Ok(None)));
    }

    #[test]
    fn what_is_wrong_with_a_line_is_said() {
        let long = format!(r#"{{"step":1,"loss":1,"routers":[{{"loads":[{}1]}}]}}"#, "1,".repeat(5000));
        for (line, reason) in [
            ("", "EOF"),
            ("\u{0}\u{0}", "expected value"),
            ("[]", "struct"),
            (r#"{"loss":1}"#, "`step`: expected a number"),
            (r#"{"step":-1,"loss":1}"#, "-1"),
            (r#"{"step":99999999999999999,"loss":1}"#, "`step`: expected less"),
            (r#"{"step":1,"loss":NaN}"#, "column"),
            (r#"{"step":1,"loss":"3"}"#, "string"),
            (r#"{"step":1,"loss":1e999}"#, "out of range"),
            (r#"{"step":1,"loss":1,"routers":[{"loads":[1,2]},{"loads":[1]}]}"#, "expected 2 loads"),
            (r#"{"step":1,"loss":1,"routers":[{"loads":[1,-2]}]}"#, "found -2"),
            (&long, "too many"),
        ] {
            let found = parse(line.as_bytes()).unwrap_err();
            assert!(found.contains(reason), "{line:.40}: {found}");
        }
    }

    #[test]
    fn names_are_short_and_of_one_line() {
        let line = format!(r#"{{"step":1,"checkpoint":"a\nb{}"}}"#, "é".repeat(500));
        let Ok(Some(Line::Checkpoint { name, .. })) = parse(line.as_bytes()) else { panic!() };
        assert!(name.starts_with("a bé") && name.chars().count() == MAX_NAME + 1, "{name}");
    }
}
