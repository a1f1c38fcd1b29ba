//! A direction that tells two domains apart where a router stands.

use super::domain::Seen;

/// Added to the diagonal, as a share of its mean, so that directions that no row has stay out of the answer.
const RIDGE: f64 = 1e-3;

/// `w: (hidden)` with `w · x` as near as can be to `of_new` on the `new` domain's router inputs and to `of_old` on the `old` one's, both
/// domains counting alike: ridge regression.
pub(super) fn probe(new: (&Seen, usize), old: (&Seen, usize), of_new: f64, of_old: f64) -> Vec<f32> {
    let hidden = new.0.sum.len();
    let mut gram = vec![0.0; hidden * hidden];
    let mut answer = vec![0.0; hidden];
    for ((seen, tokens), target) in [(new, of_new), (old, of_old)] {
        let scale = 1.0 / tokens.max(1) as f64;
        gram.iter_mut().zip(&seen.gram).for_each(|(sum, x)| *sum += scale * f64::from(*x));
        answer.iter_mut().zip(&seen.sum).for_each(|(sum, x)| *sum += scale * target * x);
    }
    let trace: f64 = gram.iter().step_by(hidden + 1).sum();
    let ridge = (RIDGE * trace / hidden as f64).max(f64::MIN_POSITIVE);
    gram.iter_mut().step_by(hidden + 1).for_each(|x| *x += ridge);
    solve(&mut gram, &mut answer);
    answer.into_iter().map(|x| x as f32).collect()
}

/// Solves `a · x = b` for `x`, which is written over `b`. `a: (n, n)` is symmetric and positive definite; its lower half is overwritten by
/// its Cholesky factor.
fn solve(a: &mut [f64], b: &mut [f64]) {
    let n = b.len();
    let along = |left: &[f64], right: &[f64]| left.iter().zip(right).map(|(x, y)| x * y).sum::<f64>();
    for row in 0..n {
        let (above, below) = a.split_at_mut(row * n);
        let (done, rest) = below[..n].split_at_mut(row);
        for col in 0..row {
            let factor = &above[col * n..];
            done[col] = (done[col] - along(&done[..col], &factor[..col])) / factor[col];
        }
        // Rounding may leave what is all but zero below it.
        rest[0] = (rest[0] - along(done, done)).max(f64::MIN_POSITIVE).sqrt();
    }
    for row in 0..n {
        let factor = &a[row * n..];
        b[row] = (b[row] - along(&factor[..row], &b[..row])) / factor[row];
    }
    for row in (0..n).rev() {
        b[row] /= a[row * n + row];
        let x = b[row];
        for col in 0..row {
            b[col] -= a[row * n + col] * x;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_equations_are_solved() {
        let mut a = [4.0, 2.0, 1.0, 2.0, 5.0, 3.0, 1.0, 3.0, 6.0];
        // a · [1, -2, 3]
        let mut b = [3.0, 1.0, 13.0];
        solve(&mut a, &mut b);
        for (found, expected) in b.iter().zip([1.0, -2.0, 3.0]) {
            assert!((found - expected).abs() < 1e-12, "{b:?}");
        }
    }
}
