//! Random weights of any shape, made in memory: fit to measure speed where no file is at hand, not to say anything.
//!
//! Codes are random, scales such that each matrix keeps the size of what it multiplies (a standard deviation of
//! `1 / √cols`), norms lie near one. Large tensors are pieces of a pool of random blocks, put together at random places:
//! drawing each block by itself would take minutes.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use dots_kernels::{
    Compute, WeightType, Weights,
    decode::{Unpacked, decode_row_unscaled},
    packed,
};
use half::{bf16, f16};

use super::{
    Checkpoint, Format, GenerationDefaults, Tensor,
    names::{self, Expected},
    types::{Types, tensor_bytes},
};
use crate::{Config, Error};

/// About the size of a pool: long enough that rows of one matrix differ.
const POOL_BYTES: usize = 4 << 20;
/// Longest piece that is copied from a pool at once.
const PIECE_BYTES: usize = 64 << 10;
/// Tensors begin at multiples of this, as in packed files.
const ALIGN: usize = 64;

impl Checkpoint {
    /// A model of the shape `config` with random weights held as `types` says, called `name` in messages. The same seed
    /// gives the same weights. It has no tokenizer. What it takes is [`Types::bytes`]; whether that is free is for the
    /// caller to see, before.
    pub fn random(name: &str, config: Config, types: Types, seed: u64) -> Result<Self, Error> {
        let path = PathBuf::from(name);
        config.validate(&path)?;
        let plan = plan(&config, types);
        let all = fill(&plan, seed)?;

        let file: Arc<Path> = path.clone().into();
        let mut at = 0;
        let tensors = plan
            .into_iter()
            .map(|Planned { name, shape, kind, bytes }| {
                let data = all.slice(at..at + bytes);
                at += bytes.next_multiple_of(ALIGN);
                let row_scales = match kind {
                    WeightType::F8_E4M3 => vec![(shape[1] as f32).sqrt().recip() / FP8_DEVIATION; shape[0]],
                    _ => Vec::new(),
                };
                (name, Tensor { kind, shape, data, row_scales: row_scales.into(), file: Arc::clone(&file) })
            })
            .collect();
        names::verify(&path, &config, &tensors)?;
        Ok(Self {
            path,
            format: Format::Random,
            config,
            tokenizer: None,
            chat_template: None,
            generation: GenerationDefaults::default(),
            tensors,
        })
    }
}

/// A tensor to be made.
struct Planned {
    name: String,
    shape: Vec<usize>,
    kind: WeightType,
    bytes: usize,
}

fn plan(config: &Config, types: Types) -> Vec<Planned> {
    names::expected(config)
        .map(|Expected { name, shape, .. }| {
            let kind = types.of(config.num_hidden_layers, &name, &shape);
            let bytes = usize::try_from(tensor_bytes(kind, &shape)).unwrap_or(usize::MAX);
            let scales = if kind == WeightType::F8_E4M3 { 4 * shape[0] } else { 0 };
            Planned { name, shape, kind, bytes: bytes - scales }
        })
        .collect()
}

/// All tensors, one after the other in one allocation.
fn fill(plan: &[Planned], seed: u64) -> Result<Bytes, Error> {
    let bytes: usize = plan.iter().map(|tensor| tensor.bytes.next_multiple_of(ALIGN)).sum();
    // Asking first turns an abort into an error.
    Vec::<u8>::new()
        .try_reserve_exact(bytes + ALIGN)
        .map_err(|_| Error::Memory(format!("random weights of {bytes} bytes do not fit in memory")))?;
    let mut all = vec![0u8; bytes + ALIGN];
    let first = all.as_ptr().align_offset(ALIGN).min(ALIGN);
    let mut pools = HashMap::new();
    for tensor in plan {
        let kind = Kind::of(tensor);
        pools.entry(kind).or_insert_with(|| kind.pool(&mut Random(seed)));
    }
    let mut rest = &mut all[first..];
    let mut parts: Vec<(&Planned, &mut [u8])> = Vec::with_capacity(plan.len());
    for tensor in plan {
        let (part, tail) = rest.split_at_mut(tensor.bytes.next_multiple_of(ALIGN));
        rest = tail;
        parts.push((tensor, &mut part[..tensor.bytes]));
    }
    Compute::new(0, 0).for_each(&mut parts, |index, (tensor, out)| {
        let mut random = Random(seed ^ (index as u64 + 1).wrapping_mul(0xd134_2543_de82_ef95));
        let kind = Kind::of(tensor);
        copy_pieces(&pools[&kind], kind.unit_bytes(tensor.kind), &mut random, out);
    });
    Ok(Bytes::from(all).slice(first..first + bytes))
}

/// What the numbers of a tensor are like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    /// Of a matrix with so many columns.
    Matrix(WeightType, usize),
    /// Near one.
    Norm,
    /// Near zero.
    Bias,
}

impl Kind {
    fn of(tensor: &Planned) -> Self {
        match tensor.shape[..] {
            [_, cols] => Self::Matrix(tensor.kind, cols),
            _ if tensor.name.ends_with("bias") => Self::Bias,
            _ => Self::Norm,
        }
    }

    /// Bytes of what stands for itself: a block, or a panel of a packed type.
    fn unit_bytes(self, kind: WeightType) -> usize {
        match self {
            Self::Matrix(kind, cols) if kind.is_packed() => {
                kind.matrix_bytes(1, cols).expect("a planned tensor's size")
            }
            _ => kind.block_bytes(),
        }
    }

    /// Random whole blocks.
    fn pool(self, random: &mut Random) -> Vec<u8> {
        let near = |centre: f32, random: &mut Random| -> Vec<u8> {
            (0..POOL_BYTES / 4).flat_map(|_| (centre + 0.2 * random.unit() - 0.1).to_le_bytes()).collect()
        };
        match self {
            Self::Matrix(kind, cols) => matrix_pool(kind, cols, random),
            Self::Norm => near(1.0, random),
            Self::Bias => near(0.0, random),
        }
    }
}

fn matrix_pool(kind: WeightType, cols: usize, random: &mut Random) -> Vec<u8> {
    let deviation = (cols as f32).sqrt().recip();
    // Uniform numbers within ±√3 deviations have that deviation.
    let uniform = |random: &mut Random| (2.0 * random.unit() - 1.0) * 3f32.sqrt() * deviation;
    if kind.is_packed() {
        return packed_pool(kind, cols, deviation, random);
    }
    let blocks = POOL_BYTES / kind.block_bytes();
    match kind {
        WeightType::F32 => (0..blocks).flat_map(|_| uniform(random).to_le_bytes()).collect(),
        WeightType::F16 => (0..blocks).flat_map(|_| f16::from_f32(uniform(random)).to_le_bytes()).collect(),
        WeightType::BF16 => (0..blocks).flat_map(|_| bf16::from_f32(uniform(random)).to_le_bytes()).collect(),
        // Magnitudes up to 2: exponents around those of trained weights under their scale, and never NaN.
        WeightType::F8_E4M3 => (0..blocks).map(|_| (random.next() as u8) & 0xbf).collect(),
        _ => quantised_pool(kind, blocks, deviation, random),
    }
}

/// Standard deviation of the FP8 codes above.
const FP8_DEVIATION: f32 = 0.548;

/// Where a block keeps its f16 scale, and its f16 minimum with what that is for a scale of one, such that the weights'
/// mean is zero.
const fn scale_fields(kind: WeightType) -> (usize, Option<(usize, f32)>) {
    match kind {
        WeightType::Q4_1 => (0, Some((2, -7.5))),
        WeightType::Q5_1 => (0, Some((2, -15.5))),
        WeightType::Q2_K => (80, Some((82, 1.5))),
        WeightType::Q3_K => (108, None),
        WeightType::Q4_K => (0, Some((2, 7.5))),
        WeightType::Q5_K => (0, Some((2, 15.5))),
        WeightType::Q6_K => (208, None),
        _ => (0, None),
    }
}

fn quantised_pool(kind: WeightType, blocks: usize, deviation: f32, random: &mut Random) -> Vec<u8> {
    let (scale_at, min_at) = scale_fields(kind);
    let mut pool: Vec<u8> =
        (0..(blocks * kind.block_bytes()).div_ceil(8)).flat_map(|_| random.next().to_le_bytes()).collect();
    pool.truncate(blocks * kind.block_bytes());
    let set_scale = |block: &mut [u8], scale: f32| {
        block[scale_at..scale_at + 2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
        if let Some((at, ratio)) = min_at {
            block[at..at + 2].copy_from_slice(&f16::from_f32(scale * ratio).to_le_bytes());
        }
    };
    // What the codes alone deviate by is read from some blocks with a scale of one.
    let sample = 64 * kind.block_bytes();
    pool[..sample].chunks_mut(kind.block_bytes()).for_each(|block| set_scale(block, 1.0));
    let unit = deviation_of(kind, &pool[..sample]);
    pool.chunks_mut(kind.block_bytes())
        .for_each(|block| set_scale(block, deviation / unit * (0.75 + 0.5 * random.unit())));
    pool
}

fn packed_pool(kind: WeightType, cols: usize, deviation: f32, random: &mut Random) -> Vec<u8> {
    let code_mask = ((1u16 << kind.packed_bits()) - 1) as u8;
    let squares = (0..=code_mask).map(|code| f32::from(kind.level(code)).powi(2)).sum::<f32>();
    let unit = (squares / (f32::from(code_mask) + 1.0)).sqrt();
    let panel_bytes = packed::panel_bytes(kind, cols).expect("a planned tensor's size");
    let mut pool = vec![0; (POOL_BYTES / panel_bytes).max(4) * panel_bytes];
    for panel in pool.chunks_mut(panel_bytes) {
        let codes: Vec<u8> = (0..packed::ROWS * cols).map(|_| random.next() as u8 & code_mask).collect();
        let scales: Vec<i8> = (0..packed::ROWS * cols / packed::GROUP)
            .map(|_| {
                // Of either sign, since levels do not lie evenly around zero.
                let scale = 75 + (random.next() % 50) as i8;
                if random.next().is_multiple_of(2) { scale } else { -scale }
            })
            .collect();
        packed::write_panel(kind, cols, &codes, &scales, &[deviation / unit / 100.0; packed::ROWS], panel);
    }
    pool
}

/// Root of the mean square of the weights in `blocks`.
fn deviation_of(kind: WeightType, blocks: &[u8]) -> f32 {
    let cols = blocks.len() / kind.block_bytes() * kind.block_len();
    let mut numbers = vec![0.0; cols];
    let weights = Weights::new(kind, 1, cols, blocks, &[]).expect("whole blocks of a type without row scales");
    decode_row_unscaled(dots_kernels::Isa::best(), weights, 0, &mut Unpacked::default(), &mut numbers);
    (numbers.iter().map(|x| x * x).sum::<f32>() / cols as f32).sqrt()
}

/// Fills `out` with pieces of `pool`, each from a random block on.
fn copy_pieces(pool: &[u8], block_bytes: usize, random: &mut Random, out: &mut [u8]) {
    let piece_bytes = (PIECE_BYTES / block_bytes).max(1) * block_bytes;
    for out in out.chunks_mut(piece_bytes) {
        let starts = (pool.len() - out.len()) / block_bytes + 1;
        let start = (random.next() % starts as u64) as usize * block_bytes;
        out.copy_from_slice(&pool[start..start + out.len()]);
    }
}

/// SplitMix64 (Steele, Lea and Flood, 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 up to 1.
    fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 24) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cpu::{CpuExecutor, CpuOptions},
        executor::{Arithmetic, Batch, CacheType, Executor, Slice, Want},
    };

    fn small() -> Config {
        Config {
            vocab_size: 300,
            hidden_size: 256,
            intermediate_size: 352,
            moe_intermediate_size: 96,
            num_hidden_layers: 2,
            num_attention_heads: 4,
            num_key_value_heads: 4,
            head_dim: 64,
            n_routed_experts: 8,
            num_experts_per_tok: 2,
            max_position_embeddings: 64,
            ..Config::dots_llm1()
        }
    }

    fn choices() -> impl Iterator<Item = Types> {
        WeightType::ALL.into_iter().map(Types::One).chain([Types::Q4_K_M])
    }

    #[test]
    fn matrices_of_every_type_keep_the_size_of_what_they_multiply() {
        for types in choices() {
            let checkpoint = Checkpoint::random("random", small(), types, 1).unwrap();
            for (name, tensor) in checkpoint.tensors().filter(|(_, tensor)| tensor.shape.len() == 2) {
                let weights = tensor.weights().unwrap();
                let mut row = vec![0.0; weights.cols()];
                let mut squares = 0.0;
                for i in 0..weights.rows() {
                    let isa = dots_kernels::Isa::best();
                    dots_kernels::decode::decode_row(isa, weights, i, &mut Unpacked::default(), &mut row);
                    squares += row.iter().map(|x| f64::from(x * x)).sum::<f64>();
                }
                // Rows of `cols` such numbers have a length of one.
                let length = (squares / weights.rows() as f64).sqrt();
                assert!((0.8..1.2).contains(&length), "{types:?} {name} {:?}: {length}", tensor.kind);
            }
        }
    }

    #[test]
    fn the_bytes_are_those_that_were_announced_and_the_numbers_flow() {
        for types in choices() {
            let checkpoint = Checkpoint::random("random", small(), types, 1).unwrap();
            let bytes: usize =
                checkpoint.tensors().map(|(_, tensor)| tensor.data.len() + 4 * tensor.row_scales.len()).sum();
            assert_eq!(types.bytes(&small()), bytes as u64, "{types:?}");
            let options = CpuOptions {
                arithmetic: Arithmetic::Exact,
                cache_type: CacheType::F32,
                threads: 1,
                cache_tokens: 32,
                max_batch_tokens: 4,
            };
            let mut executor = CpuExecutor::new(&checkpoint, &options).unwrap();
            let wants = [Want { row: 3, logits: true, ..Want::default() }];
            let slice = Slice { tokens: &[1, 2, 3, 299], start: 0, block_table: &[0], wants: &wants };
            let ticket = executor.submit(&Batch { slices: vec![slice] }).unwrap();
            let logits = executor.collect(ticket).rows[0].logits.clone().unwrap();
            let size = (logits.iter().map(|x| x * x).sum::<f32>() / logits.len() as f32).sqrt();
            assert!((0.5..2.0).contains(&size), "{types:?}: logits of size {size}");
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_weights() {
        let data = |seed| {
            let checkpoint = Checkpoint::random("random", small(), Types::Q4_K_M, seed).unwrap();
            checkpoint.tensor("model.layers.1.mlp.experts.3.down_proj.weight").unwrap().data.clone()
        };
        assert_eq!(data(1), data(1));
        assert_ne!(data(1), data(2));
    }

    #[test]
    fn a_shape_that_no_model_has_is_refused() {
        let config = Config { num_hidden_layers: 0, ..small() };
        let error = Checkpoint::random("small:0", config, Types::Q4_K_M, 1).unwrap_err().to_string();
        assert!(error.starts_with("small:0: num_hidden_layers: expected 1"), "{error}");
    }
}
