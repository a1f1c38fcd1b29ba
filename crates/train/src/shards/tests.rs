use std::fs;

use super::*;

/// A shard of the documents [1, 2, 3], [] and [65000], as the format's description has it, byte by byte.
fn bytes(wide: bool) -> (Vec<u8>, Vec<u8>) {
    let (size, code) = if wide { (4i64, 4u8) } else { (2, 8) };
    let mut idx = b"MMIDIDX\0\0".to_vec();
    idx.extend(1u64.to_le_bytes());
    idx.push(code);
    idx.extend(3u64.to_le_bytes());
    idx.extend(4u64.to_le_bytes());
    [3i32, 0, 1].iter().for_each(|length| idx.extend(length.to_le_bytes()));
    [0, 3 * size, 3 * size].iter().for_each(|pointer| idx.extend(pointer.to_le_bytes()));
    [0i64, 1, 2, 3].iter().for_each(|document| idx.extend(document.to_le_bytes()));
    let ids = [1i32, 2, 3, 65_000];
    let bin = ids.iter().flat_map(|id| id.to_le_bytes()[..size as usize].to_vec()).collect();
    (idx, bin)
}

fn write(prefix: &Path, vocab_size: usize) {
    let mut shard = ShardWriter::create(prefix, vocab_size, false).unwrap();
    for document in [&[1, 2, 3][..], &[], &[65_000]] {
        shard.add(document).unwrap();
    }
    shard.finish(Manifest::default()).unwrap();
}

#[test]
fn what_is_written_has_the_bytes_of_the_format_and_is_read_again() {
    let folder = tempfile::tempdir().unwrap();
    for (vocab_size, wide) in [(65_499, false), (65_500, true), (152_064, true)] {
        let prefix = folder.path().join(format!("shard.{vocab_size}"));
        if vocab_size < 65_001 {
            continue;
        }
        write(&prefix, vocab_size);
        let (idx, bin) = bytes(wide);
        assert_eq!(fs::read(path_of(&prefix, "idx")).unwrap(), idx);
        assert_eq!(fs::read(path_of(&prefix, "bin")).unwrap(), bin);
        let shard = Shard::open(&prefix).unwrap();
        assert_eq!((shard.documents(), shard.tokens()), (3, 4));
        let mut ids = Vec::new();
        for document in 0..3 {
            shard.read(document, 0..shard.document_tokens(document), vocab_size, &mut ids).unwrap();
        }
        assert_eq!(ids, [1, 2, 3, 65_000]);
        let error = shard.check_ids(65_000).unwrap_err().to_string();
        assert!(error.contains("document 2, id 0: expected an id below 65000"), "{error}");
    }
}

#[test]
fn a_shard_is_not_written_over_and_an_id_out_of_range_is_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let prefix = folder.path().join("a");
    write(&prefix, 65_499);
    let error = ShardWriter::create(&prefix, 100, false).unwrap_err().to_string();
    assert!(error.contains("a.bin: exists"), "{error}");
    let mut shard = ShardWriter::create(&folder.path().join("b"), 100, false).unwrap();
    let error = shard.add(&[1, 100]).unwrap_err().to_string();
    assert!(error.contains("document 0: expected ids below 100, found 100"), "{error}");
    assert!(!folder.path().join("b.idx").exists());
}

#[test]
fn an_index_that_lies_or_is_cut_short_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let prefix = folder.path().join("a");
    let (idx, bin) = bytes(false);
    let open = |idx: &[u8], bin: &[u8]| {
        fs::write(path_of(&prefix, "idx"), idx).unwrap();
        fs::write(path_of(&prefix, "bin"), bin).unwrap();
        Shard::open(&prefix).map_err(|error| error.to_string())
    };
    open(&idx, &bin).unwrap();
    for length in 0..idx.len() {
        let error = open(&idx[..length], &bin).unwrap_err();
        assert!(error.contains("a.idx: "), "{error}");
    }
    for length in 0..bin.len() {
        open(&idx, &bin[..length]).unwrap_err();
    }
    // Whatever one byte is changed to, the shard is refused or can be read to its end.
    for at in 0..idx.len() {
        for flip in [1, 0x80, 0xff] {
            let mut idx = idx.clone();
            idx[at] ^= flip;
            if let Ok(shard) = open(&idx, &bin) {
                let _ = shard.check_ids(65_499);
            }
        }
    }
    let error = open(b"MMIDIDX", &bin).unwrap_err();
    assert!(error.contains("header: expected 34 bytes, found 7 bytes"), "{error}");
}

#[test]
fn shards_that_numpy_wrote_are_read() {
    let documents: [(&str, usize, &[&[u32]]); 2] = [
        ("u16", 65_500, &[&[1, 2, 3], &[], &[65_499, 0], &[7]]),
        ("i32", 152_064, &[&[1, 2, 3], &[151_642, 151_643], &[65_535, 65_536, 70_000, 0]]),
    ];
    for (name, vocab_size, want) in documents {
        let prefix = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/megatron").join(name);
        let shard = Shard::open(&prefix).unwrap();
        assert_eq!((shard.documents(), shard.id_type().bytes()), (want.len(), if name == "u16" { 2 } else { 4 }));
        for (nth, want) in want.iter().enumerate() {
            let mut ids = Vec::new();
            shard.read(nth, 0..shard.document_tokens(nth), vocab_size, &mut ids).unwrap();
            assert_eq!(ids, *want, "{name} {nth}");
        }
        if name == "u16" {
            // Vocabularies of 65,500 ids are written in four bytes.
            continue;
        }
        // What is written of the same documents has the same bytes.
        let folder = tempfile::tempdir().unwrap();
        let mut written = ShardWriter::create(&folder.path().join(name), vocab_size, false).unwrap();
        want.iter().for_each(|document| written.add(document).unwrap());
        written.finish(Manifest::default()).unwrap();
        for ending in ["bin", "idx"] {
            let bytes = |prefix: &Path| fs::read(path_of(prefix, ending)).unwrap();
            assert!(bytes(&prefix) == bytes(&folder.path().join(name)), "{name}.{ending}");
        }
    }
}

#[test]
fn a_second_program_does_not_write_into_a_shard_under_way() {
    let folder = tempfile::tempdir().unwrap();
    let prefix = folder.path().join("a");
    let mut first = ShardWriter::create(&prefix, 65_499, false).unwrap();
    first.add(&[1, 2, 3]).unwrap();
    for replace in [false, true] {
        let error = ShardWriter::create(&prefix, 100, replace).unwrap_err().to_string();
        assert!(error.contains("a: another program writes this shard"), "{error}");
    }
    first.add(&[4]).unwrap();
    first.finish(Manifest::default()).unwrap();
    assert_eq!(Shard::open(&prefix).unwrap().tokens(), 4);
    // Nothing of it is left that would keep the next one out.
    let mut next = ShardWriter::create(&prefix, 65_499, true).unwrap();
    next.add(&[5, 6]).unwrap();
    next.finish(Manifest::default()).unwrap();
    assert_eq!(Shard::open(&prefix).unwrap().tokens(), 2);
    let mut names: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["a.bin", "a.idx", "a.json"]);
}
