//! The plain reference of every tile, vectorised by the compiler.

/// Partial sums kept side by side.
const LANES: usize = 16;

#[inline(always)]
fn multiply_add<const FUSED: bool>(a: f32, b: f32, c: f32) -> f32 {
    // Without the instruction, `mul_add` is a slow call.
    if FUSED { a.mul_add(b, c) } else { a * b + c }
}

/// Adds lanes as a tree.
#[inline(always)]
fn sum(lanes: [f32; LANES]) -> f32 {
    let mut lanes = lanes;
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
        half /= 2;
    }
    lanes[0]
}

#[inline(always)]
pub fn dot_f32<const R: usize, const M: usize, const FUSED: bool>(
    weights: &[f32],
    first: usize,
    cols: usize,
    x: [&[f32]; M],
) -> [[f32; M]; R] {
    std::array::from_fn(|r| {
        let row = &weights[(first + r) * cols..(first + r + 1) * cols];
        std::array::from_fn(|m| {
            let mut lanes = [[0.0f32; LANES]; 2];
            let (row, row_rest) = row.as_chunks::<{ 2 * LANES }>();
            let (x, x_rest) = x[m].as_chunks::<{ 2 * LANES }>();
            for (w, x) in row.iter().zip(x) {
                for half in 0..2 {
                    for i in 0..LANES {
                        let at = half * LANES + i;
                        lanes[half][i] = multiply_add::<FUSED>(w[at], x[at], lanes[half][i]);
                    }
                }
            }
            for (i, (w, x)) in row_rest.iter().zip(x_rest).enumerate() {
                let (half, lane) = (i / LANES, i % LANES);
                lanes[half][lane] = multiply_add::<FUSED>(*w, *x, lanes[half][lane]);
            }
            sum(std::array::from_fn(|i| lanes[0][i] + lanes[1][i]))
        })
    })
}
