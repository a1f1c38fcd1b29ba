//! Law 2 on whole forward passes: a sequence's numbers do not depend on what else is computed, nor on how its prompt is
//! cut, nor on the threads.

mod support;

use dots_model::{
    Checkpoint,
    cpu::{CpuExecutor, CpuOptions},
    executor::{Arithmetic, Batch, BlockId, CacheType, Executor, Slice, Want},
};
use proptest::prelude::*;
use support::golden;

const FILES: [&str; 3] = ["hf", "hf-fp8", "gguf/dots1-Q4_K_M.gguf"];
const BLOCKS: u32 = 32;

/// Every cache type, and both arithmetics.
const KINDS: [(Arithmetic, CacheType); 5] = [
    (Arithmetic::Exact, CacheType::F32),
    (Arithmetic::Exact, CacheType::Q8),
    (Arithmetic::Fast, CacheType::Bf16),
    (Arithmetic::Fast, CacheType::Q8),
    (Arithmetic::Fast, CacheType::Q4),
];

fn executor(file: &str, (arithmetic, cache_type): (Arithmetic, CacheType), threads: usize) -> CpuExecutor {
    let checkpoint = Checkpoint::open(&golden(file)).unwrap();
    let options = CpuOptions { arithmetic, cache_type, threads, cache_tokens: 1024, max_batch_tokens: 512 };
    CpuExecutor::new(&checkpoint, &options).unwrap()
}

/// One sequence's new tokens in a step.
struct Part<'a> {
    tokens: &'a [u32],
    start: usize,
    blocks: &'a [BlockId],
}

/// Logits after the last token of each part.
fn step(executor: &mut CpuExecutor, parts: &[Part<'_>]) -> Vec<Vec<f32>> {
    let wants: Vec<[Want<'_>; 1]> =
        parts.iter().map(|part| [Want { row: part.tokens.len() - 1, logits: true, ..Want::default() }]).collect();
    let slices = parts
        .iter()
        .zip(&wants)
        .map(|(part, wants)| Slice { tokens: part.tokens, start: part.start, block_table: part.blocks, wants })
        .collect();
    let ticket = executor.submit(&Batch { slices }).unwrap();
    executor.collect(ticket).rows.iter().map(|row| row.logits.clone().unwrap()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn a_batch_of_mixed_lengths_equals_each_alone_bit_for_bit(
        texts in prop::collection::vec(prop::collection::vec(0u32..512, 1..90), 1..6),
        file in 0..FILES.len(), kind in 0..KINDS.len(), threads in 1usize..4,
    ) {
        let mut many = executor(FILES[file], KINDS[kind], threads);
        let mut alone = executor(FILES[file], KINDS[kind], 1);
        // Three blocks each, from the pool's end backwards.
        let tables: Vec<Vec<BlockId>> =
            (0..texts.len() as u32).map(|i| (0..3).map(|k| BLOCKS - 1 - (3 * i + k)).collect()).collect();
        let parts: Vec<Part<'_>> =
            texts.iter().zip(&tables).map(|(tokens, blocks)| Part { tokens, start: 0, blocks }).collect();
        let together = step(&mut many, &parts);
        // Then one decoded token each.
        let next: Vec<Part<'_>> = parts.iter().map(|p| Part { tokens: &[7], start: p.tokens.len(), blocks: p.blocks }).collect();
        let together_next = step(&mut many, &next);
        for (i, tokens) in texts.iter().enumerate() {
            let own = step(&mut alone, &[Part { tokens, start: 0, blocks: &[2, 0, 1] }]);
            prop_assert_eq!(&own[0], &together[i]);
            let own = step(&mut alone, &[Part { tokens: &[7], start: tokens.len(), blocks: &[2, 0, 1] }]);
            prop_assert_eq!(&own[0], &together_next[i]);
        }
    }

    #[test]
    fn a_prompt_in_chunks_equals_the_whole_bit_for_bit(
        tokens in prop::collection::vec(0u32..512, 2..200), cut in 1usize..60,
        file in 0..FILES.len(), kind in 0..KINDS.len(),
    ) {
        let blocks: Vec<BlockId> = (0..7).collect();
        let mut executor = executor(FILES[file], KINDS[kind], 2);
        let whole = step(&mut executor, &[Part { tokens: &tokens, start: 0, blocks: &blocks }]);
        let blocks: Vec<BlockId> = (10..17).collect();
        let mut last = Vec::new();
        for (i, chunk) in tokens.chunks(cut).enumerate() {
            last = step(&mut executor, &[Part { tokens: chunk, start: i * cut, blocks: &blocks }]);
        }
        prop_assert_eq!(whole, last);
    }

    #[test]
    fn what_a_row_gives_does_not_depend_on_which_others_are_asked(
        texts in prop::collection::vec(prop::collection::vec((0u32..512, prop::bool::weighted(0.3)), 1..90), 1..4),
        file in 0..FILES.len(), kind in 0..KINDS.len(),
    ) {
        let ask = |executor: &mut CpuExecutor, is_asked: &dyn Fn(bool) -> bool| {
            let tokens: Vec<Vec<u32>> = texts.iter().map(|text| text.iter().map(|(token, _)| *token).collect()).collect();
            let tables: Vec<Vec<BlockId>> = (0..texts.len() as u32).map(|i| (6 * i..6 * i + 6).collect()).collect();
            let all = Want { logits: true, hidden: true, routing: true, ..Want::default() };
            let wants: Vec<Vec<Want<'_>>> = texts
                .iter()
                .map(|text| (0..).zip(text).filter(|(_, (_, asked))| is_asked(*asked)).map(|(row, _)| Want { row, ..all }).collect())
                .collect();
            let slices = tokens.iter().zip(&tables).zip(&wants);
            let slices = slices.map(|((tokens, block_table), wants)| Slice { tokens, start: 0, block_table, wants }).collect();
            let ticket = executor.submit(&Batch { slices }).unwrap();
            let rows = executor.collect(ticket).rows.iter().map(|row| (row.logits.clone(), row.hidden.clone(), row.routing.clone())).collect::<Vec<_>>();
            // What was not asked for is in the cache all the same.
            let next: Vec<Part<'_>> = tokens.iter().zip(&tables).map(|(tokens, blocks)| Part { tokens: &[7], start: tokens.len(), blocks }).collect();
            (rows, step(executor, &next))
        };
        let mut executor = executor(FILES[file], KINDS[kind], 2);
        let (all, all_next) = ask(&mut executor, &|_| true);
        let (some, some_next) = ask(&mut executor, &|asked| asked);
        let asked: Vec<_> = texts.iter().flatten().zip(all).filter(|((_, asked), _)| *asked).map(|(_, row)| row).collect();
        prop_assert_eq!(some, asked);
        prop_assert_eq!(some_next, all_next);
    }
}

#[test]
fn a_block_that_went_out_and_came_back_is_the_same() {
    for kind in KINDS {
        let mut executor = executor("hf", kind, 1);
        let tokens: Vec<u32> = (0..40).collect();
        step(&mut executor, &[Part { tokens: &tokens, start: 0, blocks: &[0, 1] }]);
        let want = step(&mut executor, &[Part { tokens: &[9], start: 40, blocks: &[0, 1] }]);
        let mut bytes = Vec::new();
        executor.export_block(0, &mut bytes);
        executor.import_block(5, &bytes).unwrap();
        executor.copy_block(1, 6);
        let got = step(&mut executor, &[Part { tokens: &[9], start: 40, blocks: &[5, 6] }]);
        assert_eq!(got, want);
        let error = executor.import_block(5, &bytes[1..]).unwrap_err().to_string();
        assert!(error.contains("expected") && error.contains("found"), "{error}");
    }
}

#[test]
fn batches_that_break_the_contract_are_refused_with_the_numbers() {
    let mut executor = executor("hf", KINDS[2], 1);
    let long = vec![0; 600];
    let cases: [(&[u32], usize, &[BlockId], &str); 5] = [
        (&long, 0, &[0; 19], "600 tokens where 512 were planned"),
        (&[512], 0, &[0], "token 512 outside a vocabulary of 512"),
        (&[0; 33], 0, &[0], "1 blocks do not hold 33 positions"),
        (&[0], 0, &[99], "block 99 outside a pool of 32"),
        (&[0], 256, &[0; 9], "position 257 beyond 256"),
    ];
    for (tokens, start, block_table, message) in cases {
        let batch = Batch { slices: vec![Slice { tokens, start, block_table, wants: &[] }] };
        let error = executor.submit(&batch).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }
}
