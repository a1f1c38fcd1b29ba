use super::*;

const HEADS: usize = 2;
const HEAD_DIMS: [usize; 6] = [2, 16, 24, 64, 80, 128];

fn noise(seed: &mut u64) -> f32 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
    (*seed >> 40) as f32 / (1 << 23) as f32 - 1.0
}

/// A sequence in blocks that lie scattered in a pool whose every other byte is all ones: a NaN, where it is a number.
struct Sequence {
    shape: CacheShape,
    memory: CacheMemory,
    table: Vec<u32>,
    /// `(len, HEADS, head_dim)`.
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
}

impl Sequence {
    fn new(kind: CacheType, head_dim: usize, len: usize) -> Self {
        let shape = CacheShape { kind, kv_heads: HEADS, head_dim };
        let blocks = len.div_ceil(BLOCK_TOKENS);
        let mut seed = (len * head_dim) as u64;
        let mut numbers =
            |scale: f32| -> Vec<f32> { (0..len * HEADS * head_dim).map(|_| scale * noise(&mut seed)).collect() };
        let (q, k, v) = (numbers(3.0), numbers(1.0), numbers(1.0));
        let mut memory = CacheMemory::new(shape.block_bytes() * (2 * blocks + 1)).unwrap();
        memory.bytes_mut().fill(0xff);
        let table: Vec<u32> = (0..blocks).map(|i| 2 * (blocks - i) as u32).collect();
        let places: Vec<(u32, usize)> = (0..len).map(|p| (table[p / BLOCK_TOKENS], p % BLOCK_TOKENS)).collect();
        Compute::new(2, 0).store(memory.bytes_mut(), shape, &places, &k, &v);
        Self { shape, memory, table, q, k, v }
    }

    /// Attention of the rows at `rows`, in slices of `chunk` rows.
    fn attend(&self, kernel: Kernel, threads: usize, rows: std::ops::Range<usize>, chunk: usize) -> Vec<f32> {
        let compute = Compute::new(threads, 0).with_heads(self.shape.head_dim);
        let width = HEADS * self.shape.head_dim;
        let slices: Vec<AttentionSlice<'_>> = rows
            .clone()
            .step_by(chunk)
            .map(|start| AttentionSlice {
                first_row: start - rows.start,
                rows: chunk.min(rows.end - start),
                start,
                block_table: &self.table,
            })
            .collect();
        let cache = LayerCache::new(self.memory.bytes(), self.shape);
        let mut out = vec![0.0; rows.len() * width];
        attend_slices(&compute, kernel, &self.q[rows.start * width..rows.end * width], HEADS, cache, &slices, &mut out);
        out
    }

    /// Softmax attention in f64 of one head of one row, over what the cache was given.
    fn reference(&self, row: usize, head: usize) -> Vec<f64> {
        let head_dim = self.shape.head_dim;
        let of = |numbers: &[f32], row: usize| -> Vec<f64> {
            numbers[(row * HEADS + head) * head_dim..][..head_dim].iter().map(|&x| f64::from(x)).collect()
        };
        let q = of(&self.q, row);
        let scores: Vec<f64> = (0..=row)
            .map(|key| of(&self.k, key).iter().zip(&q).map(|(a, b)| a * b).sum::<f64>() / (head_dim as f64).sqrt())
            .collect();
        let top = scores.iter().copied().fold(f64::MIN, f64::max);
        let sum: f64 = scores.iter().map(|s| (s - top).exp()).sum();
        let mut out = vec![0.0; head_dim];
        for (position, score) in scores.iter().enumerate() {
            for (out, value) in out.iter_mut().zip(of(&self.v, position)) {
                *out += (score - top).exp() / sum * value;
            }
        }
        out
    }
}

/// Root of the mean square of errors, over that of the reference.
fn error(sequence: &Sequence, rows: &[usize], out: &[f32]) -> f64 {
    let (mut errors, mut squares) = (0.0, 0.0);
    for &row in rows {
        for head in 0..HEADS {
            let got = &out[(row * HEADS + head) * sequence.shape.head_dim..];
            for (got, want) in got.iter().zip(sequence.reference(row, head)) {
                errors += (f64::from(*got) - want).powi(2);
                squares += want * want;
            }
        }
    }
    (errors / squares).sqrt()
}

#[test]
fn scattered_blocks_give_what_plain_attention_gives() {
    for (kind, most) in [(CacheType::F32, 1e-5), (CacheType::Bf16, 1e-2), (CacheType::Q8, 1.5e-2), (CacheType::Q4, 0.2)]
    {
        for head_dim in HEAD_DIMS {
            for len in [1, 31, 32, 33, 255, 256, 257, 300, 700] {
                let sequence = Sequence::new(kind, head_dim, len);
                let mut rows = vec![0, len / 2, len - 1];
                rows.dedup();
                for kernel in Kernel::available(kind) {
                    let error = error(&sequence, &rows, &sequence.attend(kernel, 2, 0..len, len));
                    assert!(error < most, "{kernel:?} over {kind:?}, heads of {head_dim}, {len} positions: {error:e}");
                }
            }
        }
    }
}

#[test]
fn fast_kernels_are_as_near_as_the_plain_one() {
    for (kind, most) in [(CacheType::Bf16, 3e-3), (CacheType::Q8, 1e-3), (CacheType::Q4, 1e-3)] {
        for head_dim in HEAD_DIMS {
            let sequence = Sequence::new(kind, head_dim, 300);
            let plain = sequence.attend(Kernel(Kind::Plain(Isa::Portable)), 1, 0..300, 300);
            for kernel in Kernel::available(kind) {
                let out = sequence.attend(kernel, 1, 0..300, 300);
                let square = |x: f32| f64::from(x * x);
                let errors: f64 = out.iter().zip(&plain).map(|(a, b)| square(a - b)).sum();
                let error = (errors / plain.iter().map(|&x| square(x)).sum::<f64>()).sqrt();
                assert!(error < most, "{kernel:?} over {kind:?}, heads of {head_dim}: {error:e}");
            }
        }
    }
}

#[test]
fn a_rows_bits_are_the_same_alone_in_a_block_in_chunks_and_on_any_threads() {
    for kind in CacheType::ALL {
        for kernel in Kernel::available(kind) {
            for (head_dim, len) in [(16, 300), (24, 257), (64, 33), (128, 700), (80, 289)] {
                let sequence = Sequence::new(kind, head_dim, len);
                let width = HEADS * head_dim;
                let whole = sequence.attend(kernel, 1, 0..len, len);
                assert!(whole.iter().all(|x| x.is_finite()), "{kernel:?} over {kind:?}: another's bytes came in");
                let bits = |x: &[f32]| -> Vec<u32> { x.iter().map(|x| x.to_bits()).collect() };
                for (threads, chunk) in [(2, len), (1, 7), (2, 50), (3, 64), (2, 129)] {
                    let chunks = sequence.attend(kernel, threads, 0..len, chunk);
                    assert!(bits(&chunks) == bits(&whole), "{kernel:?} over {kind:?}, {head_dim}: chunks of {chunk}");
                }
                // Every row of the first blocks, and those around a span's end.
                for row in (0..80).chain(250..262).chain([299, len - 1]).filter(|&row| row < len) {
                    let alone = sequence.attend(kernel, 1, row..row + 1, 1);
                    let in_block = &whole[row * width..(row + 1) * width];
                    assert!(bits(&alone) == bits(in_block), "{kernel:?} over {kind:?}, {head_dim}: row {row} alone");
                }
            }
        }
    }
}

#[test]
fn a_position_stored_alone_is_stored_as_in_a_prompt() {
    for kind in CacheType::ALL {
        let sequence = Sequence::new(kind, 24, 70);
        let mut again = sequence.memory.clone();
        again.bytes_mut().fill(0xff);
        let width = HEADS * 24;
        for row in (0..70).rev() {
            let place = (sequence.table[row / BLOCK_TOKENS], row % BLOCK_TOKENS);
            let (k, v) = (&sequence.k[row * width..][..width], &sequence.v[row * width..][..width]);
            Compute::new(1, 0).store(again.bytes_mut(), sequence.shape, &[place], k, v);
        }
        assert!(again.bytes() == sequence.memory.bytes(), "{kind:?}");
    }
}

#[test]
fn heads_share_keys_and_values_in_equal_groups() {
    let sequence = Sequence::new(CacheType::Bf16, 16, 40);
    let compute = Compute::new(2, 0).with_heads(16);
    let slice = AttentionSlice { first_row: 0, rows: 1, start: 39, block_table: &sequence.table };
    let cache = LayerCache::new(sequence.memory.bytes(), sequence.shape);
    let q: Vec<f32> = sequence.q[..64].to_vec();
    let mut four = vec![0.0; 64];
    compute.attention(&q, 4, cache, &[slice], &mut four);
    for (heads, q) in [(0, [0, 2]), (1, [1, 3])].map(|(i, heads)| (i, heads.map(|h| &q[16 * h..][..16]).concat())) {
        let mut two = vec![0.0; 32];
        compute.attention(&q, 2, cache, &[slice], &mut two);
        assert_eq!(two[..16], four[16 * heads..][..16]);
        assert_eq!(two[16..], four[16 * (heads + 2)..][..16]);
    }
}

#[test]
fn sizes_are_what_their_names_say() {
    let bytes = |kind, head_dim| CacheShape { kind, kv_heads: 32, head_dim }.block_bytes();
    let numbers = 2 * 32 * 32 * 128;
    assert_eq!(bytes(CacheType::F32, 128), 4 * numbers);
    assert_eq!(bytes(CacheType::Bf16, 128), 2 * numbers);
    assert_eq!(bytes(CacheType::Q8, 128), numbers + numbers / 128 * 4);
    assert_eq!(bytes(CacheType::Q4, 128), numbers / 2 + numbers / 32 * 4);
    assert_eq!(bytes(CacheType::Bf16, 24), bytes(CacheType::Bf16, 32));
}

/// A cache for a long context is larger than what most conversations need, and must neither take that memory nor the time to write it.
#[test]
#[cfg(target_os = "linux")]
fn memory_that_nobody_wrote_to_is_not_taken() {
    let resident = || {
        let pages = std::fs::read_to_string("/proc/self/statm").expect("Linux tells");
        4096 * pages.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).expect("a number of pages")
    };
    let before = resident();
    let mut memory = std::hint::black_box(CacheMemory::new(std::hint::black_box(1 << 30)).expect("address space"));
    memory.bytes_mut()[1 << 29] = 1;
    assert!(memory.bytes().as_ptr().addr().is_multiple_of(64) && memory.bytes()[(1 << 30) - 1] == 0);
    let taken = resident().saturating_sub(before);
    assert!(taken < 1 << 28, "{taken} bytes are in memory");
}
