//! Chats packed into sequences.

use super::{Chats, LEARNT};
use crate::{
    DataError,
    order::{Permutation, key},
};

/// Sequences that are open for more chats at once.
const OPEN: usize = 32;

/// Which chats of a source lie in each sequence of some length. Chats are taken in a shuffled order, each into the first sequence that has
/// room for it; what is left of a sequence is padding. A chat that is longer than a sequence is cut, and left out where no answer is
/// left of it. Each epoch has the same sequences, in an order of its own.
#[derive(Debug)]
pub struct Pack {
    /// Chats, sequence after sequence.
    chats: Vec<u32>,
    /// `(sequences + 1)`: where each sequence begins among them.
    starts: Vec<u32>,
    sequence_tokens: usize,
    /// Chats that are cut.
    pub(crate) cut: usize,
    /// Chats that are left out.
    pub(crate) left_out: usize,
}

struct Sequence {
    chats: Vec<u32>,
    room: usize,
}

impl Pack {
    /// Packs `chats` into sequences of `sequence_tokens`. A source of which nothing can be learnt so is refused.
    pub(super) fn new(chats: &Chats, sequence_tokens: usize) -> Result<Self, DataError> {
        let mut pack = Self { chats: Vec::new(), starts: vec![0], sequence_tokens, cut: 0, left_out: 0 };
        let order = Permutation::new(chats.len() as u64, key(chats.seed, 0, &format!("{} packed", chats.name)));
        let mut open: Vec<Sequence> = Vec::with_capacity(OPEN + 1);
        for nth in 0..chats.len() as u64 {
            let chat = order.at(nth) as u32;
            let ids = chats.marked(chat as usize);
            let tokens = ids.len().min(sequence_tokens);
            if !ids[1.min(tokens)..tokens].iter().any(|id| id & LEARNT != 0) {
                pack.left_out += 1;
                continue;
            }
            pack.cut += usize::from(tokens < ids.len());
            match open.iter_mut().find(|sequence| sequence.room >= tokens) {
                Some(sequence) => {
                    sequence.chats.push(chat);
                    sequence.room -= tokens;
                }
                None => open.push(Sequence { chats: vec![chat], room: sequence_tokens - tokens }),
            }
            if open.len() > OPEN
                && let Some(fullest) = (0..open.len()).min_by_key(|&nth| open[nth].room)
            {
                let full = open.remove(fullest);
                pack.close(&full);
            }
        }
        open.iter().for_each(|sequence| pack.close(sequence));
        if pack.chats.is_empty() {
            return Err(DataError::Refused(format!(
                "source {}: expected a chat with an answer within its first {sequence_tokens} tokens, found none; make \
                 sequence_tokens larger",
                chats.name
            )));
        }
        Ok(pack)
    }

    fn close(&mut self, sequence: &Sequence) {
        self.chats.extend_from_slice(&sequence.chats);
        self.starts.push(self.chats.len() as u32);
    }

    /// Sequences of an epoch.
    pub fn sequences(&self) -> u64 {
        self.starts.len() as u64 - 1
    }

    /// Chats of sequence `nth` with the tokens that it takes of each.
    pub(crate) fn sequence<'a>(&'a self, chats: &'a Chats, nth: u64) -> impl Iterator<Item = (usize, usize)> + 'a {
        let range = self.starts[nth as usize] as usize..self.starts[nth as usize + 1] as usize;
        self.chats[range].iter().map(move |&chat| {
            let chat = chat as usize;
            (chat, chats.marked(chat).len().min(self.sequence_tokens))
        })
    }

    /// The sequence that holds a chat.
    pub(crate) fn sequence_of(&self, chat: usize) -> Option<u64> {
        let at = self.chats.iter().position(|&other| other as usize == chat)? as u32;
        Some(self.starts.partition_point(|start| *start <= at) as u64 - 1)
    }
}
