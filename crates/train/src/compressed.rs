//! Files read through whatever packed them: gzip, zstd, or nothing.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::Path,
};

use dots_model::hex;
use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::{
    BlockDecodingStrategy, FrameDecoder,
    errors::{FrameDecoderError, ReadFrameHeaderError},
};
use sha2::{Digest, Sha256};

const BUFFER_BYTES: usize = 1 << 20;

/// A file whose bytes are hashed as they lie on the disk.
pub(crate) struct Hashed {
    file: File,
    hasher: Sha256,
    bytes: u64,
}

impl Read for Hashed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        self.bytes += read as u64;
        Ok(read)
    }
}

/// What a file holds, by the ending of its name: `.gz`, `.zst`, or any other.
pub(crate) enum Compressed {
    Plain(BufReader<Hashed>),
    Gzip(Box<MultiGzDecoder<BufReader<Hashed>>>),
    Zstd(Box<Frames>),
}

impl Compressed {
    /// Opens the file.
    pub fn open(path: &Path) -> io::Result<Self> {
        let hashed = Hashed { file: File::open(path)?, hasher: Sha256::new(), bytes: 0 };
        let reader = BufReader::with_capacity(BUFFER_BYTES, hashed);
        Ok(match path.extension().and_then(|ending| ending.to_str()) {
            Some("gz") => Self::Gzip(Box::new(MultiGzDecoder::new(reader))),
            Some("zst") => Self::Zstd(Box::new(Frames { reader, decoder: FrameDecoder::new(), is_within: false })),
            _ => Self::Plain(reader),
        })
    }

    fn hashed(&self) -> &Hashed {
        match self {
            Self::Plain(reader) => reader.get_ref(),
            Self::Gzip(decoder) => decoder.get_ref().get_ref(),
            Self::Zstd(frames) => frames.reader.get_ref(),
        }
    }

    /// Bytes of the file that were read.
    pub fn bytes_read(&self) -> u64 {
        self.hashed().bytes
    }

    /// SHA-256, in hexadecimal, of the bytes that were read.
    pub fn sha256(&self) -> String {
        hex(&self.hashed().hasher.clone().finalize())
    }
}

impl Read for Compressed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(reader) => reader.read(buffer),
            Self::Gzip(decoder) => decoder.read(buffer),
            Self::Zstd(frames) => frames.read(buffer),
        }
    }
}

/// A file of zstd frames, as many as there are. A frame's window may have 100 MB, the decoder's bound.
pub(crate) struct Frames {
    reader: BufReader<Hashed>,
    decoder: FrameDecoder,
    /// Whether a frame has begun that has not ended.
    is_within: bool,
}

impl Frames {
    /// Begins the next frame that holds something; `false` at the file's end.
    fn begin(&mut self) -> io::Result<bool> {
        loop {
            if self.reader.fill_buf()?.is_empty() {
                return Ok(false);
            }
            match self.decoder.init(&mut self.reader) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                    let length = u64::from(length);
                    if io::copy(&mut (&mut self.reader).take(length), &mut io::sink())? < length {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        }
    }
}

impl Read for Frames {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if !self.is_within && !self.begin()? {
                return Ok(0);
            }
            self.is_within = true;
            while self.decoder.can_collect() < buffer.len() && !self.decoder.is_finished() {
                let missing = BlockDecodingStrategy::UptoBytes(buffer.len() - self.decoder.can_collect());
                self.decoder.decode_blocks(&mut self.reader, missing).map_err(io::Error::other)?;
            }
            let read = self.decoder.read(buffer)?;
            if read > 0 || buffer.is_empty() {
                return Ok(read);
            }
            self.is_within = false;
            let noted = self.decoder.get_checksum_from_data();
            if noted.is_some() && noted != self.decoder.get_calculated_checksum() {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a zstd frame whose checksum is another one"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write};

    use flate2::{Compression, write::GzEncoder};
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    use super::*;

    fn gzip(text: &str) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(text: &str) -> Vec<u8> {
        compress_to_vec(text.as_bytes(), CompressionLevel::Fastest)
    }

    #[test]
    fn every_packing_holds_the_same_text_in_any_number_of_parts() {
        let folder = tempfile::tempdir().unwrap();
        let text: String = (0..20_000).map(|nth| format!("line {nth} {}\n", nth * nth)).collect();
        let (one, other) = text.split_at(100_000);
        // Eight bytes that readers of zstd pass over.
        let skipped = [&0x184d_2a50u32.to_le_bytes()[..], &8u32.to_le_bytes(), &[7; 8]].concat();
        for (name, bytes) in [
            ("a.jsonl", text.as_bytes().to_vec()),
            ("a.jsonl.gz", [gzip(one), gzip(other)].concat()),
            ("a.jsonl.zst", [zstd(one), skipped, zstd(other)].concat()),
        ] {
            let path = folder.path().join(name);
            fs::write(&path, &bytes).unwrap();
            let mut found = String::new();
            let mut file = Compressed::open(&path).unwrap();
            file.read_to_string(&mut found).unwrap();
            assert!(found == text, "{name}");
            assert_eq!(
                (file.bytes_read(), file.sha256()),
                (bytes.len() as u64, hex(&Sha256::digest(&bytes))),
                "{name}"
            );
            if name != "a.jsonl" {
                for cut in [3, 20, bytes.len() / 3, bytes.len() - 3] {
                    fs::write(&path, &bytes[..cut]).unwrap();
                    let read = Compressed::open(&path).unwrap().read_to_end(&mut Vec::new());
                    assert!(read.is_err(), "{name}: {cut}");
                }
            }
        }
    }
}
