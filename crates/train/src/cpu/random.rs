//! Initial weights that depend on the seed, the tensor's name and the place in it, and on nothing else.

use dots_kernels::Compute;

use super::parameters::{Parameter, STRETCH};

/// Fills every parameter: matrices from a normal distribution of this deviation, norms with one.
pub(super) fn initialise(compute: &Compute, table: &[Parameter], seed: u64, deviation: f64, weights: &mut [f32]) {
    for parameter in table {
        let weights = &mut weights[parameter.range()];
        if !parameter.decays() {
            weights.fill(1.0);
            continue;
        }
        let key = mix(seed ^ hash(&parameter.name));
        // A stretch has an even number of numbers, which are made in pairs.
        let mut parts: Vec<&mut [f32]> = weights.chunks_mut(STRETCH).collect();
        compute.for_each(&mut parts, |index, part| {
            let first_pair = (index * STRETCH / 2) as u64;
            for (pair, numbers) in part.chunks_mut(2).enumerate() {
                let made = normal_pair(key, first_pair + pair as u64);
                for (number, made) in numbers.iter_mut().zip(made) {
                    *number = (made * deviation) as f32;
                }
            }
        });
    }
}

/// Independent normal numbers of deviation one without end, the same for the same seed and name.
pub(crate) fn normals(seed: u64, name: &str) -> impl Iterator<Item = f64> + use<> {
    let key = mix(seed ^ hash(name));
    (0..).flat_map(move |pair| normal_pair(key, pair))
}

/// Two independent normal numbers (Box and Muller, 1958).
fn normal_pair(key: u64, pair: u64) -> [f64; 2] {
    let bits = |which: u64| mix(key.wrapping_add((2 * pair + which).wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    // Above zero, so that the logarithm is finite.
    let u = ((bits(0) >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    let v = (bits(1) >> 11) as f64 / (1u64 << 53) as f64;
    let (radius, (sin, cos)) = ((-2.0 * u.ln()).sqrt(), (std::f64::consts::TAU * v).sin_cos());
    [radius * cos, radius * sin]
}

/// FNV-1a.
fn hash(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

/// The end of SplitMix64 (Steele, Lea and Flood, 2014).
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
