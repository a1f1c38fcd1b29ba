//! GGUF files taken apart and put together again, right or wrong. Independent of the reader under test.

const ALIGNMENT: usize = 32;

/// A file whose metadata values stay the bytes that they are.
#[derive(Clone)]
pub struct File {
    pub version: u32,
    /// Key, type of the value, the value's bytes.
    pub metadata: Vec<(String, u32, Vec<u8>)>,
    pub tensors: Vec<Tensor>,
}

#[derive(Clone)]
pub struct Tensor {
    pub name: String,
    /// Innermost first, as in the file.
    pub sizes: Vec<u64>,
    pub kind: u32,
    pub data: Vec<u8>,
    /// Written in place of the true offset.
    pub offset: Option<u64>,
}

pub const U16: u32 = 2;
pub const U32: u32 = 4;
pub const I32: u32 = 5;
pub const F32: u32 = 6;
pub const BOOL: u32 = 7;
pub const STRING: u32 = 8;
pub const ARRAY: u32 = 9;

/// The bytes of a string.
pub fn string(text: &[u8]) -> Vec<u8> {
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(text);
    bytes
}

/// The bytes of an array.
pub fn array(element: u32, items: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = element.to_le_bytes().to_vec();
    bytes.extend((items.len() as u64).to_le_bytes());
    bytes.extend(items.concat());
    bytes
}

impl File {
    pub fn read(path: &std::path::Path) -> Self {
        let bytes = std::fs::read(path).unwrap();
        let mut reader = Reader(&bytes, 4);
        let version = reader.u32();
        let (tensors, keys) = (reader.u64(), reader.u64());
        let metadata = (0..keys)
            .map(|_| {
                let key = reader.string();
                let kind = reader.u32();
                let start = reader.1;
                reader.skip(kind);
                (key, kind, bytes[start..reader.1].to_vec())
            })
            .collect();
        let infos: Vec<(String, Vec<u64>, u32, u64)> = (0..tensors)
            .map(|_| {
                let name = reader.string();
                let dimensions = reader.u32();
                let sizes = (0..dimensions).map(|_| reader.u64()).collect();
                (name, sizes, reader.u32(), reader.u64())
            })
            .collect();
        let start = reader.1.next_multiple_of(ALIGNMENT);
        let mut offsets: Vec<u64> = infos.iter().map(|info| info.3).collect();
        offsets.push((bytes.len() - start) as u64);
        offsets.sort_unstable();
        let tensors = infos
            .into_iter()
            .map(|(name, sizes, kind, offset)| {
                // With the padding behind it: that does no harm.
                let end = offsets[offsets.iter().position(|other| *other == offset).unwrap() + 1];
                let data = bytes[start + offset as usize..start + end as usize].to_vec();
                Tensor { name, sizes, kind, data, offset: None }
            })
            .collect();
        Self { version, metadata, tensors }
    }

    /// Sets a value, in its place where the key is there.
    pub fn set(&mut self, key: &str, kind: u32, value: &[u8]) {
        match self.metadata.iter_mut().find(|entry| entry.0 == key) {
            Some(entry) => (entry.1, entry.2) = (kind, value.to_vec()),
            None => self.metadata.push((key.to_owned(), kind, value.to_vec())),
        }
    }

    pub fn remove(&mut self, key: &str) {
        self.metadata.retain(|entry| entry.0 != key);
    }

    pub fn tensor(&mut self, name: &str) -> &mut Tensor {
        self.tensors.iter_mut().find(|tensor| tensor.name == name).unwrap()
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(self.version.to_le_bytes());
        bytes.extend((self.tensors.len() as u64).to_le_bytes());
        bytes.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, kind, value) in &self.metadata {
            bytes.extend(string(key.as_bytes()));
            bytes.extend(kind.to_le_bytes());
            bytes.extend(value);
        }
        let mut offset = 0;
        for tensor in &self.tensors {
            bytes.extend(string(tensor.name.as_bytes()));
            bytes.extend((tensor.sizes.len() as u32).to_le_bytes());
            bytes.extend(tensor.sizes.iter().flat_map(|size| size.to_le_bytes()));
            bytes.extend(tensor.kind.to_le_bytes());
            bytes.extend(tensor.offset.unwrap_or(offset).to_le_bytes());
            offset += tensor.data.len().next_multiple_of(ALIGNMENT) as u64;
        }
        for tensor in &self.tensors {
            bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
            bytes.extend(&tensor.data);
        }
        bytes
    }
}

struct Reader<'a>(&'a [u8], usize);

impl Reader<'_> {
    fn u32(&mut self) -> u32 {
        self.1 += 4;
        u32::from_le_bytes(self.0[self.1 - 4..self.1].try_into().unwrap())
    }

    fn u64(&mut self) -> u64 {
        self.1 += 8;
        u64::from_le_bytes(self.0[self.1 - 8..self.1].try_into().unwrap())
    }

    fn string(&mut self) -> String {
        let length = self.u64() as usize;
        self.1 += length;
        String::from_utf8(self.0[self.1 - length..self.1].to_vec()).unwrap()
    }

    fn skip(&mut self, kind: u32) {
        match kind {
            0 | 1 | BOOL => self.1 += 1,
            2 | 3 => self.1 += 2,
            U32 | I32 | F32 => self.1 += 4,
            STRING => drop(self.string()),
            ARRAY => {
                let element = self.u32();
                for _ in 0..self.u64() {
                    self.skip(element);
                }
            }
            _ => self.1 += 8,
        }
    }
}
