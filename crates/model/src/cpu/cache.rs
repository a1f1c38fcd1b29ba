//! The pool of cache blocks: `(layers, blocks, 2, kv_heads, BLOCK_TOKENS, head_dim)` in the arithmetic's type.

use dots_kernels::attention::{Bf16, CacheElement, LayerCache};

use crate::{
    Config, Error,
    executor::{Arithmetic, BLOCK_TOKENS, BlockId},
};

/// Keys and values of every layer and block.
pub enum Cache {
    /// For exact arithmetic.
    F32(Pool<f32>),
    /// For fast arithmetic.
    Bf16(Pool<Bf16>),
}

/// A cache of one element type.
pub struct Pool<E> {
    data: Vec<E>,
    layers: usize,
    blocks: usize,
    kv_heads: usize,
    head_dim: usize,
    /// Numbers in one block of one layer.
    block_len: usize,
}

impl Cache {
    /// Takes the memory for `blocks` blocks.
    pub fn new(config: &Config, arithmetic: Arithmetic, blocks: usize) -> Result<Self, Error> {
        Ok(match arithmetic {
            Arithmetic::Exact => Self::F32(Pool::new(config, blocks)?),
            Arithmetic::Fast => Self::Bf16(Pool::new(config, blocks)?),
        })
    }

    /// See [`crate::executor::Executor::copy_block`].
    pub fn copy_block(&mut self, from: BlockId, to: BlockId) {
        match self {
            Self::F32(pool) => pool.copy_block(from as usize, to as usize),
            Self::Bf16(pool) => pool.copy_block(from as usize, to as usize),
        }
    }

    /// See [`crate::executor::Executor::export_block`].
    pub fn export_block(&self, block: BlockId, out: &mut Vec<u8>) {
        match self {
            Self::F32(pool) => {
                pool.each_layer(block as usize, |x| out.extend(x.iter().flat_map(|x| x.to_le_bytes())));
            }
            Self::Bf16(pool) => {
                pool.each_layer(block as usize, |x| out.extend(x.iter().flat_map(|x| x.0.to_le_bytes())));
            }
        }
    }

    /// See [`crate::executor::Executor::import_block`].
    pub fn import_block(&mut self, block: BlockId, bytes: &[u8]) -> Result<(), Error> {
        match self {
            Self::F32(pool) => pool.import_block(block as usize, bytes.as_chunks().0, bytes.len(), f32::from_le_bytes),
            Self::Bf16(pool) => {
                pool.import_block(block as usize, bytes.as_chunks().0, bytes.len(), |b| Bf16(u16::from_le_bytes(b)))
            }
        }
    }
}

impl<E: CacheElement> Pool<E> {
    fn new(config: &Config, blocks: usize) -> Result<Self, Error> {
        let block_len = LayerCache::<E>::block_len(config.num_key_value_heads, BLOCK_TOKENS, config.head_dim);
        let too_large =
            || Error::Memory(format!("a cache of {blocks} blocks does not fit in memory; ask for a shorter context"));
        let len = block_len
            .checked_mul(config.num_hidden_layers)
            .and_then(|n| n.checked_mul(blocks))
            .ok_or_else(too_large)?;
        // Asking first turns an abort into an error. The zeroed allocation that follows is not touched page by page, so
        // that a long context costs no start-up time; the plan has been held against what the machine has.
        Vec::<E>::new().try_reserve_exact(len).map_err(|_| too_large())?;
        Ok(Self {
            data: vec![E::default(); len],
            layers: config.num_hidden_layers,
            blocks,
            kv_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
            block_len,
        })
    }

    /// One layer, to read.
    pub fn layer(&self, layer: usize) -> LayerCache<'_, E> {
        let len = self.blocks * self.block_len;
        LayerCache {
            data: &self.data[layer * len..(layer + 1) * len],
            kv_heads: self.kv_heads,
            block_tokens: BLOCK_TOKENS,
            head_dim: self.head_dim,
        }
    }

    /// Stores one position's keys and values: `(kv_heads, head_dim)` each.
    pub fn store(&mut self, layer: usize, block: BlockId, slot: usize, keys: &[f32], values: &[f32]) {
        let base = layer * self.blocks * self.block_len;
        for (part, rows) in [keys, values].into_iter().enumerate() {
            for (head, row) in rows.chunks(self.head_dim).enumerate() {
                let at = base + self.layer(layer).offset(block as usize, part, head, slot);
                for (to, x) in self.data[at..at + self.head_dim].iter_mut().zip(row) {
                    *to = E::store(*x);
                }
            }
        }
    }

    fn block_range(&self, layer: usize, block: usize) -> std::ops::Range<usize> {
        // One past the end would be another layer's.
        assert!(block < self.blocks, "block {block} outside a pool of {}", self.blocks);
        let at = (layer * self.blocks + block) * self.block_len;
        at..at + self.block_len
    }

    fn copy_block(&mut self, from: usize, to: usize) {
        for layer in 0..self.layers {
            let (from, to) = (self.block_range(layer, from), self.block_range(layer, to));
            self.data.copy_within(from, to.start);
        }
    }

    fn each_layer(&self, block: usize, mut f: impl FnMut(&[E])) {
        (0..self.layers).for_each(|layer| f(&self.data[self.block_range(layer, block)]));
    }

    fn import_block<const N: usize>(
        &mut self,
        block: usize,
        numbers: &[[u8; N]],
        len: usize,
        decode: impl Fn([u8; N]) -> E,
    ) -> Result<(), Error> {
        let expected = self.layers * self.block_len * N;
        if len != expected || block >= self.blocks {
            return Err(Error::Batch(format!(
                "import of block {block}: expected {expected} bytes for one of {} blocks, found {len}",
                self.blocks
            )));
        }
        for (layer, numbers) in numbers.chunks(self.block_len).enumerate() {
            let range = self.block_range(layer, block);
            for (to, number) in self.data[range].iter_mut().zip(numbers) {
                *to = decode(*number);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_outside_the_pool_is_no_other_layers() {
        let mut cache =
            Cache::new(&Config { num_hidden_layers: 2, ..Config::dots_llm1() }, Arithmetic::Fast, 2).unwrap();
        let copied = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| cache.copy_block(2, 0)));
        assert!(copied.is_err());
        let exported =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| cache.export_block(2, &mut Vec::new())));
        assert!(exported.is_err());
        assert!(cache.import_block(2, &[]).is_err());
    }
}
