//! A tokenizer like dots.llm1's, learnt from text.

mod bpe;
mod count;

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

use dots_model::{
    aside, template,
    tokenizer::{Pieces, Vocabulary},
};
use serde_json::{Value, json};

use self::{bpe::Merges, count::Counts};
use crate::{
    DataError,
    lines::{self, Lines, Wrong},
    share,
};

/// dots.llm1's special tokens, which are the last ids of the vocabulary, in its order.
pub const SPECIAL: [&str; 7] = [
    END_OF_TEXT,
    "<|system|>",
    "<|endofsystem|>",
    "<|userprompt|>",
    "<|endofuserprompt|>",
    "<|response|>",
    END_OF_RESPONSE,
];
/// Ends a document.
pub const END_OF_TEXT: &str = "<|endoftext|>";
/// Ends an answer.
pub const END_OF_RESPONSE: &str = "<|endofresponse|>";

/// Fewest ids: the bytes, and the special tokens.
pub const LEAST_VOCAB_SIZE: usize = 256 + SPECIAL.len();
/// Most ids, twice those of dots.llm1.
pub const MOST_VOCAB_SIZE: usize = 300_000;

/// Text that is read before it is shared among threads.
const BATCH_BYTES: u64 = 8 << 20;
/// Text that a thread takes at once. Cutting it takes some twenty times its memory.
const PART_BYTES: usize = 256 << 10;
/// Longest piece: longer ones, of text without spaces, are cut.
const PIECE_BYTES: usize = 512;
/// Memory of the table of pieces; learning takes some three times as much.
const TABLE_BYTES: usize = 512 << 20;

/// What to learn a tokenizer from.
#[derive(Debug, Clone)]
pub struct Training {
    /// JSONL files: a text in `field`, or `messages` with a text in each one's `content`.
    pub inputs: Vec<PathBuf>,
    /// Field of a line that holds its text.
    pub field: String,
    /// Ids in all, the special tokens among them.
    pub vocab_size: usize,
    /// Most lines that may hold neither; more are an error.
    pub skip: u64,
    /// Threads; 0 takes every core.
    pub threads: usize,
}

/// What is told while a tokenizer is learnt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// That many more bytes of the inputs were read.
    Read(u64),
    /// There are that many tokens now.
    Learnt(usize),
}

/// A tokenizer that was learnt.
#[derive(Debug)]
pub struct Learnt {
    vocabulary: Vocabulary,
    /// Lines that were skipped.
    pub skipped_lines: u64,
}

/// Learns a tokenizer: dots.llm1's normalisation, cut and special tokens, and merges from these texts. The same for any number of
/// threads. Texts from which too few merges can be learnt are refused.
pub fn train(what: &Training, tell: &mut dyn FnMut(Progress)) -> Result<Learnt, DataError> {
    if !(LEAST_VOCAB_SIZE..=MOST_VOCAB_SIZE).contains(&what.vocab_size) {
        let found = what.vocab_size;
        return Err(DataError::Refused(format!(
            "vocabulary: expected {LEAST_VOCAB_SIZE} to {MOST_VOCAB_SIZE} ids, found {found}"
        )));
    }
    let (counts, skipped_lines) = count(what, tell)?;
    let ordinary = what.vocab_size - SPECIAL.len();
    let bytes = Vocabulary::bytes();
    let pieces = counts.into_sorted().into_iter();
    let Merges { tokens, pairs } = bpe::learn(&bytes, pieces, ordinary, &mut |tokens| tell(Progress::Learnt(tokens)));
    if tokens.len() < ordinary {
        let most = tokens.len() + SPECIAL.len();
        return Err(DataError::Refused(format!(
            "the texts: expected enough of them for {} ids, found no pair that stands twice after {most}; give more text, or a vocabulary of at most {most}",
            what.vocab_size
        )));
    }
    Ok(Learnt { vocabulary: Vocabulary::byte_level(&tokens, &pairs, &SPECIAL)?, skipped_lines })
}

/// The pieces of all texts.
fn count(what: &Training, tell: &mut dyn FnMut(Progress)) -> Result<(Counts, u64), DataError> {
    let cut = Pieces::new()?;
    let (mut counts, mut skipped) = (Counts::new(TABLE_BYTES), 0);
    for path in &what.inputs {
        let (mut lines, mut read, mut line) = (Lines::open(path)?, 0, Vec::new());
        let mut ended = false;
        while !ended {
            let (mut parts, mut bytes) = (Vec::new(), 0);
            while bytes < BATCH_BYTES {
                let length = lines.next(&mut line)?;
                if length == 0 {
                    ended = true;
                    break;
                }
                bytes += length;
                match texts(&line, &what.field) {
                    Ok(texts) => {
                        texts.iter().for_each(|text| parts.extend(cut_up(text, PART_BYTES).map(str::to_owned)))
                    }
                    Err(_) if skipped < what.skip => skipped += 1,
                    Err((expected, found)) => {
                        return Err(DataError::invalid(lines.path(), lines.place(), expected, found));
                    }
                }
            }
            for found in share::in_order(&parts, what.threads, |part| count_part(&cut, part)) {
                counts.add(found);
            }
            counts.bound();
            tell(Progress::Read(lines.bytes() - read));
            read = lines.bytes();
        }
    }
    Ok((counts, skipped))
}

fn count_part(cut: &Pieces, part: &str) -> HashMap<Vec<u8>, u64> {
    let mut counts = HashMap::new();
    cut.each(part, &mut |piece| {
        for piece in cut_up(piece, PIECE_BYTES) {
            match counts.get_mut(piece.as_bytes()) {
                Some(count) => *count += 1,
                None => {
                    counts.insert(piece.as_bytes().to_vec(), 1);
                }
            }
        }
    });
    counts
}

/// The text or texts of a line.
fn texts(line: &[u8], field: &str) -> Result<Vec<String>, Wrong> {
    let mut object = lines::object(line)?;
    if object.get(field).is_none()
        && let Some(Value::Array(messages)) = object.get_mut("messages")
    {
        let no_text = || ("texts as `content` of its messages".to_owned(), "a message without".to_owned());
        return messages
            .iter_mut()
            .map(|message| match message.get_mut("content").map(Value::take) {
                Some(Value::String(text)) => Ok(text),
                // A message that calls tools may say nothing.
                Some(Value::Null) => Ok(String::new()),
                _ => Err(no_text()),
            })
            .collect();
    }
    lines::text(&mut object, field).map(|text| vec![text])
}

/// Parts of at most `most` bytes, cut behind the last line or else character that ends within.
fn cut_up(text: &str, most: usize) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let end = match rest.len() <= most {
            true => rest.len(),
            false => {
                let character = rest.floor_char_boundary(most);
                rest[..character].rfind('\n').map_or(character, |line| line + 1)
            }
        };
        let (part, after) = rest.split_at(end);
        rest = after;
        Some(part)
    })
}

impl Learnt {
    /// Its tokens and merges.
    pub fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    /// The id of one of [`SPECIAL`].
    fn id_of(&self, token: &str) -> Option<usize> {
        self.vocabulary.tokens.iter().rposition(|other| other == token)
    }

    /// Writes what a published checkpoint has beside its weights: `tokenizer.json`, `tokenizer_config.json` with the published chat
    /// template, `special_tokens_map.json` and `generation_config.json`. A folder that holds a tokenizer is refused unless it may be
    /// replaced. `tokenizer.json`, which makes it one, is written last.
    pub fn write(&self, folder: &Path, replace: bool) -> Result<(), DataError> {
        let path = folder.join("tokenizer.json");
        if !replace && path.exists() {
            return Err(DataError::Refused(format!("{}: exists; --replace writes over it", path.display())));
        }
        fs::create_dir_all(folder).map_err(DataError::io(folder))?;
        let ends = [END_OF_TEXT, END_OF_RESPONSE].map(|token| self.id_of(token));
        let config = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": null,
            "eos_token": END_OF_RESPONSE,
            "pad_token": END_OF_TEXT,
            "add_bos_token": false,
            "clean_up_tokenization_spaces": false,
            "chat_template": template::PUBLISHED,
        });
        // As dots.llm1 was published.
        let generation = json!({ "eos_token_id": ends, "do_sample": true, "temperature": 0.7, "top_p": 0.8 });
        let special = json!({ "eos_token": END_OF_RESPONSE, "pad_token": END_OF_TEXT });
        for (name, json) in [
            ("tokenizer_config.json", config),
            ("special_tokens_map.json", special),
            ("generation_config.json", generation),
            ("tokenizer.json", self.vocabulary.to_json()),
        ] {
            let path = folder.join(name);
            aside::write(&path, format!("{json:#}\n").as_bytes()).map_err(DataError::io(path))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use dots_model::{
        checkpoint::TokenizerSource,
        tokenizer::{Specials, Tokenizer},
    };

    use super::*;

    fn what(folder: &Path, lines: &str) -> Training {
        let input = folder.join("in.jsonl");
        fs::write(&input, lines).unwrap();
        Training { inputs: vec![input], field: "text".to_owned(), vocab_size: 300, skip: 0, threads: 1 }
    }

    fn lines() -> String {
        let text = |nth: usize| {
            format!("Document {nth}: les élèves, 你好世界, 안녕하세요 세계! {}\n\n  it's {nth}", nth * nth)
        };
        let line = |nth| match nth % 3 {
            0 => {
                json!({ "messages": [{ "role": "user", "content": text(nth) }, { "role": "assistant", "content": null }] })
            }
            _ => json!({ "text": text(nth) }),
        };
        (0..90).map(|nth| format!("{}\n", line(nth))).collect()
    }

    #[test]
    fn a_tokenizer_is_the_same_for_any_threads_and_reads_every_text_back() {
        let folder = tempfile::tempdir().unwrap();
        let mut what = what(folder.path(), &lines());
        let (mut read, mut files) = (0, Vec::new());
        for threads in [1, 3] {
            what.threads = threads;
            read = 0;
            let out = folder.path().join(format!("out{threads}"));
            let learnt = train(&what, &mut |progress| {
                if let Progress::Read(bytes) = progress {
                    read += bytes;
                }
            });
            learnt.unwrap().write(&out, false).unwrap();
            let read = |name| fs::read(out.join(name)).unwrap();
            files.push(["tokenizer.json", "tokenizer_config.json", "generation_config.json"].map(read));
        }
        assert!(files[0] == files[1] && read == lines().len() as u64);
        let generation: Value = serde_json::from_slice(&files[0][2]).unwrap();
        assert_eq!(generation["eos_token_id"], json!([293, 299]));

        let tokenizer = Tokenizer::new(&TokenizerSource::of_folder(&folder.path().join("out1")).unwrap()).unwrap();
        assert_eq!(tokenizer.vocab_size(), 300);
        for (id, token) in (293..).zip(SPECIAL) {
            assert!(tokenizer.token_id(token) == Some(id) && tokenizer.is_special(id), "{token}");
        }
        for (text, most) in [("Document 12: les élèves, 你好世界!", 24), ("never seen: Ω \u{0}\u{7f} 🙂\r\n", 60)]
        {
            let ids = tokenizer.encode(text, Specials::Parse);
            assert!(tokenizer.decode(&ids) == text && ids.len() <= most, "{text}: {ids:?}");
        }
        // Decomposed letters are composed, digits stand alone, and a text never makes a special token.
        assert_eq!(tokenizer.encode("e\u{301}", Specials::AsText), tokenizer.encode("é", Specials::AsText));
        assert_eq!(tokenizer.encode("1234", Specials::AsText).len(), 4);
        assert!(tokenizer.encode("<|response|>", Specials::AsText).iter().all(|&id| !tokenizer.is_special(id)));
    }

    #[test]
    fn what_cannot_be_learnt_from_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let wrong = |lines: &str, set: &dyn Fn(&mut Training)| {
            let mut what = what(folder.path(), lines);
            set(&mut what);
            train(&what, &mut |_| {}).unwrap_err().to_string()
        };
        let found = wrong(&lines(), &|what| what.vocab_size = 100_000);
        assert!(found.contains("expected enough of them for 100000 ids"), "{found}");
        let found = wrong(&lines(), &|what| what.vocab_size = 100);
        assert!(found.contains("expected 263 to 300000 ids, found 100"), "{found}");
        let found = wrong("{\"text\":\"a\"}\n{\"messages\":[{\"content\":7}]}", &|_| {});
        assert!(found.contains("in.jsonl: line 2: expected texts as `content`"), "{found}");
        let found = wrong("{\"text\":\"a\"}\n[]", &|_| {});
        assert!(found.contains("in.jsonl: line 2: expected a JSON object"), "{found}");
        let out = folder.path().join("out");
        let learnt = train(&what(folder.path(), &lines()), &mut |_| {}).unwrap();
        learnt.write(&out, false).unwrap();
        let error = learnt.write(&out, false).unwrap_err().to_string();
        assert!(error.contains("tokenizer.json: exists"), "{error}");
        learnt.write(&out, true).unwrap();
    }

    #[test]
    fn a_text_is_cut_at_lines_and_whole_characters() {
        let text = "one\ntwo\nthrée thrée thrée\n";
        for most in 4..30 {
            let parts: Vec<&str> = cut_up(text, most).collect();
            assert!(parts.concat() == text && parts.iter().all(|part| part.len() <= most), "{parts:?}");
        }
        assert_eq!(cut_up(text, 9).next(), Some("one\ntwo\n"));
    }
}
