//! Packing: what comes out opens, is near what went in, and is the same however often the work was stopped.

mod support;

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use dots_kernels::WeightType;
use dots_model::{
    checkpoint::Format,
    template::{ChatTemplate, Message},
    tokenizer::{Specials, Tokenizer},
};
use dots_pack::Progress;
use support::{copy_of, decoded, files, golden, open, options, pack, relative_error};

#[test]
fn each_type_decodes_near_its_source_whatever_that_came_in() {
    for source in ["hf", "hf-fused", "hf-fp8", "gguf/dots1-Q4_K_M.gguf"] {
        let original = open(&golden(source));
        for (kind, most) in [("Q8_D", 5e-5), ("Q6_D", 6e-4), ("Q5_D", 2.2e-3), ("Q4_D", 8e-3), ("Q3_D", 3.5e-2)] {
            let out = tempfile::tempdir().unwrap();
            pack(source, out.path(), &options("q8", &[&format!("*={kind}")]));
            let packed = open(out.path());
            assert_eq!(packed.format, Format::Packed);
            assert_eq!(packed.config, original.config);
            assert_eq!(packed.tensors().count(), original.tensors().count());
            let mut worst: f64 = 0.0;
            for (name, tensor) in packed.tensors() {
                let before = original.tensor(name).unwrap();
                assert_eq!(tensor.shape, before.shape);
                if tensor.shape.len() == 1 || name.ends_with("mlp.gate.weight") {
                    assert_eq!(tensor.kind, WeightType::F32, "{name}");
                    assert_eq!(decoded(tensor), decoded(before), "{name}");
                } else {
                    assert_eq!(tensor.kind.name(), kind, "{name}");
                    worst = worst.max(relative_error(&decoded(before), &decoded(tensor), &[]));
                }
            }
            println!("{source:24} {kind}: worst relative squared error of a matrix {worst:.2e}");
            assert!(worst < most, "{source} {kind}: {worst}");
        }
    }
}

#[test]
fn bf16_is_what_anyone_reads_and_loses_nothing() {
    let out = tempfile::tempdir().unwrap();
    pack("hf-fused", out.path(), &options("bf16", &[]));
    let (before, after) = (open(&golden("hf")), open(out.path()));
    for (name, tensor) in before.tensors() {
        assert_eq!(decoded(tensor), decoded(after.tensor(name).unwrap()), "{name}");
    }
    let config = fs::read_to_string(out.path().join("config.json")).unwrap();
    assert!(!config.contains("quantization_config"));
}

#[test]
fn the_safetensors_crate_opens_the_files_and_all_is_aligned() {
    let out = tempfile::tempdir().unwrap();
    // 80 columns of bf16 would leave gaps if there were any; the vectors of this model fill 64 bytes.
    pack("hf", out.path(), &options("q4", &["*.down_proj.*=bf16"]));
    let mut tensors = 0;
    for (name, bytes) in files(out.path()).iter().filter(|(name, _)| name.ends_with(".safetensors")) {
        let (header, metadata) = safetensors::SafeTensors::read_metadata(bytes).unwrap();
        assert!((8 + header).is_multiple_of(4096), "{name}");
        assert!(metadata.metadata().as_ref().unwrap().contains_key("dots.tensors"));
        let file = safetensors::SafeTensors::deserialize(bytes).unwrap();
        for (name, tensor) in file.iter() {
            let offset = tensor.data().as_ptr() as usize - bytes.as_ptr() as usize;
            assert!(offset.is_multiple_of(64), "{name} at {offset}");
            tensors += usize::from(!name.starts_with("dots.padding."));
        }
    }
    assert_eq!(tensors, open(out.path()).tensors().count());
}

#[test]
fn what_is_packed_already_is_copied() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    pack("hf", first.path(), &options("q4", &[]));
    let packed = open(first.path());
    dots_pack::pack(&packed, second.path(), &options("q4", &[]), &mut ()).unwrap();
    for (name, tensor) in open(second.path()).tensors() {
        assert_eq!(tensor.data, packed.tensor(name).unwrap().data, "{name}");
    }
}

#[test]
fn a_gguf_s_tokenizer_template_and_settings_come_along() {
    for source in ["gguf/dots1-Q4_K_M.gguf", "hf"] {
        let out = tempfile::tempdir().unwrap();
        pack(source, out.path(), &options("q4", &[]));
        let (before, after) = (open(&golden(source)), open(out.path()));
        assert_eq!(before.generation, after.generation, "{source}");
        assert_eq!(before.chat_template, after.chat_template, "{source}");
        let tokenizer = |checkpoint: &dots_model::Checkpoint| Tokenizer::new(checkpoint.tokenizer.as_ref().unwrap());
        let (old, new) = (tokenizer(&before).unwrap(), tokenizer(&after).unwrap());
        assert_eq!(old.vocab_size(), new.vocab_size());
        for id in 0..old.vocab_size() as u32 {
            assert_eq!((old.token_bytes(id), old.is_special(id)), (new.token_bytes(id), new.is_special(id)), "{id}");
        }
        for text in ["The early bird's 12 worms\n\n  <|response|>e\u{301}\u{4f60}\u{597d}", "", " \t x"] {
            for specials in [Specials::Parse, Specials::AsText] {
                assert_eq!(old.encode(text, specials), new.encode(text, specials), "{text:?}");
            }
        }
        let messages = [Message::new("system", "Be brief."), Message::new("user", "Hi <|endofresponse|>")];
        let chat = |checkpoint, tokenizer| ChatTemplate::new(checkpoint).unwrap().encode(tokenizer, &messages, true);
        assert_eq!(chat(&before, &old).unwrap(), chat(&after, &new).unwrap(), "{source}");
    }
}

/// Ends the work, as a kill would, when it comes to a file.
struct StopAt(&'static str);

impl Progress for StopAt {
    fn file(&mut self, name: &str) {
        assert!(!name.contains(self.0), "stopped");
    }
}

fn stopped_at(file: &'static str, out: &Path) {
    let source = open(&golden("hf"));
    let stopped =
        catch_unwind(AssertUnwindSafe(|| dots_pack::pack(&source, out, &options("q4", &[]), &mut StopAt(file))));
    assert!(stopped.is_err());
}

#[test]
fn stopped_work_goes_on_and_ends_the_same() {
    let whole = tempfile::tempdir().unwrap();
    assert_eq!(pack("hf", whole.path(), &options("q4", &[])).resumed, 0);
    let out = tempfile::tempdir().unwrap();
    stopped_at("00003-of", out.path());
    let names: Vec<String> = files(out.path()).into_keys().collect();
    assert_eq!(names, ["model-00001-of-00004.safetensors", "model-00002-of-00004.safetensors", "pack.json.part"]);
    assert!(dots_model::Checkpoint::open(out.path()).is_err());
    // What a kill amid a file leaves.
    fs::write(out.path().join("model-00003-of-00004.safetensors.part"), b"half").unwrap();
    assert_eq!(pack("hf", out.path(), &options("q4", &[])).resumed, 2);
    assert!(files(whole.path()) == files(out.path()));
    // Once more over the finished folder: nothing to do, but for what was lost of it.
    for lost in ["config.json", "model.safetensors.index.json"] {
        fs::remove_file(out.path().join(lost)).unwrap();
    }
    assert_eq!(pack("hf", out.path(), &options("q4", &[])).resumed, 4);
    assert!(files(whole.path()) == files(out.path()));
}

#[test]
fn other_weights_and_settings_under_the_same_name_are_refused() {
    let parent = tempfile::tempdir().unwrap();
    let model = parent.path().join("model");
    fs::create_dir(&model).unwrap();
    files(&golden("hf")).iter().for_each(|(name, bytes)| fs::write(model.join(name), bytes).unwrap());
    let pack_into = |out: &Path| dots_pack::pack(&open(&model), out, &options("q4", &[]), &mut ());
    let done = parent.path().join("done");
    pack_into(&done).unwrap();

    // Of work that was begun, another end of turn: each file is bound to `config.json`, which names it.
    let begun = parent.path().join("begun");
    let work = || dots_pack::pack(&open(&model), &begun, &options("q4", &[]), &mut StopAt("00003-of"));
    assert!(catch_unwind(AssertUnwindSafe(work)).is_err());
    let settings = model.join("generation_config.json");
    let before = fs::read(&settings).unwrap();
    fs::write(&settings, r#"{ "eos_token_id": 3 }"#).unwrap();
    assert!(pack_into(&begun).unwrap_err().to_string().contains("as it was before"));
    fs::write(&settings, before).unwrap();
    assert_eq!(pack_into(&begun).unwrap().resumed, 2);

    // Of work that is finished, another weight.
    let weights = files(&model).into_keys().find(|name| name.ends_with(".safetensors")).unwrap();
    let mut bytes = fs::read(model.join(&weights)).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(model.join(&weights), bytes).unwrap();
    assert!(pack_into(&done).unwrap_err().to_string().contains("as it was before"));
}

#[test]
fn a_finished_file_that_is_no_longer_whole_is_written_again() {
    let whole = tempfile::tempdir().unwrap();
    pack("hf", whole.path(), &options("q4", &[]));
    let out = tempfile::tempdir().unwrap();
    stopped_at("00004-of", out.path());
    let second = out.path().join("model-00002-of-00004.safetensors");
    let mut bytes = fs::read(&second).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&second, bytes).unwrap();
    assert_eq!(pack("hf", out.path(), &options("q4", &[])).resumed, 1);
    assert!(files(whole.path()) == files(out.path()));
}

#[test]
fn folders_that_would_be_harmed_are_refused() {
    let model = copy_of(&golden("hf"));
    let source = open(model.path());
    let refused = |out: &Path, recipe: &str, expected: &str| {
        let error = dots_pack::pack(&source, out, &options(recipe, &[]), &mut ()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    let before = files(model.path());
    refused(model.path(), "q4", "the checkpoint itself");
    refused(&model.path().join("x/../q4"), "q4", "inside the checkpoint");
    refused(&model.path().join("config.json"), "q4", "inside the checkpoint");
    assert!(files(model.path()) == before);

    let other = tempfile::tempdir().unwrap();
    fs::write(other.path().join("thesis.tex"), "text").unwrap();
    refused(other.path(), "q4", "holds something else");
    refused(&other.path().join("thesis.tex"), "q4", "this is a file");

    let begun = tempfile::tempdir().unwrap();
    stopped_at("00002-of", begun.path());
    let error = dots_pack::pack(&source, begun.path(), &options("q6", &[]), &mut ()).unwrap_err().to_string();
    assert!(error.contains("another recipe"), "{error}");
    // The same files elsewhere are another source: they may be altered meanwhile.
    refused(begun.path(), "q4", "another source");

    let done = tempfile::tempdir().unwrap();
    pack("hf", done.path(), &options("q4", &[]));
    refused(done.path(), "q6", "another recipe");
    let error = dots_pack::pack(&source, &done.path().join("new"), &options("q4", &["nothing*=q8"]), &mut ());
    assert!(error.unwrap_err().to_string().contains("nothing*: no tensor"));
}

#[test]
fn a_source_that_holds_no_numbers_is_named() {
    let model = copy_of(&golden("hf-fused"));
    let path = model.path().join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let end = bytes.len();
    bytes[end - 2..].copy_from_slice(&[0xc0, 0x7f]); // the last weight of the file becomes NaN
    fs::write(&path, bytes).unwrap();
    let out = tempfile::tempdir().unwrap();
    let error = dots_pack::pack(&open(model.path()), &out.path().join("q4"), &options("q4", &[]), &mut ());
    let error = error.unwrap_err().to_string();
    assert!(error.contains("model.safetensors: ") && error.ends_with("expected finite weights, found NaN"), "{error}");
}

#[test]
fn a_model_of_24_thousand_tensors_opens_at_once() {
    let config = dots_model::Config {
        vocab_size: 64,
        hidden_size: 32,
        intermediate_size: 32,
        moe_intermediate_size: 32,
        num_attention_heads: 1,
        num_key_value_heads: 1,
        head_dim: 32,
        ..dots_model::Config::dots_llm1()
    };
    let types = dots_model::checkpoint::Types::One(WeightType::BF16);
    let source = dots_model::Checkpoint::random("many", config, types, 1).unwrap();
    let out = tempfile::tempdir().unwrap();
    dots_pack::pack(&source, out.path(), &options("q4", &[]), &mut ()).unwrap();
    let start = std::time::Instant::now();
    let packed = open(out.path());
    let seconds = start.elapsed().as_secs_f64();
    println!("{} tensors opened in {seconds:.3} s", packed.tensors().count());
    assert!(packed.tensors().count() > 24_000 && seconds < 5.0, "{seconds}");
}
