//! Work cut into pieces whose bytes stand one after the other in a file: computed by all cores, written by one thread beside
//! them, a few tens of megabytes at a time.

use std::{
    sync::{Mutex, PoisonError, mpsc::sync_channel},
    thread,
};

use dots_kernels::Compute;

use crate::{Error, files::Aside, progress::Progress};

/// Bytes that are computed before they are written.
const STRETCH_BYTES: usize = 32 << 20;

/// A piece of a file: how long it is, and for how many weights it stands.
pub trait Piece: Sync {
    /// Its length in the file.
    fn bytes(&self) -> usize;

    /// Weights in it.
    fn weights(&self) -> u64;

    /// Writes it to `out`, which is [`Piece::bytes`] long and all zeros.
    fn fill(&self, compute: &Compute, out: &mut [u8]) -> Result<(), Error>;
}

/// Appends all `pieces` to `file`. Of several that fail, the first one's error is returned.
pub fn write<P: Piece>(
    compute: &Compute,
    pieces: impl Iterator<Item = P>,
    file: &mut Aside,
    progress: &mut dyn Progress,
) -> Result<(), Error> {
    thread::scope(|scope| {
        // One stretch is computed, one waits, one is written.
        let (sender, receiver) = sync_channel::<Vec<u8>>(1);
        let writer = scope.spawn(move || {
            for stretch in receiver {
                file.write(&stretch)?;
            }
            Ok(())
        });
        let computed = compute_all(compute, pieces, progress, |stretch| sender.send(stretch).is_ok());
        drop(sender);
        let written = writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        // A writer that failed took no more stretches, so its error is the first.
        written.and(computed)
    })
}

fn compute_all<P: Piece>(
    compute: &Compute,
    pieces: impl Iterator<Item = P>,
    progress: &mut dyn Progress,
    mut send: impl FnMut(Vec<u8>) -> bool,
) -> Result<(), Error> {
    let mut pieces = pieces.peekable();
    while pieces.peek().is_some() {
        let mut bytes = 0;
        let mut some = Vec::new();
        while bytes < STRETCH_BYTES
            && let Some(piece) = pieces.next()
        {
            bytes += piece.bytes();
            some.push(piece);
        }
        let mut stretch = vec![0; bytes];
        let mut rest = stretch.as_mut_slice();
        let mut parts = Vec::with_capacity(some.len());
        for piece in &some {
            let (part, tail) = rest.split_at_mut(piece.bytes());
            parts.push((piece, part));
            rest = tail;
        }
        let failed: Mutex<Option<(usize, Error)>> = Mutex::new(None);
        compute.for_each(&mut parts, |index, (piece, part)| {
            if let Err(error) = piece.fill(compute, part) {
                let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                if failed.as_ref().is_none_or(|(first, _)| index < *first) {
                    *failed = Some((index, error));
                }
            }
        });
        if let Some((_, error)) = failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }
        if !send(stretch) {
            return Ok(());
        }
        progress.advance(some.iter().map(Piece::weights).sum());
    }
    Ok(())
}
