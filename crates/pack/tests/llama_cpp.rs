//! Exported files in llama.cpp: the same ids, and the same distributions as far as its file of logits tells.
//!
//! `LLAMA_CPP=folder/of/llama-perplexity cargo test --release -p dots-pack --test llama_cpp -- --ignored --nocapture`; `DOTS_MODEL`
//! names another model than the golden one.

mod support;

use std::{path::PathBuf, process::Command};

use dots_model::{
    executor::Arithmetic,
    tokenizer::{Specials, Tokenizer},
};
use dots_pack::gguf::{Held, export};
use support::{golden, log_softmax, logits, open};

const CONTEXT: usize = 64;

/// What `llama-perplexity --kl-divergence-base` writes: for the second half of each chunk, log-probabilities in 16 bits.
struct Base {
    tokens: Vec<u32>,
    /// `(chunks, CONTEXT / 2 - 1, vocab)`.
    log_probs: Vec<Vec<f32>>,
}

fn read_base(bytes: &[u8]) -> Base {
    assert_eq!(&bytes[..8], b"_logits_");
    let numbers: Vec<u32> = bytes[8..20].as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect();
    let [context, vocab, chunks] = numbers[..] else { unreachable!() };
    assert_eq!(context as usize, CONTEXT);
    let (vocab, tokens_bytes) = (vocab as usize, 4 * (context * chunks) as usize);
    let tokens = bytes[20..20 + tokens_bytes].as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect();
    let row_bytes = 2 * (vocab.next_multiple_of(2) + 4);
    let log_probs = bytes[20 + tokens_bytes..]
        .chunks_exact(row_bytes)
        .map(|row| {
            let float = |at: usize| f32::from_le_bytes(row[at..at + 4].try_into().unwrap());
            let (scale, least) = (float(0), float(4));
            let codes = row[8..].as_chunks().0.iter().take(vocab);
            codes.map(|code| scale * f32::from(u16::from_le_bytes(*code)) + least).collect()
        })
        .collect();
    Base { tokens, log_probs }
}

#[test]
#[ignore = "needs llama.cpp"]
fn llama_cpp_computes_the_same_from_an_exported_file() {
    let llama = PathBuf::from(std::env::var_os("LLAMA_CPP").expect("LLAMA_CPP names the folder of llama-perplexity"));
    let model = std::env::var_os("DOTS_MODEL").map_or_else(|| golden("hf"), PathBuf::from);
    let checkpoint = open(&model);
    let folder = tempfile::tempdir().unwrap();
    let (gguf, base, text) = (folder.path().join("m.gguf"), folder.path().join("base"), folder.path().join("text"));
    let words = "The early bird catches the worm, but the second mouse gets the cheese. It was 7 o'clock. ".repeat(12);
    std::fs::write(&text, &words).unwrap();
    // llama.cpp rounds activations to bf16 where weights are, and to nothing where they are f32.
    for (held, most) in [(Held::named("BF16").unwrap(), 5e-3), (Held::named("F32").unwrap(), 1e-4)] {
        export(&checkpoint, &gguf, held, 2, &mut ()).unwrap();
        let mut command = Command::new(llama.join("llama-perplexity"));
        command.arg("-m").arg(&gguf).arg("-f").arg(&text).arg("--kl-divergence-base").arg(&base);
        command.args(["-c", &CONTEXT.to_string(), "-b", &CONTEXT.to_string(), "-t", "2"]);
        command.args(["-ctk", "f32", "-ctv", "f32", "-fa", "off"]);
        let ran = command.output().unwrap();
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        let Base { tokens, log_probs } = read_base(&std::fs::read(&base).unwrap());
        let own = Tokenizer::new(checkpoint.tokenizer.as_ref().unwrap()).unwrap().encode(&words, Specials::Parse);
        assert_eq!(tokens, own[..tokens.len()]);
        let (mut divergence, mut rows, mut same_best) = (0.0, 0, 0);
        let mut theirs = log_probs.iter();
        for tokens in tokens.chunks(CONTEXT) {
            let ours = logits(&checkpoint, Arithmetic::Exact, tokens);
            for (ours, theirs) in ours[CONTEXT / 2..CONTEXT - 1].iter().zip(&mut theirs) {
                let ours = log_softmax(ours);
                divergence += ours.iter().zip(theirs).map(|(p, q)| p.exp() * (p - f64::from(*q))).sum::<f64>();
                let best = |x: &dyn Fn(usize) -> f64| (0..ours.len()).max_by(|a, b| x(*a).total_cmp(&x(*b)));
                same_best += usize::from(best(&|i| ours[i]) == best(&|i| f64::from(theirs[i])));
                rows += 1;
            }
        }
        let mean = divergence / f64::from(rows);
        println!("{held:?}: {rows} positions, mean KL {mean:.2e}, {same_best} with the same best token");
        assert!(rows > 60 && mean.abs() < most, "{mean}");
    }
}
