//! What a response repeats of its request. It is held as JSON text for as long as the response runs, since parsed JSON takes up to
//! 36 times its text's memory, and its size is bounded, since a thousand responses may run.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::{
    Value,
    value::{RawValue, to_raw_value},
};

use crate::{error::ApiError, openai::fields::Fields};

/// Most bytes of all that one response repeats, beside what has bounds of its own: a schema that is compiled may be as long.
const MAX_BYTES: usize = 1 << 20;
/// The fields that are repeated and may be of any length.
const FIELDS: [&str; 4] = ["user", "tool_choice", "text", "tools"];

/// A value as its JSON text.
#[derive(Debug, Clone, Serialize)]
#[serde(transparent)]
pub struct Repeated(Box<RawValue>);

impl Repeated {
    /// The text of `value`.
    pub fn new(value: &Value) -> Self {
        Self(to_raw_value(value).expect("a value has string keys and so serialises"))
    }
}

impl PartialEq for Repeated {
    fn eq(&self, other: &Self) -> bool {
        self.0.get() == other.0.get()
    }
}

/// Refuses a request whose response would repeat too much.
pub fn check(fields: Fields<'_>) -> Result<(), ApiError> {
    let mut found = 0;
    for name in FIELDS {
        found += fields.get(name).map_or(0, json_bytes);
        if found > MAX_BYTES {
            let message = format!(
                "'{name}': expected at most {MAX_BYTES} bytes of JSON in '{}' together, which the response repeats, found \
                 {found} up to here. Send a shorter '{name}'.",
                FIELDS.join("', '")
            );
            return Err(ApiError::invalid(name, "invalid_value", message));
        }
    }
    Ok(())
}

/// The length of a value's text, which is not made.
fn json_bytes(value: &Value) -> usize {
    struct Count(usize);

    impl Write for Count {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    let mut count = Count(0);
    serde_json::to_writer(&mut count, value).expect("counting does not fail");
    count.0
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_values_length_is_that_of_its_text() {
        for value in [json!(null), json!({"a": [0, 1.5, "\"\n你"], "b": {}})] {
            assert_eq!(json_bytes(&value), value.to_string().len());
            assert_eq!(crate::openai::to_json(&Repeated::new(&value)), value.to_string());
        }
    }
}
