//! A checkpoint as one GGUF file of architecture `dots1`.

mod blocks;
mod metadata;

use std::{fs, path::Path};

use dots_kernels::{Compute, WeightType};
use dots_model::{
    Checkpoint,
    checkpoint::{Tensor, expected_tensors, gguf_name, held_as},
};

use self::{blocks::Rows, metadata::Metadata};
use crate::{Error, files::Aside, pack::settled, progress::Progress, stream};

/// GGUF's default: data and each tensor begin at multiples of this, in bytes.
const ALIGNMENT: usize = 32;

/// How matrices are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// As they come: FP8, which GGUF does not have, as BF16, and dots' own types as Q8_0.
    AsSource,
    /// All in one of F32, F16, BF16 and Q8_0.
    As(WeightType),
}

impl Held {
    /// `source`, or the name of a type that can be written.
    pub fn named(name: &str) -> Option<Self> {
        if name.eq_ignore_ascii_case("source") {
            return Some(Self::AsSource);
        }
        [WeightType::F32, WeightType::F16, WeightType::BF16, WeightType::Q8_0]
            .into_iter()
            .find(|kind| kind.name().eq_ignore_ascii_case(name))
            .map(Self::As)
    }

    /// What a matrix of these parts, each one expert's or the only one, is written in.
    fn of(self, parts: &[&Tensor]) -> WeightType {
        let cols = parts[0].shape.last().copied().unwrap_or(0);
        let source = parts[0].kind;
        match self {
            Self::As(kind) => held_as(kind, cols),
            // One tensor has one type; experts of several are met in bf16, which holds what came as bf16 and rounds the rest least.
            Self::AsSource if parts.iter().any(|part| part.kind != source) => WeightType::BF16,
            Self::AsSource if source.is_packed() => held_as(WeightType::Q8_0, cols),
            Self::AsSource if source == WeightType::F8_E4M3 => WeightType::BF16,
            Self::AsSource => source,
        }
    }
}

/// What an export came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exported {
    /// Bytes of the file.
    pub bytes: u64,
    /// Tensors in it, all experts of a layer counted as one.
    pub tensors: usize,
    /// What a reader of the file should know.
    pub notes: Vec<String>,
}

/// A tensor of the file.
struct Planned<'a> {
    name: String,
    kind: WeightType,
    /// Innermost first, as GGUF has it.
    sizes: Vec<u64>,
    /// One matrix, or one an expert.
    parts: Vec<&'a Tensor>,
}

impl Planned<'_> {
    fn bytes(&self) -> u64 {
        let weights: u64 = self.sizes.iter().product();
        weights / self.kind.block_len() as u64 * self.kind.block_bytes() as u64
    }
}

/// Writes `checkpoint` to the file `out`, which an earlier file of that name is replaced by once it is whole.
pub fn export(
    checkpoint: &Checkpoint,
    out: &Path,
    held: Held,
    threads: usize,
    progress: &mut dyn Progress,
) -> Result<Exported, Error> {
    refuse(checkpoint, out)?;
    let tensors = plan(checkpoint, held);
    let (metadata, notes) = Metadata::of(checkpoint, &tensors)?;
    let bytes = write(&beginning(&metadata, &tensors), &tensors, out, threads, progress).map_err(Error::of_export)?;
    Ok(Exported { bytes, tensors: tensors.len(), notes })
}

/// Writes the file, and returns how long it is.
fn write(
    beginning: &[u8],
    tensors: &[Planned<'_>],
    out: &Path,
    threads: usize,
    progress: &mut dyn Progress,
) -> Result<u64, Error> {
    let mut file = Aside::create(out)?;
    file.write(beginning)?;
    let compute = Compute::new(threads, 0);
    progress.start(tensors.iter().flat_map(|tensor| &tensor.parts).map(|part| weights(part)).sum(), 0);
    progress.file(&out.file_name().unwrap_or_default().to_string_lossy());
    let pieces = tensors.iter().flat_map(|tensor| {
        let last = tensor.parts.len() - 1;
        let gap = tensor.bytes().next_multiple_of(ALIGNMENT as u64) - tensor.bytes();
        let gap_after = move |part: usize| if part == last { gap as usize } else { 0 };
        let parts = tensor.parts.iter().enumerate();
        parts.flat_map(move |(index, part)| Rows::of(part, tensor.kind, gap_after(index)))
    });
    stream::write(&compute, pieces, &mut file, progress)?;
    let bytes = file.bytes();
    file.finish()?;
    progress.finish();
    Ok(bytes)
}

fn weights(tensor: &Tensor) -> u64 {
    tensor.shape.iter().map(|size| *size as u64).product()
}

/// Refuses to write over what is read.
fn refuse(checkpoint: &Checkpoint, out: &Path) -> Result<(), Error> {
    let target = settled(out);
    if target.is_dir() {
        return Err(Error::refused(out, "this is a folder; give the name of a file"));
    }
    let source = |path: &Path| fs::canonicalize(path).is_ok_and(|path| path == target);
    if checkpoint.tensors().any(|(_, tensor)| source(&tensor.file)) {
        return Err(Error::refused(out, "this is a file of the checkpoint itself; give another name"));
    }
    Ok(())
}

/// The file's tensors in the order in which a forward pass needs them, experts gathered.
fn plan(checkpoint: &Checkpoint, held: Held) -> Vec<Planned<'_>> {
    let mut tensors: Vec<Planned<'_>> = Vec::new();
    let mut at: std::collections::HashMap<String, usize> = std::collections::HashMap::new();
    for (published, _) in expected_tensors(&checkpoint.config) {
        let (Some(tensor), Some(name)) = (checkpoint.tensor(&published), gguf_name(&published)) else { continue };
        if let Some(&index) = at.get(&name) {
            tensors[index].parts.push(tensor);
            continue;
        }
        at.insert(name.clone(), tensors.len());
        // Norms, biases and routers are in f32 in every GGUF, and ggml computes with them so.
        let small = tensor.shape.len() == 1 || published.ends_with(".mlp.gate.weight");
        let kind = if small { WeightType::F32 } else { WeightType::F16 };
        tensors.push(Planned { name, kind, sizes: Vec::new(), parts: vec![tensor] });
    }
    for tensor in &mut tensors {
        tensor.sizes = tensor.parts[0].shape.iter().rev().map(|size| *size as u64).collect();
        if tensor.name.ends_with("_exps.weight") {
            tensor.sizes.push(tensor.parts.len() as u64);
        }
        if tensor.kind != WeightType::F32 {
            tensor.kind = held.of(&tensor.parts);
        }
    }
    tensors
}

/// All that stands before the data.
fn beginning(metadata: &Metadata, tensors: &[Planned<'_>]) -> Vec<u8> {
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(3_u32.to_le_bytes());
    bytes.extend((tensors.len() as u64).to_le_bytes());
    metadata.write(&mut bytes);
    let mut offset = 0_u64;
    for tensor in tensors {
        metadata::write_string(&mut bytes, &tensor.name);
        bytes.extend((tensor.sizes.len() as u32).to_le_bytes());
        bytes.extend(tensor.sizes.iter().flat_map(|size| size.to_le_bytes()));
        bytes.extend(blocks::ggml_type(tensor.kind).to_le_bytes());
        bytes.extend(offset.to_le_bytes());
        offset += tensor.bytes().next_multiple_of(ALIGNMENT as u64);
    }
    bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
    bytes
}
