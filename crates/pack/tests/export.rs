//! GGUF files of every kind of checkpoint, read by our own reader.

mod support;

use dots_kernels::WeightType;
use dots_model::{
    checkpoint::Format,
    executor::Arithmetic,
    tokenizer::{Specials, Tokenizer},
};
use dots_pack::gguf::{Held, export};
use support::{decoded, golden, logits, open, options, pack, relative_error};

const TOKENS: [u32; 12] = [17, 301, 44, 9, 260, 499, 3, 88, 120, 7, 411, 56];

#[test]
fn logits_are_the_sources_to_the_bit() {
    let folder = tempfile::tempdir().unwrap();
    for source in ["hf", "hf-fused", "gguf/dots1-Q4_K_M.gguf", "gguf/dots1-IQ4_XS.gguf"] {
        let before = open(&golden(source));
        let path = folder.path().join("dots.gguf");
        let exported = export(&before, &path, Held::AsSource, 2, &mut ()).unwrap();
        assert_eq!(exported.bytes, std::fs::metadata(&path).unwrap().len());
        let after = open(&path);
        assert_eq!(after.format, Format::Gguf);
        assert_eq!(after.config, before.config);
        for arithmetic in [Arithmetic::Exact, Arithmetic::Fast] {
            assert!(logits(&before, arithmetic, &TOKENS) == logits(&after, arithmetic, &TOKENS), "{source}");
        }
    }
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["dots.gguf"]);
}

#[test]
fn matrices_come_in_the_type_that_was_asked_for() {
    let before = open(&golden("hf"));
    let folder = tempfile::tempdir().unwrap();
    for (name, most) in [("F32", 0.0), ("BF16", 0.0), ("F16", 1e-6), ("Q8_0", 5e-5)] {
        let path = folder.path().join("dots.gguf");
        export(&before, &path, Held::named(name).unwrap(), 2, &mut ()).unwrap();
        let after = open(&path);
        for (tensor_name, tensor) in after.tensors() {
            let source = before.tensor(tensor_name).unwrap();
            let small = tensor.shape.len() == 1 || tensor_name.ends_with("mlp.gate.weight");
            assert_eq!(tensor.kind.name(), if small { "F32" } else { name }, "{tensor_name}");
            let error = relative_error(&decoded(source), &decoded(tensor), &[]);
            assert!(error <= most, "{tensor_name} {name}: {error}");
        }
    }
}

#[test]
fn fp8_becomes_bf16_and_packed_types_become_q8_0() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dots.gguf");
    let fp8 = open(&golden("hf-fp8"));
    export(&fp8, &path, Held::AsSource, 2, &mut ()).unwrap();
    let name = "model.layers.1.mlp.experts.3.down_proj.weight";
    let after = open(&path);
    assert_eq!(after.tensor(name).unwrap().kind, WeightType::BF16);
    assert!(relative_error(&decoded(fp8.tensor(name).unwrap()), &decoded(after.tensor(name).unwrap()), &[]) < 1e-5);

    let out = folder.path().join("q4");
    pack("hf", &out, &options("q4", &[]));
    let packed = open(&out);
    export(&packed, &path, Held::AsSource, 2, &mut ()).unwrap();
    let after = open(&path);
    assert_eq!(after.tensor(name).unwrap().kind, WeightType::Q8_0);
    assert!(relative_error(&decoded(packed.tensor(name).unwrap()), &decoded(after.tensor(name).unwrap()), &[]) < 5e-5);
    assert_eq!(after.generation.eos_token_ids.len(), packed.generation.eos_token_ids.len());
}

#[test]
fn texts_become_the_same_ids_and_turns_end_at_the_same_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dots.gguf");
    for source in ["hf", "gguf/dots1-Q4_0.gguf"] {
        let before = open(&golden(source));
        let exported = export(&before, &path, Held::AsSource, 2, &mut ()).unwrap();
        assert_eq!(exported.notes, Vec::<String>::new());
        let after = open(&path);
        assert_eq!(before.chat_template, after.chat_template);
        let mut ends = [before.generation.eos_token_ids.clone(), after.generation.eos_token_ids.clone()];
        ends.iter_mut().for_each(|ends| ends.sort_unstable());
        assert_eq!(ends[0], ends[1]);
        assert_eq!(after.generation.temperature, before.generation.temperature);
        assert_eq!(after.generation.top_p, before.generation.top_p);
        let tokenizer = |checkpoint: &dots_model::Checkpoint| Tokenizer::new(checkpoint.tokenizer.as_ref().unwrap());
        let (old, new) = (tokenizer(&before).unwrap(), tokenizer(&after).unwrap());
        for text in ["The early bird catches the worm, 42 times.\n<|response|>", " x", ""] {
            for specials in [Specials::Parse, Specials::AsText] {
                assert_eq!(old.encode(text, specials), new.encode(text, specials), "{text:?}");
            }
        }
    }
}

#[test]
fn a_file_of_the_source_is_not_written_over() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dots.gguf");
    std::fs::copy(golden("gguf/dots1-Q4_0.gguf"), &path).unwrap();
    let source = open(&path);
    let error = export(&source, &path, Held::AsSource, 1, &mut ()).unwrap_err().to_string();
    assert!(error.contains("a file of the checkpoint itself"), "{error}");
    let error = export(&source, folder.path(), Held::AsSource, 1, &mut ()).unwrap_err().to_string();
    assert!(error.contains("this is a folder"), "{error}");
}

#[test]
fn a_tokenizer_larger_than_the_model_is_refused_as_no_reader_would_take_it() {
    let source = support::copy_of(&golden("hf"));
    let path = source.path().join("tokenizer.json");
    let mut file: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let added = file["added_tokens"].as_array_mut().unwrap();
    let mut more = added[0].clone();
    (more["id"], more["content"]) = (600.into(), "<|more|>".into());
    added.push(more);
    std::fs::write(&path, file.to_string()).unwrap();
    let out = source.path().join("out.gguf");
    let error = export(&open(source.path()), &out, Held::AsSource, 1, &mut ()).unwrap_err().to_string();
    assert!(error.contains("tokenizer") && error.contains("below vocab_size 512") && error.contains("600"), "{error}");
    assert!(!out.exists());
}

#[test]
fn two_exports_to_one_file_do_not_mix() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dots.gguf");
    std::fs::write(&path, "old").unwrap();
    // Another run that is not done.
    let other = dots_model::aside::Aside::create(&path).unwrap();
    let source = open(&golden("hf"));
    let error = export(&source, &path, Held::AsSource, 1, &mut ()).unwrap_err().to_string();
    assert!(error.contains("dots.gguf.part: another run is writing it") && error.contains("as it was"), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), b"old");
    drop(other);
    export(&source, &path, Held::AsSource, 1, &mut ()).unwrap();
    open(&path);
}
