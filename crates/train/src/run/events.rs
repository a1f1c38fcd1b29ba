//! The curves as TensorBoard reads them: event files, of the few fields that curves take.
//!
//! A file is a row of records, each a length, its checksum, an `Event` of `tensorflow/core/util/event.proto`, and the event's checksum.
//! One file holds the whole run: one that goes on cuts off what came after its step, as it does with the metrics.

use std::{
    fs::{self, File},
    io::{self, BufReader, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::RunError;

/// Largest event that is read again: a line of ours with thousands of layers takes less.
const MAX_EVENT_BYTES: u64 = 1 << 24;
/// What the first event says: readers take it for a file of this kind by it.
const VERSION: &str = "brain.Event:2";
/// Names of files are to hold this, and are read in the order of the seconds after it.
const FILE: &str = "events.out.tfevents.0000000000.dots";

/// The numbers of a step's line, and what they are called on the page; a slash makes a group.
const SERIES: [(&str, &str); 7] = [
    ("loss", "loss/train"),
    ("sequence_loss", "loss/sequence"),
    ("learning_rate", "dials/learning_rate"),
    ("batch_tokens", "dials/batch_tokens"),
    ("gradient_norm", "norms/gradient"),
    ("weight_norm", "norms/weights"),
    ("tokens_per_second", "speed/tokens_per_second"),
];

#[derive(Debug)]
pub(super) struct Events {
    path: PathBuf,
    file: File,
}

impl Events {
    /// Opens the run's file in `folder` for one that goes on after `step` steps: events of later steps are cut off, as is what was
    /// half written or damaged.
    pub(super) fn open(folder: &Path, step: u64, time: f64) -> Result<Self, RunError> {
        fs::create_dir_all(folder).map_err(|source| RunError::Io { path: folder.to_owned(), source })?;
        let path = folder.join(FILE);
        let io = |source| RunError::Io { path: path.clone(), source };
        let mut file = File::options().create(true).truncate(false).read(true).write(true).open(&path).map_err(io)?;
        let kept = kept_bytes(&file, step).map_err(io)?;
        file.set_len(kept).map_err(io)?;
        file.seek(SeekFrom::Start(kept)).map_err(io)?;
        if kept == 0 {
            let mut event = Message::default();
            event.double(1, time);
            event.bytes(3, VERSION.as_bytes());
            file.write_all(&record(&event.0)).map_err(io)?;
        }
        Ok(Self { path, file })
    }

    /// Appends what a line of the metrics has of curves; lines without any are passed over.
    pub(super) fn line(&mut self, line: &Value) -> Result<(), RunError> {
        let curves = curves(line);
        let Some(step) = line["step"].as_u64().filter(|_| !curves.is_empty()) else { return Ok(()) };
        let mut summary = Message::default();
        for (tag, value) in curves {
            let mut one = Message::default();
            one.bytes(1, tag.as_bytes());
            one.float(2, value as f32);
            summary.bytes(1, &one.0);
        }
        let mut event = Message::default();
        event.double(1, line["time"].as_f64().unwrap_or(0.0));
        event.whole(2, step);
        event.bytes(5, &summary.0);
        // In one write, so that whoever reads along seldom sees half an event.
        self.file.write_all(&record(&event.0)).map_err(|source| RunError::Io { path: self.path.clone(), source })
    }

    /// Puts all events on the disk.
    pub(super) fn sync(&mut self) -> Result<(), RunError> {
        self.file.sync_data().map_err(|source| RunError::Io { path: self.path.clone(), source })
    }
}

fn curves(line: &Value) -> Vec<(String, f64)> {
    let number = |key: &str| line[key].as_f64();
    let mut curves: Vec<(String, f64)> =
        SERIES.iter().filter_map(|(key, tag)| Some(((*tag).to_owned(), number(key)?))).collect();
    if let (Some(done), Some(peak)) = (number("flops_per_second"), number("peak_flops_per_second")) {
        curves.push(("speed/share_of_peak".to_owned(), done / peak));
    }
    for router in line["routers"].as_array().into_iter().flatten() {
        let layer = router["layer"].as_u64().unwrap_or(0);
        let loads: Vec<f64> = router["loads"].as_array().into_iter().flatten().filter_map(Value::as_f64).collect();
        let (most, sum) = (loads.iter().copied().fold(0.0, f64::max), loads.iter().sum::<f64>());
        if sum > 0.0 {
            curves.push((format!("load_max_over_mean/layer_{layer:02}"), most * loads.len() as f64 / sum));
        }
        if let Some(entropy) = router["entropy"].as_f64() {
            curves.push((format!("router_entropy/layer_{layer:02}"), entropy));
        }
    }
    for (source, found) in line["validation"].as_object().into_iter().flatten() {
        curves.extend(found["loss"].as_f64().map(|loss| (format!("loss_validation/{source}"), loss)));
    }
    curves
}

/// Bytes of the whole records of up to `step`; 0 where the file does not begin as one of ours.
fn kept_bytes(file: &File, step: u64) -> io::Result<u64> {
    let mut reader = BufReader::new(file);
    let (mut kept, mut event) = (0, Vec::new());
    loop {
        let mut head = [0; 12];
        match reader.read_exact(&mut head) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(kept),
            read => read?,
        }
        let [length, check] = [&head[..8], &head[8..]];
        let bytes = u64::from_le_bytes(length.try_into().unwrap_or_default());
        if bytes > MAX_EVENT_BYTES || masked_crc32c(length).to_le_bytes() != check {
            return Ok(kept);
        }
        event.clear();
        if (&mut reader).take(bytes + 4).read_to_end(&mut event)? as u64 != bytes + 4 {
            return Ok(kept);
        }
        let (data, check) = event.split_at(bytes as usize);
        if masked_crc32c(data).to_le_bytes() != check || step_of(data).is_none_or(|of| of > step) {
            return Ok(kept);
        }
        kept += 12 + bytes + 4;
    }
}

/// The step of an event as [`Events`] writes them; `None` where it is not one. The first event has no step, which is 0.
fn step_of(event: &[u8]) -> Option<u64> {
    // A time of eight bytes comes first.
    let rest = event.strip_prefix(&[1 << 3 | 1]).and_then(|rest| rest.get(8..))?;
    match rest.split_first()? {
        (&0x10, rest) => {
            let mut step = 0u64;
            for (index, byte) in rest.iter().take(10).enumerate() {
                step |= u64::from(byte & 0x7f).checked_shl(7 * index as u32)?;
                if byte & 0x80 == 0 {
                    return Some(step);
                }
            }
            None
        }
        (&0x1a, _) => Some(0),
        _ => None,
    }
}

/// A message of Protocol Buffers, field after field.
#[derive(Debug, Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }

    fn whole(&mut self, field: u64, number: u64) {
        self.varint(field << 3);
        self.varint(number);
    }

    fn double(&mut self, field: u64, number: f64) {
        self.varint(field << 3 | 1);
        self.0.extend(number.to_le_bytes());
    }

    fn float(&mut self, field: u64, number: f32) {
        self.varint(field << 3 | 5);
        self.0.extend(number.to_le_bytes());
    }

    fn bytes(&mut self, field: u64, bytes: &[u8]) {
        self.varint(field << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend(bytes);
    }
}

/// An event as it lies in the file.
fn record(event: &[u8]) -> Vec<u8> {
    let length = (event.len() as u64).to_le_bytes();
    [&length[..], &masked_crc32c(&length).to_le_bytes(), event, &masked_crc32c(event).to_le_bytes()].concat()
}

/// CRC-32C (Castagnoli), turned and shifted, so that the checksum of bytes that hold checksums stays a good one.
fn masked_crc32c(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut index = 0;
        while index < 256 {
            let (mut crc, mut bit) = (index as u32, 0);
            while bit < 8 {
                crc = crc >> 1 ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
                bit += 1;
            }
            table[index] = crc;
            index += 1;
        }
        table
    };
    let crc = !bytes.iter().fold(!0u32, |crc, byte| crc >> 8 ^ TABLE[(crc as u8 ^ byte) as usize]);
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn line(step: u64) -> Value {
        json!({
            "step": step, "time": 1.5, "loss": 2.0, "flops_per_second": 1.0, "peak_flops_per_second": 4.0,
            "routers": [{ "layer": 1, "loads": [1, 3], "entropy": 0.5 }],
        })
    }

    #[test]
    fn the_checksum_is_castagnolis_masked_as_tensorflow_does() {
        // RFC 3720, appendix B.4: 32 bytes of zeros.
        let crc = 0x8a91_36aau32;
        assert_eq!(masked_crc32c(&[0; 32]), crc.rotate_right(15).wrapping_add(0xa282_ead8));
    }

    #[test]
    fn a_line_becomes_its_curves() {
        let found = curves(&line(1));
        let expected = [
            ("loss/train", 2.0),
            ("speed/share_of_peak", 0.25),
            ("load_max_over_mean/layer_01", 1.5),
            ("router_entropy/layer_01", 0.5),
        ];
        assert_eq!(found, expected.map(|(tag, value)| (tag.to_owned(), value)));
        assert_eq!(
            curves(&json!({ "step": 1, "validation": { "en": { "loss": 3 } } })),
            [("loss_validation/en".to_owned(), 3.0)]
        );
        assert!(curves(&json!({ "step": 1, "checkpoint": "x" })).is_empty());
    }

    /// Steps of up to `step`, and then more as another run would have written them.
    #[test]
    fn a_run_that_goes_on_cuts_its_events_and_writes_the_same_ones() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let write = |from: u64, to: u64| {
            let mut events = Events::open(folder.path(), from, 1.0).unwrap();
            (from + 1..=to).for_each(|step| events.line(&line(step)).unwrap());
        };
        write(0, 300);
        let whole = fs::read(&path).unwrap();
        for damage in [
            // Killed while it wrote; a flipped bit; later steps than the checkpoint's.
            whole[..whole.len() - 3].to_vec(),
            whole.iter().enumerate().map(|(at, byte)| if at + 20 == whole.len() { byte ^ 1 } else { *byte }).collect(),
            whole.clone(),
        ] {
            fs::write(&path, damage).unwrap();
            write(200, 300);
            assert!(fs::read(&path).unwrap() == whole);
        }
        // A length that lies is not believed.
        fs::write(&path, [0xff; 40]).unwrap();
        write(0, 300);
        assert!(fs::read(&path).unwrap() == whole);
    }
}
