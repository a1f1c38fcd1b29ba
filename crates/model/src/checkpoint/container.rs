//! The container of packed checkpoints: safetensors files whose metadata says more.
//!
//! A packed tensor is a row of bytes (dtype U8) to readers that do not know it; what it holds stands in the file's
//! `__metadata__` under the keys below. The data of each file begins at a multiple of [`DATA_ALIGNMENT`] and each tensor at one of
//! [`TENSOR_ALIGNMENT`], so that the mapping is what kernels read; where that leaves a gap, a tensor named after
//! [`PADDING`] fills it. A checksum covers the header to the byte.

/// Version of the container.
pub const VERSION: &str = "1";

/// Metadata key of [`VERSION`].
pub const VERSION_KEY: &str = "dots.version";

/// Metadata key of the layout of packed tensors, [`dots_kernels::packed::LAYOUT`].
pub const LAYOUT_KEY: &str = "dots.layout";

/// Metadata key of the packed tensors: a JSON object of `[type, rows, cols]` by name, as a string.
pub const TENSORS_KEY: &str = "dots.tensors";

/// Metadata key of [`checksum`] over `config.json`, as eight hexadecimal digits.
pub const CONFIG_KEY: &str = "dots.config";

/// Metadata key of what all files of one checkpoint have in common and no other checkpoint has.
pub const PACK_KEY: &str = "dots.pack";

/// Metadata key of [`header_checksum`], as eight hexadecimal digits.
pub const CHECKSUM_KEY: &str = "dots.checksum";

/// What the names of tensors that fill gaps begin with.
pub const PADDING: &str = "dots.padding.";

/// The data of a file begins at a multiple of this, in bytes.
pub const DATA_ALIGNMENT: usize = 4096;

/// Tensors begin at multiples of this, in bytes.
pub const TENSOR_ALIGNMENT: usize = 64;

/// The `quant_method` of `quantization_config` in `config.json`, so that other readers refuse a packed checkpoint by name.
pub const QUANT_METHOD: &str = "dots";

/// CRC-32 of `bytes`.
pub fn checksum(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

/// CRC-32 of a file's beginning, the eight bytes of the header's length and the header, with the digits of the checksum
/// itself taken as zeros; `None` where the header has no such digits.
pub fn header_checksum(beginning: &[u8]) -> Option<u32> {
    let digits = checksum_digits(beginning)?;
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&beginning[..digits.start]);
    hasher.update(b"00000000");
    hasher.update(&beginning[digits.end..]);
    Some(hasher.finalize())
}

/// Where the digits of the checksum stand in a file's beginning. Quotes within a JSON string are escaped, so this text is
/// the key wherever it occurs.
pub fn checksum_digits(beginning: &[u8]) -> Option<std::ops::Range<usize>> {
    let key = format!("\"{CHECKSUM_KEY}\":\"");
    let start = beginning.windows(key.len()).position(|window| window == key.as_bytes())? + key.len();
    (start + 8 <= beginning.len()).then_some(start..start + 8)
}
