//! The safetensors container: eight bytes of length, a JSON header, the tensors' bytes.
//!
//! The header is read here and not by the `safetensors` crate because that one's errors name neither the tensor nor what
//! was expected and found, and it takes the last of two tensors of one name. Tests hold this reader to files that the
//! crate writes.

use std::{fmt, path::Path, sync::Arc};

use bytes::Bytes;
use dots_kernels::WeightType;
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::Value;

use super::{
    super::{Tensor, json},
    packed::Packed,
};
use crate::Error;

/// The format's own bound.
const HEADER_LIMIT_BYTES: u64 = 100_000_000;

/// One tensor of a file, its size already held to its shape.
pub(super) struct Entry {
    /// Its name in the file.
    pub(super) name: String,
    dtype: String,
    /// `None` where its type is none that a dots.llm1 comes in.
    kind: Option<WeightType>,
    shape: Vec<usize>,
    data: Bytes,
}

impl Entry {
    /// The tensor, or an error where its type is none that a dots.llm1 comes in.
    pub(super) fn into_tensor(self, file: &Arc<Path>) -> Result<Tensor, Error> {
        let Some(kind) = self.kind else {
            let expected = "dtype F32, F16, BF16 or F8_E4M3";
            return Err(Error::invalid(&**file, self.name, expected, json::quote(&self.dtype)));
        };
        Ok(Tensor { kind, shape: self.shape, data: self.data, row_scales: Arc::default(), file: file.clone() })
    }
}

fn weight_type(dtype: &str) -> Option<WeightType> {
    match dtype {
        "F32" => Some(WeightType::F32),
        "F16" => Some(WeightType::F16),
        "BF16" => Some(WeightType::BF16),
        "F8_E4M3" => Some(WeightType::F8_E4M3),
        _ => None,
    }
}

/// A file's tensors, and what it says of itself where it is packed.
pub(super) struct Opened {
    pub(super) entries: Vec<Entry>,
    pub(super) packed: Option<Packed>,
}

/// Reads the header of `file`, which is at `path`, and checks that its tensors fill the rest, one after the other, without hole or overlap.
pub(super) fn parse(path: &Path, file: &Bytes) -> Result<Opened, Error> {
    let Some(length) = file.first_chunk() else {
        return Err(Error::invalid(path, "header length", "8 bytes", format!("{} bytes", file.len())));
    };
    let length = u64::from_le_bytes(*length);
    let rest = file.slice(8..);
    if length > HEADER_LIMIT_BYTES.min(rest.len() as u64) {
        let expected = format!("at most {} bytes", HEADER_LIMIT_BYTES.min(rest.len() as u64));
        return Err(Error::invalid(path, "header length", expected, length.to_string()));
    }
    let (header, data) = (rest.slice(..length as usize), rest.slice(length as usize..));
    let header = std::str::from_utf8(&header)
        .map_err(|error| Error::invalid(path, "header", "UTF-8", format!("other bytes at {}", error.valid_up_to())))?;
    let header: Header = serde_json::from_str(header)
        .map_err(|error| Error::invalid(path, "header", "tensors by name", error.to_string()))?;

    let beginning = &file[..8 + length as usize];
    let mut packed = Packed::read(path, beginning, header.metadata.as_ref())?;
    let mut tensors = header.tensors;
    tensors.sort_by_key(|(_, tensor)| tensor.data_offsets);
    let mut entries = Vec::new();
    let mut end_before: u64 = 0;
    for (name, tensor) in tensors {
        let [start, end] = tensor.data_offsets;
        let invalid = |expected: String, found: String| Error::invalid(path, json::shorten(&name), expected, found);
        if start < end_before {
            return Err(invalid(format!("offsets from {end_before} on"), format!("{start}, inside another tensor")));
        }
        if start > end_before {
            return Err(invalid(format!("offsets from {end_before} on"), format!("{start}, after a hole")));
        }
        if end < start || end > data.len() as u64 {
            return Err(invalid(format!("an end between {start} and {}", data.len()), end.to_string()));
        }
        end_before = end;
        let data = data.slice(start as usize..end as usize);
        if let Some(packed) = &mut packed {
            if Packed::is_padding(&name) {
                continue;
            }
            if let Some((kind, shape)) = packed.take(path, &name, &tensor.dtype, data.len())? {
                let shape = shape.to_vec();
                entries.push(Entry { name, dtype: tensor.dtype, kind: Some(kind), shape, data });
                continue;
            }
        }
        let kind = weight_type(&tensor.dtype);
        if let Some(kind) = kind {
            let bytes = tensor
                .shape
                .iter()
                .try_fold(1_u64, |product, size| product.checked_mul(*size))
                .and_then(|weights| weights.checked_mul(kind.block_bytes() as u64));
            let shape = &tensor.shape;
            let Some(bytes) = bytes else {
                return Err(invalid("a shape whose size fits in 64 bits".to_owned(), format!("{shape:?}")));
            };
            // Beside a zero any size would pass, and rows that are not there be counted.
            if bytes == 0 {
                return Err(invalid("a shape without zeros".to_owned(), format!("{shape:?}")));
            }
            if bytes != data.len() as u64 {
                return Err(invalid(format!("{bytes} bytes for {shape:?} of {}", kind.name()), data.len().to_string()));
            }
        }
        // No size of a type that is read exceeds the file's length.
        let shape = tensor.shape.iter().map(|size| usize::try_from(*size).unwrap_or(usize::MAX)).collect();
        entries.push(Entry { name, dtype: tensor.dtype, kind, shape, data });
    }
    if end_before != data.len() as u64 {
        let found = format!("{} bytes", data.len());
        return Err(Error::invalid(path, "data", format!("{end_before} bytes of tensors"), found));
    }
    if let Some(packed) = &packed {
        packed.finish(path)?;
    }
    Ok(Opened { entries, packed })
}

/// What the header says of one tensor.
#[derive(Deserialize)]
struct Described {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

/// The header's tensors in order. A map would keep one of two of the same name.
struct Header {
    tensors: Vec<(String, Described)>,
    metadata: Option<Value>,
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Tensors;
        impl<'de> Visitor<'de> for Tensors {
            type Value = Header;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut tensors = Vec::new();
                let mut metadata = None;
                let mut names = std::collections::HashSet::new();
                while let Some(name) = map.next_key::<String>()? {
                    if !names.insert(name.clone()) {
                        return Err(serde::de::Error::custom(format_args!("{name} twice")));
                    }
                    if name == "__metadata__" {
                        metadata = Some(map.next_value()?);
                        continue;
                    }
                    tensors.push((name, map.next_value()?));
                }
                Ok(Header { tensors, metadata })
            }
        }
        deserializer.deserialize_map(Tensors)
    }
}
