//! The body of `POST /v1/embeddings`.

use serde_json::{Map, Value};

use super::{
    completion_request::{Prompt, prompts},
    fields::Fields,
};
use crate::error::{ApiError, quoted};

/// Which hidden states a vector is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// The mean of all tokens'.
    Mean,
    /// The last token's.
    Last,
}

/// How a vector is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// A list of numbers.
    Float,
    /// Its little-endian f32s in base64.
    Base64,
}

/// A request for vectors, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct EmbeddingRequest {
    /// The name that the request calls the model by.
    pub model: Option<String>,
    /// At least one.
    pub inputs: Vec<Prompt>,
    /// What the vectors are made of.
    pub pooling: Pooling,
    /// How they are written.
    pub encoding: Encoding,
}

impl EmbeddingRequest {
    /// Reads the body.
    pub fn parse(body: &Map<String, Value>) -> Result<Self, ApiError> {
        let fields = Fields::new(body);
        if fields.get("dimensions").is_some() {
            // A vector cut short means nothing unless the model was trained for it.
            return Err(ApiError::unsupported("dimensions", "a vector of another length than the model's"));
        }
        Ok(Self {
            model: fields.string("model")?.map(str::to_owned),
            inputs: prompts(fields.required("input")?, "input")?,
            pooling: match fields.string("pooling")? {
                None | Some("mean") => Pooling::Mean,
                Some("last") => Pooling::Last,
                Some(other) => return Err(neither("pooling", "'mean' or 'last'", other)),
            },
            encoding: match fields.string("encoding_format")? {
                None | Some("float") => Encoding::Float,
                Some("base64") => Encoding::Base64,
                Some(other) => return Err(neither("encoding_format", "'float' or 'base64'", other)),
            },
        })
    }
}

fn neither(param: &str, expected: &str, found: &str) -> ApiError {
    let message = format!("'{param}': expected {expected}, found '{}'.", quoted(found));
    ApiError::invalid(param, "invalid_value", message)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(body: Value) -> Result<EmbeddingRequest, ApiError> {
        EmbeddingRequest::parse(body.as_object().unwrap())
    }

    #[test]
    fn a_wrong_field_is_named() {
        for (body, param) in [
            (json!({}), "input"),
            (json!({"input": []}), "input"),
            (json!({"input": {"content": "x"}}), "input"),
            (json!({"input": ["a", 1]}), "input[1]"),
            (json!({"input": [[1, "a"]]}), "input[0][1]"),
            (json!({"input": vec!["a"; 257]}), "input"),
            (json!({"input": "a", "dimensions": 8}), "dimensions"),
            (json!({"input": "a", "pooling": "none"}), "pooling"),
            (json!({"input": "a", "pooling": 1}), "pooling"),
            (json!({"input": "a", "encoding_format": "hex"}), "encoding_format"),
            (json!({"input": "a", "model": 1}), "model"),
        ] {
            let error = parse(body.clone()).expect_err(&body.to_string());
            assert_eq!((error.parts().0, error.parts().2), (400, Some(param)), "{body}: {}", error.parts().1);
        }
    }

    #[test]
    fn vectors_are_means_in_numbers_unless_the_request_says_otherwise() {
        let parsed = parse(json!({"input": "a", "user": "u"})).unwrap();
        assert_eq!((parsed.pooling, parsed.encoding), (Pooling::Mean, Encoding::Float));
        let parsed = parse(json!({"input": [[1], [2]], "pooling": "last", "encoding_format": "base64"})).unwrap();
        assert_eq!((parsed.pooling, parsed.encoding, parsed.inputs.len()), (Pooling::Last, Encoding::Base64, 2));
    }
}
