//! Weight matrices as they lie in their files.

use std::ops::Range;

use crate::packed::{self, Panel};

/// How the numbers of a weight matrix are stored.
///
/// Blocks of the quantised types are laid out as in GGUF (ggml `block_q4_0` and its siblings).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(non_camel_case_types, reason = "the field writes these names so")]
pub enum WeightType {
    /// IEEE 754 single precision.
    F32,
    /// IEEE 754 half precision.
    F16,
    /// bfloat16.
    BF16,
    /// FP8 E4M3 (finite, NaN at ±0x7f) with one scale a row.
    F8_E4M3,
    /// 4 bits, one f16 scale for 32.
    Q4_0,
    /// 4 bits, one f16 scale and one f16 minimum for 32.
    Q4_1,
    /// 5 bits, one f16 scale for 32.
    Q5_0,
    /// 5 bits, one f16 scale and one f16 minimum for 32.
    Q5_1,
    /// 8 bits, one f16 scale for 32.
    Q8_0,
    /// 2 bits, 4-bit scales and minimums for 16 in blocks of 256.
    Q2_K,
    /// 3 bits, 6-bit scales for 16 in blocks of 256.
    Q3_K,
    /// 4 bits, 6-bit scales and minimums for 32 in blocks of 256.
    Q4_K,
    /// 5 bits, 6-bit scales and minimums for 32 in blocks of 256.
    Q5_K,
    /// 6 bits, 8-bit scales for 16 in blocks of 256.
    Q6_K,
    /// 4 bits into a table of 16 levels, one f16 scale for 32.
    IQ4_NL,
    /// 4 bits into a table of 16 levels, 6-bit scales for 32 in blocks of 256.
    IQ4_XS,
    /// dots' own, in panels of 16 rows (see [`crate::packed`]): 3 bits into a table of 8 levels, 8-bit scales for 32.
    Q3_D,
    /// dots' own: 4 bits into a table of 16 levels, 8-bit scales for 32.
    Q4_D,
    /// dots' own: 5 bits, 8-bit scales for 32.
    Q5_D,
    /// dots' own: 6 bits, 8-bit scales for 32.
    Q6_D,
    /// dots' own: 8 bits, 8-bit scales for 32.
    Q8_D,
}

impl WeightType {
    /// Every type, floats first, then by bits.
    pub const ALL: [Self; 21] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::F8_E4M3,
        Self::Q8_0,
        Self::Q8_D,
        Self::Q6_K,
        Self::Q6_D,
        Self::Q5_K,
        Self::Q5_1,
        Self::Q5_0,
        Self::Q5_D,
        Self::Q4_K,
        Self::Q4_1,
        Self::Q4_0,
        Self::IQ4_NL,
        Self::IQ4_XS,
        Self::Q4_D,
        Self::Q3_K,
        Self::Q3_D,
        Self::Q2_K,
    ];

    /// The name that GGUF and safetensors users know.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::F8_E4M3 => "F8_E4M3",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q8_0 => "Q8_0",
            Self::Q2_K => "Q2_K",
            Self::Q3_K => "Q3_K",
            Self::Q4_K => "Q4_K",
            Self::Q5_K => "Q5_K",
            Self::Q6_K => "Q6_K",
            Self::IQ4_NL => "IQ4_NL",
            Self::IQ4_XS => "IQ4_XS",
            Self::Q3_D => "Q3_D",
            Self::Q4_D => "Q4_D",
            Self::Q5_D => "Q5_D",
            Self::Q6_D => "Q6_D",
            Self::Q8_D => "Q8_D",
        }
    }

    /// Weights in one block, of which a row holds a whole number; 1 for the float types.
    pub const fn block_len(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 | Self::F8_E4M3 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 | Self::IQ4_NL => 32,
            Self::Q3_D | Self::Q4_D | Self::Q5_D | Self::Q6_D | Self::Q8_D => packed::GROUP,
            Self::Q2_K | Self::Q3_K | Self::Q4_K | Self::Q5_K | Self::Q6_K | Self::IQ4_XS => 256,
        }
    }

    /// Whether rows lie in panels of sixteen, side by side, as [`crate::packed`] says.
    pub const fn is_packed(self) -> bool {
        matches!(self, Self::Q3_D | Self::Q4_D | Self::Q5_D | Self::Q6_D | Self::Q8_D)
    }

    /// Bytes of one block of a type whose rows lie one after the other. Packed types have none: see
    /// [`WeightType::matrix_bytes`].
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::F8_E4M3 => 1,
            Self::Q4_0 | Self::IQ4_NL => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q2_K => 84,
            Self::Q3_K => 110,
            Self::Q4_K => 144,
            Self::Q5_K => 176,
            Self::Q6_K => 210,
            Self::IQ4_XS => 136,
            Self::Q3_D | Self::Q4_D | Self::Q5_D | Self::Q6_D | Self::Q8_D => 0,
        }
    }

    /// Bytes of a matrix of `rows` rows of `cols` weights, row scales of FP8 apart; `None` when a row is no whole number of
    /// blocks or the size overflows.
    pub const fn matrix_bytes(self, rows: usize, cols: usize) -> Option<usize> {
        if !cols.is_multiple_of(self.block_len()) {
            return None;
        }
        if self.is_packed() {
            let Some(panel) = packed::panel_bytes(self, cols) else { return None };
            return panel.checked_mul(rows.div_ceil(packed::ROWS));
        }
        let Some(row) = (cols / self.block_len()).checked_mul(self.block_bytes()) else { return None };
        row.checked_mul(rows)
    }

    /// Whether the weights are integers under scales, so that fast products run on 8-bit activations.
    pub const fn is_quantised(self) -> bool {
        self.block_len() > 1
    }
}

/// Why bytes cannot be a weight matrix of the claimed shape.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    /// A row would end inside a block.
    #[error("{kind} stores rows in blocks of {block}, which {cols} columns do not fill")]
    PartialBlock {
        /// Name of the type.
        kind: &'static str,
        /// Weights in one block.
        block: usize,
        /// Columns asked for.
        cols: usize,
    },
    /// The byte count does not match the shape.
    #[error("{rows} x {cols} of {kind} takes {expected} bytes, found {found}")]
    Bytes {
        /// Name of the type.
        kind: &'static str,
        /// Rows asked for.
        rows: usize,
        /// Columns asked for.
        cols: usize,
        /// Bytes that the shape takes.
        expected: usize,
        /// Bytes that are there.
        found: usize,
    },
    /// The row scales do not match the rows, or are missing where the type needs them.
    #[error("{rows} rows of {kind} have {found} row scales")]
    Scales {
        /// Name of the type.
        kind: &'static str,
        /// Rows asked for.
        rows: usize,
        /// Scales given.
        found: usize,
    },
    /// The shape's size does not fit in memory addresses.
    #[error("{rows} x {cols} of {kind} overflows")]
    Overflow {
        /// Name of the type.
        kind: &'static str,
        /// Rows asked for.
        rows: usize,
        /// Columns asked for.
        cols: usize,
    },
}

/// A weight matrix over borrowed bytes: `(rows, cols)`, `cols` along the products' `k`. Rows are contiguous, or sixteen of
/// them make a panel.
#[derive(Clone, Copy, Debug)]
pub struct Weights<'a> {
    kind: WeightType,
    rows: usize,
    cols: usize,
    /// Bytes of a row, or of a panel where the type is packed.
    unit_bytes: usize,
    bytes: &'a [u8],
    row_scales: &'a [f32],
}

impl<'a> Weights<'a> {
    /// Checks that `bytes` hold exactly `rows` × `cols` weights of `kind`. `row_scales` has one factor a row for
    /// [`WeightType::F8_E4M3`] and is empty for every other type.
    pub fn new(
        kind: WeightType,
        rows: usize,
        cols: usize,
        bytes: &'a [u8],
        row_scales: &'a [f32],
    ) -> Result<Self, ShapeError> {
        let name = kind.name();
        if !cols.is_multiple_of(kind.block_len()) {
            return Err(ShapeError::PartialBlock { kind: name, block: kind.block_len(), cols });
        }
        let expected = kind.matrix_bytes(rows, cols).ok_or(ShapeError::Overflow { kind: name, rows, cols })?;
        if bytes.len() != expected {
            return Err(ShapeError::Bytes { kind: name, rows, cols, expected, found: bytes.len() });
        }
        let scales = if kind == WeightType::F8_E4M3 { rows } else { 0 };
        if row_scales.len() != scales {
            return Err(ShapeError::Scales { kind: name, rows, found: row_scales.len() });
        }
        let unit_bytes = match kind.is_packed() {
            true => expected / rows.div_ceil(packed::ROWS).max(1),
            false => expected / rows.max(1),
        };
        Ok(Self { kind, rows, cols, unit_bytes, bytes, row_scales })
    }

    /// How the weights are stored.
    pub fn kind(&self) -> WeightType {
        self.kind
    }

    /// Outputs of the product.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Inputs of the product.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// All bytes, rows in order.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The bytes of one row, of a type that is not packed.
    pub fn row(&self, row: usize) -> &'a [u8] {
        debug_assert!(!self.kind.is_packed());
        &self.bytes[row * self.unit_bytes..(row + 1) * self.unit_bytes]
    }

    /// The bytes that follow those of `rows`, as many as theirs: what is asked of memory while `rows` are multiplied. Of a packed
    /// type, `rows` begin with a panel. May be shorter, and empty.
    pub fn ahead(&self, rows: Range<usize>) -> &'a [u8] {
        let unit = if self.kind.is_packed() { packed::ROWS } else { 1 };
        let (start, end) = (rows.start / unit * self.unit_bytes, rows.end.div_ceil(unit) * self.unit_bytes);
        &self.bytes[end.min(self.bytes.len())..(2 * end - start).min(self.bytes.len())]
    }

    /// Bytes from one panel of a packed type to the next.
    pub fn panel_bytes(&self) -> usize {
        debug_assert!(self.kind.is_packed());
        self.unit_bytes
    }

    /// Rows `16 · panel` to `16 · panel + 15`, of a packed type.
    pub fn panel(&self, panel: usize) -> Panel<'a> {
        Panel::new(self.kind, self.cols, &self.bytes[panel * self.unit_bytes..(panel + 1) * self.unit_bytes])
    }

    /// The factor of one row: its scale for FP8, 1 for every other type.
    pub fn row_scale(&self, row: usize) -> f32 {
        self.row_scales.get(row).copied().unwrap_or(1.0)
    }
}
