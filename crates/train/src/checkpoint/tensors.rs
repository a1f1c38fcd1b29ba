//! Safetensors files, written as the step hands its tensors out, and read one tensor at a time.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use dots_kernels::float::f32_to_bf16;
use serde_json::{Map, Value, json};

use super::{CheckpointError, file::Hashed};

/// Largest header that is read: more tensors than a full-size state has.
const MAX_HEADER_BYTES: u64 = 1 << 28;
const METADATA: &str = "__metadata__";
/// Numbers converted at once.
const PIECE: usize = 1 << 16;

/// How numbers are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kept {
    F32,
    Bf16,
}

impl Kept {
    fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::Bf16 => "BF16",
        }
    }

    pub(super) fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
        }
    }
}

/// A tensor that a file will hold.
#[derive(Debug)]
pub(super) struct Planned {
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
    pub(super) kept: Kept,
}

impl Planned {
    pub(super) fn bytes(&self) -> usize {
        self.shape.iter().product::<usize>() * self.kept.bytes()
    }
}

/// Begins a file of these tensors, whose numbers follow in their order, with one number said of them where there is one.
pub(super) fn begin(path: &Path, tensors: &[Planned], said: Option<(&str, u64)>) -> Result<Hashed, CheckpointError> {
    let mut metadata = Map::from_iter([("format".to_owned(), "pt".into())]);
    // The format has texts only here.
    metadata.extend(said.map(|(key, number)| (key.to_owned(), number.to_string().into())));
    let mut header = Map::from_iter([(METADATA.to_owned(), metadata.into())]);
    let mut at = 0;
    for tensor in tensors {
        let end = at + tensor.bytes();
        let entry = json!({ "dtype": tensor.kept.name(), "shape": tensor.shape, "data_offsets": [at, end] });
        header.insert(tensor.name.clone(), entry);
        at = end;
    }
    let mut header = Value::Object(header).to_string().into_bytes();
    // The format asks for numbers that lie at multiples of eight.
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut file = Hashed::create(path)?;
    file.write(&(header.len() as u64).to_le_bytes())?;
    file.write(&header)?;
    Ok(file)
}

/// Appends one tensor's numbers.
pub(super) fn append(file: &mut Hashed, kept: Kept, numbers: &[f32]) -> Result<(), CheckpointError> {
    let mut bytes = Vec::with_capacity(PIECE * kept.bytes());
    for piece in numbers.chunks(PIECE) {
        bytes.clear();
        match kept {
            Kept::F32 => bytes.extend(piece.iter().flat_map(|x| x.to_le_bytes())),
            Kept::Bf16 => bytes.extend(piece.iter().flat_map(|x| f32_to_bf16(*x).to_le_bytes())),
        }
        file.write(&bytes)?;
    }
    Ok(())
}

/// A file of f32 tensors, open for reading.
pub(super) struct Reader {
    path: PathBuf,
    file: File,
    tensors: HashMap<String, (Vec<u64>, u64, u64)>,
    metadata: Value,
    data_at: u64,
}

impl Reader {
    pub(super) fn open(path: &Path) -> Result<Self, CheckpointError> {
        let io = || CheckpointError::io(path);
        let mut file = File::open(path).map_err(io())?;
        let length = file.metadata().map_err(io())?.len();
        let mut eight = [0; 8];
        file.read_exact(&mut eight).map_err(io())?;
        let header_bytes = u64::from_le_bytes(eight);
        if header_bytes > MAX_HEADER_BYTES.min(length.saturating_sub(8)) {
            let expected = format!("at most {}", MAX_HEADER_BYTES.min(length.saturating_sub(8)));
            return Err(CheckpointError::wrong(path, "header length", expected, header_bytes.to_string()));
        }
        let mut header = vec![0; header_bytes as usize];
        file.read_exact(&mut header).map_err(io())?;
        let mut header: Map<String, Value> = serde_json::from_slice(&header)
            .map_err(|error| CheckpointError::wrong(path, "header", "JSON", error.to_string()))?;
        let data_at = 8 + header_bytes;
        let metadata = header.remove(METADATA).unwrap_or_default();
        let mut tensors = HashMap::with_capacity(header.len());
        for (name, entry) in header {
            let numbers = |value: &Value| value.as_array()?.iter().map(Value::as_u64).collect::<Option<Vec<_>>>();
            let entry = (numbers(&entry["shape"]), numbers(&entry["data_offsets"]), entry["dtype"].as_str());
            match entry {
                (Some(shape), Some(at), Some("F32"))
                    if at.len() == 2 && at[0] <= at[1] && at[1] <= length - data_at =>
                {
                    tensors.insert(name, (shape, at[0], at[1]));
                }
                _ => return Err(CheckpointError::wrong(path, name, "an f32 tensor within the file", "another entry")),
            }
        }
        Ok(Self { path: path.to_owned(), file, tensors, metadata, data_at })
    }

    /// How many tensors there are.
    pub(super) fn tensors(&self) -> usize {
        self.tensors.len()
    }

    /// A number that the file's writer said of its tensors.
    pub(super) fn number(&self, key: &str) -> Result<u64, CheckpointError> {
        let said = &self.metadata[key];
        let wrong = || CheckpointError::wrong(&self.path, key, "a whole number", said.to_string());
        said.as_str().and_then(|text| text.parse().ok()).ok_or_else(wrong)
    }

    /// Fills `numbers` with the tensor `name`, which must have this shape.
    pub(super) fn read(&mut self, name: &str, shape: &[usize], numbers: &mut [f32]) -> io::Result<()> {
        let wrong = |expected: String, found: String| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                CheckpointError::wrong(&self.path, name, expected, found).to_string(),
            )
        };
        let Some((found, start, end)) = self.tensors.get(name) else {
            return Err(wrong("a tensor of the model".to_owned(), "nothing".to_owned()));
        };
        if !found.iter().copied().eq(shape.iter().map(|&size| size as u64)) || end - start != 4 * numbers.len() as u64 {
            return Err(wrong(format!("shape {shape:?}"), format!("{found:?} in {} bytes", end - start)));
        }
        self.file.seek(SeekFrom::Start(self.data_at + start))?;
        let mut bytes = vec![0; 4 * PIECE.min(numbers.len())];
        for piece in numbers.chunks_mut(PIECE) {
            let bytes = &mut bytes[..4 * piece.len()];
            self.file.read_exact(bytes)?;
            for (number, bytes) in piece.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *number = f32::from_le_bytes(*bytes);
            }
        }
        Ok(())
    }
}
