//! `dots export`: a checkpoint as a file for other programs.

use std::io::{self, Write};

use crate::{cli::ExportArgs, load, steps::Steps, units};

pub fn run(args: ExportArgs) -> anyhow::Result<()> {
    let checkpoint = load::open(Some(&args.model))?;
    let mut steps = Steps::new("exporting", "weights");
    let threads = args.threads.unwrap_or(0);
    let exported = dots_pack::gguf::export(&checkpoint, &args.gguf, args.held, threads, &mut steps)?;
    steps.end();
    for note in &exported.notes {
        writeln!(io::stderr(), "note: {note}")?;
    }
    let (path, bytes) = (args.gguf.display(), units::bytes(exported.bytes));
    Ok(writeln!(io::stdout(), "{path}: {bytes}, {} tensors", exported.tensors)?)
}
