//! Chats, tokenised, with what is to be learnt of them.
//!
//! A source of chats is tokenised whole when a run starts or goes on, by the tokenizer's own chat template, and held in memory, four
//! bytes a token. Lines that are no chats are named before anything is trained.

mod line;
mod pack;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use dots_model::{checkpoint::TokenizerSource, hex, template::ChatTemplate, tokenizer::Tokenizer};
use sha2::{Digest, Sha256};

pub use self::pack::Pack;
use crate::{
    DataError,
    lines::Lines,
    recipe::{Kind, Length, Phase, Recipe, Source},
    rejection::round::{self, Sampled},
    shards::Input,
    share,
};

/// Marks an id that is learnt: part of an answer. Ids of tokenizers are below 2²².
const LEARNT: u32 = 1 << 31;
/// Most tokens of a source: 8 GiB of them.
const MOST_TOKENS: usize = 1 << 31;
/// Lines that are read before they are shared among threads.
const BATCH_BYTES: u64 = 8 << 20;

/// A source of chats.
#[derive(Debug)]
pub struct Chats {
    name: String,
    seed: u64,
    /// Ids of all chats, one after the other, with [`LEARNT`] on those that are.
    ids: Vec<u32>,
    /// `(chats + 1)`: where each begins.
    starts: Vec<usize>,
    files: Vec<Input>,
    /// `(files + 1)`: chats before each.
    firsts: Vec<usize>,
}

/// What tokenises chats.
struct Encoder<'a> {
    tokenizer: Tokenizer,
    template: ChatTemplate,
    /// Where they come from, for messages.
    folder: &'a Path,
}

impl Chats {
    /// Reads the source `name`: JSONL files of `{"messages": [{"role": …, "content": …}, …]}`, with `tools` beside them where there are
    /// some. The same for any number of threads; 0 takes every core.
    fn read(
        name: &str,
        seed: u64,
        files: &[PathBuf],
        encoder: &Encoder<'_>,
        threads: usize,
    ) -> Result<Self, DataError> {
        let name_of = name.to_owned();
        let mut chats =
            Self { name: name_of, seed, ids: Vec::new(), starts: vec![0], files: Vec::new(), firsts: vec![0] };
        for path in files {
            let mut lines = Lines::open(path)?;
            loop {
                let (mut batch, mut bytes) = (Vec::new(), 0);
                while bytes < BATCH_BYTES {
                    let mut line = Vec::new();
                    let read = lines.next(&mut line)?;
                    if read == 0 {
                        break;
                    }
                    bytes += read;
                    batch.push((lines.place(), line));
                }
                if batch.is_empty() {
                    break;
                }
                let encoded = share::in_order(&batch, threads, |(_, line)| encoder.encode(line));
                for ((place, _), encoded) in batch.iter().zip(encoded) {
                    let invalid =
                        |(expected, found): (String, String)| DataError::invalid(path, place.as_str(), expected, found);
                    chats.ids.extend(encoded.map_err(invalid)?);
                    chats.starts.push(chats.ids.len());
                }
                if chats.ids.len() > MOST_TOKENS {
                    let found = format!("more up to {} of {}", lines.place(), path.display());
                    let expected = format!("at most {MOST_TOKENS} tokens of chats");
                    return Err(DataError::Refused(format!("source {name}: expected {expected}, found {found}")));
                }
            }
            chats.files.push(lines.input());
            chats.firsts.push(chats.len());
        }
        if chats.is_empty() {
            return Err(DataError::Refused(format!("source {name}: expected at least one chat, found none")));
        }
        Ok(chats)
    }

    /// Its name in the recipe.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What its orders follow from, beside its name.
    pub(crate) fn seed(&self) -> u64 {
        self.seed
    }

    /// Its files.
    pub fn files(&self) -> &[Input] {
        &self.files
    }

    /// SHA-256, in hexadecimal, of what a file became: the ids of its chats, and which of them are learnt. It follows the chat template,
    /// of which the file's own hash knows nothing.
    pub fn ids_hash(&self, file: usize) -> String {
        let (mut hasher, mut bytes) = (Sha256::new(), Vec::new());
        for chat in self.firsts[file]..self.firsts[file + 1] {
            let ids = self.marked(chat);
            bytes.clear();
            bytes.extend((ids.len() as u64).to_le_bytes());
            bytes.extend(ids.iter().flat_map(|id| id.to_le_bytes()));
            hasher.update(&bytes);
        }
        hex(&hasher.finalize())
    }

    /// How many chats there are.
    pub fn len(&self) -> usize {
        self.starts.len() - 1
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Tokens of all chats.
    pub fn tokens(&self) -> u64 {
        self.ids.len() as u64
    }

    /// The file of a chat among all, and its index there.
    pub(crate) fn place(&self, chat: usize) -> (usize, usize) {
        let file = self.firsts.partition_point(|first| *first <= chat) - 1;
        (file, chat - self.firsts[file])
    }

    /// The chat of that number in a file, among all; `None` where there is none.
    pub(crate) fn find(&self, file: usize, nth: usize) -> Option<usize> {
        let chat = self.firsts.get(file)? + nth;
        (chat < *self.firsts.get(file + 1)?).then_some(chat)
    }

    /// Ids of a chat, with [`LEARNT`].
    fn marked(&self, chat: usize) -> &[u32] {
        &self.ids[self.starts[chat]..self.starts[chat + 1]]
    }

    /// The first `tokens` ids of a chat, each with whether it is learnt.
    pub(crate) fn ids(&self, chat: usize, tokens: usize) -> impl Iterator<Item = (u32, bool)> {
        self.marked(chat)[..tokens].iter().map(|id| (id & !LEARNT, id & LEARNT != 0))
    }
}

impl<'a> Encoder<'a> {
    fn of_folder(folder: &'a Path) -> Result<Self, DataError> {
        let tokenizer = Tokenizer::new(&TokenizerSource::of_folder(folder)?)?;
        Ok(Self { tokenizer, template: ChatTemplate::of_folder(folder)?, folder })
    }

    /// Marked ids of the chat on a line, or what was expected and found.
    fn encode(&self, line: &[u8]) -> Result<Vec<u32>, (String, String)> {
        let (messages, tools) = line::chat(line)?;
        let answered = self.template.encode_answers(&self.tokenizer, &messages, &tools).map_err(|error| {
            let expected =
                format!("a chat whose answers the chat template of {} lets one learn", self.folder.display());
            (expected, error.to_string())
        })?;
        let mut ids = answered.ids;
        for answer in answered.answers {
            ids[answer].iter_mut().for_each(|id| *id |= LEARNT);
        }
        Ok(ids)
    }
}

/// How a source is packed, how often an epoch goes through it, and its index among the chats.
type Weighted = (Pack, f64, usize);

/// The chats of a recipe, and how its phases pack them.
#[derive(Debug, Default)]
pub struct Packed {
    pub(crate) chats: Vec<Chats>,
    /// By phase, by source of its mixture, up to the first phase whose answers are not sampled yet.
    pub(crate) phases: Vec<Vec<Weighted>>,
    /// By phase: epochs, where its length is said in them.
    epochs: Vec<f64>,
}

impl Packed {
    /// Reads the chats that `recipe`'s phases learn from, and packs them: those that are given, and those that were sampled. Nothing is
    /// read where no phase is of fine-tuning.
    pub fn open(recipe: &Recipe, sampled: &Sampled, threads: usize) -> Result<Self, DataError> {
        let mut packed = Self::default();
        let mut encoder = None;
        for (nth, phase) in recipe.phases.iter().enumerate() {
            let mut packs = Vec::new();
            if phase.kind == Kind::Sft {
                let encoder = match &mut encoder {
                    Some(encoder) => encoder,
                    none => none.insert(Encoder::of_folder(&recipe.tokenizer)?),
                };
                let Some(of_phase) = packed.of_phase(recipe, nth, sampled, encoder, threads)? else { break };
                packs = of_phase;
            }
            packed.phases.push(packs);
            packed.epochs.push(match phase.length {
                Length::Epochs(epochs) => epochs,
                Length::Tokens(_) => 0.0,
            });
        }
        Ok(packed)
    }

    /// How a phase's sources are packed; `None` where one of them is not sampled yet.
    fn of_phase(
        &mut self,
        recipe: &Recipe,
        nth: usize,
        sampled: &Sampled,
        encoder: &Encoder<'_>,
        threads: usize,
    ) -> Result<Option<Vec<Weighted>>, DataError> {
        let phase = &recipe.phases[nth];
        let mut packs = Vec::new();
        for (source, &times) in &phase.mixture {
            let index = match recipe.sources.get(source) {
                Some(Source::Chats(files)) => match self.chats.iter().position(|chats| chats.name == *source) {
                    Some(index) => index,
                    None => self.add(Chats::read(source, recipe.seed, files, encoder, threads)?),
                },
                Some(Source::Problems(_)) => {
                    let Some(path) = sampled.find(nth, &phase.name, source) else { return Ok(None) };
                    self.add(Self::sampled(recipe, phase, source, path, encoder, threads)?)
                }
                // The recipe holds the mixture of such a phase to sources of these.
                _ => continue,
            };
            packs.push((Pack::new(&self.chats[index], phase.sequence_tokens)?, times, index));
        }
        Ok(Some(packs))
    }

    fn add(&mut self, chats: Chats) -> usize {
        self.chats.push(chats);
        self.chats.len() - 1
    }

    /// The chats that a phase sampled, under a name of their own and the path that they have in any folder of the run.
    fn sampled(
        recipe: &Recipe,
        phase: &Phase,
        source: &str,
        path: PathBuf,
        encoder: &Encoder<'_>,
        threads: usize,
    ) -> Result<Chats, DataError> {
        let name = round::name(&phase.name, source);
        let is_empty = std::fs::metadata(&path).is_ok_and(|file| file.len() == 0);
        if is_empty {
            return Err(DataError::Refused(format!(
                "{}: expected at least one answer that is right, found none: what the phase {} would learn from; a branch (--from) may ask \
                 easier problems, or sources.{source}.samples more often",
                path.display(),
                phase.name
            )));
        }
        let mut chats = Chats::read(&name, recipe.seed, &[path], encoder, threads)?;
        let place = round::path(Path::new(""), &phase.name, source);
        chats.files.iter_mut().for_each(|file| file.path = place.display().to_string());
        Ok(chats)
    }

    /// How many phases are known: all, or those before the first whose answers are not sampled yet.
    pub fn phases(&self) -> usize {
        self.phases.len()
    }

    /// Sequences of all epochs of a phase, the last one rounded up; as [`crate::schedule::Schedule::new`] asks for them.
    pub fn sequences(&self, phase: usize) -> u64 {
        let epoch: f64 = self.phases[phase].iter().map(|(pack, times, _)| pack.sequences() as f64 * times).sum();
        (epoch * self.epochs[phase]).ceil() as u64
    }

    /// The chats.
    pub fn chats(&self) -> &[Chats] {
        &self.chats
    }
}
