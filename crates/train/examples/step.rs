//! How fast a step is on this machine, and where its time goes: `cargo run --release -p dots-train --example step -- bf16 2`.
//!
//! The model has 24.4 M parameters, 8 layers of width 256 with 32 experts of 96, six for a token, and 8 sequences of 512 tokens a step.

use std::time::Instant;

use dots_kernels::train::Precision;
use dots_model::Config;
use dots_train::{
    cpu::{CpuStep, Options},
    recipe::Optimizer,
    step::{ALL_EXPERTS, Dials, MicroBatch, Step, Totals},
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let precision = match arguments.next().as_deref() {
        Some("f32") => Precision::F32,
        _ => Precision::Bf16,
    };
    let threads = arguments.next().map_or(Ok(2), |threads| threads.parse())?;
    let sequences_at_once: usize = arguments.next().map_or(Ok(8), |sequences| sequences.parse())?;
    let config = Config {
        vocab_size: 8192,
        hidden_size: 256,
        intermediate_size: 768,
        moe_intermediate_size: 96,
        num_hidden_layers: 8,
        num_attention_heads: 4,
        num_key_value_heads: 4,
        head_dim: 64,
        n_routed_experts: 32,
        ..Config::dots_llm1()
    };
    let (length, sequences) = (512, 8);
    let options = Options {
        precision,
        recompute: false,
        micro_batch_tokens: sequences_at_once * length,
        sequence_tokens: length,
        threads,
        optimizer: Optimizer::default(),
    };
    for (part, bytes) in &CpuStep::plan(&config, &options).parts {
        println!("{:>10.1} MB  {part}", *bytes as f64 / 1e6);
    }
    let mut step = CpuStep::random(&config, 1, 0.02, &options)?;
    let tokens: Vec<u32> = (0..sequences * length).map(|i| (i * i % 8191) as u32).collect();
    let targets: Vec<u32> = tokens[1..].iter().copied().chain([0]).collect();
    let attend_from = vec![0; tokens.len()];
    let totals = Totals { targets: tokens.len() as u64, sequences: sequences as u64 };
    let dials = Dials { learning_rate: 3e-4, sequence_loss: 1e-4, bias_rate: 1e-3, balanced: ALL_EXPERTS };
    for round in 0..6 {
        let began = Instant::now();
        step.begin(totals, dials)?;
        for at in (0..tokens.len()).step_by(options.micro_batch_tokens) {
            let part = at..(at + options.micro_batch_tokens).min(tokens.len());
            step.forward_backward(&MicroBatch {
                sequence_tokens: length,
                tokens: &tokens[part.clone()],
                attend_from: &attend_from[part.clone()],
                targets: &targets[part],
            })?;
        }
        let learnt = began.elapsed();
        let report = step.update()?;
        let all = began.elapsed();
        println!(
            "step {round}: {:.0} tokens/s, loss {:.4}; forward and backward {:.0} ms, update {:.0} ms",
            tokens.len() as f64 / all.as_secs_f64(),
            report.loss,
            learnt.as_secs_f64() * 1e3,
            (all - learnt).as_secs_f64() * 1e3,
        );
    }
    Ok(())
}
