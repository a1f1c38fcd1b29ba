//! One file of a packed checkpoint: where its tensors lie, what its header says, and the work that fills it.

use dots_kernels::{
    Compute, WeightType,
    decode::{Unpacked, decode_row},
    float::f32_to_bf16,
    packed::{LAYOUT, ROWS, panel_bytes},
    round::{LARGEST, RoundedPanel, round_panel},
};
use dots_model::checkpoint::{
    Tensor,
    container::{
        CHECKSUM_KEY, CONFIG_KEY, DATA_ALIGNMENT, LAYOUT_KEY, PACK_KEY, PADDING, TENSOR_ALIGNMENT, TENSORS_KEY,
        VERSION, VERSION_KEY, checksum_digits, header_checksum,
    },
};
use serde_json::{Map, Value, json};

use crate::{Error, stream::Piece};

/// A tensor to be packed.
#[derive(Clone)]
pub struct Planned<'a> {
    /// Published name.
    pub name: String,
    /// The type to pack it in.
    pub kind: WeightType,
    /// What is there.
    pub source: &'a Tensor,
    /// What each column's error counts for; empty where all count alike.
    pub importance: Vec<f32>,
}

impl Planned<'_> {
    /// `(rows, cols)`; a vector is one row.
    fn size(&self) -> (usize, usize) {
        match self.source.shape[..] {
            [rows, cols] => (rows, cols),
            _ => (1, self.source.shape.iter().product()),
        }
    }

    /// Bytes that it takes. The checkpoint was held to its config, so that this neither fails nor overflows.
    pub fn bytes(&self) -> usize {
        let (rows, cols) = self.size();
        self.kind.matrix_bytes(rows, cols).expect("recipes name types that the rows fill")
    }

    /// Numbers in it.
    pub fn weights(&self) -> u64 {
        let (rows, cols) = self.size();
        rows as u64 * cols as u64
    }
}

/// What all files of a checkpoint say alike.
#[derive(Debug, Clone)]
pub struct Common {
    /// Checksum of `config.json`.
    pub config: u32,
    /// See [`PACK_KEY`].
    pub pack: String,
}

/// Orders `tensors` so that each begins aligned, those whose size is no multiple of the alignment last, and returns the
/// file's beginning: length and header.
pub fn header(tensors: &mut [Planned<'_>], common: &Common) -> Vec<u8> {
    tensors.sort_by_key(|tensor| !tensor.bytes().is_multiple_of(TENSOR_ALIGNMENT));
    let mut packed = Map::new();
    let mut described = Map::new();
    let mut offset = 0;
    for (index, tensor) in tensors.iter().enumerate() {
        let (rows, cols) = tensor.size();
        let end = offset + tensor.bytes();
        let entry = if tensor.kind.is_packed() {
            packed.insert(tensor.name.clone(), json!([tensor.kind.name(), rows, cols]));
            json!({ "dtype": "U8", "shape": [end - offset], "data_offsets": [offset, end] })
        } else {
            json!({ "dtype": tensor.kind.name(), "shape": tensor.source.shape, "data_offsets": [offset, end] })
        };
        described.insert(tensor.name.clone(), entry);
        offset = end;
        let gap = gap(tensor.bytes());
        if gap > 0 {
            let padding = json!({ "dtype": "U8", "shape": [gap], "data_offsets": [offset, offset + gap] });
            described.insert(format!("{PADDING}{index}"), padding);
            offset += gap;
        }
    }
    let mut all = Map::new();
    let metadata = json!({
        CHECKSUM_KEY: "00000000",
        VERSION_KEY: VERSION,
        LAYOUT_KEY: LAYOUT,
        CONFIG_KEY: format!("{:08x}", common.config),
        PACK_KEY: common.pack,
        "format": "pt",
        TENSORS_KEY: Value::Object(packed).to_string(),
    });
    all.insert("__metadata__".to_owned(), metadata);
    all.append(&mut described);
    let mut json = Value::Object(all).to_string().into_bytes();
    json.resize((8 + json.len()).next_multiple_of(DATA_ALIGNMENT) - 8, b' ');
    let mut beginning = (json.len() as u64).to_le_bytes().to_vec();
    beginning.append(&mut json);
    let digits = checksum_digits(&beginning).expect("the metadata has them");
    let checksum = header_checksum(&beginning).expect("the metadata has them");
    beginning[digits].copy_from_slice(format!("{checksum:08x}").as_bytes());
    beginning
}

/// Bytes between a tensor of so many and where the next may begin.
fn gap(bytes: usize) -> usize {
    bytes.next_multiple_of(TENSOR_ALIGNMENT) - bytes
}

/// The pieces of a file after its header: sixteen rows each.
pub fn pieces<'a>(tensors: &'a [Planned<'a>]) -> impl Iterator<Item = Panel<'a>> {
    tensors.iter().flat_map(|tensor| {
        let (rows, _) = tensor.size();
        (0..rows).step_by(ROWS).map(move |first| Panel {
            tensor,
            first,
            rows: ROWS.min(rows - first),
            last: first + ROWS >= rows,
        })
    })
}

/// Sixteen rows of a tensor, or as many as are left.
pub struct Panel<'a> {
    tensor: &'a Planned<'a>,
    first: usize,
    rows: usize,
    /// Whether the gap behind the tensor belongs to it.
    last: bool,
}

impl Panel<'_> {
    fn data_bytes(&self) -> usize {
        let (_, cols) = self.tensor.size();
        let kind = self.tensor.kind;
        match kind.is_packed() {
            true => panel_bytes(kind, cols).expect("the whole matrix has a size"),
            false => self.rows * cols * kind.block_bytes(),
        }
    }

    /// `(rows, cols)` of the source in f32.
    fn decode(&self, compute: &Compute, out: &mut [f32]) -> Result<(), Error> {
        let Planned { source, name, .. } = self.tensor;
        if source.shape.len() == 1 {
            out.copy_from_slice(&source.to_f32_vec()?);
        } else {
            let (_, cols) = self.tensor.size();
            let (weights, mut unpacked) = (source.weights()?, Unpacked::default());
            for (row, out) in out.chunks_mut(cols).take(self.rows).enumerate() {
                decode_row(compute.isa(), weights, self.first + row, &mut unpacked, out);
            }
        }
        match out.iter().find(|x| x.is_nan() || x.abs() > LARGEST) {
            None => Ok(()),
            Some(x) => Err(dots_model::Error::invalid(&*source.file, name, "finite weights", x.to_string()).into()),
        }
    }
}

impl Piece for Panel<'_> {
    fn bytes(&self) -> usize {
        self.data_bytes() + if self.last { gap(self.tensor.bytes()) } else { 0 }
    }

    fn weights(&self) -> u64 {
        let (_, cols) = self.tensor.size();
        (self.rows * cols) as u64
    }

    fn fill(&self, compute: &Compute, out: &mut [u8]) -> Result<(), Error> {
        let out = &mut out[..self.data_bytes()];
        let (_, cols) = self.tensor.size();
        let Planned { kind, source, ref importance, .. } = *self.tensor;
        if kind == source.kind && (kind.is_packed() || kind == WeightType::F32) {
            // Rounding what is rounded would only add an error.
            let start = self.first / ROWS * out.len();
            let start = if kind.is_packed() { start } else { self.first * cols * kind.block_bytes() };
            out.copy_from_slice(&source.data[start..start + out.len()]);
            return Ok(());
        }
        let rows = if kind.is_packed() { ROWS } else { self.rows };
        let mut x = vec![0.0; rows * cols];
        self.decode(compute, &mut x)?;
        match kind {
            WeightType::F32 => {
                out.as_chunks_mut().0.iter_mut().zip(&x).for_each(|(out, x)| *out = x.to_le_bytes());
            }
            WeightType::BF16 => {
                out.as_chunks_mut().0.iter_mut().zip(&x).for_each(|(out, x)| *out = f32_to_bf16(*x).to_le_bytes());
            }
            _ => {
                let mut rounded = RoundedPanel::default();
                round_panel(compute.isa(), kind, &x, importance, &mut rounded);
                rounded.write(kind, out);
            }
        }
        Ok(())
    }
}
