use std::collections::HashMap;

use super::*;
use crate::{
    recipe::tiny,
    shards::{Manifest, ShardWriter},
};

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

/// A recipe of two sources, the second of one long document, and two phases.
fn recipe(folder: &Path) -> Recipe {
    documents(folder, "a", [&[3, 50, 5, 1, 0], &[7, 18, 2, 2]]);
    documents(folder, "b", [&[600], &[40; 9]]);
    let shards = |name: &str| {
        let paths = [0, 1].map(|nth| format!("{:?}", folder.join(format!("{name}{nth}")).display().to_string()));
        format!("shards = [{}]", paths.join(", "))
    };
    tiny(&format!(
        r#"
[sources.a]
{}
[sources.b]
{}
[checkpoints]
every_tokens = 1000
[[phases]]
name = "p"
tokens = 1600
sequence_tokens = 8
batch_tokens = [{{ from = 0, tokens = 24 }}, {{ from = 600, tokens = 40 }}]
learning_rate = 1e-2
mixture = {{ a = 0.3, b = 0.7 }}
[[phases]]
name = "long"
tokens = 800
sequence_tokens = 32
batch_tokens = 64
learning_rate = 1e-2
utk = {{ chunks = 3 }}
mixture = {{ a = 1.0, b = 1.0 }}
"#,
        shards("a"),
        shards("b"),
    ))
}

#[test]
fn a_document_is_found_in_every_sequence_that_holds_it_and_in_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = recipe(folder.path());
    let (schedule, order) = open(&recipe, &Sampled::default(), 1).unwrap();
    let mut want: HashMap<(usize, usize, usize), Vec<Seen>> = HashMap::new();
    for phase in 0..2 {
        for sequence in 0..schedule.tokens_of(phase) / recipe.phases[phase].sequence_tokens as u64 {
            for piece in order.sample(phase, sequence) {
                let seen = Seen { phase, sequence, epoch: piece.epoch };
                want.entry((piece.source, piece.shard, piece.document)).or_default().push(seen);
            }
        }
    }
    for (source, documents) in order.sources().iter().enumerate() {
        for (shard, of) in documents.shards().iter().enumerate() {
            for document in 0..of.documents() {
                let mut want = want.remove(&(source, shard, document)).unwrap_or_default();
                want.sort_unstable();
                want.dedup();
                assert_eq!(order.seen(documents.name(), shard, document), want, "{source} {shard} {document}");
            }
        }
    }
    assert!(want.is_empty() && order.seen("a", 2, 0).is_empty() && order.seen("a", 0, 5).is_empty());
}

/// Source, epoch, shard and number of a document.
type Place = (usize, u64, usize, usize);

#[test]
fn every_token_is_seen_as_often_as_the_row_says_and_parts_of_a_document_not_in_one_batch() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = recipe(folder.path());
    let (schedule, order) = open(&recipe, &Sampled::default(), 1).unwrap();
    let mut seen: HashMap<(Place, u64), u32> = HashMap::new();
    for step in 0..schedule.steps() {
        let at = schedule.at(step).unwrap();
        let tokens = recipe.phases[at.phase].sequence_tokens as u64;
        let mut parts: HashMap<Place, Vec<(u64, u64)>> = HashMap::new();
        for sequence in at.tokens_in_phase / tokens..(at.tokens_in_phase + at.batch_tokens) / tokens {
            let pieces = order.sample(at.phase, sequence);
            assert_eq!(pieces.iter().map(|piece| piece.tokens).sum::<u64>(), tokens);
            for Piece { source, epoch, shard, document, offset, tokens, .. } in pieces {
                for token in offset..offset + tokens {
                    *seen.entry(((source, epoch, shard, document), token)).or_default() += 1;
                }
                parts.entry((source, epoch, shard, document)).or_default().push((sequence, offset));
            }
        }
        if at.phase == 0 {
            // The long document has 75 parts; without care, those of a batch would follow each other.
            for (_, mut parts) in parts {
                parts.sort_unstable_by_key(|(_, offset)| *offset);
                let follow = |both: &[(u64, u64)]| both[0].0 != both[1].0 && both[1].1 - both[0].1 <= tokens;
                assert!(!parts.windows(2).any(follow), "step {step}: {parts:?}");
            }
        }
    }
    // Nothing is seen twice in an epoch, and the first epochs are seen whole.
    assert!(seen.values().all(|count| *count == 1));
    for (source, documents) in order.sources().iter().enumerate() {
        let first = seen.keys().filter(|((of, epoch, ..), _)| (*of, *epoch) == (source, 0)).count() as u64;
        assert_eq!(first, documents.tokens());
    }
}
