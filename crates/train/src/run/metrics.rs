//! `metrics.jsonl`: what each step was, one line each, in the order that it happened.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use super::{Made, RunError, spike::Losses};
use crate::recipe::Phase;

/// Longest line: routers of 61 layers of 128 experts take a few hundred KB.
const MAX_LINE_BYTES: u64 = 1 << 26;

#[derive(Debug)]
pub(super) struct Metrics {
    path: PathBuf,
    file: File,
}

/// What the lines that were kept say.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) losses: Losses,
    /// The last step.
    pub(super) step: Option<u64>,
    /// The step of the last checkpoint.
    pub(super) checkpoint: Option<u64>,
}

impl Metrics {
    /// Opens the file for a run that goes on after `step` steps: lines of later steps are cut off, as is a half-written one, and
    /// what told that the run went on from here before. The last `window` losses are given back.
    pub(super) fn open(path: &Path, step: u64, window: usize) -> Result<(Self, Kept), RunError> {
        let io = |source| RunError::Io { path: path.to_owned(), source };
        let file = File::options().create(true).truncate(false).read(true).write(true).open(path).map_err(io)?;
        let (mut bytes, mut kept) = (0, Kept { losses: Losses::new(window), step: None, checkpoint: None });
        let mut reader = BufReader::new(&file);
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = (&mut reader).take(MAX_LINE_BYTES).read_until(b'\n', &mut line).map_err(io)?;
            let Ok(value) = serde_json::from_slice::<Value>(&line) else { break };
            // Lines are in the order of steps: the first one that is too late, or not whole, ends what is kept.
            if line.last() != Some(&b'\n') || value["step"].as_u64().is_none_or(|of| of > step) {
                break;
            }
            if value["step"] == step && !value["resumed"].is_null() {
                break;
            }
            if let Some(loss) = value["loss"].as_f64() {
                kept.losses.add(loss);
                kept.step = value["step"].as_u64();
            }
            if value["checkpoint"].is_string() {
                kept.checkpoint = value["step"].as_u64();
            }
            bytes += read as u64;
        }
        file.set_len(bytes).map_err(io)?;
        let mut file = file;
        file.seek(SeekFrom::Start(bytes)).map_err(io)?;
        Ok((Self { path: path.to_owned(), file }, kept))
    }

    pub(super) fn line(&mut self, value: &Value) -> Result<(), RunError> {
        let io = |source| RunError::Io { path: self.path.clone(), source };
        // In one write, so that whoever reads along seldom sees half a line.
        self.file.write_all(format!("{value}\n").as_bytes()).map_err(io)
    }

    /// Puts all lines on the disk: a checkpoint must not be newer than what is told of its steps.
    pub(super) fn sync(&mut self) -> Result<(), RunError> {
        self.file.sync_data().map_err(|source: io::Error| RunError::Io { path: self.path.clone(), source })
    }
}

/// The line of a step: `tokens` are those seen by its end.
pub(super) fn of_step(made: &Made<'_>, phase: &Phase, peak_flops_per_second: Option<f64>, time: f64) -> Value {
    let Made { step, at, report, .. } = made;
    let routers: Vec<Value> = (report.routers.iter())
        .map(|router| {
            json!({
                "layer": router.layer, "loads": router.loads, "biases": router.biases, "entropy": router.entropy,
            })
        })
        .collect();
    let mut line = json!({
        "step": step,
        "tokens": at.tokens + at.batch_tokens,
        "phase": phase.name,
        "time": time,
        "seconds": made.seconds,
        "loss": report.loss,
        "sequence_loss": report.sequence_loss,
        "learning_rate": at.dials.learning_rate,
        "batch_tokens": at.batch_tokens,
        "sequence_tokens": phase.sequence_tokens,
        "gradient_norm": report.gradient_norm,
        "weight_norm": report.weight_norm,
        "tokens_per_second": made.tokens_per_second(),
        "flops_per_second": made.flops_per_second(),
    });
    if let Some(peak) = peak_flops_per_second {
        line["peak_flops_per_second"] = peak.into();
    }
    line["routers"] = routers.into();
    line
}
