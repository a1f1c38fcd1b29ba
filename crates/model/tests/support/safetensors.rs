//! safetensors files taken apart and put together again, right or wrong.

use serde_json::{Map, Value};

/// The header and the data of a file.
#[derive(Clone)]
pub struct File {
    pub header: Map<String, Value>,
    pub data: Vec<u8>,
}

impl File {
    pub fn read(path: &std::path::Path) -> Self {
        let bytes = std::fs::read(path).unwrap();
        let length = u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
        let header = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
        Self { header, data: bytes[8 + length..].to_vec() }
    }

    pub fn write(&self, path: &std::path::Path) {
        std::fs::write(path, file(&serde_json::to_string(&self.header).unwrap(), &self.data)).unwrap();
    }

    /// The field `key` of what the header says of `tensor`.
    pub fn field(&mut self, tensor: &str, key: &str) -> &mut Value {
        &mut self.header[tensor][key]
    }
}

/// A file of this header, whatever it is.
pub fn file(header: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(data);
    bytes
}
