//! Why a run ended.

use std::{error::Error, io, path::PathBuf};

use crate::{checkpoint::CheckpointError, recipe::RecipeError, step::StepError};

/// Why a run ended, or did not begin.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The operating system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another program works on the folder.
    #[error("{}: another program is training here{holder}; wait for it, or choose another folder", run.display())]
    Busy {
        /// The folder.
        run: PathBuf,
        /// Which program, where that is known.
        holder: String,
    },
    /// The folder holds another run.
    #[error("{}: recipe: expected {expected}, found {found}; a changed recipe is another run: start it in a folder of its own, or as a branch with --from", path.display())]
    OtherRun {
        /// The run's recipe.
        path: PathBuf,
        /// Its hash.
        expected: String,
        /// The given recipe's.
        found: String,
    },
    /// Something that is no run's lies where a run writes.
    #[error("{}: expected nothing, since the folder is no run and this one would write over it, or take it for its own; choose a folder of its own", path.display())]
    InTheWay {
        /// What lies there.
        path: PathBuf,
    },
    /// What the run is made from is not what it was.
    #[error("{}: {what}: expected {expected}, found {found}; what a run learns from must stay as it was", path.display())]
    Differs {
        /// The run's `run.json`.
        path: PathBuf,
        /// Which part.
        what: String,
        /// What it says.
        expected: String,
        /// What is there now.
        found: String,
    },
    /// Another build made the steps before.
    #[error(
        "{}: builds: expected {expected}, which made the last steps, found {found}: the next ones would not be those that it would have \
         made, to the bit; --allow-other-build goes on nevertheless, and notes from which step",
        path.display()
    )]
    OtherBuild {
        /// The run's `run.json`.
        path: PathBuf,
        /// The build that made the last steps.
        expected: String,
        /// This one.
        found: String,
    },
    /// There are checkpoints, and none to go on from.
    #[error("{}: expected a checkpoint to go on from, found none that is whole ({why}); move the folder away to start anew", checkpoints.display())]
    NoneWhole {
        /// The folder of checkpoints.
        checkpoints: PathBuf,
        /// What the newest lacks.
        why: String,
    },
    /// What was asked of a branch cannot be.
    #[error("--from {from}: {what}: expected {expected}, found {found}")]
    Branch {
        /// The parent, as it was named.
        from: String,
        /// The key or property.
        what: String,
        /// What would be right.
        expected: String,
        /// What was asked for or is there.
        found: String,
    },
    /// A recipe that was kept cannot be read.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// A checkpoint was not written or cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Data could not be had.
    #[error("step {step}: data: {source}")]
    Data {
        /// The step that wanted it, from 1.
        step: u64,
        /// Why not.
        source: Box<dyn Error + Send + Sync>,
    },
    /// A step failed and updated nothing, or left a weight that is no number, which no checkpoint holds.
    #[error("step {step}: {source}; the last checkpoint is kept")]
    Step {
        /// Which, from 1.
        step: u64,
        /// Why.
        source: StepError,
    },
    /// The loss leapt.
    #[error(
        "step {step}: loss {loss:.4} is above {limit:.4}, the mean of the last {window} steps and {deviations} deviations or {nats} nats \
         more, whichever is larger{largest}; the last checkpoint is kept, and a branch (--from) may go on from it with other data or rates, or with \
         spike.on=false"
    )]
    Spike {
        /// Which, from 1.
        step: u64,
        /// Its loss.
        loss: f64,
        /// The most that was believed.
        limit: f64,
        /// Steps that it was compared with, at most.
        window: usize,
        /// Deviations above their mean.
        deviations: f64,
        /// The least above it, in nats.
        nats: f64,
        /// The tensor with the largest gradient, in words, where it is known.
        largest: String,
    },
}
