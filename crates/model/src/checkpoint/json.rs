//! JSON files whose every field is checked as it is read.

use std::path::Path;

use serde_json::{Map, Value};

use super::files;
use crate::Error;

/// A JSON object and the file that it stands in. A key that is `null` counts as absent.
#[derive(Clone, Copy)]
pub(super) struct Object<'a> {
    path: &'a Path,
    /// Keys that lead here, each with a dot after it.
    prefix: &'a str,
    map: &'a Map<String, Value>,
}

/// The object in the file at `path`; `None` where there is no such file.
pub(super) fn read(path: &Path, limit_bytes: u64) -> Result<Option<Value>, Error> {
    let Some(text) = files::read_text(path, limit_bytes)? else { return Ok(None) };
    parse(path, &text).map(Some)
}

/// The object that `text`, which stands in `path`, is.
pub(super) fn parse(path: &Path, text: &str) -> Result<Value, Error> {
    let value: Value =
        serde_json::from_str(text).map_err(|error| Error::invalid(path, "file", "JSON", error.to_string()))?;
    if !value.is_object() {
        return Err(Error::invalid(path, "file", "a JSON object", describe(&value)));
    }
    Ok(value)
}

impl<'a> Object<'a> {
    /// The fields of `value`, as [`read`] returned it from `path`.
    pub(super) fn new(path: &'a Path, value: &'a Value) -> Result<Self, Error> {
        Self::within(path, "", value)
    }

    /// The fields of `value`, which stands under `prefix` (`rope_parameters.`) in `path`.
    pub(super) fn within(path: &'a Path, prefix: &'a str, value: &'a Value) -> Result<Self, Error> {
        match value.as_object() {
            Some(map) => Ok(Self { path, prefix, map }),
            None => {
                let field = if prefix.is_empty() { "file" } else { prefix.trim_end_matches('.') };
                Err(Error::invalid(path, field, "an object", describe(value)))
            }
        }
    }

    /// The file.
    pub(super) fn path(&self) -> &'a Path {
        self.path
    }

    /// Whether `key` is there, be it null.
    pub(super) fn has(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    /// The value of `key`, unless it is absent or null.
    pub(super) fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// An error about `key`: what it has, or that it has nothing.
    pub(super) fn wrong(&self, key: &str, expected: &str) -> Error {
        let found = self.get(key).map_or_else(|| "nothing".to_owned(), describe);
        Error::invalid(self.path, format!("{}{key}", self.prefix), expected, found)
    }

    /// Reads `key` by `read`, which returns `None` for a value of another type.
    pub(super) fn optional<T>(
        &self,
        key: &str,
        expected: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => read(value).map(Some).ok_or_else(|| self.wrong(key, expected)),
        }
    }

    /// A whole number that must be there.
    pub(super) fn usize(&self, key: &str) -> Result<usize, Error> {
        self.optional_usize(key)?.ok_or_else(|| self.wrong(key, "a whole number"))
    }

    /// A whole number.
    pub(super) fn optional_usize(&self, key: &str) -> Result<Option<usize>, Error> {
        self.optional(key, "a whole number", |value| usize::try_from(value.as_u64()?).ok())
    }

    /// A number that must be there.
    pub(super) fn f64(&self, key: &str) -> Result<f64, Error> {
        self.optional_f64(key)?.ok_or_else(|| self.wrong(key, "a number"))
    }

    /// A number.
    pub(super) fn optional_f64(&self, key: &str) -> Result<Option<f64>, Error> {
        self.optional(key, "a number", Value::as_f64)
    }

    /// A truth value that must be there.
    pub(super) fn bool(&self, key: &str) -> Result<bool, Error> {
        self.optional_bool(key)?.ok_or_else(|| self.wrong(key, "true or false"))
    }

    /// A truth value.
    pub(super) fn optional_bool(&self, key: &str) -> Result<Option<bool>, Error> {
        self.optional(key, "true or false", Value::as_bool)
    }

    /// A text.
    pub(super) fn optional_str(&self, key: &str) -> Result<Option<&'a str>, Error> {
        self.optional(key, "a string", Value::as_str)
    }
}

/// A value in a message: its JSON, cut where it is long.
pub(super) fn describe(value: &Value) -> String {
    match value {
        Value::Array(items) => format!("a list of {}", items.len()),
        Value::Object(_) => "an object".to_owned(),
        Value::String(text) => quote(text),
        other => other.to_string(),
    }
}

/// A text in a message: quoted, its control characters escaped, cut where it is long.
pub(super) fn quote(text: &str) -> String {
    format!("\"{}\"", shorten(text))
}

/// A name from a file, fit for a message: its control characters escaped, cut where it is long.
pub(super) fn shorten(text: &str) -> String {
    const SHOWN: usize = 120;
    let mut shown: String = text.chars().take(SHOWN).flat_map(char::escape_debug).collect();
    if text.chars().nth(SHOWN).is_some() {
        shown.push_str("...");
    }
    shown
}
