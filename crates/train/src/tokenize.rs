//! Text to token shards.

use std::path::PathBuf;

use dots_model::{
    checkpoint::TokenizerSource,
    tokenizer::{Specials, Tokenizer},
};

use crate::{
    DataError,
    lines::{self, Lines},
    shards::{Manifest, ShardWriter, tokenizer_hash},
    share,
};

/// Text that is read before it is shared among threads: it and its ids are all that is in memory, beside one line.
const BATCH_BYTES: u64 = 8 << 20;

/// What to make a shard of.
#[derive(Debug, Clone)]
pub struct Tokenize {
    /// JSONL files, one document a line.
    pub inputs: Vec<PathBuf>,
    /// The shard's path without its ending.
    pub prefix: PathBuf,
    /// Field of a line that holds its text.
    pub field: String,
    /// Token after each document, by its text in the vocabulary.
    pub end_of_document: Option<String>,
    /// Most lines that may hold no document; more are an error.
    pub skip: u64,
    /// Whether files of the shard's name are written over.
    pub replace: bool,
    /// Threads; 0 takes every core.
    pub threads: usize,
}

/// Writes the shard. The same bytes for any number of threads. `seen` is told how many bytes of the inputs were done since the last
/// time. Special tokens written in a text are text: documents come from anywhere, and only the end of one is ours to say.
pub fn tokenize(source: &TokenizerSource, what: &Tokenize, seen: &mut dyn FnMut(u64)) -> Result<Manifest, DataError> {
    let tokenizer = Tokenizer::new(source)?;
    let vocab_size = tokenizer.vocab_size();
    let end = match &what.end_of_document {
        None => None,
        Some(token) => Some(tokenizer.token_id(token).ok_or_else(|| {
            DataError::Refused(format!("{token}: expected a token of the vocabulary, found none of that text"))
        })?),
    };
    let mut shard = ShardWriter::create(&what.prefix, vocab_size, what.replace)?;
    let (mut inputs, mut skipped) = (Vec::new(), 0);
    for path in &what.inputs {
        let (mut lines, mut read) = (Lines::open(path)?, 0);
        loop {
            let batch = batch(&mut lines, &what.field, what.skip, &mut skipped)?;
            let ids = share::in_order(&batch.texts, what.threads, |text| {
                let mut ids = Vec::new();
                tokenizer.encode_into(text, Specials::AsText, &mut ids);
                ids.extend(end);
                ids
            });
            ids.iter().try_for_each(|ids| shard.add(ids))?;
            seen(lines.bytes() - read);
            read = lines.bytes();
            if batch.bytes == 0 {
                break;
            }
        }
        inputs.push(lines.input());
    }
    shard.finish(Manifest {
        made_by: concat!("dots ", env!("CARGO_PKG_VERSION")).to_owned(),
        vocab_size,
        tokenizer_sha256: tokenizer_hash(source),
        end_of_document: end,
        field: what.field.clone(),
        skipped_lines: skipped,
        inputs,
        ..Manifest::default()
    })
}

#[derive(Default)]
struct Batch {
    texts: Vec<String>,
    bytes: u64,
}

/// The documents of the next lines; no bytes at the end of the file.
fn batch(lines: &mut Lines<'_>, field: &str, most: u64, skipped: &mut u64) -> Result<Batch, DataError> {
    let mut batch = Batch::default();
    let mut line = Vec::new();
    while batch.bytes < BATCH_BYTES {
        let read = lines.next(&mut line)?;
        if read == 0 {
            break;
        }
        batch.bytes += read;
        match lines::object(&line).and_then(|mut object| lines::text(&mut object, field)) {
            Ok(text) => batch.texts.push(text),
            Err(_) if *skipped < most => *skipped += 1,
            Err((expected, found)) => return Err(DataError::invalid(lines.path(), lines.place(), expected, found)),
        }
    }
    Ok(batch)
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;
    use crate::shards::{Shard, path_of};

    fn source() -> TokenizerSource {
        TokenizerSource::of_folder(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/goldens/hf"))
            .unwrap()
    }

    fn what(folder: &Path, lines: &str, threads: usize) -> Tokenize {
        let input = folder.join("in.jsonl");
        fs::write(&input, lines).unwrap();
        Tokenize {
            inputs: vec![input],
            prefix: folder.join(format!("out{threads}")),
            field: "text".to_owned(),
            end_of_document: None,
            skip: 0,
            replace: false,
            threads,
        }
    }

    #[test]
    fn a_shard_holds_each_line_as_the_tokenizer_has_it_whatever_the_threads() {
        let folder = tempfile::tempdir().unwrap();
        let texts: Vec<String> = (0..200)
            .map(|nth| format!("document {nth}: {}", "héllo 世界 <|endofresponse|> ".repeat(nth % 7)))
            .collect();
        let lines: String =
            texts.iter().map(|text| format!("{}\n", serde_json::json!({ "text": text, "id": 1 }))).collect();
        let (mut bytes, mut shards) = (0, Vec::new());
        for threads in 1..=3 {
            let what = what(folder.path(), &lines, threads);
            bytes = 0;
            let manifest = tokenize(&source(), &what, &mut |seen| bytes += seen).unwrap();
            assert_eq!((manifest.documents, bytes), (200, lines.len() as u64));
            shards.push(["bin", "idx"].map(|ending| fs::read(path_of(&what.prefix, ending)).unwrap()));
        }
        assert!(bytes > 0 && shards.iter().all(|shard| *shard == shards[0]));
        let (tokenizer, shard) =
            (Tokenizer::new(&source()).unwrap(), Shard::open(&folder.path().join("out1")).unwrap());
        for (nth, text) in texts.iter().enumerate() {
            let mut ids = Vec::new();
            shard.read(nth, 0..shard.document_tokens(nth), tokenizer.vocab_size(), &mut ids).unwrap();
            assert_eq!(tokenizer.decode(&ids), *text);
            assert!(ids.iter().all(|&id| !tokenizer.is_special(id)));
        }
    }

    #[test]
    fn a_line_that_is_no_document_is_named_or_skipped_as_often_as_allowed() {
        let folder = tempfile::tempdir().unwrap();
        let lines = "{\"text\":\"a\"}\n\n{\"body\":\"b\"}\nnothing\n{\"text\":7}\n{\"text\":\"c\"}";
        let mut what = what(folder.path(), lines, 1);
        for (skip, error) in [
            (0, "in.jsonl: line 3: expected a field `text`, found none; --field names another"),
            (1, "in.jsonl: line 4: expected a JSON object, found expected"),
            (2, "in.jsonl: line 5: expected a text in its field `text`, found another type"),
        ] {
            what.skip = skip;
            let found = tokenize(&source(), &what, &mut |_| {}).unwrap_err().to_string();
            assert!(found.contains(error), "{found}");
            assert!(!path_of(&what.prefix, "bin").exists());
        }
        what.skip = 3;
        let manifest = tokenize(&source(), &what, &mut |_| {}).unwrap();
        assert_eq!((manifest.documents, manifest.skipped_lines), (2, 3));
        what.end_of_document = Some("no such token".to_owned());
        what.replace = true;
        let found = tokenize(&source(), &what, &mut |_| {}).unwrap_err().to_string();
        assert!(found.starts_with("no such token: expected a token of the vocabulary"), "{found}");
    }
}
