//! Checkpoints that are broken, foreign or made to do harm: each gets its one message, none a panic.

mod support;

use std::path::{Path, PathBuf};

use dots_model::Checkpoint;
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use support::{copy_of, edit_json, gguf, golden, safetensors};

/// The message for the checkpoint at `path`, without the folder that it lies in.
fn message(path: &Path, folder: &Path) -> String {
    let message = Checkpoint::open(path).expect_err("a spoilt checkpoint opened").to_string();
    message.replace(&format!("{}/", folder.display()), "").replace(&folder.display().to_string(), ".")
}

fn spoilt_config(edit: impl FnOnce(&mut Map<String, Value>)) -> String {
    let folder = copy_of("hf-fused");
    edit_json(&folder.path().join("config.json"), edit);
    message(folder.path(), folder.path())
}

fn spoilt_bytes(folder: &str, bytes: &[u8]) -> String {
    let folder = copy_of(folder);
    std::fs::write(folder.path().join("model.safetensors"), bytes).unwrap();
    message(folder.path(), folder.path())
}

fn spoilt_tensors(folder: &str, edit: impl FnOnce(&mut safetensors::File)) -> String {
    let mut file = safetensors::File::read(&golden(folder).join("model.safetensors"));
    edit(&mut file);
    spoilt_bytes(folder, &safetensors::file(&serde_json::to_string(&file.header).unwrap(), &file.data))
}

fn spoilt_gguf_bytes(bytes: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dots.gguf");
    std::fs::write(&path, bytes).unwrap();
    message(&path, folder.path())
}

fn spoilt_gguf(edit: impl FnOnce(&mut gguf::File)) -> String {
    let mut file = gguf::File::read(&golden("gguf/dots1-Q2_K.gguf"));
    edit(&mut file);
    spoilt_gguf_bytes(&file.bytes())
}

#[test]
fn missing_paths_and_empty_folders() {
    let folder = tempfile::tempdir().unwrap();
    let found = message(&folder.path().join("none"), folder.path());
    assert!(found.starts_with("none: No such file"), "{found}");
    let found = message(folder.path(), folder.path());
    assert_eq!(found, ".: folder: expected config.json with safetensors, or one GGUF model, found neither");
    let folder = copy_of("hf-fused");
    std::fs::remove_file(folder.path().join("model.safetensors")).unwrap();
    let found = message(folder.path(), folder.path());
    assert_eq!(found, ".: folder: expected model.safetensors or model.safetensors.index.json, found neither");
}

#[test]
fn every_config_key_that_is_needed_is_named_when_it_is_missing() {
    let keys = "model_type architectures vocab_size hidden_size intermediate_size moe_intermediate_size \
        num_hidden_layers first_k_dense_replace num_attention_heads num_key_value_heads n_routed_experts \
        n_shared_experts num_experts_per_tok norm_topk_prob routed_scaling_factor rms_norm_eps \
        max_position_embeddings hidden_act scoring_func topk_method sliding_window";
    for key in keys.split_whitespace() {
        let found = spoilt_config(|config| drop(config.remove(key)));
        assert!(
            found.starts_with(&format!("config.json: {key}: expected ")) && found.ends_with(", found nothing"),
            "{found}"
        );
    }
    let found = spoilt_config(|config| drop(config.remove("rope_parameters")));
    assert_eq!(found, "config.json: rope_theta: expected a number here or in rope_parameters, found nothing");
}

#[test]
fn what_is_not_computed_is_refused() {
    let yarn = json!({"rope_type": "yarn", "factor": 4.0});
    let quantised = json!({"quant_method": "gptq", "bits": 4});
    let cases: [(&str, Value, &str); 16] = [
        ("model_type", json!("qwen3_moe"), "model_type: expected \"dots1\", found \"qwen3_moe\""),
        ("architectures", json!(["X"]), "architectures: expected \"Dots1ForCausalLM\", found \"X\""),
        ("n_group", json!(8), "n_group: expected 1, found 8"),
        ("topk_group", json!(4), "topk_group: expected 1, found 4"),
        ("attention_bias", json!(true), "attention_bias: expected false, found true"),
        ("hidden_act", json!("gelu"), "hidden_act: expected \"silu\", found \"gelu\""),
        ("sliding_window", json!(4096), "sliding_window: expected null, found 4096"),
        (
            "layer_types",
            json!(["sliding_attention"]),
            "layer_types: expected \"full_attention\" for every layer, found a list of 1",
        ),
        ("scoring_func", json!("softmax"), "scoring_func: expected \"noaux_tc\" or \"sigmoid\", found \"softmax\""),
        ("topk_method", json!("greedy"), "topk_method: expected \"noaux_tc\", found \"greedy\""),
        ("rope_scaling", yarn, "rope_scaling.rope_type: expected \"default\", found \"yarn\""),
        (
            "rope_theta",
            json!(10000),
            "rope_parameters.rope_theta: expected the value of rope_theta at the top level, found 10000000.0",
        ),
        (
            "quantization_config",
            quantised,
            "quantization_config.quant_method: expected \"compressed-tensors\", found \"gptq\"",
        ),
        ("hidden_size", json!("64"), "hidden_size: expected a whole number, found \"64\""),
        ("num_hidden_layers", json!(u64::MAX), "num_hidden_layers: expected 1 to 4096, found 18446744073709551615"),
        ("num_experts_per_tok", json!(17), "num_experts_per_tok: expected 1 to 16, found 17"),
    ];
    for (key, value, expected) in cases {
        assert_eq!(
            spoilt_config(|config| drop(config.insert(key.to_owned(), value))),
            format!("config.json: {expected}")
        );
    }
}

#[test]
fn unknown_fp8_schemes_are_refused() {
    let folder = copy_of("hf-fp8");
    let path = folder.path().join("config.json");
    edit_json(&path, |config| {
        config["quantization_config"]["config_groups"]["group_0"]["weights"]["strategy"] = json!("block")
    });
    let at = "config.json: quantization_config.config_groups.group_0.weights.strategy";
    assert_eq!(
        message(folder.path(), folder.path()),
        format!("{at}: expected \"channel\" or \"tensor\", found \"block\"")
    );
    let found = spoilt_tensors("hf-fp8", |file| {
        let scales = file.header.remove("model.layers.0.mlp.up_proj.weight_scale").unwrap();
        file.header.insert("model.rotary_emb.inv_freq".to_owned(), scales); // its bytes may stay
    });
    let expected = "model.safetensors: model.layers.0.mlp.up_proj.weight_scale: expected scales for FP8, found nothing";
    assert_eq!(found, expected);
}

#[test]
fn configs_that_are_no_json_objects() {
    let folder = copy_of("hf-fused");
    let path = folder.path().join("config.json");
    for (text, expected) in [
        ("", "expected JSON, found EOF while parsing a value at line 1 column 0"),
        ("[1]", "expected a JSON object, found a list of 1"),
        (&"[".repeat(100_000), "expected JSON, found recursion limit exceeded at line 1 column 128"),
    ] {
        std::fs::write(&path, text).unwrap();
        assert_eq!(message(folder.path(), folder.path()), format!("config.json: file: {expected}"));
    }
    std::fs::write(&path, [0xff]).unwrap();
    assert_eq!(message(folder.path(), folder.path()), "config.json: file: expected UTF-8, found other bytes at 0");
}

#[test]
fn generation_settings_of_other_types_are_refused() {
    let cases: [(Value, &str); 5] = [
        (json!({"eos_token_id": 512}), "eos_token_id: expected token ids below vocab_size 512, found 512"),
        (json!({"eos_token_id": [1, -1]}), "eos_token_id: expected token ids below vocab_size 512, found -1"),
        (json!({"eos_token_id": "x"}), "eos_token_id: expected token ids below vocab_size 512, found \"x\""),
        (json!({"temperature": "hot"}), "temperature: expected a number, found \"hot\""),
        (json!({"top_p": 1.5}), "top_p: expected a number from 0 to 1, found 1.5"),
    ];
    for (settings, expected) in cases {
        let folder = copy_of("hf-fused");
        std::fs::write(folder.path().join("generation_config.json"), settings.to_string()).unwrap();
        assert_eq!(message(folder.path(), folder.path()), format!("generation_config.json: {expected}"));
    }
}

#[test]
fn safetensors_headers_that_lie() {
    let whole = std::fs::read(golden("hf-fused/model.safetensors")).unwrap();
    let length = u64::from_le_bytes(*whole.first_chunk().unwrap());
    let data = whole.len() as u64 - 8 - length;
    let is = |bytes: &[u8], expected: &str| {
        assert_eq!(spoilt_bytes("hf-fused", bytes), format!("model.safetensors: {expected}"))
    };
    is(b"", "file: expected a checkpoint, found 0 bytes");
    is(b"GGUF", "header length: expected 8 bytes, found 4 bytes");
    is(&[0xff; 64], &format!("header length: expected at most 56 bytes, found {}", u64::MAX));
    is(&whole[..1000], &format!("header length: expected at most 992 bytes, found {length}"));
    is(&[&whole[..], b"x"].concat(), &format!("data: expected {data} bytes of tensors, found {} bytes", data + 1));
    is(
        &[&4_u64.to_le_bytes()[..], &[b'{', 0xff, 0xff, b'}']].concat(),
        "header: expected UTF-8, found other bytes at 1",
    );
    let one = r#""a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#;
    let twice = safetensors::file(&format!("{{{one},{one}}}"), &[0; 4]);
    let found = spoilt_bytes("hf-fused", &twice);
    assert!(found.starts_with("model.safetensors: header: expected tensors by name, found a twice at"), "{found}");
}

#[test]
fn safetensors_tensors_that_lie() {
    const NORM: &str = "model.layers.0.input_layernorm.weight";
    let is = |expected: &str, edit: &dyn Fn(&mut safetensors::File)| {
        assert_eq!(spoilt_tensors("hf-fused", edit), format!("model.safetensors: {expected}"));
    };
    is(&format!("{NORM}: expected an end between 131200 and 738496, found 18446744073709551615"), &|file| {
        file.field(NORM, "data_offsets")[1] = json!(u64::MAX);
    });
    is(&format!("{NORM}: expected offsets from 131200 on, found 131100, inside another tensor"), &|file| {
        *file.field(NORM, "data_offsets") = json!([131_100, 131_328]);
    });
    is(&format!("{NORM}: expected offsets from 131200 on, found 131202, after a hole"), &|file| {
        *file.field(NORM, "data_offsets") = json!([131_202, 131_328]);
    });
    is(&format!("{NORM}: expected a shape whose size fits in 64 bits, found [4294967296, 4294967296]"), &|file| {
        *file.field(NORM, "shape") = json!([1_u64 << 32, 1_u64 << 32]);
    });
    is(&format!("{NORM}: expected a shape without zeros, found [1152921504606846976, 0]"), &|file| {
        *file.field(NORM, "shape") = json!([1_u64 << 60, 0]);
    });
    is(&format!("{NORM}: expected 130 bytes for [65] of BF16, found 128"), &|file| {
        *file.field(NORM, "shape") = json!([65]);
    });
    is(&format!("{NORM}: expected shape [64], found [8, 8]"), &|file| *file.field(NORM, "shape") = json!([8, 8]));
    is(&format!("{NORM}: expected dtype F32, F16, BF16 or F8_E4M3, found \"I16\""), &|file| {
        *file.field(NORM, "dtype") = json!("I16");
    });
    is("model.layers.1.mlp.experts.down_proj: expected shape [16, 64, 32], found [16, 32, 64]", &|file| {
        *file.field("model.layers.1.mlp.experts.down_proj", "shape") = json!([16, 32, 64]);
    });
    let renamed = |from: &'static str, to: &'static str| {
        spoilt_tensors("hf-fused", move |file| {
            let tensor = file.header.remove(from).unwrap();
            file.header.insert(to.to_owned(), tensor);
        })
    };
    let expected = format!(".: {NORM}: expected a tensor of shape [64], found nothing");
    assert_eq!(renamed(NORM, "model.rotary_emb.inv_freq"), expected);
    let found = spoilt_tensors("hf-fused", |file| {
        let start = file.data.len();
        file.data.extend([0; 128]);
        let bias = json!({"dtype": "BF16", "shape": [64], "data_offsets": [start, start + 128]});
        file.header.insert("model.layers.0.self_attn.q_proj.bias".to_owned(), bias);
    });
    let expected =
        "model.layers.0.self_attn.q_proj.bias: expected no such tensor in a dots.llm1 of this config, found [64]";
    assert_eq!(found, format!("model.safetensors: {expected}"));
}

#[test]
fn indexes_that_lead_elsewhere() {
    const FIRST: &str = "lm_head.weight";
    let with_shard = |shard: Value| {
        let folder = copy_of("hf");
        edit_json(&folder.path().join("model.safetensors.index.json"), |index| index["weight_map"][FIRST] = shard);
        message(folder.path(), folder.path())
    };
    let expected = "expected the plain name of a .safetensors file beside the index";
    for shard in ["../x.safetensors", "/etc/x.safetensors", "a/b.safetensors", "config.json"] {
        let found = with_shard(json!(shard));
        assert_eq!(found, format!("model.safetensors.index.json: weight_map.{FIRST}: {expected}, found \"{shard}\""));
    }
    let found = with_shard(json!("model-00002-of-00002.safetensors"));
    let expected = "expected this tensor, which model.safetensors.index.json places here, found nothing";
    assert_eq!(found, format!("model-00002-of-00002.safetensors: {FIRST}: {expected}"));
    assert!(with_shard(json!("gone.safetensors")).starts_with("gone.safetensors: No such file"));
}

#[test]
fn gguf_headers_that_lie() {
    let whole = std::fs::read(golden("gguf/dots1-Q2_K.gguf")).unwrap();
    let is = |bytes: &[u8], expected: &str| assert_eq!(spoilt_gguf_bytes(bytes), format!("dots.gguf: {expected}"));
    let patched = |at: usize, patch: &[u8]| {
        let mut bytes = whole.clone();
        bytes[at..at + patch.len()].copy_from_slice(patch);
        bytes
    };
    is(b"", "file: expected a checkpoint, found 0 bytes");
    is(b"GG", "magic: expected 4 bytes at 0, found 2 to the end of the file");
    is(&patched(0, b"ggml"), "magic: expected \"GGUF\", found \"ggml\"");
    is(&patched(4, &1_u32.to_le_bytes()), "version: expected 2 or 3, found 1");
    let big = "version: expected a little-endian file of version 2 or 3, found big-endian version 3";
    is(&patched(4, &3_u32.to_be_bytes()), big);
    let room = whole.len() - 16;
    let most = format!("tensor count: expected at most {} in the bytes left, found {}", room / 32, u64::MAX);
    is(&patched(8, &[0xff; 8]), &most);
    let most = format!("metadata count: expected at most {} in the bytes left, found {}", (room - 8) / 13, u64::MAX);
    is(&patched(16, &[0xff; 8]), &most);
    let length =
        format!("metadata key: expected {} bytes at 32, found {} to the end of the file", u64::MAX, whole.len() - 32);
    is(&patched(24, &[0xff; 8]), &length);
    is(&patched(32, &[0xff]), "metadata key: expected UTF-8, found other bytes at 32");
    let truncated = spoilt_gguf_bytes(&whole[..whole.len() - 4096]);
    assert!(truncated.contains(": expected an end within the "), "{truncated}");
}

#[test]
fn gguf_metadata_that_lies() {
    let is = |expected: &str, edit: &dyn Fn(&mut gguf::File)| {
        assert_eq!(spoilt_gguf(edit), format!("dots.gguf: {expected}"));
    };
    is("general.architecture: expected \"dots1\", found \"qwen3moe\"", &|file| {
        file.set("general.architecture", gguf::STRING, &gguf::string(b"qwen3moe"));
    });
    is("dots1.expert_gating_func: expected 2, sigmoid, found 1", &|file| {
        file.set("dots1.expert_gating_func", gguf::U32, &1_u32.to_le_bytes());
    });
    is("dots1.rope.freq_base: expected a number, found nothing", &|file| file.remove("dots1.rope.freq_base"));
    is("dots1.block_count: expected a whole number, found \"3\"", &|file| {
        file.set("dots1.block_count", gguf::STRING, &gguf::string(b"3"));
    });
    is("num_hidden_layers: expected 1 to 4096, found 4294967295", &|file| {
        file.set("dots1.block_count", gguf::U32, &[0xff; 4]);
    });
    is("general.name: expected one value, found a second one", &|file| {
        file.metadata.push(file.metadata[1].clone());
    });
    is("general.alignment: expected a power of two up to 1048576, found 48", &|file| {
        file.set("general.alignment", gguf::U32, &48_u32.to_le_bytes());
    });
    is("x: expected a value type from 0 to 12, found 13", &|file| file.set("x", 13, &[]));
    is("x: expected 0 or 1 for a truth value, found 2", &|file| file.set("x", gguf::BOOL, &[2]));
    is("x: expected arrays nested at most 4 deep, found more", &|file| {
        let deep = (0..5).fold(gguf::array(gguf::U32, &[]), |inner, _| gguf::array(gguf::ARRAY, &[inner]));
        file.set("x", gguf::ARRAY, &deep);
    });
    let found = spoilt_gguf(|file| file.set("x", gguf::ARRAY, &[&4_u32.to_le_bytes()[..], &[0xff; 8]].concat()));
    assert!(found.starts_with("dots.gguf: x: expected at most "), "{found}");
    is("tokenizer.ggml.eos_token_id: expected a token id below vocab_size 512, found 512", &|file| {
        file.set("tokenizer.ggml.eos_token_id", gguf::U32, &512_u32.to_le_bytes());
    });
    is("tokenizer.ggml.token_type: expected 512 whole numbers, one a token, found an array of 1 I32", &|file| {
        file.set("tokenizer.ggml.token_type", gguf::ARRAY, &gguf::array(gguf::I32, &[vec![1, 0, 0, 0]]));
    });
}

#[test]
fn gguf_tensors_that_lie() {
    const Q: &str = "blk.0.attn_q.weight";
    let is = |expected: &str, edit: &dyn Fn(&mut gguf::File)| {
        assert_eq!(spoilt_gguf(edit), format!("dots.gguf: {expected}"));
    };
    is(&format!("{Q}: expected 1 to 4 dimensions, found 5"), &|file| file.tensor(Q).sizes = vec![1; 5]);
    is(&format!("{Q}: expected a shape without zeros, found [256, 0]"), &|file| file.tensor(Q).sizes = vec![256, 0]);
    is(&format!("{Q}: expected rows of Q2_K in blocks of 256, found rows of 255"), &|file| {
        file.tensor(Q).sizes[0] = 255
    });
    is(&format!("{Q}: expected a shape whose size fits in 64 bits, found [256, 4294967296, 4294967296]"), &|file| {
        file.tensor(Q).sizes = vec![256, 1 << 32, 1 << 32];
    });
    let types = "F32, F16, BF16, Q8_0, Q4_0 to Q5_1, Q2_K to Q6_K, IQ4_NL or IQ4_XS";
    for (kind, name) in [(16, "IQ2_XXS"), (39, "MXFP4"), (99, "ggml type 99")] {
        is(&format!("{Q}: expected {types}, found {name}"), &|file| file.tensor(Q).kind = kind);
    }
    is(&format!("{Q}: expected an offset that 32 divides, found 33"), &|file| file.tensor(Q).offset = Some(33));
    let found = spoilt_gguf(|file| file.tensor(Q).offset = Some(u64::MAX - 31));
    assert!(found.starts_with(&format!("dots.gguf: {Q}: expected an end within the ")), "{found}");
    let found = spoilt_gguf(|file| file.tensor(Q).offset = Some(32));
    assert!(found.contains(": expected an offset from ") && found.ends_with(", inside another tensor"), "{found}");
    is(&format!("{Q}: expected one tensor of this name, found a second one"), &|file| {
        let copy = file.tensor(Q).clone();
        file.tensors.push(copy);
    });
    is("model.layers.0.self_attn.q_proj.weight: expected a tensor of shape [256, 256], found nothing", &|file| {
        file.tensors.retain(|tensor| tensor.name != Q);
    });
    is("model.layers.0.self_attn.q_proj.weight: expected shape [256, 256], found [128, 256]", &|file| {
        file.tensor(Q).sizes[1] = 128;
    });
    is("rope_freqs.weight: expected a tensor of a dots.llm1, found another", &|file| {
        let tensor = gguf::Tensor { name: "rope_freqs.weight".to_owned(), ..file.tensor("output_norm.weight").clone() };
        file.tensors.push(tensor);
    });
}

/// Opens a file that may say anything; only a panic is wrong.
fn opens_or_not(folder: &Path, path: PathBuf, bytes: &[u8]) {
    std::fs::write(&path, bytes).unwrap();
    let opened = if path.extension().is_some_and(|kind| kind == "gguf") { &path } else { folder };
    drop(Checkpoint::open(opened));
}

fn spoil(bytes: &mut Vec<u8>, flips: &[(prop::sample::Index, u8)], header: usize, cut: Option<prop::sample::Index>) {
    for (at, value) in flips {
        bytes[at.index(header)] ^= *value;
    }
    if let Some(cut) = cut {
        bytes.truncate(cut.index(header));
    }
}

type Flips = Vec<(prop::sample::Index, u8)>;

fn flips() -> impl Strategy<Value = Flips> {
    prop::collection::vec((any::<prop::sample::Index>(), 1..=u8::MAX), 0..4)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..Default::default() })]

    #[test]
    fn no_gguf_header_panics(flips in flips(), cut in prop::option::weighted(0.2, any::<prop::sample::Index>())) {
        let mut bytes = std::fs::read(golden("gguf/dots1-Q2_K.gguf")).unwrap();
        spoil(&mut bytes, &flips, 17_000, cut);
        let folder = tempfile::tempdir().unwrap();
        opens_or_not(folder.path(), folder.path().join("dots.gguf"), &bytes);
    }

    #[test]
    fn no_safetensors_header_panics(flips in flips(), cut in prop::option::weighted(0.2, any::<prop::sample::Index>())) {
        let mut bytes = std::fs::read(golden("hf-fused/model.safetensors")).unwrap();
        spoil(&mut bytes, &flips, 4632, cut);
        let folder = tempfile::tempdir().unwrap();
        std::fs::copy(golden("hf-fused/config.json"), folder.path().join("config.json")).unwrap();
        opens_or_not(folder.path(), folder.path().join("model.safetensors"), &bytes);
    }
}
