//! The first executor: all cores of one machine.

use crate::{
    Checkpoint, Config, Error,
    executor::{Arithmetic, Batch, BlockId, Executor, Outputs, Plan, Ticket},
};

/// Settings of a [`CpuExecutor`].
#[derive(Debug, Clone)]
pub struct CpuOptions {
    /// Which arithmetic.
    pub arithmetic: Arithmetic,
    /// Threads; 0 takes every core.
    pub threads: usize,
    /// Tokens that the cache holds, all sequences together.
    pub cache_tokens: usize,
    /// Most tokens in one batch.
    pub max_batch_tokens: usize,
}

impl CpuOptions {
    /// What an executor with these options will take, without loading anything.
    pub fn plan(&self, _checkpoint: &Checkpoint) -> Plan {
        todo!()
    }
}

/// Runs a checkpoint on the CPU.
pub struct CpuExecutor;

impl CpuExecutor {
    /// Maps the weights and takes the planned memory.
    pub fn new(_checkpoint: &Checkpoint, _options: &CpuOptions) -> Result<Self, Error> {
        todo!()
    }
}

impl Executor for CpuExecutor {
    fn config(&self) -> &Config {
        todo!()
    }
    fn plan(&self) -> Plan {
        todo!()
    }
    fn submit(&mut self, _batch: &Batch<'_>) -> Result<Ticket, Error> {
        todo!()
    }
    fn collect(&mut self, _ticket: Ticket) -> &Outputs {
        todo!()
    }
    fn copy_block(&mut self, _from: BlockId, _to: BlockId) {
        todo!()
    }
    fn export_block(&self, _block: BlockId, _out: &mut Vec<u8>) {
        todo!()
    }
    fn import_block(&mut self, _block: BlockId, _bytes: &[u8]) -> Result<(), Error> {
        todo!()
    }
}
