//! What the metadata of a packed file says, held to the file.

use std::{collections::HashMap, path::Path};

use dots_kernels::{WeightType, packed::LAYOUT};
use serde_json::{Map, Value};

use super::super::{
    container::{
        CHECKSUM_KEY, CONFIG_KEY, LAYOUT_KEY, PACK_KEY, PADDING, TENSORS_KEY, VERSION, VERSION_KEY, checksum,
        header_checksum,
    },
    json::{self, describe, shorten},
};
use crate::Error;

/// The metadata of one packed file.
pub(super) struct Packed {
    /// Type and `[rows, cols]` by name, until the tensor is met.
    tensors: HashMap<String, (WeightType, [usize; 2])>,
    /// Checksum of the `config.json` that the file was written with.
    config: u32,
    /// What all files of the checkpoint have in common.
    pack: String,
}

impl Packed {
    /// The metadata of a file that `beginning`, its length and header, says is packed; `None` for any other file.
    pub(super) fn read(path: &Path, beginning: &[u8], metadata: Option<&Value>) -> Result<Option<Self>, Error> {
        let Some(metadata) = metadata.and_then(Value::as_object) else { return Ok(None) };
        if !metadata.keys().any(|key| key.starts_with("dots.")) {
            return Ok(None);
        }
        let text = |key: &str, expected: &str| match metadata.get(key) {
            Some(Value::String(text)) => Ok(text.as_str()),
            found => Err(wrong(path, key, expected, found)),
        };
        for (key, known) in [(VERSION_KEY, VERSION), (LAYOUT_KEY, LAYOUT)] {
            let expected = format!("{known:?}, which this version of dots reads");
            if text(key, &expected)? != known {
                return Err(wrong(path, key, &expected, metadata.get(key)));
            }
        }
        let claimed = digits(path, metadata, CHECKSUM_KEY)?;
        match header_checksum(beginning) {
            Some(found) if found == claimed => {}
            found => {
                let found = found.map_or("none".to_owned(), |found| format!("{found:08x}"));
                return Err(Error::invalid(path, "header", format!("the checksum {claimed:08x}"), found));
            }
        }
        let tensors: Value = serde_json::from_str(text(TENSORS_KEY, "types and shapes of tensors")?)
            .map_err(|error| Error::invalid(path, TENSORS_KEY, "JSON", error.to_string()))?;
        let Value::Object(tensors) = tensors else { return Err(wrong(path, TENSORS_KEY, "an object", Some(&tensors))) };
        Ok(Some(Self {
            tensors: tensors
                .into_iter()
                .map(|(name, value)| described(path, name, &value))
                .collect::<Result<_, _>>()?,
            config: digits(path, metadata, CONFIG_KEY)?,
            pack: text(PACK_KEY, "a text")?.to_owned(),
        }))
    }

    /// Whether `name` is no tensor but fills a gap.
    pub(super) fn is_padding(name: &str) -> bool {
        name.starts_with(PADDING)
    }

    /// Type and shape of the packed tensor of that name, which takes `bytes` bytes of U8; `None` where it is not packed.
    pub(super) fn take(
        &mut self,
        path: &Path,
        name: &str,
        dtype: &str,
        bytes: usize,
    ) -> Result<Option<(WeightType, [usize; 2])>, Error> {
        let Some((kind, [rows, cols])) = self.tensors.remove(name) else { return Ok(None) };
        let invalid = |expected: String, found: String| Err(Error::invalid(path, shorten(name), expected, found));
        if dtype != "U8" {
            return invalid(format!("dtype U8 for {}", kind.name()), json::quote(dtype));
        }
        match kind.matrix_bytes(rows, cols) {
            Some(expected) if rows > 0 && cols > 0 && expected == bytes => Ok(Some((kind, [rows, cols]))),
            Some(expected) if rows > 0 && cols > 0 => {
                invalid(format!("{expected} bytes for [{rows}, {cols}] of {}", kind.name()), bytes.to_string())
            }
            _ => invalid(format!("a matrix of {}", kind.name()), format!("[{rows}, {cols}]")),
        }
    }

    /// Refuses descriptions of tensors that never came.
    pub(super) fn finish(&self, path: &Path) -> Result<(), Error> {
        match self.tensors.keys().min() {
            None => Ok(()),
            Some(name) => Err(Error::invalid(
                path,
                shorten(name),
                format!("this tensor, which {TENSORS_KEY} describes"),
                "nothing",
            )),
        }
    }
}

/// Holds the files of a checkpoint to each other and to `config.json`, of which `config` is the text. Whether they are packed.
pub(super) fn check<'a>(
    files: impl Iterator<Item = (&'a Path, Option<&'a Packed>)>,
    config_path: &Path,
    config: &str,
) -> Result<bool, Error> {
    let mut first: Option<(&Path, Option<&Packed>)> = None;
    let found = checksum(config.as_bytes());
    for (path, packed) in files {
        let name = |packed: Option<&Packed>| packed.map_or("a file that is not packed".to_owned(), |p| p.pack.clone());
        if let Some((other, with)) = first
            && name(packed) != name(with)
        {
            let expected = format!("{}, as {} has", name(with), other.display());
            return Err(Error::invalid(path, PACK_KEY, expected, name(packed)));
        }
        if let Some(expected) = packed.map(|packed| packed.config).filter(|expected| *expected != found) {
            let expected = format!("the checksum {expected:08x}, which {} names", path.display());
            return Err(Error::invalid(config_path, "file", expected, format!("{found:08x}")));
        }
        first = first.or(Some((path, packed)));
    }
    Ok(first.is_some_and(|(_, packed)| packed.is_some()))
}

fn described(path: &Path, name: String, value: &Value) -> Result<(String, (WeightType, [usize; 2])), Error> {
    let size = |value: &Value| usize::try_from(value.as_u64()?).ok();
    let read = || {
        let [kind, rows, cols] = value.as_array()?.as_slice() else { return None };
        let kind =
            WeightType::ALL.into_iter().find(|known| known.is_packed() && kind.as_str() == Some(known.name()))?;
        Some((kind, [size(rows)?, size(cols)?]))
    };
    let Some(described) = read() else {
        let field = format!("{TENSORS_KEY}.{}", shorten(&name));
        let expected = "a packed type, rows and columns";
        return Err(Error::invalid(path, field, expected, shorten(&value.to_string())));
    };
    Ok((name, described))
}

/// Eight hexadecimal digits, small letters only: else a flipped bit could make one of another case and go unseen.
fn digits(path: &Path, metadata: &Map<String, Value>, key: &str) -> Result<u32, Error> {
    let value = metadata.get(key);
    let text = value.and_then(Value::as_str).filter(|text| text.len() == 8);
    text.and_then(|text| u32::from_str_radix(text, 16).ok().filter(|number| format!("{number:08x}") == text))
        .ok_or_else(|| wrong(path, key, "eight hexadecimal digits", value))
}

fn wrong(path: &Path, key: &str, expected: &str, found: Option<&Value>) -> Error {
    Error::invalid(path, key, expected, found.map_or("nothing".to_owned(), describe))
}
