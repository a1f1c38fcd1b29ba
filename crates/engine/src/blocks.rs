//! Which blocks of the cache are free.

use dots_model::executor::{BLOCK_TOKENS, BlockId};

/// Blocks that `tokens` tokens take.
pub(crate) fn blocks_for(tokens: usize) -> usize {
    tokens.div_ceil(BLOCK_TOKENS)
}

/// The cache's blocks, each free or held by one sequence.
#[derive(Debug)]
pub(crate) struct BlockPool {
    free: Vec<BlockId>,
    total: usize,
}

impl BlockPool {
    pub fn new(total: usize) -> Self {
        Self { free: (0..total as BlockId).rev().collect(), total }
    }

    pub fn free(&self) -> usize {
        self.free.len()
    }

    pub fn total(&self) -> usize {
        self.total
    }

    /// All `count` blocks or none.
    pub fn take(&mut self, count: usize) -> Option<Vec<BlockId>> {
        let kept = self.free.len().checked_sub(count)?;
        Some(self.free.split_off(kept))
    }

    pub fn give_back(&mut self, block_table: Vec<BlockId>) {
        self.free.extend(block_table);
    }

    /// Every block is free or in exactly one of `block_tables`.
    pub fn check_integrity<'a>(&self, block_tables: impl Iterator<Item = &'a [BlockId]>) -> Result<(), String> {
        let mut is_seen = vec![false; self.total];
        for block in block_tables.flatten().copied().chain(self.free.iter().copied()) {
            match is_seen.get_mut(block as usize) {
                Some(is_seen) if !*is_seen => *is_seen = true,
                Some(_) => return Err(format!("block {block} is in two places")),
                None => return Err(format!("block {block} is outside the pool of {}", self.total)),
            }
        }
        match is_seen.iter().position(|is_seen| !is_seen) {
            Some(block) => Err(format!("block {block} is lost")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_taken_all_or_none_and_come_back() {
        let mut pool = BlockPool::new(5);
        let first = pool.take(3).unwrap();
        assert_eq!(pool.take(3), None);
        let second = pool.take(2).unwrap();
        assert_eq!((pool.free(), pool.total()), (0, 5));
        pool.check_integrity([&first[..], &second[..]].into_iter()).unwrap();
        pool.give_back(first);
        pool.give_back(second);
        assert_eq!(pool.free(), 5);
        pool.check_integrity(std::iter::empty()).unwrap();
    }

    #[test]
    fn a_lost_a_doubled_and_a_foreign_block_are_found() {
        let mut pool = BlockPool::new(4);
        let held = pool.take(2).unwrap();
        let check = |tables: &[&[BlockId]]| pool.check_integrity(tables.iter().copied()).unwrap_err();
        assert_eq!(check(&[&held[..1]]), format!("block {} is lost", held[1]));
        assert_eq!(check(&[&held, &held]), format!("block {} is in two places", held[0]));
        assert_eq!(check(&[&held, &[9]]), "block 9 is outside the pool of 4");
    }
}
