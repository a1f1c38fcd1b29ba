//! Checkpoints of every kind, opened.

mod support;

use std::path::Path;

use dots_kernels::WeightType;
use dots_model::{
    Checkpoint, Config,
    checkpoint::{File, Format, GenerationDefaults, TokenizerSource},
};
use support::{copy_of, edit_json, gguf, golden};

const GGUF: [&str; 10] = ["IQ4_NL", "IQ4_XS", "Q2_K", "Q3_K_M", "Q4_0", "Q4_1", "Q4_K_M", "Q5_0", "Q5_1", "Q5_K_M"];

fn open(path: &Path) -> Checkpoint {
    Checkpoint::open(path).unwrap_or_else(|error| panic!("{error}"))
}

fn golden_config() -> Config {
    Config {
        vocab_size: 512,
        hidden_size: 64,
        intermediate_size: 160,
        moe_intermediate_size: 32,
        num_hidden_layers: 3,
        first_k_dense_replace: 1,
        num_attention_heads: 4,
        num_key_value_heads: 4,
        head_dim: 16,
        n_routed_experts: 16,
        n_shared_experts: 2,
        num_experts_per_tok: 6,
        norm_topk_prob: true,
        routed_scaling_factor: 2.5,
        rms_norm_eps: 1e-5,
        rope_theta: 1e7,
        max_position_embeddings: 256,
    }
}

fn golden_gguf_config() -> Config {
    Config { hidden_size: 256, intermediate_size: 352, moe_intermediate_size: 96, head_dim: 64, ..golden_config() }
}

/// The files of a golden folder, held for as long as the program runs.
fn held(name: &str) -> Vec<File> {
    let entries = std::fs::read_dir(golden(name)).unwrap().map(Result::unwrap);
    let files = entries.map(|entry| {
        let (name, bytes) = (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap());
        (&*name.leak(), &*bytes.leak())
    });
    files.collect()
}

#[test]
fn a_checkpoint_inside_the_program_is_the_same_as_on_disk_and_is_not_copied() {
    for name in ["hf", "hf-small"] {
        let (files, on_disk) = (held(name), open(&golden(name)));
        let inside = Checkpoint::inside(Path::new("inside"), &files).unwrap();
        assert_eq!(
            (inside.format, &inside.config, &inside.generation),
            (on_disk.format, &on_disk.config, &on_disk.generation)
        );
        assert_eq!(inside.chat_template, on_disk.chat_template, "{name}");
        let tokenizer = |checkpoint: &Checkpoint| match &checkpoint.tokenizer {
            Some(TokenizerSource::HuggingFace { tokenizer, config, .. }) => (tokenizer.clone(), config.clone()),
            other => panic!("{other:?}"),
        };
        assert_eq!(tokenizer(&inside), tokenizer(&on_disk), "{name}");
        assert_eq!(inside.tensors().count(), on_disk.tensors().count());
        for (name, tensor) in inside.tensors() {
            assert_eq!(tensor.data, on_disk.tensor(name).unwrap().data, "{name}");
            assert!(
                files.iter().any(|(_, bytes)| bytes.as_ptr_range().contains(&tensor.data.as_ptr())),
                "{name} is a copy"
            );
        }
    }
}

#[test]
fn what_is_wrong_inside_the_program_is_named_as_it_is_on_disk() {
    let without = |name: &str| {
        let mut files = held("hf");
        files.retain(|(file, _)| *file != name);
        Checkpoint::inside(Path::new("inside"), &files).unwrap_err().to_string()
    };
    assert!(without("config.json").starts_with("inside: folder: expected config.json"), "{}", without("config.json"));
    let shard = "model-00002-of-00002.safetensors";
    assert!(without(shard).contains(shard), "{}", without(shard));
    let mut files = held("hf");
    for (name, bytes) in &mut files {
        if *name == "tokenizer_config.json" {
            *bytes = b"\xff";
        }
    }
    let error = Checkpoint::inside(Path::new("inside"), &files).unwrap_err().to_string();
    assert_eq!(error, "inside/tokenizer_config.json: file: expected UTF-8, found other bytes at 0");
}

#[test]
fn both_generations_of_config_say_the_same() {
    for name in ["hf", "hf-fused", "hf-small", "hf-fp8"] {
        let checkpoint = open(&golden(name));
        assert_eq!(checkpoint.config, golden_config(), "{name}");
        assert_eq!(checkpoint.format, Format::HuggingFace);
    }
}

#[test]
fn fused_experts_are_the_same_bytes_as_one_tensor_an_expert() {
    let (apart, fused) = (open(&golden("hf")), open(&golden("hf-fused")));
    assert_eq!(apart.tensors().count(), fused.tensors().count());
    for (name, tensor) in apart.tensors() {
        let other = fused.tensor(name).unwrap();
        assert_eq!((tensor.kind, &tensor.shape), (other.kind, &other.shape), "{name}");
        assert_eq!(tensor.data, other.data, "{name}");
    }
}

#[test]
fn names_of_one_expert_lead_to_that_expert() {
    let fused = open(&golden("hf-fused"));
    let mut file = support::safetensors::File::read(&golden("hf-fused/model.safetensors"));
    let at = file.field("model.layers.2.mlp.experts.gate_up_proj", "data_offsets")[0].as_u64().unwrap() as usize;
    let matrix_bytes = 32 * 64 * 2;
    let up_of_5 = at + (2 * 5 + 1) * matrix_bytes;
    let tensor = fused.tensor("model.layers.2.mlp.experts.5.up_proj.weight").unwrap();
    assert_eq!(tensor.data, file.data[up_of_5..up_of_5 + matrix_bytes]);
}

#[test]
fn fp8_comes_with_one_scale_a_row_and_decodes_near_the_original() {
    let (fp8, bf16) = (open(&golden("hf-fp8")), open(&golden("hf")));
    for (name, tensor) in fp8.tensors() {
        let scaled = tensor.kind == WeightType::F8_E4M3;
        assert_eq!(tensor.row_scales.len(), if scaled { tensor.shape[0] } else { 0 }, "{name}");
    }
    assert_eq!(fp8.tensor("lm_head.weight").unwrap().kind, WeightType::BF16);
    // The largest weight of a channel-wise scaled row is 448 of its scales.
    let name = "model.layers.1.mlp.experts.3.down_proj.weight";
    let original = bf16.tensor(name).unwrap().to_f32_vec().unwrap();
    for (row, scale) in original.chunks(32).zip(&*fp8.tensor(name).unwrap().row_scales) {
        let largest = row.iter().fold(0.0_f32, |largest, weight| largest.max(weight.abs()));
        assert!((largest / 448.0 / scale - 1.0).abs() < 0.01, "{largest} {scale}");
    }
}

#[test]
fn fp8_scales_come_in_every_shape_and_float_type() {
    use support::safetensors::File;
    let folder = copy_of("hf-fp8");
    let path = folder.path().join("model.safetensors");
    let name = "model.layers.0.self_attn.q_proj";
    let scale = format!("{name}.weight_scale");
    let original = open(folder.path()).tensor(&format!("{name}.weight")).unwrap().row_scales.clone();
    let cases: [(&str, serde_json::Value, Vec<u8>, f32); 4] = [
        ("F32", [64].as_slice().into(), original.iter().flat_map(|scale| scale.to_le_bytes()).collect(), original[9]),
        ("F16", [64, 1].as_slice().into(), [0x00, 0x38].repeat(64), 0.5),
        ("BF16", [1].as_slice().into(), vec![0x80, 0x3e], 0.25),
        ("F32", serde_json::json!([]), 2.0_f32.to_le_bytes().to_vec(), 2.0),
    ];
    for (dtype, shape, data, at_9) in cases {
        let mut file = File::read(&golden("hf-fp8/model.safetensors"));
        // The old scales go unread under a name that follows from `rope_theta`; the new ones stand at the end.
        let old = file.header.remove(&scale).unwrap();
        file.header.insert("model.rotary_emb.inv_freq".to_owned(), old);
        let start = file.data.len();
        file.data.extend(&data);
        let described = serde_json::json!({"dtype": dtype, "shape": shape, "data_offsets": [start, file.data.len()]});
        file.header.insert(scale.clone(), described);
        file.write(&path);
        let scales = open(folder.path()).tensor(&format!("{name}.weight")).unwrap().row_scales.clone();
        assert_eq!((scales.len(), scales[9]), (64, at_9));
    }
}

#[test]
fn every_gguf_type_opens_with_the_same_config_and_names() {
    let mut published: Vec<String> = open(&golden("hf")).tensors().map(|(name, _)| name.to_owned()).collect();
    published.sort_unstable();
    for kind in GGUF {
        let checkpoint = open(&golden(&format!("gguf/dots1-{kind}.gguf")));
        assert_eq!(checkpoint.config, golden_gguf_config(), "{kind}");
        assert_eq!(checkpoint.format, Format::Gguf);
        let mut names: Vec<&str> = checkpoint.tensors().map(|(name, _)| name).collect();
        names.sort_unstable();
        assert_eq!(names, published, "{kind}");
    }
}

#[test]
fn gguf_types_are_those_that_llama_cpp_wrote() {
    let golden_json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(golden("gguf/golden.json")).unwrap()).unwrap();
    for kind in GGUF {
        let file = format!("dots1-{kind}.gguf");
        let checkpoint = open(&golden(&format!("gguf/{file}")));
        for (name, count) in golden_json[&file]["tensor_types"].as_object().unwrap() {
            // All experts of a layer are one tensor there.
            let of_kind = checkpoint.tensors().filter(|(tensor, found)| {
                found.kind.name() == name && (!tensor.contains(".experts.") || tensor.contains(".experts.0."))
            });
            assert_eq!(of_kind.count() as u64, count.as_u64().unwrap(), "{file} {name}");
        }
    }
}

#[test]
fn gguf_experts_are_cut_in_order() {
    let mut file = gguf::File::read(&golden("gguf/dots1-Q4_K_M.gguf"));
    let checkpoint = open(&golden("gguf/dots1-Q4_K_M.gguf"));
    let tensor = checkpoint.tensor("model.layers.1.mlp.experts.3.down_proj.weight").unwrap();
    assert_eq!((tensor.kind, &tensor.shape[..]), (WeightType::Q5_0, &[256, 96][..]));
    let bytes = 256 * 96 / 32 * 22;
    assert_eq!(tensor.data, file.tensor("blk.1.ffn_down_exps.weight").data[3 * bytes..4 * bytes]);
}

#[test]
fn a_split_gguf_opens_from_any_part_and_from_its_folder() {
    let whole = open(&golden("gguf/dots1-Q2_K.gguf"));
    let folder = tempfile::tempdir().unwrap();
    let parts = split(&gguf::File::read(&golden("gguf/dots1-Q2_K.gguf")), folder.path());
    for path in parts.iter().map(|path| path.as_path()).chain([folder.path()]) {
        let checkpoint = open(path);
        assert_eq!(checkpoint.config, whole.config);
        assert_eq!(checkpoint.path, path);
        assert_eq!(checkpoint.tensors().count(), whole.tensors().count());
        for (name, tensor) in whole.tensors() {
            assert_eq!(checkpoint.tensor(name).unwrap().data, tensor.data, "{name}");
        }
    }
}

/// Writes `file` in three parts: metadata alone, then the tensors in two halves.
fn split(file: &gguf::File, folder: &Path) -> Vec<std::path::PathBuf> {
    let half = file.tensors.len() / 2;
    let tensors = [vec![], file.tensors[..half].to_vec(), file.tensors[half..].to_vec()];
    (0..3_u16)
        .map(|number| {
            let metadata = if number == 0 { file.metadata.clone() } else { vec![] };
            let mut part = gguf::File { metadata, tensors: tensors[number as usize].clone(), ..file.clone() };
            part.set("split.no", gguf::U16, &number.to_le_bytes());
            part.set("split.count", gguf::U16, &3_u16.to_le_bytes());
            part.set("split.tensors.count", gguf::I32, &(file.tensors.len() as i32).to_le_bytes());
            let path = folder.join(format!("dots-{:05}-of-00003.gguf", number + 1));
            std::fs::write(&path, part.bytes()).unwrap();
            path
        })
        .collect()
}

#[test]
fn parts_that_do_not_belong_together_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let parts = split(&gguf::File::read(&golden("gguf/dots1-Q2_K.gguf")), folder.path());
    let message = |path: &Path| Checkpoint::open(path).unwrap_err().to_string();
    std::fs::copy(&parts[1], &parts[2]).unwrap();
    assert_eq!(message(&parts[0]), format!("{}: split.no: expected 2, counted from 0, found 1", parts[2].display()));
    std::fs::remove_file(&parts[2]).unwrap();
    assert!(message(&parts[0]).starts_with(&parts[2].display().to_string()));
    let alone = folder.path().join("alone.gguf");
    std::fs::rename(&parts[0], &alone).unwrap();
    let expected = format!("{}: split.count: expected 1, as the file's name has it, found 3", alone.display());
    assert_eq!(message(&alone), expected);
}

#[test]
fn gguf_of_version_2_opens_and_a_folder_with_one_gguf_does() {
    let folder = tempfile::tempdir().unwrap();
    let mut file = gguf::File::read(&golden("gguf/dots1-Q2_K.gguf"));
    file.version = 2;
    std::fs::write(folder.path().join("dots.gguf"), file.bytes()).unwrap();
    assert_eq!(open(folder.path()).config, golden_gguf_config());
    std::fs::write(folder.path().join("other.gguf"), file.bytes()).unwrap();
    let message = Checkpoint::open(folder.path()).unwrap_err().to_string();
    assert!(
        message.ends_with("expected one GGUF model, found dots.gguf, other.gguf: give the path of one"),
        "{message}"
    );
}

#[test]
fn a_gguf_without_router_biases_opens_without_them() {
    let folder = tempfile::tempdir().unwrap();
    let mut file = gguf::File::read(&golden("gguf/dots1-Q2_K.gguf"));
    file.tensors.retain(|tensor| !tensor.name.ends_with("exp_probs_b.bias"));
    let path = folder.path().join("dots.gguf");
    std::fs::write(&path, file.bytes()).unwrap();
    assert!(open(&path).tensor("model.layers.1.mlp.gate.e_score_correction_bias").is_none());
}

#[test]
fn a_tied_head_is_the_embedding() {
    let folder = copy_of("hf-fused");
    edit_json(&folder.path().join("config.json"), |config| {
        drop(config.insert("tie_word_embeddings".into(), true.into()))
    });
    let path = folder.path().join("model.safetensors");
    let mut file = support::safetensors::File::read(&path);
    let head = file.header.remove("lm_head.weight").unwrap();
    file.header.insert("model.rotary_emb.inv_freq".to_owned(), head); // its bytes may stay
    file.write(&path);
    let checkpoint = open(folder.path());
    let embedding = &checkpoint.tensor("model.embed_tokens.weight").unwrap().data;
    assert_eq!(&checkpoint.tensor("lm_head.weight").unwrap().data, embedding);
}

#[test]
fn files_of_the_reference_writer_open() {
    use safetensors::{Dtype, tensor::TensorView};
    let folder = copy_of("hf-fused");
    let checkpoint = open(folder.path());
    let views: Vec<(String, TensorView<'_>)> = checkpoint
        .tensors()
        .map(|(name, tensor)| {
            let dtype = if tensor.kind == WeightType::F32 { Dtype::F32 } else { Dtype::BF16 };
            (name.to_owned(), TensorView::new(dtype, tensor.shape.clone(), &tensor.data).unwrap())
        })
        .collect();
    let written = copy_of("hf-fused");
    safetensors::serialize_to_file(views, None, &written.path().join("model.safetensors")).unwrap();
    for (name, tensor) in open(written.path()).tensors() {
        assert_eq!(tensor.data, checkpoint.tensor(name).unwrap().data, "{name}");
    }
}

#[test]
fn vectors_and_matrices_are_read_wherever_they_lie() {
    let checkpoint = open(&golden("hf"));
    let bias = checkpoint.tensor("model.layers.1.mlp.gate.e_score_correction_bias").unwrap();
    assert_eq!(bias.to_f32_vec().unwrap().len(), 16);
    assert!(bias.weights().is_err());
    let router = checkpoint.tensor("model.layers.1.mlp.gate.weight").unwrap().weights().unwrap();
    assert_eq!((router.rows(), router.cols(), router.kind()), (16, 64, WeightType::BF16));
    let quantised = open(&golden("gguf/dots1-Q4_0.gguf"));
    let norm = quantised.tensor("model.layers.0.self_attn.q_norm.weight").unwrap();
    assert!(norm.to_f32_vec().unwrap().iter().all(|weight| weight.is_finite()));
    assert!(quantised.tensor("model.layers.0.self_attn.q_proj.weight").unwrap().to_f32_vec().is_err());
}

#[test]
fn a_folder_brings_its_tokenizer_template_and_settings() {
    let checkpoint = open(&golden("hf"));
    let defaults = GenerationDefaults {
        eos_token_ids: vec![500, 506],
        temperature: Some(0.7),
        top_p: Some(0.8),
        do_sample: Some(true),
        ..Default::default()
    };
    assert_eq!(checkpoint.generation, defaults);
    assert!(checkpoint.chat_template.unwrap().contains("<|endofresponse|>"));
    let Some(TokenizerSource::HuggingFace { tokenizer, config, .. }) = checkpoint.tokenizer else { panic!() };
    assert!(tokenizer.contains("\"merges\""));
    assert_eq!(config.unwrap()["eos_token"], "<|endofresponse|>");
}

#[test]
fn a_gguf_brings_its_tokenizer_template_and_every_end_of_turn() {
    let checkpoint = open(&golden("gguf/dots1-Q4_K_M.gguf"));
    assert_eq!(checkpoint.generation.eos_token_ids, [506, 500]);
    assert!(checkpoint.chat_template.unwrap().contains("<|endofresponse|>"));
    let Some(TokenizerSource::Gguf { pre, tokens, types, merges, bos, .. }) = checkpoint.tokenizer else { panic!() };
    assert_eq!((pre.as_str(), tokens.len(), types.len(), merges.len(), bos), ("qwen2", 512, 512, 244, None));
    assert_eq!((tokens[506].as_str(), types[506], merges[0].as_str()), ("<|endofresponse|>", 3, "h e"));
}

#[test]
fn a_gguf_adds_a_bos_only_where_it_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dots.gguf");
    let mut file = gguf::File::read(&golden("gguf/dots1-Q2_K.gguf"));
    let bos = |file: &gguf::File| {
        std::fs::write(&path, file.bytes()).unwrap();
        let Some(TokenizerSource::Gguf { bos, .. }) = open(&path).tokenizer else { panic!() };
        bos
    };
    file.set("tokenizer.ggml.bos_token_id", gguf::U32, &11_u32.to_le_bytes());
    assert_eq!(bos(&file), None);
    file.remove("tokenizer.ggml.add_bos_token");
    assert_eq!(bos(&file), None);
    file.set("tokenizer.ggml.add_bos_token", gguf::BOOL, &[1]);
    assert_eq!(bos(&file), Some(11));
}

#[test]
fn templates_are_found_in_each_of_their_places() {
    let folder = copy_of("hf-fused");
    let config = folder.path().join("tokenizer_config.json");
    let list = serde_json::json!([{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]);
    edit_json(&config, |config| drop(config.insert("chat_template".into(), list)));
    assert_eq!(open(folder.path()).chat_template.as_deref(), Some("D"));
    std::fs::write(folder.path().join("chat_template.jinja"), "J").unwrap();
    assert_eq!(open(folder.path()).chat_template.as_deref(), Some("J"));
    std::fs::remove_file(folder.path().join("chat_template.jinja")).unwrap();
    std::fs::remove_file(config).unwrap();
    assert_eq!(open(folder.path()).chat_template, None);
}

#[test]
fn ends_of_turn_fall_back_to_the_config() {
    let folder = copy_of("hf-fused");
    let path = folder.path().join("generation_config.json");
    std::fs::write(&path, "{\"eos_token_id\": null, \"top_k\": 20}").unwrap();
    assert_eq!(open(folder.path()).generation.eos_token_ids, [506]);
    std::fs::remove_file(&path).unwrap();
    assert_eq!(open(folder.path()).generation.eos_token_ids, [506]);
    std::fs::write(&path, "{\"eos_token_id\": [506, 500, 506]}").unwrap();
    assert_eq!(open(folder.path()).generation.eos_token_ids, [506, 500]);
}
