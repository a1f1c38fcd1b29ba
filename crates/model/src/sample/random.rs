//! Random numbers that depend on the seed and the position alone (Law 2).

/// The draw of the token.
const DRAW: u32 = 0;
/// Whether XTC excludes at this position.
const EXCLUSION: u32 = 1;

/// The number in [0, 1), of 53 random bits, that chooses the token.
pub fn uniform(seed: u64, position: u64) -> f64 {
    uniform_of(DRAW, seed, position)
}

/// A number in [0, 1) that is independent of [`uniform`]: whether XTC excludes must not tell which token is drawn.
pub(super) fn exclusion_uniform(seed: u64, position: u64) -> f64 {
    uniform_of(EXCLUSION, seed, position)
}

fn uniform_of(stream: u32, seed: u64, position: u64) -> f64 {
    let counter = [position as u32, (position >> 32) as u32, stream, 0];
    let [low, high, ..] = philox(counter, [seed as u32, (seed >> 32) as u32]);
    let bits = (u64::from(high) << 32 | u64::from(low)) >> 11;
    bits as f64 / (1u64 << 53) as f64
}

/// Philox4x32-10 of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (2011).
pub(super) fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let left = u64::from(counter[0]) * 0xD251_1F53;
        let right = u64::from(counter[2]) * 0xCD9E_8D57;
        counter = [
            (right >> 32) as u32 ^ counter[1] ^ key[0],
            right as u32,
            (left >> 32) as u32 ^ counter[3] ^ key[1],
            left as u32,
        ];
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
    }
    counter
}
