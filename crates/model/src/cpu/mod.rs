//! The first executor: all cores of one machine.
//!
//! `submit` computes before it returns and `collect` only hands over, since host and device are the same.

mod buffers;
mod cache;
mod forward;
mod layers;
pub mod observe;
mod outputs;

use dots_kernels::{Compute, RopeTable, Rounding, WeightType, pool::Pool};

use self::{buffers::Buffers, cache::Cache, forward::Forward, layers::Layers, outputs::HeadScratch};
use crate::{
    Checkpoint, Config, Error,
    executor::{
        Arithmetic, BLOCK_TOKENS, Batch, BlockId, CacheType, Executor, LayerRouting, Outputs, Plan, Slice, Ticket,
    },
    observer::Observer,
};

/// Settings of a [`CpuExecutor`].
#[derive(Debug, Clone)]
pub struct CpuOptions {
    /// Which arithmetic.
    pub arithmetic: Arithmetic,
    /// What keys and values are rounded to before they are attended; [`Arithmetic::cache_type`] unless memory is short.
    pub cache_type: CacheType,
    /// Threads; 0 takes every core.
    pub threads: usize,
    /// Tokens that the cache holds, all sequences together.
    pub cache_tokens: usize,
    /// Most tokens in one batch.
    pub max_batch_tokens: usize,
}

impl CpuOptions {
    /// What an executor with these options will take, without loading anything.
    pub fn plan(&self, checkpoint: &Checkpoint) -> Plan {
        let weights_bytes = checkpoint.tensors().map(|(_, tensor)| tensor.data.len() as u64).sum();
        self.plan_for(&checkpoint.config, weights_bytes)
    }

    /// The same for a shape of which only the size of the weights is known.
    pub fn plan_for(&self, config: &Config, weights_bytes: u64) -> Plan {
        let blocks = self.cache_tokens.div_ceil(BLOCK_TOKENS);
        let block_bytes = cache::block_bytes(config, self.cache_type);
        let threads = Pool::workers(self.threads);
        let positions = positions(config, blocks);
        Plan {
            weights_bytes,
            cache_bytes: (blocks as u64).saturating_mul(block_bytes as u64),
            buffers_bytes: buffers::bytes(config, self.max_batch_tokens, positions, threads) as u64,
            cache_blocks: blocks,
            max_batch_tokens: self.max_batch_tokens,
        }
    }
}

/// Positions that a sequence can reach: no more than the model knows, and no more than the cache holds. A checkpoint may
/// claim a billion; rotations that nothing can ask for take no memory.
fn positions(config: &Config, blocks: usize) -> usize {
    config.max_position_embeddings.min(blocks.saturating_mul(BLOCK_TOKENS))
}

/// What activations are rounded to in fast arithmetic: what the matrices of `checkpoint` are multiplied with.
fn rounding(checkpoint: &Checkpoint) -> Rounding {
    let matrices = || checkpoint.tensors().filter(|(_, tensor)| tensor.shape.len() == 2);
    Rounding {
        to_8_bits: matrices().any(|(_, tensor)| tensor.kind.is_quantised()),
        to_bf16: matrices().any(|(_, tensor)| matches!(tensor.kind, WeightType::BF16 | WeightType::F8_E4M3)),
    }
}

/// Turns what would end the process into an error: buffers that no allocation can give.
fn check_buffers(plan: &Plan) -> Result<(), Error> {
    let too_large = || {
        Error::Memory(format!(
            "the buffers for steps of {} tokens take {} bytes, which do not fit in memory; ask for shorter steps",
            plan.max_batch_tokens, plan.buffers_bytes
        ))
    };
    let bytes = usize::try_from(plan.buffers_bytes).map_err(|_| too_large())?;
    Vec::<u8>::new().try_reserve_exact(bytes).map_err(|_| too_large())
}

/// Runs a checkpoint on the CPU.
pub struct CpuExecutor {
    config: Config,
    arithmetic: Arithmetic,
    plan: Plan,
    layers: Layers,
    compute: Compute,
    rope: RopeTable,
    cache: Cache,
    buffers: Buffers,
    head: HeadScratch,
    outputs: Outputs,
    steps: u64,
}

impl CpuExecutor {
    /// Maps the weights and takes the planned memory.
    pub fn new(checkpoint: &Checkpoint, options: &CpuOptions) -> Result<Self, Error> {
        let config = checkpoint.config.clone();
        let plan = options.plan(checkpoint);
        check_buffers(&plan)?;
        Ok(Self {
            layers: Layers::new(checkpoint)?,
            compute: Compute::new(options.threads, buffers::max_cols(&config)).with_heads(config.head_dim),
            rope: RopeTable::new(positions(&config, plan.cache_blocks), config.head_dim, config.rope_theta),
            cache: Cache::new(&config, options.cache_type, plan.cache_blocks)?,
            buffers: Buffers::new(&config, options.max_batch_tokens, rounding(checkpoint)),
            head: HeadScratch::default(),
            arithmetic: options.arithmetic,
            outputs: Outputs::default(),
            steps: 0,
            plan,
            config,
        })
    }

    /// The instruction set in use: [`dots_kernels::Isa::name`].
    pub fn instruction_set(&self) -> &'static str {
        self.compute.isa().name()
    }

    /// Threads in use.
    pub fn threads(&self) -> usize {
        self.compute.threads()
    }

    fn check(&self, batch: &Batch<'_>) -> Result<(), Error> {
        let refuse = |what: String| Err(Error::Batch(what));
        let tokens: usize = batch.slices.iter().map(|slice| slice.tokens.len()).sum();
        if tokens > self.plan.max_batch_tokens {
            return refuse(format!("{tokens} tokens where {} were planned", self.plan.max_batch_tokens));
        }
        let positions = positions(&self.config, self.plan.cache_blocks);
        for Slice { tokens, start, block_table, wants } in &batch.slices {
            let end = start.saturating_add(tokens.len());
            if end > positions {
                return refuse(format!("position {end} beyond {positions}"));
            }
            if let Some(token) = tokens.iter().find(|&&token| token as usize >= self.config.vocab_size) {
                return refuse(format!("token {token} outside a vocabulary of {}", self.config.vocab_size));
            }
            if block_table.len() * BLOCK_TOKENS < end {
                return refuse(format!("{} blocks do not hold {end} positions", block_table.len()));
            }
            if let Some(block) = block_table.iter().find(|&&block| block as usize >= self.plan.cache_blocks) {
                return refuse(format!("block {block} outside a pool of {}", self.plan.cache_blocks));
            }
            if wants.iter().any(|want| want.row >= tokens.len()) || !wants.is_sorted_by_key(|want| want.row) {
                return refuse("wants must be ordered by row and inside their slice".into());
            }
            if let Some(id) =
                wants.iter().filter_map(|want| want.score).find(|&id| id as usize >= self.config.vocab_size)
            {
                return refuse(format!("score of token {id} outside a vocabulary of {}", self.config.vocab_size));
            }
        }
        Ok(())
    }

    /// As [`Executor::submit`], and shows what flows through the layers to `observer`.
    pub fn submit_observed(&mut self, batch: &Batch<'_>, observer: &mut dyn Observer) -> Result<Ticket, Error> {
        self.step(batch, Some(observer))
    }

    fn step(&mut self, batch: &Batch<'_>, observer: Option<&mut dyn Observer>) -> Result<Ticket, Error> {
        self.check(batch)?;
        let mut routing = wanted_routing(batch);
        let mut forward = Forward {
            config: &self.config,
            layers: &self.layers,
            compute: &self.compute,
            rope: &self.rope,
            arithmetic: self.arithmetic,
            buffers: &mut self.buffers,
            // Written out, so that the observer may outlive the pass.
            observer: observer.map(|observer| observer as &mut dyn Observer),
        };
        if !routing.is_empty() {
            forward.run(batch, &mut self.cache, &mut routing);
        }
        self.outputs.rows = outputs::collect(&mut forward, batch, &mut routing, &mut self.head);
        self.steps += 1;
        Ok(Ticket(self.steps))
    }
}

impl Executor for CpuExecutor {
    fn config(&self) -> &Config {
        &self.config
    }

    fn plan(&self) -> Plan {
        self.plan
    }

    fn submit(&mut self, batch: &Batch<'_>) -> Result<Ticket, Error> {
        self.step(batch, None)
    }

    fn collect(&mut self, ticket: Ticket) -> &Outputs {
        assert_eq!(ticket.0, self.steps, "a ticket is collected before the next submit");
        &self.outputs
    }

    fn copy_block(&mut self, from: BlockId, to: BlockId) {
        self.cache.copy_block(from, to);
    }

    fn export_block(&self, block: BlockId, out: &mut Vec<u8>) {
        self.cache.export_block(block, out);
    }

    fn import_block(&mut self, block: BlockId, bytes: &[u8]) -> Result<(), Error> {
        self.cache.import_block(block, bytes)
    }
}

/// One entry a row: a list to fill for each row that wants its routing.
fn wanted_routing(batch: &Batch<'_>) -> Vec<Option<Vec<LayerRouting>>> {
    let mut rows = Vec::new();
    for slice in &batch.slices {
        let first = rows.len();
        rows.resize(first + slice.tokens.len(), None);
        for want in slice.wants.iter().filter(|want| want.routing) {
            rows[first + want.row] = Some(Vec::new());
        }
    }
    rows
}
