use std::collections::HashMap;

use super::*;
use crate::shards::{Manifest, ShardWriter};

/// Two shards of documents of these lengths.
fn documents(folder: &Path, name: &str, lengths: [&[usize]; 2]) -> Vec<std::path::PathBuf> {
    (lengths.into_iter().enumerate())
        .map(|(nth, lengths)| {
            let prefix = folder.join(format!("{name}{nth}"));
            let mut shard = ShardWriter::create(&prefix, 100, false).unwrap();
            lengths.iter().for_each(|&length| shard.add(&vec![7; length]).unwrap());
            shard.finish(Manifest::default()).unwrap();
            prefix
        })
        .collect()
}

#[test]
fn an_epoch_holds_every_token_of_every_document_once_and_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let prefixes = documents(folder.path(), "a", [&[3, 0, 5, 1, 0], &[0, 8, 2, 2]]);
    let source = Documents::open("a", 7, &prefixes).unwrap();
    assert_eq!((source.documents(), source.tokens()), (9, 21));
    for length in 1..30 {
        let mut next = HashMap::new();
        let mut total = 0;
        // Three epochs, in sequences of `length`.
        for start in (0..63).step_by(length) {
            let pieces = source.pieces(start, length as u64);
            assert_eq!(pieces.iter().map(|piece| piece.tokens).sum::<u64>(), length as u64);
            for piece in pieces {
                let of = source.shards()[piece.shard].document_tokens(piece.document);
                let seen = next.entry((piece.epoch, piece.shard, piece.document)).or_insert(0);
                assert_eq!(piece.offset, *seen, "{piece:?}");
                *seen += piece.tokens;
                assert!(piece.tokens > 0 && *seen <= of);
                assert_eq!(piece.goes_on, *seen < of);
                total += piece.tokens;
            }
        }
        for ((epoch, shard, document), seen) in next {
            if epoch < 2 {
                assert_eq!(seen, source.shards()[shard].document_tokens(document));
            }
        }
        assert!(total >= 63);
    }
    let order = |epoch: u64| (0..9).map(|nth| source.permutation(epoch).at(nth)).collect::<Vec<_>>();
    assert_ne!(order(0), order(1));
}

#[test]
fn a_place_does_not_depend_on_what_was_asked_before() {
    let folder = tempfile::tempdir().unwrap();
    let prefixes = documents(folder.path(), "a", [&[3, 5, 1], &[8, 2, 2]]);
    let open = |seed| Documents::open("a", seed, &prefixes).unwrap();
    let source = open(7);
    let forward: Vec<_> = (0..40).map(|nth| source.pieces(nth * 4, 4)).collect();
    let backward: Vec<_> = (0..40).rev().map(|nth| source.pieces(nth * 4, 4)).collect();
    assert!(forward.iter().eq(backward.iter().rev()));
    assert!((0..40).all(|nth| open(7).pieces(nth * 4, 4) == forward[nth as usize]));
    let other = open(8);
    assert!((0..40).any(|nth| other.pieces(nth * 4, 4) != forward[nth as usize]));
}

#[test]
fn a_source_of_no_tokens_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let prefixes = documents(folder.path(), "a", [&[0, 0], &[]]);
    let error = Documents::open("a", 7, &prefixes).unwrap_err().to_string();
    assert_eq!(error, "source a: expected at least one token, found none in its shards");
}
