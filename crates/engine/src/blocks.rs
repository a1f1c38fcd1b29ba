//! Which blocks of the cache are free, who holds the others, and what they hold.

use std::collections::{BTreeMap, HashMap};

use dots_model::executor::{BLOCK_TOKENS, BlockId};

use crate::prefix::BlockName;

/// Blocks that `tokens` tokens take.
pub(crate) fn blocks_for(tokens: usize) -> usize {
    tokens.div_ceil(BLOCK_TOKENS)
}

/// Where a name's content is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    /// Whole, in this block.
    Computed(BlockId),
    /// A sequence that runs is about to compute it.
    Announced,
    /// Nowhere.
    Absent,
}

/// The cache's blocks. Each is held by one or more sequences, or idle (nobody holds it, but its content may be asked for
/// again), or empty. Idle blocks are overwritten when no empty one is left, the one that was longest idle first.
#[derive(Debug)]
pub(crate) struct BlockPool {
    blocks: Vec<Block>,
    empty: Vec<BlockId>,
    /// By the time when they became idle.
    idle: BTreeMap<u64, BlockId>,
    by_name: HashMap<BlockName, BlockId>,
    /// Counts what became idle.
    clock: u64,
}

#[derive(Debug, Default)]
struct Block {
    holders: u32,
    name: Option<BlockName>,
    /// Whether the content is what the name says.
    is_computed: bool,
    idle_since: u64,
}

impl BlockPool {
    pub fn new(total: usize) -> Self {
        Self {
            blocks: std::iter::repeat_with(Block::default).take(total).collect(),
            empty: (0..total as BlockId).rev().collect(),
            idle: BTreeMap::new(),
            by_name: HashMap::new(),
            clock: 0,
        }
    }

    /// Blocks that can be taken: empty and idle ones.
    pub fn free(&self) -> usize {
        self.empty.len() + self.idle.len()
    }

    /// Blocks that nobody holds and whose content may be asked for again.
    pub fn idle(&self) -> usize {
        self.idle.len()
    }

    pub fn total(&self) -> usize {
        self.blocks.len()
    }

    /// A block for its holder alone, its content lost.
    pub fn take(&mut self) -> Option<BlockId> {
        let block = match self.empty.pop() {
            Some(block) => block,
            None => {
                let (_, block) = self.idle.pop_first()?;
                self.forget(block);
                block
            }
        };
        self.blocks[block as usize].holders = 1;
        Some(block)
    }

    /// What is known under `name`.
    pub fn find(&self, name: &BlockName) -> Content {
        match self.by_name.get(name) {
            Some(&block) if self.blocks[block as usize].is_computed => Content::Computed(block),
            Some(_) => Content::Announced,
            None => Content::Absent,
        }
    }

    /// One holder more for a block that was found.
    pub fn share(&mut self, block: BlockId) {
        let entry = &mut self.blocks[block as usize];
        if entry.holders == 0 {
            self.idle.remove(&entry.idle_since);
        }
        entry.holders += 1;
    }

    /// Says what a taken block will hold. Where another block has or will have it, nothing is noted.
    pub fn announce(&mut self, block: BlockId, name: BlockName) {
        if let std::collections::hash_map::Entry::Vacant(entry) = self.by_name.entry(name) {
            entry.insert(block);
            self.blocks[block as usize].name = Some(name);
        }
    }

    /// Says that a block holds what was announced.
    pub fn mark_computed(&mut self, block: BlockId) {
        self.blocks[block as usize].is_computed = true;
    }

    /// One holder less for each. The end of a sequence becomes idle before its beginning, so that it is overwritten before.
    pub fn release(&mut self, block_table: &[BlockId]) {
        for &block in block_table.iter().rev() {
            let entry = &mut self.blocks[block as usize];
            entry.holders -= 1;
            if entry.holders > 0 {
                continue;
            }
            if entry.is_computed && entry.name.is_some() {
                self.clock += 1;
                entry.idle_since = self.clock;
                self.idle.insert(self.clock, block);
            } else {
                self.forget(block);
                self.empty.push(block);
            }
        }
    }

    fn forget(&mut self, block: BlockId) {
        let entry = &mut self.blocks[block as usize];
        entry.is_computed = false;
        if let Some(name) = entry.name.take() {
            self.by_name.remove(&name);
        }
    }

    /// Whether nobody holds `block`.
    pub fn is_idle(&self, block: BlockId) -> bool {
        self.blocks[block as usize].holders == 0
    }

    /// Whether one sequence alone holds `block`, so that it may write there.
    pub fn is_exclusive(&self, block: BlockId) -> bool {
        self.blocks[block as usize].holders == 1
    }

    /// Holds the pool to what `block_tables`, those of all sequences, say: every block is empty, or idle, or held as often as
    /// it is named; every name leads to the block that bears it.
    pub fn check_integrity<'a>(&self, block_tables: impl Iterator<Item = &'a [BlockId]>) -> Result<(), String> {
        let mut holders = vec![0u32; self.total()];
        for &block in block_tables.flatten() {
            match holders.get_mut(block as usize) {
                Some(holders) => *holders += 1,
                None => return Err(format!("block {block} is outside the pool of {}", self.total())),
            }
        }
        let mut places = holders.iter().map(|&holders| usize::from(holders > 0)).collect::<Vec<_>>();
        for &block in self.empty.iter().chain(self.idle.values()) {
            places[block as usize] += 1;
        }
        for (id, ((entry, &found), &places)) in self.blocks.iter().zip(&holders).zip(&places).enumerate() {
            match places {
                0 => return Err(format!("block {id} is lost")),
                1 => {}
                _ => return Err(format!("block {id} is in {places} places")),
            }
            if entry.holders != found {
                return Err(format!("block {id} has {} holders and is in {found} tables", entry.holders));
            }
            if entry.name.is_some_and(|name| self.by_name.get(&name) != Some(&(id as BlockId))) {
                return Err(format!("the name of block {id} leads elsewhere"));
            }
        }
        if let Some(block) = self.empty.iter().find(|&&block| self.blocks[block as usize].name.is_some()) {
            return Err(format!("block {block} is empty and has a name"));
        }
        if let Some(block) = self.idle.values().find(|&&block| !self.blocks[block as usize].is_computed) {
            return Err(format!("block {block} is idle and holds nothing"));
        }
        let named = self.blocks.iter().filter(|block| block.name.is_some()).count();
        if named != self.by_name.len() {
            return Err(format!("{named} blocks have names and {} names lead to blocks", self.by_name.len()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
