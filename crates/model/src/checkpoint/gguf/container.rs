//! The GGUF container: metadata, then descriptions of tensors, then their bytes.
//!
//! The specification is `docs/gguf.md` of ggml. Values are not decoded here: an array stays the bytes that it takes, checked
//! to its end, so that reading a header allocates no more than a few words for each key and tensor that is really there.

use std::{collections::HashMap, path::Path};

use bytes::Bytes;
use dots_kernels::WeightType;

use super::super::json::{quote, shorten};
use crate::Error;

/// Arrays of arrays are read to this depth; known files need one.
const MAX_DEPTH: usize = 4;
const DEFAULT_ALIGNMENT: u64 = 32;
const MAX_ALIGNMENT: u64 = 1 << 20;
const MAX_DIMENSIONS: u32 = 4;

/// The header of one file.
pub(super) struct Container<'a> {
    /// Values by key.
    pub(super) metadata: HashMap<&'a str, Value<'a>>,
    /// Tensors in the order of the file.
    pub(super) tensors: Vec<Described<'a>>,
}

/// One tensor, its bytes known to lie in the file and to overlap no other's.
pub(super) struct Described<'a> {
    /// GGUF's name.
    pub(super) name: &'a str,
    /// How its numbers are stored.
    pub(super) kind: WeightType,
    /// Outermost dimension first, unlike in the file.
    pub(super) shape: Vec<usize>,
    /// Where its bytes lie in the file.
    pub(super) range: std::ops::Range<usize>,
}

/// A value of the metadata.
#[derive(Clone, Copy)]
pub(super) enum Value<'a> {
    /// Of any width.
    Unsigned(u64),
    /// Of any width.
    Signed(i64),
    /// f32 or f64.
    Float(f64),
    Bool(bool),
    String(&'a str),
    Array(Array<'a>),
}

/// An array whose elements are known to be whole.
#[derive(Clone, Copy)]
pub(super) struct Array<'a> {
    element: Type,
    count: u64,
    bytes: &'a [u8],
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Type {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    String,
    Array,
    U64,
    I64,
    F64,
}

impl Type {
    fn new(id: u32) -> Option<Self> {
        const ALL: [Type; 13] = {
            use Type::*;
            [U8, I8, U16, I16, U32, I32, F32, Bool, String, Array, U64, I64, F64]
        };
        ALL.get(id as usize).copied()
    }

    /// Bytes of one value; the least of them for a text or an array, which begin with a length.
    fn least_bytes(self) -> u64 {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 | Self::String => 8,
            Self::Array => 12,
        }
    }
}

impl<'a> Array<'a> {
    /// The texts of an array of them.
    pub(super) fn strings(&self) -> Option<impl Iterator<Item = &'a str>> {
        let mut cursor = Cursor::new(Path::new(""), self.bytes);
        (self.element == Type::String).then(|| (0..self.count).map_while(move |_| cursor.string("array").ok()))
    }

    /// The whole numbers of an array of them.
    pub(super) fn integers(&self) -> Option<impl Iterator<Item = i64>> {
        use Type::{I8, I16, I32, I64, U8, U16, U32, U64};
        let (element, mut cursor) = (self.element, Cursor::new(Path::new(""), self.bytes));
        matches!(element, U8 | I8 | U16 | I16 | U32 | I32 | U64 | I64).then(|| {
            (0..self.count).map_while(move |_| match cursor.value(element, "array", 0).ok()? {
                Value::Unsigned(value) => Some(i64::try_from(value).unwrap_or(i64::MAX)),
                Value::Signed(value) => Some(value),
                _ => None,
            })
        })
    }
}

impl std::fmt::Display for Value<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unsigned(value) => value.fmt(formatter),
            Self::Signed(value) => value.fmt(formatter),
            Self::Float(value) => value.fmt(formatter),
            Self::Bool(value) => value.fmt(formatter),
            Self::String(text) => formatter.write_str(&quote(text)),
            Self::Array(array) => write!(formatter, "an array of {} {:?}", array.count, array.element),
        }
    }
}

/// Reads the header of `file`, which `path` names in messages.
pub(super) fn parse<'a>(path: &'a Path, file: &'a Bytes) -> Result<Container<'a>, Error> {
    let mut cursor = Cursor::new(path, file);
    let magic = cursor.take(4, "magic")?;
    if magic != b"GGUF" {
        return Err(cursor.wrong("magic", "\"GGUF\"", quote(&String::from_utf8_lossy(magic))));
    }
    match cursor.u32("version")? {
        2 | 3 => (),
        version if (1..=3).contains(&version.swap_bytes()) => {
            let found = format!("big-endian version {}", version.swap_bytes());
            return Err(cursor.wrong("version", "a little-endian file of version 2 or 3", found));
        }
        version => return Err(cursor.wrong("version", "2 or 3", version.to_string())),
    }
    // A description takes a name's length, a count of dimensions, one dimension, a type and an offset; a key's value takes
    // the length of the key, a type and a byte.
    let tensor_count = cursor.count("tensor count", 8 + 4 + 8 + 4 + 8)?;
    let key_count = cursor.count("metadata count", 8 + 4 + 1)?;

    let mut metadata = HashMap::new();
    for _ in 0..key_count {
        let key = cursor.string("metadata key")?;
        let kind = cursor.value_type(key)?;
        let value = cursor.value(kind, key, 0)?;
        if metadata.insert(key, value).is_some() {
            return Err(cursor.wrong(key, "one value", "a second one".to_owned()));
        }
    }
    let alignment = match metadata.get("general.alignment") {
        None => DEFAULT_ALIGNMENT,
        Some(Value::Unsigned(value)) if value.is_power_of_two() && *value <= MAX_ALIGNMENT => *value,
        Some(value) => {
            let expected = format!("a power of two up to {MAX_ALIGNMENT}");
            return Err(cursor.wrong("general.alignment", &expected, value.to_string()));
        }
    };

    let mut tensors = Vec::new();
    for _ in 0..tensor_count {
        tensors.push(cursor.tensor(alignment)?);
    }
    let data_start = cursor.at().next_multiple_of(alignment);
    place(path, file.len() as u64, data_start, &mut tensors)?;
    let tensors = tensors
        .into_iter()
        .map(|Unplaced { name, kind, shape, offset, bytes }| {
            let start = (data_start + offset) as usize; // `place` has held start and end to the file's length
            Described { name, kind, shape, range: start..start + bytes as usize }
        })
        .collect();
    Ok(Container { metadata, tensors })
}

/// A tensor's description, its offset not yet held to the file's length.
struct Unplaced<'a> {
    name: &'a str,
    kind: WeightType,
    shape: Vec<usize>,
    offset: u64,
    bytes: u64,
}

/// Refuses tensors that leave the file, overlap or share a name. Leaves them in the order of their offsets.
fn place(path: &Path, file_bytes: u64, data_start: u64, tensors: &mut [Unplaced<'_>]) -> Result<(), Error> {
    tensors.sort_by_key(|tensor| tensor.offset);
    let mut names = std::collections::HashSet::new();
    let room = file_bytes.saturating_sub(data_start);
    let mut end_before = 0;
    for tensor in tensors {
        let invalid = |expected: String, found: String| Error::invalid(path, shorten(tensor.name), expected, found);
        let end = tensor.offset.checked_add(tensor.bytes).filter(|end| *end <= room);
        let Some(end) = end else {
            let found = format!("{} bytes at {}", tensor.bytes, tensor.offset);
            return Err(invalid(format!("an end within the {room} bytes of data"), found));
        };
        if tensor.offset < end_before {
            let found = format!("{}, inside another tensor", tensor.offset);
            return Err(invalid(format!("an offset from {end_before} on"), found));
        }
        if !names.insert(tensor.name) {
            return Err(invalid("one tensor of this name".to_owned(), "a second one".to_owned()));
        }
        end_before = end;
    }
    Ok(())
}

/// Reads from the front of bytes and never past their end.
struct Cursor<'a> {
    path: &'a Path,
    all: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn new(path: &'a Path, all: &'a [u8]) -> Self {
        Self { path, all, at: 0 }
    }

    fn at(&self) -> u64 {
        self.at as u64
    }

    fn remaining(&self) -> u64 {
        (self.all.len() - self.at) as u64
    }

    fn wrong(&self, field: &str, expected: &str, found: String) -> Error {
        Error::invalid(self.path, shorten(field), expected, found)
    }

    fn take(&mut self, bytes: u64, field: &str) -> Result<&'a [u8], Error> {
        if bytes > self.remaining() {
            let found = format!("{} to the end of the file", self.remaining());
            return Err(self.wrong(field, &format!("{bytes} bytes at {}", self.at), found));
        }
        let start = self.at;
        self.at += bytes as usize;
        Ok(&self.all[start..self.at])
    }

    fn array<const N: usize>(&mut self, field: &str) -> Result<[u8; N], Error> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N as u64, field)?);
        Ok(bytes)
    }

    fn u32(&mut self, field: &str) -> Result<u32, Error> {
        Ok(u32::from_le_bytes(self.array(field)?))
    }

    fn u64(&mut self, field: &str) -> Result<u64, Error> {
        Ok(u64::from_le_bytes(self.array(field)?))
    }

    /// A count of things of at least `least_bytes` each, which therefore fit in what is left.
    fn count(&mut self, field: &str, least_bytes: u64) -> Result<u64, Error> {
        let count = self.u64(field)?;
        let most = self.remaining() / least_bytes;
        if count > most {
            return Err(self.wrong(field, &format!("at most {most} in the bytes left"), count.to_string()));
        }
        Ok(count)
    }

    fn string(&mut self, field: &str) -> Result<&'a str, Error> {
        let length = self.u64(field)?;
        let start = self.at;
        let bytes = self.take(length, field)?;
        std::str::from_utf8(bytes)
            .map_err(|error| self.wrong(field, "UTF-8", format!("other bytes at {}", start + error.valid_up_to())))
    }

    fn value_type(&mut self, field: &str) -> Result<Type, Error> {
        let id = self.u32(field)?;
        Type::new(id).ok_or_else(|| self.wrong(field, "a value type from 0 to 12", id.to_string()))
    }

    fn value(&mut self, kind: Type, field: &str, depth: usize) -> Result<Value<'a>, Error> {
        Ok(match kind {
            Type::U8 => Value::Unsigned(u8::from_le_bytes(self.array(field)?).into()),
            Type::U16 => Value::Unsigned(u16::from_le_bytes(self.array(field)?).into()),
            Type::U32 => Value::Unsigned(self.u32(field)?.into()),
            Type::U64 => Value::Unsigned(self.u64(field)?),
            Type::I8 => Value::Signed(i8::from_le_bytes(self.array(field)?).into()),
            Type::I16 => Value::Signed(i16::from_le_bytes(self.array(field)?).into()),
            Type::I32 => Value::Signed(i32::from_le_bytes(self.array(field)?).into()),
            Type::I64 => Value::Signed(i64::from_le_bytes(self.array(field)?)),
            Type::F32 => Value::Float(f32::from_le_bytes(self.array(field)?).into()),
            Type::F64 => Value::Float(f64::from_le_bytes(self.array(field)?)),
            Type::Bool => match self.array(field)? {
                [0] => Value::Bool(false),
                [1] => Value::Bool(true),
                [other] => return Err(self.wrong(field, "0 or 1 for a truth value", other.to_string())),
            },
            Type::String => Value::String(self.string(field)?),
            Type::Array => {
                if depth == MAX_DEPTH {
                    return Err(self.wrong(
                        field,
                        &format!("arrays nested at most {MAX_DEPTH} deep"),
                        "more".to_owned(),
                    ));
                }
                let element = self.value_type(field)?;
                let count = self.count(field, element.least_bytes())?;
                let start = self.at;
                match element {
                    // These are the elements that can be malformed; the others are whole where their bytes are there.
                    Type::String | Type::Array | Type::Bool => {
                        for _ in 0..count {
                            self.value(element, field, depth + 1)?;
                        }
                    }
                    _ => drop(self.take(count * element.least_bytes(), field)?), // `count` bounds the product
                }
                Value::Array(Array { element, count, bytes: &self.all[start..self.at] })
            }
        })
    }

    fn tensor(&mut self, alignment: u64) -> Result<Unplaced<'a>, Error> {
        let name = self.string("tensor name")?;
        let dimensions = self.u32(name)?;
        if !(1..=MAX_DIMENSIONS).contains(&dimensions) {
            return Err(self.wrong(name, &format!("1 to {MAX_DIMENSIONS} dimensions"), dimensions.to_string()));
        }
        let mut sizes = Vec::new();
        for _ in 0..dimensions {
            sizes.push(self.u64(name)?);
        }
        let type_id = self.u32(name)?;
        let kind = weight_type(type_id).ok_or_else(|| {
            self.wrong(name, "F32, F16, BF16, Q8_0, Q4_0 to Q5_1, Q2_K to Q6_K, IQ4_NL or IQ4_XS", type_name(type_id))
        })?;
        let offset = self.u64(name)?;
        if !offset.is_multiple_of(alignment) {
            return Err(self.wrong(name, &format!("an offset that {alignment} divides"), offset.to_string()));
        }
        let (block_len, block_bytes) = (kind.block_len() as u64, kind.block_bytes() as u64);
        if !sizes[0].is_multiple_of(block_len) {
            let expected = format!("rows of {} in blocks of {block_len}", kind.name());
            return Err(self.wrong(name, &expected, format!("rows of {}", sizes[0])));
        }
        let bytes = sizes[1..]
            .iter()
            .try_fold(sizes[0] / block_len, |product, size| product.checked_mul(*size))
            .and_then(|blocks| blocks.checked_mul(block_bytes));
        let Some(bytes) = bytes else {
            return Err(self.wrong(name, "a shape whose size fits in 64 bits", format!("{sizes:?}")));
        };
        if bytes == 0 {
            return Err(self.wrong(name, "a shape without zeros", format!("{sizes:?}")));
        }
        // Without a zero among them, sizes above the address space's would have overflowed or leave the file.
        let shape = sizes.iter().rev().map(|size| usize::try_from(*size).unwrap_or(usize::MAX)).collect();
        Ok(Unplaced { name, kind, shape, offset, bytes })
    }
}

fn weight_type(id: u32) -> Option<WeightType> {
    Some(match id {
        0 => WeightType::F32,
        1 => WeightType::F16,
        2 => WeightType::Q4_0,
        3 => WeightType::Q4_1,
        6 => WeightType::Q5_0,
        7 => WeightType::Q5_1,
        8 => WeightType::Q8_0,
        10 => WeightType::Q2_K,
        11 => WeightType::Q3_K,
        12 => WeightType::Q4_K,
        13 => WeightType::Q5_K,
        14 => WeightType::Q6_K,
        20 => WeightType::IQ4_NL,
        23 => WeightType::IQ4_XS,
        30 => WeightType::BF16,
        _ => return None,
    })
}

/// What ggml calls a type that is not read here.
fn type_name(id: u32) -> String {
    let name = match id {
        9 => "Q8_1",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        21 => "IQ3_S",
        22 => "IQ2_S",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        39 => "MXFP4",
        _ => return format!("ggml type {id}"),
    };
    name.to_owned()
}
