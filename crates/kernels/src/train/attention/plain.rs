//! The reference: one score at a time, in f32.

use super::Shape;

/// See [`super::forward`].
pub fn forward(shape: &Shape<'_>, q: &[f32], k: &[f32], v: &[f32], out: &mut [f32], lse: &mut [f32]) {
    let Shape { heads, kv_heads, head_dim, sequence_tokens, .. } = *shape;
    let scale = 1.0 / (head_dim as f32).sqrt();
    for token in 0..shape.tokens() {
        let start = token / sequence_tokens * sequence_tokens;
        let seen = start + shape.attend_from[token] as usize..token + 1;
        for head in 0..heads {
            let kv = head * kv_heads / heads;
            let query = &q[(token * heads + head) * head_dim..][..head_dim];
            let row = |x: &[f32], at: usize| -> Vec<f32> { x[(at * kv_heads + kv) * head_dim..][..head_dim].to_vec() };
            let scores: Vec<f32> = seen.clone().map(|at| scale * dot(query, &row(k, at))).collect();
            let top = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f32 = scores.iter().map(|score| (score - top).exp()).sum();
            lse[token * heads + head] = top + sum.ln();
            let out = &mut out[(token * heads + head) * head_dim..][..head_dim];
            out.fill(0.0);
            for (score, at) in scores.iter().zip(seen.clone()) {
                add(out, (score - top).exp() / sum, &row(v, at));
            }
        }
    }
}

/// See [`super::backward`].
#[allow(clippy::too_many_arguments, reason = "operands and results, each by its name in the formula")]
pub fn backward(
    shape: &Shape<'_>,
    q: &[f32],
    k: &[f32],
    v: &[f32],
    out: &[f32],
    lse: &[f32],
    d_out: &[f32],
    dq: &mut [f32],
    dk: &mut [f32],
    dv: &mut [f32],
) {
    let Shape { heads, kv_heads, head_dim, sequence_tokens, .. } = *shape;
    let scale = 1.0 / (head_dim as f32).sqrt();
    [&mut *dq, &mut *dk, &mut *dv].into_iter().for_each(|d| d.fill(0.0));
    for token in 0..shape.tokens() {
        let start = token / sequence_tokens * sequence_tokens;
        for head in 0..heads {
            let kv = head * kv_heads / heads;
            let at_query = (token * heads + head) * head_dim..(token * heads + head + 1) * head_dim;
            let (query, d_out) = (&q[at_query.clone()], &d_out[at_query.clone()]);
            let mean = dot(d_out, &out[at_query.clone()]);
            for at in start + shape.attend_from[token] as usize..token + 1 {
                let at_key = (at * kv_heads + kv) * head_dim..(at * kv_heads + kv + 1) * head_dim;
                let weight = (scale * dot(query, &k[at_key.clone()]) - lse[token * heads + head]).exp();
                add(&mut dv[at_key.clone()], weight, d_out);
                let d_score = weight * (dot(d_out, &v[at_key.clone()]) - mean) * scale;
                add(&mut dq[at_query.clone()], d_score, &k[at_key.clone()]);
                add(&mut dk[at_key], d_score, query);
            }
        }
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(to: &mut [f32], factor: f32, x: &[f32]) {
    for (to, x) in to.iter_mut().zip(x) {
        *to += factor * x;
    }
}
