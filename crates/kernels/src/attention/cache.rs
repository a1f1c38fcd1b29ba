//! What the cache holds: keys and values of one layer, in the type and the order in which attention reads them.
//!
//! A block of [`BLOCK_TOKENS`] positions of one head is one run of bytes: keys, then values. Both are made of panels, so
//! that one kernel multiplies either: a panel has [`COLUMNS`] columns, which are a vector's lanes, and a depth, which is summed
//! over. As many neighbours along the depth as one instruction takes lie beside each other. A block's keys are one panel whose
//! columns are positions and whose depth is the head's width; its values are a panel for each [`COLUMNS`] of the head's width,
//! whose depth is positions.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};

use crate::{
    float::{bf16_to_f32, f32_to_bf16},
    isa::for_each_isa,
};

/// Positions in a block.
pub const BLOCK_TOKENS: usize = 32;

/// Columns of a panel: two vectors of 16 lanes.
pub(super) const COLUMNS: usize = 32;

/// Bytes that every run of a cache is aligned to.
const ALIGNMENT: usize = 64;

/// The type of the numbers in a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CacheType {
    /// As they were computed.
    F32,
    /// Rounded to bfloat16.
    Bf16,
    /// Codes from -127 to 127 under one f32 scale for each head and position.
    Q8,
    /// Codes from 0 to 15 under a bf16 scale and minimum for each 32 numbers of a head and position.
    Q4,
}

impl CacheType {
    /// Every one, largest first.
    pub const ALL: [Self; 4] = [Self::F32, Self::Bf16, Self::Q8, Self::Q4];

    /// Its name, for people and in flags.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Q8 => "q8",
            Self::Q4 => "q4",
        }
    }
}

/// What the cache of one layer looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheShape {
    /// Type of its numbers.
    pub kind: CacheType,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
}

impl CacheShape {
    /// Width of a head in memory: whole panels. What is beyond the head's own width stays zero.
    pub fn padded_dim(self) -> usize {
        self.head_dim.next_multiple_of(COLUMNS)
    }

    /// Bytes of the codes of one head's keys, or values, of one block.
    pub(super) fn codes_bytes(self) -> usize {
        let numbers = BLOCK_TOKENS * self.padded_dim();
        match self.kind {
            CacheType::F32 => 4 * numbers,
            CacheType::Bf16 => 2 * numbers,
            CacheType::Q8 => numbers,
            CacheType::Q4 => numbers / 2,
        }
    }

    /// Bytes of one head's keys, or values, of one block: codes, then scales.
    pub(super) fn part_bytes(self) -> usize {
        let scales = match self.kind {
            CacheType::F32 | CacheType::Bf16 => 0,
            // (BLOCK_TOKENS) of f32.
            CacheType::Q8 => 4 * BLOCK_TOKENS,
            // (panels, scale and minimum, BLOCK_TOKENS) of bf16.
            CacheType::Q4 => self.padded_dim() / COLUMNS * 2 * 2 * BLOCK_TOKENS,
        };
        self.codes_bytes() + scales
    }

    /// Bytes of one panel of values.
    pub(super) fn panel_bytes(self) -> usize {
        self.codes_bytes() / (self.padded_dim() / COLUMNS)
    }

    /// Bytes of one block of one layer; `usize::MAX` where that is more.
    pub fn block_bytes(self) -> usize {
        self.kv_heads.saturating_mul(2 * self.part_bytes())
    }
}

/// Zeroed memory for a cache. It is not touched page by page, so that a long context costs no time at start.
pub struct CacheMemory {
    /// As the allocator gave it, with room to align.
    allocated: *mut u8,
    start: *mut u8,
    len: usize,
}

// SAFETY: it owns its bytes, as a `Box<[u8]>` would.
unsafe impl Send for CacheMemory {}
// SAFETY: as above.
unsafe impl Sync for CacheMemory {}

impl CacheMemory {
    /// `len` bytes, or `None` where the system has not so many.
    pub fn new(len: usize) -> Option<Self> {
        if len == 0 {
            let start = std::ptr::without_provenance_mut(ALIGNMENT);
            return Some(Self { allocated: start, start, len });
        }
        // SAFETY: the size is not zero.
        let allocated = unsafe { alloc_zeroed(Self::layout(len)?) };
        let start = allocated.wrapping_add(allocated.align_offset(ALIGNMENT));
        (!allocated.is_null()).then_some(Self { allocated, start, len })
    }

    /// Aligned by hand: the standard library takes fresh pages, which are zero, only for what any allocation is aligned to, and otherwise
    /// writes the zeros itself.
    fn layout(len: usize) -> Option<Layout> {
        Layout::from_size_align(len.checked_add(ALIGNMENT)?, 1).ok()
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: `start` has `len` initialised bytes, or is dangling and aligned where that is 0.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }

    /// The bytes, to write.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.len) }
    }
}

impl Clone for CacheMemory {
    fn clone(&self) -> Self {
        let Some(mut copy) = Self::new(self.len) else {
            handle_alloc_error(Layout::new::<u8>());
        };
        copy.bytes_mut().copy_from_slice(self.bytes());
        copy
    }
}

impl Drop for CacheMemory {
    fn drop(&mut self) {
        if self.len > 0
            && let Some(layout) = Self::layout(self.len)
        {
            // SAFETY: `new` allocated it with this layout.
            unsafe { dealloc(self.allocated, layout) }
        }
    }
}

/// One layer's keys and values: `(blocks, kv_heads, keys and values)`.
#[derive(Clone, Copy)]
pub struct LayerCache<'a> {
    bytes: &'a [u8],
    /// What they look like.
    pub shape: CacheShape,
}

/// Keys or values of one head in one block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Keys,
    Values,
}

impl<'a> LayerCache<'a> {
    /// A layer over `bytes` that lie in a [`CacheMemory`], whole blocks of them.
    pub fn new(bytes: &'a [u8], shape: CacheShape) -> Self {
        check(bytes, shape);
        Self { bytes, shape }
    }

    /// Keys or values of one head in one block: codes, then scales.
    pub(super) fn part(self, block: usize, head: usize, part: Part) -> &'a [u8] {
        &self.bytes[part_start(self.shape, block, head, part)..][..self.shape.part_bytes()]
    }
}

fn check(bytes: &[u8], shape: CacheShape) {
    assert!(bytes.len().is_multiple_of(shape.block_bytes()), "a layer is whole blocks");
    assert!(bytes.as_ptr().addr().is_multiple_of(ALIGNMENT), "a layer is aligned");
}

fn part_start(shape: CacheShape, block: usize, head: usize, part: Part) -> usize {
    assert!(head < shape.kv_heads);
    ((block * shape.kv_heads + head) * 2 + usize::from(part == Part::Values)) * shape.part_bytes()
}

/// Where a number of a panel lies, in numbers.
#[inline(always)]
fn in_panel(column: usize, depth: usize, interleaved: usize) -> usize {
    (depth / interleaved * COLUMNS + column) * interleaved + depth % interleaved
}

/// Where number `dim` of the position in `slot` lies among the codes of a part, in numbers.
#[inline(always)]
fn index(part: Part, dim: usize, slot: usize, interleaved: usize) -> usize {
    match part {
        Part::Keys => in_panel(slot, dim, interleaved),
        Part::Values => dim / COLUMNS * COLUMNS * BLOCK_TOKENS + in_panel(dim % COLUMNS, slot, interleaved),
    }
}

/// The byte that holds a 4-bit code, and the bits to shift it by. Columns 16 to 31 are the high halves of columns 0 to 15.
#[inline(always)]
fn nibble(index: usize) -> (usize, u32) {
    (index / 128 * 64 + index % 64, (index % 128 / 64 * 4) as u32)
}

/// Writes to some heads of a layer from several threads.
pub(super) struct LayerWriter<'a> {
    start: *mut u8,
    len: usize,
    shape: CacheShape,
    bytes: std::marker::PhantomData<&'a mut [u8]>,
}

// SAFETY: threads write to parts that no other thread touches, as the callers of `part` promise.
unsafe impl Sync for LayerWriter<'_> {}

impl<'a> LayerWriter<'a> {
    pub(super) fn new(bytes: &'a mut [u8], shape: CacheShape) -> Self {
        check(bytes, shape);
        Self { start: bytes.as_mut_ptr(), len: bytes.len(), shape, bytes: std::marker::PhantomData }
    }

    /// # Safety
    /// Nobody else may hold this head of this block.
    #[allow(clippy::mut_from_ref, reason = "the exclusive access is the caller's promise")]
    pub(super) unsafe fn part(&self, block: usize, head: usize, part: Part) -> &mut [u8] {
        let start = part_start(self.shape, block, head, part);
        let len = self.shape.part_bytes();
        assert!(start.checked_add(len).is_some_and(|end| end <= self.len), "block {block} outside the layer");
        // SAFETY: inside the slice that `new` took, whose borrow outlives this one.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), len) }
    }
}

for_each_isa! {
    /// Stores the numbers of one head at one position: `row: (head_dim)` into `slot` of `bytes`, a part.
    pub(super) fn store(shape: CacheShape, part: Part, slot: usize, row: &[f32], bytes: &mut [u8]) = store_body
}

#[inline(always)]
fn store_body(shape: CacheShape, part: Part, slot: usize, row: &[f32], bytes: &mut [u8]) {
    let (codes, scales) = bytes.split_at_mut(shape.codes_bytes());
    match shape.kind {
        CacheType::F32 => {
            let codes = codes.as_chunks_mut::<4>().0;
            put::<_, 1>(part, slot, row, codes, |x| x.to_ne_bytes());
        }
        CacheType::Bf16 => {
            let codes = codes.as_chunks_mut::<2>().0;
            put::<_, 2>(part, slot, row, codes, |x| f32_to_bf16(x).to_ne_bytes());
        }
        CacheType::Q8 => {
            let top = row.iter().fold(0.0f32, |top, x| top.max(x.abs()));
            let inverse = if top > 0.0 { 127.0 / top } else { 0.0 };
            scales.as_chunks_mut::<4>().0[slot] = (top / 127.0).to_ne_bytes();
            // Keys meet signed queries and are stored unsigned; values meet weights that are never negative.
            let zero = if part == Part::Keys { 128 } else { 0 };
            put::<_, 4>(part, slot, row, codes, |x| ((x * inverse).round_ties_even() as i8 as u8).wrapping_add(zero));
        }
        CacheType::Q4 => {
            let scales = scales.as_chunks_mut::<2>().0;
            for (panel, numbers) in row.chunks(COLUMNS).enumerate() {
                let least = numbers.iter().copied().fold(f32::INFINITY, f32::min);
                let most = numbers.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let (minimum, scale) = (f32_to_bf16(least), f32_to_bf16((most - least) / 15.0));
                scales[(2 * panel) * BLOCK_TOKENS + slot] = scale.to_ne_bytes();
                scales[(2 * panel + 1) * BLOCK_TOKENS + slot] = minimum.to_ne_bytes();
                // Codes are those of the rounded scale and minimum.
                let (minimum, scale) = (bf16_to_f32(minimum), bf16_to_f32(scale));
                let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
                for (i, x) in numbers.iter().enumerate() {
                    let code = ((x - minimum) * inverse).round_ties_even().clamp(0.0, 15.0) as u8;
                    let (byte, shift) = nibble(index(part, panel * COLUMNS + i, slot, 4));
                    codes[byte] = codes[byte] & !(15 << shift) | code << shift;
                }
            }
        }
    }
}

/// Puts the codes of one position where [`index`] says: a panel's width of them is made in one go, then set down.
#[inline(always)]
fn put<T: Copy + Default, const INTERLEAVED: usize>(
    part: Part,
    slot: usize,
    row: &[f32],
    codes: &mut [T],
    code: impl Fn(f32) -> T,
) {
    for (panel, x) in row.chunks(COLUMNS).enumerate() {
        let mut made = [T::default(); COLUMNS];
        made.iter_mut().zip(x).for_each(|(made, x)| *made = code(*x));
        let first = panel * COLUMNS;
        match part {
            Part::Keys => {
                let runs = made[..x.len().next_multiple_of(INTERLEAVED)].as_chunks::<INTERLEAVED>().0;
                let places = codes[first * COLUMNS..].as_chunks_mut::<INTERLEAVED>().0;
                for (depth, run) in runs.iter().enumerate() {
                    places[depth * COLUMNS + slot] = *run;
                }
            }
            Part::Values => {
                let start = first * BLOCK_TOKENS + slot / INTERLEAVED * COLUMNS * INTERLEAVED;
                let places = codes[start..][..COLUMNS * INTERLEAVED].as_chunks_mut::<INTERLEAVED>().0;
                for (place, made) in places.iter_mut().zip(&made[..x.len()]) {
                    place[slot % INTERLEAVED] = *made;
                }
            }
        }
    }
}

/// What `bytes`, a part, holds in its first `slots` positions, in the order of an f32 cache. `out: (padded_dim · BLOCK_TOKENS)`;
/// what belongs to other positions, and to padding, is left as it is.
#[inline(always)]
pub(super) fn unpack(shape: CacheShape, part: Part, bytes: &[u8], slots: usize, out: &mut [f32]) {
    let (codes, scales) = bytes.split_at(shape.codes_bytes());
    match shape.kind {
        CacheType::F32 => {
            let codes = codes.as_chunks::<4>().0;
            unpack_each(shape, part, slots, out, |dim, slot| f32::from_ne_bytes(codes[index(part, dim, slot, 1)]));
        }
        CacheType::Bf16 => {
            let codes = codes.as_chunks::<2>().0;
            unpack_each(shape, part, slots, out, |dim, slot| {
                bf16_to_f32(u16::from_ne_bytes(codes[index(part, dim, slot, 2)]))
            });
        }
        CacheType::Q8 => {
            let scales = scales.as_chunks::<4>().0;
            let zero = if part == Part::Keys { 128 } else { 0 };
            unpack_each(shape, part, slots, out, |dim, slot| {
                let code = codes[index(part, dim, slot, 4)].wrapping_sub(zero) as i8;
                f32::from(code) * f32::from_ne_bytes(scales[slot])
            });
        }
        CacheType::Q4 => {
            let scales = scales.as_chunks::<2>().0;
            let bf16 = |i: usize| bf16_to_f32(u16::from_ne_bytes(scales[i]));
            unpack_each(shape, part, slots, out, |dim, slot| {
                let (byte, shift) = nibble(index(part, dim, slot, 4));
                let first = dim / COLUMNS * 2 * BLOCK_TOKENS + slot;
                f32::from(codes[byte] >> shift & 15) * bf16(first) + bf16(first + BLOCK_TOKENS)
            });
        }
    }
}

#[inline(always)]
fn unpack_each(shape: CacheShape, part: Part, slots: usize, out: &mut [f32], number: impl Fn(usize, usize) -> f32) {
    for dim in 0..shape.head_dim {
        for slot in 0..slots {
            out[index(part, dim, slot, 1)] = number(dim, slot);
        }
    }
}
