//! The pool of cache blocks: `(layers, blocks, heads, keys and values)` in the cache's type.

use dots_kernels::attention::{self, CacheMemory, CacheShape, LayerCache};

use crate::{
    Config, Error,
    executor::{BLOCK_TOKENS, BlockId, CacheType},
};

const _: () = assert!(BLOCK_TOKENS == attention::BLOCK_TOKENS, "the kernels and the seam cut at the same positions");

/// Keys and values of every layer and block.
pub struct Cache {
    memory: CacheMemory,
    shape: CacheShape,
    layers: usize,
    blocks: usize,
}

fn shape(config: &Config, kind: CacheType) -> CacheShape {
    CacheShape { kind, kv_heads: config.num_key_value_heads, head_dim: config.head_dim }
}

/// Bytes of one block in all layers; `usize::MAX` where that is more.
pub fn block_bytes(config: &Config, kind: CacheType) -> usize {
    shape(config, kind).block_bytes().saturating_mul(config.num_hidden_layers)
}

impl Cache {
    /// Takes the memory for `blocks` blocks. It is not touched page by page, so that a long context costs no start-up time;
    /// the plan has been held against what the machine has.
    pub fn new(config: &Config, kind: CacheType, blocks: usize) -> Result<Self, Error> {
        let bytes = block_bytes(config, kind).checked_mul(blocks);
        let memory = bytes.and_then(CacheMemory::new).ok_or_else(|| {
            Error::Memory(format!("a cache of {blocks} blocks does not fit in memory; ask for a shorter context"))
        })?;
        Ok(Self { memory, shape: shape(config, kind), layers: config.num_hidden_layers, blocks })
    }

    /// One layer, to read.
    pub fn layer(&self, layer: usize) -> LayerCache<'_> {
        LayerCache::new(&self.memory.bytes()[self.layer_range(layer)], self.shape)
    }

    /// One layer's bytes, to write.
    pub fn layer_mut(&mut self, layer: usize) -> (&mut [u8], CacheShape) {
        let range = self.layer_range(layer);
        (&mut self.memory.bytes_mut()[range], self.shape)
    }

    fn layer_range(&self, layer: usize) -> std::ops::Range<usize> {
        let len = self.blocks * self.shape.block_bytes();
        layer * len..(layer + 1) * len
    }

    fn block_range(&self, layer: usize, block: BlockId) -> std::ops::Range<usize> {
        let block = block as usize;
        // One past the end would be another layer's.
        assert!(block < self.blocks, "block {block} outside a pool of {}", self.blocks);
        let at = (layer * self.blocks + block) * self.shape.block_bytes();
        at..at + self.shape.block_bytes()
    }

    /// See [`crate::executor::Executor::copy_block`].
    pub fn copy_block(&mut self, from: BlockId, to: BlockId) {
        for layer in 0..self.layers {
            let (from, to) = (self.block_range(layer, from), self.block_range(layer, to));
            self.memory.bytes_mut().copy_within(from, to.start);
        }
    }

    /// See [`crate::executor::Executor::export_block`].
    pub fn export_block(&self, block: BlockId, out: &mut Vec<u8>) {
        (0..self.layers).for_each(|layer| out.extend(&self.memory.bytes()[self.block_range(layer, block)]));
    }

    /// See [`crate::executor::Executor::import_block`].
    pub fn import_block(&mut self, block: BlockId, bytes: &[u8]) -> Result<(), Error> {
        let (len, expected) = (bytes.len(), self.layers * self.shape.block_bytes());
        if len != expected || block as usize >= self.blocks {
            return Err(Error::Batch(format!(
                "import of block {block}: expected {expected} bytes for one of {} blocks, found {len}",
                self.blocks
            )));
        }
        for (layer, bytes) in bytes.chunks(self.shape.block_bytes()).enumerate() {
            let range = self.block_range(layer, block);
            self.memory.bytes_mut()[range].copy_from_slice(bytes);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_outside_the_pool_is_no_other_layers() {
        for kind in CacheType::ALL {
            let mut cache = Cache::new(&Config { num_hidden_layers: 2, ..Config::dots_llm1() }, kind, 2).unwrap();
            let copied = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| cache.copy_block(2, 0)));
            assert!(copied.is_err());
            let exported =
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| cache.export_block(2, &mut Vec::new())));
            assert!(exported.is_err());
            assert!(cache.import_block(2, &[]).is_err());
        }
    }
}
