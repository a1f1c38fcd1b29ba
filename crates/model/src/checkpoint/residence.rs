//! Where weights stay: in their mapped files, in memory of their own, or in memory that the system may not take back.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use bytes::Bytes;
use dots_kernels::Compute;

use super::{Checkpoint, Tensor};
use crate::Error;

/// Tensors begin at multiples of this, as in packed files.
const ALIGN: usize = 64;

impl Checkpoint {
    /// Copies all weights into one allocation, on every core, in huge pages where the system gives them. Then nothing is read from
    /// the files any more, which may go. `done` is told of the bytes copied, from any thread. Whether that memory is free is for the
    /// caller to see, before; what cannot be had at all is an error.
    pub fn copy_into_memory(&mut self, done: impl Fn(u64) + Sync) -> Result<(), Error> {
        let bytes = self.tensors.values().map(|tensor| tensor.data.len().next_multiple_of(ALIGN)).sum::<usize>();
        let too_large = |error: std::io::Error| {
            Error::Memory(format!("weights of {bytes} bytes do not fit in memory ({error}); leave out --no-mmap"))
        };
        let mut memory = memmap2::MmapMut::map_anon(bytes.max(1)).map_err(too_large)?;
        #[cfg(target_os = "linux")]
        // A system without huge pages runs as well, only slower.
        let _ = memory.advise(memmap2::Advice::HugePage);
        let mut rest = &mut memory[..];
        let mut parts: Vec<(&Tensor, &mut [u8])> = Vec::with_capacity(self.tensors.len());
        for tensor in self.tensors.values() {
            let (part, tail) = rest.split_at_mut(tensor.data.len().next_multiple_of(ALIGN));
            rest = tail;
            parts.push((tensor, &mut part[..tensor.data.len()]));
        }
        Compute::new(0, 0).for_each(&mut parts, |_, (tensor, out)| {
            out.copy_from_slice(&tensor.data);
            done(out.len() as u64);
        });
        let memory = Bytes::from_owner(memory.make_read_only().map_err(too_large)?);
        let mut at = 0;
        for tensor in self.tensors.values_mut() {
            let len = tensor.data.len();
            tensor.data = memory.slice(at..at + len);
            at += len.next_multiple_of(ALIGN);
        }
        Ok(())
    }

    /// Reads all weights and forbids the system to take their memory back. Fails where it allows that to nobody or not for so much
    /// (`ulimit -l`).
    pub fn lock_in_memory(&self) -> Result<(), Error> {
        let refused = AtomicBool::new(false);
        let mut tensors: Vec<&Tensor> = self.tensors.values().collect();
        Compute::new(0, 0).for_each(&mut tensors, |_, tensor| {
            if !refused.load(Relaxed) && !lock(&tensor.data) {
                refused.store(true, Relaxed);
            }
        });
        match refused.into_inner() {
            false => Ok(()),
            true => {
                let bytes: usize = tensors.iter().map(|tensor| tensor.data.len()).sum();
                Err(Error::Memory(format!(
                    "the system does not let {bytes} bytes of weights be locked in memory; raise `ulimit -l` or leave out --mlock"
                )))
            }
        }
    }
}

#[cfg(unix)]
fn lock(data: &[u8]) -> bool {
    // SAFETY: locking pages changes neither what they hold nor who may read them, and those of a slice that is borrowed are mapped.
    #[allow(unsafe_code, reason = "the system's call takes a pointer")]
    let locked = unsafe { rustix::mm::mlock(data.as_ptr().cast_mut().cast(), data.len()) };
    locked.is_ok()
}

#[cfg(not(unix))]
fn lock(_: &[u8]) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use std::{path::PathBuf, sync::atomic::AtomicU64};

    use super::*;

    fn golden() -> Checkpoint {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/goldens/hf");
        Checkpoint::open(&path).unwrap()
    }

    #[test]
    fn a_copy_in_memory_holds_the_same_weights_at_aligned_places() {
        let (mapped, mut copied) = (golden(), golden());
        let bytes = AtomicU64::new(0);
        copied
            .copy_into_memory(|done| {
                bytes.fetch_add(done, Relaxed);
            })
            .unwrap();
        for (name, tensor) in mapped.tensors() {
            let copy = copied.tensor(name).unwrap();
            assert_eq!(copy.data, tensor.data, "{name}");
            assert_ne!(copy.data.as_ptr(), tensor.data.as_ptr());
            assert!(copy.data.as_ptr().addr().is_multiple_of(ALIGN));
        }
        assert_eq!(bytes.into_inner(), mapped.tensors().map(|(_, tensor)| tensor.data.len() as u64).sum::<u64>());
    }

    #[test]
    fn locking_succeeds_or_says_what_to_do() {
        if let Err(error) = golden().lock_in_memory() {
            assert!(error.to_string().contains("ulimit -l"), "{error}");
        }
    }
}
