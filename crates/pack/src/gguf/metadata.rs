//! The keys of a `dots1` GGUF.

use dots_kernels::WeightType;
use dots_model::{Checkpoint, checkpoint::TokenizerSource, tokenizer::Vocabulary};

use super::Planned;
use crate::Error;

/// `expert_gating_func` of sigmoid.
const SIGMOID: u32 = 2;

/// The token that ends an answer of dots.llm1; where a model has it, it is what a reader of one end alone must know.
const END_OF_RESPONSE: &str = "<|endofresponse|>";

const U32: u32 = 4;
const I32: u32 = 5;
const F32: u32 = 6;
const BOOL: u32 = 7;
const STRING: u32 = 8;
const ARRAY: u32 = 9;

/// Keys with their encoded values.
#[derive(Default)]
pub struct Metadata {
    count: u64,
    bytes: Vec<u8>,
}

impl Metadata {
    /// All that is to be said of `checkpoint`, and notes for whoever exports it.
    pub fn of(checkpoint: &Checkpoint, tensors: &[Planned<'_>]) -> Result<(Self, Vec<String>), Error> {
        let mut metadata = Self::default();
        let name = checkpoint.path.file_stem().map_or("dots.llm1".into(), |name| name.to_string_lossy().into_owned());
        metadata.string("general.architecture", "dots1");
        metadata.string("general.type", "model");
        metadata.string("general.name", &name);
        metadata.u32("general.file_type", file_type(tensors));
        metadata.u32("general.quantization_version", 2);
        metadata.shape(checkpoint);
        metadata.sampling(checkpoint);
        let notes = match &checkpoint.tokenizer {
            Some(source) => metadata.tokenizer(checkpoint, source)?,
            None => {
                vec!["the checkpoint has no tokenizer, and so has the file none; llama.cpp does not load it".into()]
            }
        };
        Ok((metadata, notes))
    }

    /// Appends count and keys to `out`.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.count.to_le_bytes());
        out.extend(&self.bytes);
    }

    fn shape(&mut self, checkpoint: &Checkpoint) {
        let config = &checkpoint.config;
        let sizes = [
            ("vocab_size", config.vocab_size),
            ("context_length", config.max_position_embeddings),
            ("embedding_length", config.hidden_size),
            ("block_count", config.num_hidden_layers),
            ("feed_forward_length", config.intermediate_size),
            ("attention.head_count", config.num_attention_heads),
            ("attention.head_count_kv", config.num_key_value_heads),
            ("attention.key_length", config.head_dim),
            ("attention.value_length", config.head_dim),
            ("rope.dimension_count", config.head_dim),
            ("expert_count", config.n_routed_experts),
            ("expert_used_count", config.num_experts_per_tok),
            ("expert_shared_count", config.n_shared_experts),
            ("expert_feed_forward_length", config.moe_intermediate_size),
            ("leading_dense_block_count", config.first_k_dense_replace),
        ];
        for (key, size) in sizes {
            self.u32(&format!("dots1.{key}"), size as u32); // a config's sizes are below 2^31
        }
        self.f32("dots1.attention.layer_norm_rms_epsilon", config.rms_norm_eps);
        self.f32("dots1.rope.freq_base", config.rope_theta as f32);
        self.f32("dots1.expert_weights_scale", config.routed_scaling_factor);
        self.bool("dots1.expert_weights_norm", config.norm_topk_prob);
        self.u32("dots1.expert_gating_func", SIGMOID);
    }

    fn sampling(&mut self, checkpoint: &Checkpoint) {
        let generation = &checkpoint.generation;
        let numbers = [
            ("temp", generation.temperature),
            ("top_p", generation.top_p),
            ("min_p", generation.min_p),
            ("penalty_repeat", generation.repetition_penalty),
        ];
        for (key, number) in numbers {
            if let Some(number) = number {
                self.f32(&format!("general.sampling.{key}"), number);
            }
        }
        if let Some(top_k) = generation.top_k {
            self.i32("general.sampling.top_k", i32::try_from(top_k).unwrap_or(i32::MAX));
        }
    }

    fn tokenizer(&mut self, checkpoint: &Checkpoint, source: &TokenizerSource) -> Result<Vec<String>, Error> {
        let mut vocabulary = Vocabulary::new(source)?;
        let mut notes = Vec::new();
        if !vocabulary.cuts_as_qwen2() {
            notes.push(
                "the tokenizer cuts text otherwise than `qwen2`, the only way that a GGUF can name: ids may differ"
                    .into(),
            );
        }
        if !vocabulary.suffix.is_empty() || vocabulary.prefix.len() > 1 {
            notes.push("the tokenizer adds tokens to every text that a GGUF cannot name".into());
        }
        let (vocab_size, tokens) = (checkpoint.config.vocab_size, vocabulary.tokens.len());
        if tokens > vocab_size {
            let expected = format!("ids below vocab_size {vocab_size}");
            let found = format!("tokens up to {}, which no row of the head stands for", tokens - 1);
            return Err(dots_model::Error::invalid(&checkpoint.path, "tokenizer", expected, found).into());
        }
        // A row of the head for which there is no token is still an id, and llama.cpp takes the size from this list.
        for id in vocabulary.tokens.len()..checkpoint.config.vocab_size {
            vocabulary.tokens.push(format!("[PAD{id}]"));
            vocabulary.types.push(5);
        }
        self.string("tokenizer.ggml.model", "gpt2");
        self.string("tokenizer.ggml.pre", "qwen2");
        self.array("tokenizer.ggml.tokens", STRING, vocabulary.tokens.len(), |out| {
            vocabulary.tokens.iter().for_each(|token| write_string(out, token));
        });
        self.array("tokenizer.ggml.token_type", I32, vocabulary.types.len(), |out| {
            out.extend(vocabulary.types.iter().flat_map(|kind| kind.to_le_bytes()));
        });
        self.array("tokenizer.ggml.merges", STRING, vocabulary.merges.len(), |out| {
            vocabulary.merges.iter().for_each(|(left, right)| write_string(out, &format!("{left} {right}")));
        });
        // The end of an answer first, for readers that know one end only; llama.cpp stops at each of these three keys.
        let mut ends = checkpoint.generation.eos_token_ids.clone();
        ends.sort_by_key(|id| vocabulary.tokens.get(*id as usize).is_none_or(|token| token != END_OF_RESPONSE));
        for (key, id) in ["eos", "eot", "eom"].into_iter().zip(&ends) {
            self.u32(&format!("tokenizer.ggml.{key}_token_id"), *id);
        }
        if ends.len() > 3 {
            notes.push(format!("of {} tokens that end a turn, a GGUF can name three", ends.len()));
        }
        // A file without this key means the token 11, a comma, to llama.cpp; `add_bos_token` says that none is added.
        let bos = vocabulary.prefix.first().or(checkpoint.generation.eos_token_ids.first());
        if let Some(bos) = bos {
            self.u32("tokenizer.ggml.bos_token_id", *bos);
        }
        self.bool("tokenizer.ggml.add_bos_token", !vocabulary.prefix.is_empty());
        if let Some(template) = &checkpoint.chat_template {
            self.string("tokenizer.chat_template", template);
        }
        Ok(notes)
    }

    fn key(&mut self, key: &str, kind: u32) {
        self.count += 1;
        write_string(&mut self.bytes, key);
        self.bytes.extend(kind.to_le_bytes());
    }

    fn u32(&mut self, key: &str, value: u32) {
        self.key(key, U32);
        self.bytes.extend(value.to_le_bytes());
    }

    fn i32(&mut self, key: &str, value: i32) {
        self.key(key, I32);
        self.bytes.extend(value.to_le_bytes());
    }

    fn f32(&mut self, key: &str, value: f32) {
        self.key(key, F32);
        self.bytes.extend(value.to_le_bytes());
    }

    fn bool(&mut self, key: &str, value: bool) {
        self.key(key, BOOL);
        self.bytes.push(value.into());
    }

    fn string(&mut self, key: &str, value: &str) {
        self.key(key, STRING);
        write_string(&mut self.bytes, value);
    }

    fn array(&mut self, key: &str, element: u32, count: usize, write: impl FnOnce(&mut Vec<u8>)) {
        self.key(key, ARRAY);
        self.bytes.extend(element.to_le_bytes());
        self.bytes.extend((count as u64).to_le_bytes());
        write(&mut self.bytes);
    }
}

/// A string as GGUF has it: its length, then its bytes.
pub fn write_string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// llama.cpp's number for the mixture that a file is, as far as it has one: by the type of most bytes.
fn file_type(tensors: &[Planned<'_>]) -> u32 {
    let mut bytes = std::collections::BTreeMap::<WeightType, u64>::new();
    for tensor in tensors {
        *bytes.entry(tensor.kind).or_default() += tensor.bytes();
    }
    match bytes.into_iter().max_by_key(|(_, bytes)| *bytes).map(|(kind, _)| kind) {
        Some(WeightType::F16) => 1,
        Some(WeightType::Q4_0) => 2,
        Some(WeightType::Q4_1) => 3,
        Some(WeightType::Q8_0) => 7,
        Some(WeightType::Q5_0) => 8,
        Some(WeightType::Q5_1) => 9,
        Some(WeightType::Q2_K) => 10,
        Some(WeightType::Q3_K) => 12,
        Some(WeightType::Q4_K) => 15,
        Some(WeightType::Q5_K) => 17,
        Some(WeightType::Q6_K) => 18,
        Some(WeightType::IQ4_NL) => 25,
        Some(WeightType::IQ4_XS) => 30,
        Some(WeightType::BF16) => 32,
        _ => 0,
    }
}
