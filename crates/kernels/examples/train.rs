//! How fast training's products and attention are, beside the machine's peak: `cargo run --release -p dots-kernels --example train`.
//! Arguments: words that a line must contain one of. `THREADS=1` sets the threads, `PRECISION=f32` the precision.
//!
//! A line's GFLOP/s count a forward product and both of its gradients, that of `x` written over and that of `w` added to.

use std::time::Instant;

use dots_kernels::{
    Compute,
    measure::Machine,
    train::{Data, Precision, Product, View, attention, products, round_to_bf16},
};

struct Bench {
    compute: Compute,
    precision: Precision,
    peak: f64,
    only: Vec<String>,
}

fn main() {
    let threads = std::env::var("THREADS").ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    let precision = match std::env::var("PRECISION").as_deref() {
        Ok("f32") => Precision::F32,
        _ => Precision::Bf16,
    };
    // Several times, since a few milliseconds may all fall into a moment when the system keeps a core for itself.
    let peak = (0..8)
        .map(|_| Machine::measure(threads, 1 << 20).expect("memory for a measurement"))
        .map(|machine| match precision {
            Precision::F32 => machine.f32_ops_per_second,
            Precision::Bf16 => machine.bf16_ops_per_second,
        })
        .fold(0.0, f64::max);
    let compute = Compute::new(threads, 0).with_training();
    let only: Vec<String> = std::env::args().skip(1).collect();
    println!("{} threads, {precision:?}, peak {:.0} GFLOP/s", compute.threads(), peak / 1e9);
    let bench = Bench { compute, precision, peak, only };
    for (name, tokens, width, inner) in
        [("24.4M", 4096, 256, 256), ("256 wide", 8192, 256, 768), ("1024 wide", 4096, 1024, 1024)]
    {
        bench.linear(&format!("{name}: projection"), tokens, width, inner);
        bench.linear(&format!("{name}: head, 1024 rows of 8192"), 1024, width, 8192);
    }
    for (name, sequences, tokens, heads, head_dim) in [
        ("24.4M", 8, 512, 4, 64),
        ("24.4M, heads of 32", 8, 512, 8, 32),
        ("256 wide", 4, 2048, 2, 128),
        ("1024 wide", 1, 4096, 8, 128),
    ] {
        bench.attention(name, sequences, tokens, heads, head_dim);
    }
    for rows in [16, 64, 256, 768] {
        for (width, inner, experts) in [(256, 96, 32), (1024, 352, 32)] {
            bench.experts(rows, width, inner, experts);
        }
    }
}

impl Bench {
    /// The fastest of some runs.
    fn report(&self, name: &str, operations: f64, mut run: impl FnMut()) {
        if !self.only.is_empty() && !self.only.iter().any(|word| name.contains(word)) {
            return;
        }
        let began = Instant::now();
        let mut best = f64::INFINITY;
        let mut runs = 0;
        while runs < 4 || began.elapsed().as_secs_f64() < 0.6 {
            let start = Instant::now();
            run();
            best = best.min(start.elapsed().as_secs_f64());
            runs += 1;
        }
        let rate = operations / best;
        println!("{name:44} {:8.3} ms {:6.0} GFLOP/s {:5.1} %", 1e3 * best, rate / 1e9, 100.0 * rate / self.peak);
    }

    /// `y (tokens, outputs) = x (tokens, inputs) · wᵀ` and its gradients, each alone and all together.
    fn linear(&self, name: &str, tokens: usize, inputs: usize, outputs: usize) {
        let (x, w, dy) = (noise(tokens * inputs), noise(outputs * inputs), noise(tokens * outputs));
        let (mut y, mut dx, mut dw) =
            (vec![0.0; tokens * outputs], vec![0.0; tokens * inputs], vec![0.0; outputs * inputs]);
        let mut forward = || {
            let (a, b) = (View::new(&x, tokens, inputs), View::new(&w, outputs, inputs).t());
            let job = Product { a, b, out: &mut y, out_stride: outputs, accumulate: false };
            products(&self.compute, self.precision, &mut [job]);
        };
        let mut to_x = || {
            let (a, b) = (View::new(&dy, tokens, outputs), View::new(&w, outputs, inputs));
            let job = Product { a, b, out: &mut dx, out_stride: inputs, accumulate: false };
            products(&self.compute, self.precision, &mut [job]);
        };
        let mut to_w = || {
            let (a, b) = (View::new(&dy, tokens, outputs).t(), View::new(&x, tokens, inputs));
            let job = Product { a, b, out: &mut dw, out_stride: inputs, accumulate: true };
            products(&self.compute, self.precision, &mut [job]);
        };
        let operations = 2.0 * (tokens * inputs * outputs) as f64;
        self.report(&format!("{name}: forward"), operations, &mut forward);
        self.report(&format!("{name}: to x"), operations, &mut to_x);
        self.report(&format!("{name}: to w"), operations, &mut to_w);
        self.report(&format!("{name}: all"), 3.0 * operations, || {
            forward();
            to_x();
            to_w();
        });
    }

    /// Scores and values of one layer; what a causal mask hides is no operation, nor are scores that the backward pass makes again.
    fn attention(&self, name: &str, sequences: usize, sequence_tokens: usize, heads: usize, head_dim: usize) {
        let attend_from = vec![0; sequences * sequence_tokens];
        let len = attend_from.len() * heads * head_dim;
        let exact = [0; 4].map(|_| noise(len));
        let rounded = exact.each_ref().map(|x| {
            let mut rounded = vec![0; len];
            round_to_bf16(&self.compute, x, &mut rounded);
            rounded
        });
        // As a step has them: rounded where they are made.
        let [q, k, v, d_out] = match self.precision {
            Precision::F32 => exact.each_ref().map(|x| Data::F32(x)),
            Precision::Bf16 => rounded.each_ref().map(|x| Data::Bf16(x)),
        };
        let (mut means, mut halves) = (vec![0.0; attend_from.len() * heads], vec![0; len]);
        let (mut out, mut lse) = (vec![0.0; len], vec![0.0; attend_from.len() * heads]);
        let (mut dq, mut dk, mut dv) = (vec![0.0; len], vec![0.0; len], vec![0.0; len]);
        let shape = attention::Shape { sequence_tokens, heads, kv_heads: heads, head_dim, attend_from: &attend_from };
        let pairs = sequences * sequence_tokens * (sequence_tokens + 1) / 2;
        let product = 2.0 * (pairs * heads * head_dim) as f64;
        self.report(&format!("{name}: attention forward"), 2.0 * product, || {
            attention::forward(&self.compute, self.precision, &shape, [q, k, v], &mut out, &mut lse);
        });
        self.report(&format!("{name}: attention backward"), 4.0 * product, || {
            attention::means(&self.compute, head_dim, &out, &exact[3], &mut means, &mut halves);
            let gradients = [&mut dq[..], &mut dk, &mut dv];
            let operands = [q, k, v, d_out];
            attention::backward(&self.compute, self.precision, &shape, operands, &lse, &means, gradients);
        });
    }

    /// One layer's experts, `rows` rows each: gate and up from gathered tokens, down, and all gradients.
    fn experts(&self, rows: usize, width: usize, inner: usize, experts: usize) {
        let total = rows * experts;
        let tokens = (total / 6).max(1);
        let (x, dy) = (noise(tokens * width), noise(total * width));
        // Gate and up are one matrix.
        let (up, down) = (noise(experts * 2 * inner * width), noise(experts * width * inner));
        let (mut d_up, mut d_down) = (vec![0.0; up.len()], vec![0.0; down.len()]);
        let (mut h, mut y) = (noise(total * 2 * inner), vec![0.0; total * width]);
        let (act, mut d_act, d_h, mut dx) =
            (noise(total * inner), vec![0.0; total * inner], noise(total * 2 * inner), vec![0.0; total * width]);
        let gather: Vec<u32> = (0..total).map(|i| (i * 7919 % tokens) as u32).collect();
        let lists: Vec<&[u32]> = gather.chunks(rows).collect();
        let two = 2 * inner;
        let operations = 3.0 * 2.0 * (total * 3 * inner * width) as f64;
        let name = format!("experts: {rows} rows, {experts} of {width} by {inner}");
        self.report(&name, operations, || {
            let run = |outs: &mut [f32], size: usize, stride: usize, accumulate: bool, views: &Views<'_>| {
                let mut jobs: Vec<Product<'_>> = outs
                    .chunks_mut(size)
                    .enumerate()
                    .map(|(e, out)| {
                        let (a, b) = views(e);
                        Product { a, b, out, out_stride: stride, accumulate }
                    })
                    .collect();
                products(&self.compute, self.precision, &mut jobs);
            };
            run(&mut h, rows * two, two, false, &|e| {
                (View::new(&x, tokens, width).gather(lists[e]), View::new(&up[e * two * width..], two, width).t())
            });
            run(&mut y, rows * width, width, false, &|e| {
                (
                    View::new(&act[e * rows * inner..], rows, inner),
                    View::new(&down[e * width * inner..], width, inner).t(),
                )
            });
            run(&mut d_act, rows * inner, inner, false, &|e| {
                (View::new(&dy[e * rows * width..], rows, width), View::new(&down[e * width * inner..], width, inner))
            });
            run(&mut d_down, width * inner, inner, true, &|e| {
                (View::new(&dy[e * rows * width..], rows, width).t(), View::new(&act[e * rows * inner..], rows, inner))
            });
            run(&mut dx, rows * width, width, false, &|e| {
                (View::new(&d_h[e * rows * two..], rows, two), View::new(&up[e * two * width..], two, width))
            });
            run(&mut d_up, two * width, width, true, &|e| {
                (View::new(&d_h[e * rows * two..], rows, two).t(), View::new(&x, tokens, width).gather(lists[e]))
            });
        });
    }
}

/// An expert's operands.
type Views<'a> = dyn Fn(usize) -> (View<'a>, View<'a>) + 'a;

fn noise(count: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 7919) % 1009) as f32 / 504.5 - 1.0).collect()
}
