//! `dots pack`: a checkpoint in dots' own types.

use std::{
    io::{self, Write},
    path::Path,
};

use dots_model::Checkpoint;
use dots_pack::{Calibration, Options, Recipe, Summary};

use crate::{cli::PackArgs, load, steps::Steps, table::Table, text, units};

pub fn run(args: PackArgs) -> anyhow::Result<()> {
    let mut recipe: Recipe = args.recipe.clone();
    for exception in &args.tensor {
        recipe.except(exception)?;
    }
    let checkpoint = load::open(Some(&args.model))?;
    dots_pack::pack::refuse_own_source(&checkpoint, &args.out)?;
    let threads = args.threads.unwrap_or(0);
    let calibration =
        args.calibrate.as_deref().map(|path| calibrate(&checkpoint, path, args.calibrate_tokens, threads));
    let options = Options { recipe, calibration: calibration.transpose()?, threads };
    let mut steps = Steps::new("packing", "weights");
    let summary = dots_pack::pack(&checkpoint, &args.out, &options, &mut steps)?;
    steps.end();
    Ok(print(&mut io::stdout().lock(), &args, &summary)?)
}

/// Runs the model over the text in `path`.
fn calibrate(checkpoint: &Checkpoint, path: &Path, tokens: usize, threads: usize) -> anyhow::Result<Calibration> {
    let text = text::beginning(path, Some(tokens))?;
    let mut steps = Steps::new("calibrating", "tokens");
    let calibration = Calibration::run(checkpoint, &text, tokens, threads, &mut steps)?;
    steps.end();
    Ok(calibration)
}

fn print(out: &mut dyn Write, args: &PackArgs, summary: &Summary) -> io::Result<()> {
    let mut table = Table::new(["type", "count", "bytes"]);
    for (kind, (count, bytes)) in &summary.types {
        table.row([kind.name().to_owned(), count.to_string(), units::bytes(*bytes)]);
    }
    table.write(out, "  ")?;
    let bytes = summary.types.values().map(|(_, bytes)| bytes).sum();
    writeln!(
        out,
        "{}: {} parameters in {}, {:.2} bits a weight",
        args.out.display(),
        units::parameters(summary.weights),
        units::bytes(bytes),
        summary.bits_per_weight
    )?;
    if summary.resumed > 0 {
        writeln!(out, "{} of {} files were there already", summary.resumed, summary.files)?;
    }
    if let Some(first) = summary.odd.first() {
        let count = summary.odd.len();
        writeln!(out, "{count} matrices stay in BF16, as their rows are no multiple of 32: {first} and the like")?;
    }
    Ok(())
}
