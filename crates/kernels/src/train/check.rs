//! What the tests of this room share: numbers, and slopes by finite differences.

/// `len` numbers between −1 and 1, others for each `seed`.
pub fn numbers(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

/// Holds `gradients` to the slopes of `loss`, an independent f64 forward pass, at `inputs`: each number is moved both ways.
pub fn slopes(inputs: &[&[f32]], loss: impl Fn(&[Vec<f64>]) -> f64, gradients: &[&[f32]]) {
    let step = 1e-5;
    let mut at: Vec<Vec<f64>> = inputs.iter().map(|input| input.iter().map(|x| f64::from(*x)).collect()).collect();
    for (which, gradient) in gradients.iter().enumerate() {
        assert_eq!(gradient.len(), at[which].len());
        let size = gradient.iter().map(|d| d.abs()).fold(0.0, f32::max);
        for i in 0..gradient.len() {
            let x = at[which][i];
            at[which][i] = x + step;
            let up = loss(&at);
            at[which][i] = x - step;
            let down = loss(&at);
            at[which][i] = x;
            let want = (up - down) / (2.0 * step);
            let got = f64::from(gradient[i]);
            assert!((got - want).abs() <= 1e-5 * f64::from(1.0 + size), "input {which}, number {i}: {got}, not {want}");
        }
    }
}
