//! The sequences of each step, read from the shards in their order.

use std::error::Error;

use crate::{
    DataError,
    order::{Order, Piece},
    recipe::{Attention, Kind, Phase, Recipe},
    run::{Feed, Sequences},
    schedule::Position,
    step::{NO_TARGET, NO_TOKEN, Totals},
};

/// Reads a recipe's sequences.
#[derive(Debug)]
pub struct Loader<'a> {
    recipe: &'a Recipe,
    order: &'a Order,
    vocab_size: usize,
}

impl<'a> Loader<'a> {
    /// A loader of `recipe`'s phases in their `order`. That of another recipe is refused, and so is a validation that would look at
    /// nothing.
    pub fn new(recipe: &'a Recipe, order: &'a Order) -> Result<Self, DataError> {
        if !order.is_of(recipe) {
            let name = &recipe.name;
            return Err(DataError::Refused(format!("order: expected that of {name}'s phases, found another")));
        }
        check_validation(recipe, order)?;
        Ok(Self { recipe, order, vocab_size: recipe.model.config.vocab_size })
    }

    /// Appends one sequence made of `pieces` of documents, in the order that they lie in it.
    ///
    /// A position's target is the next token of its document, also where that lies past the sequence's end; a document's last token
    /// has none.
    fn append(&self, pieces: &[Piece], attention: Attention, to: &mut Sequences) -> Result<(), DataError> {
        let mut start = 0;
        for piece in pieces {
            let source = &self.order.sources()[piece.source];
            let begin = to.tokens.len();
            source.read(piece, piece.offset..piece.offset + piece.tokens, self.vocab_size, &mut to.tokens)?;
            to.targets.extend_from_slice(&to.tokens[begin + 1..]);
            let last = piece.offset + piece.tokens;
            if piece.goes_on {
                source.read(piece, last..last + 1, self.vocab_size, &mut to.targets)?;
            } else {
                to.targets.push(NO_TARGET);
            }
            let sees = if attention == Attention::Document { start } else { 0 };
            to.attend_from.resize(to.tokens.len(), sees);
            start += piece.tokens as u32;
        }
        Ok(())
    }

    /// Appends one sequence made of the chats `pieces`, and padding behind them.
    ///
    /// A position's target is the next token of its chat where that is part of an answer.
    fn append_chats(&self, pieces: &[Piece], phase: &Phase, to: &mut Sequences) {
        let first = to.tokens.len();
        for piece in pieces {
            let chats = &self.order.chats()[piece.source];
            let Some(chat) = chats.find(piece.shard, piece.document) else { continue };
            let begin = to.tokens.len();
            for (id, is_learnt) in chats.ids(chat, piece.tokens as usize) {
                if to.tokens.len() > begin {
                    to.targets.push(if is_learnt { id } else { NO_TARGET });
                }
                to.tokens.push(id);
            }
            to.targets.push(NO_TARGET);
            let sees = if phase.attention == Attention::Document { begin - first } else { 0 };
            to.attend_from.resize(to.tokens.len(), sees as u32);
        }
        // Padding sees itself alone.
        let (filled, end) = (to.tokens.len() - first, first + phase.sequence_tokens);
        to.tokens.resize(end, NO_TOKEN);
        to.targets.resize(end, NO_TARGET);
        to.attend_from.resize(end, filled as u32);
    }

    /// Sequences of documents or chats cut into micro-batches of the recipe's size.
    fn micro_batches(
        &self,
        kind: Kind,
        phase: &Phase,
        sequences: impl Iterator<Item = Vec<Piece>>,
    ) -> Result<Vec<Sequences>, DataError> {
        let sequence_tokens = phase.sequence_tokens;
        let most = (self.recipe.arithmetic.micro_batch_tokens as usize / sequence_tokens).max(1);
        let mut batches: Vec<Sequences> = Vec::new();
        for pieces in sequences {
            if batches.last().is_none_or(|last| last.tokens.len() >= most * sequence_tokens) {
                batches.push(Sequences { sequence_tokens, ..Sequences::default() });
            }
            if let Some(last) = batches.last_mut() {
                match kind {
                    Kind::Pretrain => self.append(&pieces, phase.attention, last)?,
                    Kind::Sft => self.append_chats(&pieces, phase, last),
                }
            }
        }
        Ok(batches)
    }
}

/// Refuses a validation of less than a sequence in any phase: there are only whole ones, and the loss of none would be told as 0.
fn check_validation(recipe: &Recipe, order: &Order) -> Result<(), DataError> {
    let Some(validation) = &recipe.validation else { return Ok(()) };
    for phase in &recipe.phases {
        let (least, name) = (phase.sequence_tokens as u64, &phase.name);
        if validation.tokens < least {
            let found = validation.tokens;
            return Err(DataError::Refused(format!(
                "validation.tokens: expected at least {least}, a sequence of the phase {name}, found {found}"
            )));
        }
        let mut sources = validation.sources.iter().filter_map(|source| order.source(source));
        if let Some(small) = sources.find(|source| source.tokens() < least) {
            let (source, found) = (small.name(), small.tokens());
            return Err(DataError::Refused(format!(
                "source {source}: expected at least {least} tokens to validate on, a sequence of the phase {name}, found {found} in its \
                 shards; give it more, or leave it out of validation.sources"
            )));
        }
    }
    Ok(())
}

impl Feed for Loader<'_> {
    fn step(&mut self, _step: u64, at: &Position) -> Result<(Totals, Vec<Sequences>), Box<dyn Error + Send + Sync>> {
        let phase = &self.recipe.phases[at.phase];
        let first = at.tokens_in_phase / phase.sequence_tokens as u64;
        let sequences = at.batch_tokens / phase.sequence_tokens as u64;
        let samples = (first..first + sequences).map(|index| self.order.sample(at.phase, index));
        let batches = self.micro_batches(phase.kind, phase, samples)?;
        let targets = batches.iter().flat_map(|batch| &batch.targets).filter(|target| **target != NO_TARGET).count();
        Ok((Totals { targets: targets as u64, sequences }, batches))
    }

    /// The source's first documents, in the order that they lie in its shards.
    fn validation(&mut self, source: &str, at: &Position) -> Result<Vec<Sequences>, Box<dyn Error + Send + Sync>> {
        let phase = &self.recipe.phases[at.phase];
        let of = self.order.source(source).ok_or_else(|| format!("source {source}: it has no shards"))?;
        let asked = self.recipe.validation.as_ref().map_or(0, |validation| validation.tokens);
        let sequence_tokens = phase.sequence_tokens as u64;
        let sequences = asked.min(of.tokens()) / sequence_tokens;
        let index = self.order.sources().iter().position(|other| std::ptr::eq(other, of)).unwrap_or(0);
        let mut pieces = of.in_order().map(|piece| Piece { source: index, ..piece });
        let (mut all, mut piece) = (Vec::new(), pieces.next());
        for _ in 0..sequences {
            let (mut sequence, mut missing) = (Vec::new(), sequence_tokens);
            while missing > 0
                && let Some(left) = piece
            {
                let taken = left.tokens.min(missing);
                missing -= taken;
                if taken > 0 {
                    sequence.push(Piece { tokens: taken, goes_on: taken < left.tokens, ..left });
                }
                piece = match left.tokens - taken {
                    0 => pieces.next(),
                    rest => Some(Piece { offset: left.offset + taken, tokens: rest, ..left }),
                };
            }
            all.push(sequence);
        }
        Ok(self.micro_batches(Kind::Pretrain, phase, all.into_iter())?)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{
        recipe::tiny,
        schedule::Schedule,
        shards::{Manifest, ShardWriter},
    };

    /// Documents of 1, 2, … 9 tokens; token t of document d is 10 d + t.
    fn write(folder: &Path, name: &str) {
        let mut shard = ShardWriter::create(&folder.join(name), 100, false).unwrap();
        for document in 1..10 {
            shard.add(&(0..document).map(|token| 10 * document + token).collect::<Vec<_>>()).unwrap();
        }
        shard.finish(Manifest::default()).unwrap();
    }

    fn recipe(folder: &Path, attention: &str, micro_batch_tokens: u64) -> Recipe {
        write(folder, &format!("a{attention}{micro_batch_tokens}"));
        let shard = folder.join(format!("a{attention}{micro_batch_tokens}"));
        tiny(&format!(
            r#"
[sources.a]
shards = ["{}"]
[arithmetic]
micro_batch_tokens = {micro_batch_tokens}
[checkpoints]
every_tokens = 1000
[validation]
every_tokens = 40
tokens = 20
sources = ["a"]
[[phases]]
name = "p"
tokens = 240
sequence_tokens = 8
batch_tokens = 40
attention = "{attention}"
learning_rate = 1e-2
mixture = {{ a = 1.0 }}
"#,
            shard.display()
        ))
    }

    fn steps(recipe: &Recipe) -> Vec<(Totals, Vec<Sequences>)> {
        let schedule = Schedule::new(recipe, |_| 0);
        let order = Order::new(recipe, &schedule).unwrap();
        let mut loader = Loader::new(recipe, &order).unwrap();
        (0..schedule.steps()).map(|step| loader.step(step, &schedule.at(step).unwrap()).unwrap()).collect()
    }

    #[test]
    fn targets_are_the_next_token_of_the_document_and_attention_stays_within_it() {
        let folder = tempfile::tempdir().unwrap();
        let mut ends = 0;
        for (totals, batches) in steps(&recipe(folder.path(), "document", 16)) {
            assert_eq!(totals.sequences, 5);
            assert_eq!(batches.iter().map(|batch| batch.tokens.len()).collect::<Vec<_>>(), [16, 16, 8]);
            let mut targets = 0;
            for batch in &batches {
                for (at, (&token, &target)) in batch.tokens.iter().zip(&batch.targets).enumerate() {
                    let (document, nth) = (token / 10, token % 10);
                    let last = nth + 1 == document;
                    assert_eq!(target, if last { NO_TARGET } else { token + 1 });
                    targets += u64::from(!last);
                    ends += usize::from(last);
                    // What it sees from is of its document, and what is before that is not.
                    let start = at / 8 * 8;
                    let from = start + batch.attend_from[at] as usize;
                    assert_eq!(batch.tokens[from] / 10, document);
                    assert!(from == start || batch.tokens[from - 1] / 10 != document || batch.tokens[from] % 10 == 0);
                }
            }
            assert_eq!(totals.targets, targets);
        }
        // 240 tokens are five epochs of 45 and a third: each document ended at least five times.
        assert!((45..=54).contains(&ends), "{ends}");
    }

    #[test]
    fn micro_batches_and_attention_change_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let flat = |micro, attention: &str| -> Vec<(Vec<u32>, Vec<u32>)> {
            let join = |batches: Vec<Sequences>, of: fn(&Sequences) -> &Vec<u32>| {
                batches.iter().flat_map(of).copied().collect()
            };
            (steps(&recipe(folder.path(), attention, micro)).into_iter())
                .map(|(_, batches)| (join(batches.clone(), |b| &b.tokens), join(batches, |b| &b.targets)))
                .collect()
        };
        let want = flat(8, "document");
        assert_eq!(flat(1000, "document"), want);
        assert_eq!(flat(16, "sequence"), want);
        let all = steps(&recipe(folder.path(), "sequence", 24));
        assert!(
            all.iter().flat_map(|(_, batches)| batches).all(|batch| batch.attend_from.iter().all(|&from| from == 0))
        );
    }

    #[test]
    fn ids_beyond_the_vocabulary_are_found_before_the_first_step() {
        let folder = tempfile::tempdir().unwrap();
        for manifest in [true, false] {
            let mut recipe = recipe(folder.path(), "document", 8 + u64::from(manifest));
            if !manifest {
                std::fs::remove_file(folder.path().join("adocument8.json")).unwrap();
            }
            recipe.set("model.vocab_size", "98").unwrap();
            let error = Order::new(&recipe, &Schedule::new(&recipe, |_| 0)).unwrap_err().to_string();
            assert!(error.contains("document 8, id 8: expected an id below 98"), "{error}");
        }
    }

    #[test]
    fn validation_is_the_beginning_of_the_shards() {
        let folder = tempfile::tempdir().unwrap();
        let recipe = recipe(folder.path(), "document", 8);
        let schedule = Schedule::new(&recipe, |_| 0);
        let order = Order::new(&recipe, &schedule).unwrap();
        let mut loader = Loader::new(&recipe, &order).unwrap();
        let found = loader.validation("a", &schedule.at(3).unwrap()).unwrap();
        let tokens: Vec<u32> = found.iter().flat_map(|batch| batch.tokens.clone()).collect();
        assert_eq!(tokens, [10, 20, 21, 30, 31, 32, 40, 41, 42, 43, 50, 51, 52, 53, 54, 60]);
        assert_eq!(found[0].targets, [NO_TARGET, 21, NO_TARGET, 31, 32, NO_TARGET, 41, 42]);
        assert_eq!(found[1].attend_from, [0, 0, 2, 2, 2, 2, 2, 7]);
        assert!(loader.validation("b", &schedule.at(3).unwrap()).is_err());
    }

    #[test]
    fn a_validation_that_would_look_at_nothing_is_refused_before_the_first_step() {
        let folder = tempfile::tempdir().unwrap();
        let mut recipe = recipe(folder.path(), "document", 8);
        let refused = |recipe: &Recipe| {
            let order = Order::new(recipe, &Schedule::new(recipe, |_| 0)).unwrap();
            Loader::new(recipe, &order).unwrap_err().to_string()
        };
        recipe.set("validation.tokens", "7").unwrap();
        let error = refused(&recipe);
        assert!(
            error.contains("validation.tokens: expected at least 8, a sequence of the phase p, found 7"),
            "{error}"
        );
        // Of the 45 tokens of the source no such sequence can be made.
        recipe.set("validation.tokens", "1000").unwrap();
        recipe.set("model.context", "64").unwrap();
        recipe.set("phases.p.batch_tokens", "240").unwrap();
        recipe.set("phases.p.sequence_tokens", "48").unwrap();
        let error = refused(&recipe);
        assert!(
            error.contains("source a: expected at least 48 tokens to validate on, a sequence of the phase p"),
            "{error}"
        );
        assert!(error.contains("found 45"), "{error}");
    }
}
