//! Any layout on disk, seen as named tensors.
//!
//! Whatever the files call them, tensors are known here by their published Hugging Face names, one expert at a time
//! (`model.layers.7.mlp.experts.42.gate_proj.weight`). Each reader translates its own names once, when it opens; a fused
//! or three-dimensional expert tensor becomes one [`Tensor`] an expert that points into it. Files are memory-mapped and
//! nothing is read before it is used.

pub mod container;
mod experts;
mod files;
mod fingerprint;
mod folder;
mod gguf;
mod hf;
mod json;
mod names;
pub mod published;
mod random;
mod residence;
mod tensor;
mod types;
mod weight_bytes;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use self::folder::Folder;
use crate::{Config, Error};

pub use files::map;
pub use folder::File;
pub(crate) use gguf::SplitName;
pub use hf::chat_template;
pub(crate) use hf::shard_names;
pub use names::{expected_tensors, gguf_name};
pub use tensor::Tensor;
pub use types::{Types, held_as, tensor_bytes};
pub use weight_bytes::WeightBytes;

/// The kind of files that a checkpoint came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A directory of `config.json` and safetensors.
    HuggingFace,
    /// A directory of `config.json` and safetensors in dots' own types ([`container`]).
    Packed,
    /// One GGUF file or its splits.
    Gguf,
    /// No files: weights made in memory.
    Random,
}

/// Where the tokenizer comes from.
#[derive(Debug, Clone)]
pub enum TokenizerSource {
    /// The text of `tokenizer.json`, and of `tokenizer_config.json` where there is one.
    HuggingFace {
        /// The file, for messages.
        path: PathBuf,
        /// Contents of `tokenizer.json`.
        tokenizer: String,
        /// Contents of `tokenizer_config.json`.
        config: Option<serde_json::Value>,
    },
    /// The metadata of a GGUF file.
    Gguf {
        /// The file, for messages.
        path: PathBuf,
        /// `tokenizer.ggml.pre`, such as `qwen2`.
        pre: String,
        /// `tokenizer.ggml.tokens` in the byte-level alphabet, in order of id.
        tokens: Vec<String>,
        /// `tokenizer.ggml.token_type`: 1 normal, 3 control, 4 user-defined, 5 unused.
        types: Vec<i32>,
        /// `tokenizer.ggml.merges`, each two tokens with a space between.
        merges: Vec<String>,
        /// `tokenizer.ggml.bos_token_id`, only where `add_bos_token` says that it is used.
        bos: Option<u32>,
    },
}

/// What the checkpoint's authors suggest for generation.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GenerationDefaults {
    /// Every id that ends a turn.
    pub eos_token_ids: Vec<u32>,
    /// Sampling temperature.
    pub temperature: Option<f32>,
    /// Nucleus mass.
    pub top_p: Option<f32>,
    /// Candidates kept.
    pub top_k: Option<usize>,
    /// Smallest share of the best candidate's probability.
    pub min_p: Option<f32>,
    /// Repetition penalty.
    pub repetition_penalty: Option<f32>,
    /// `false` asks for greedy decoding.
    pub do_sample: Option<bool>,
}

/// A dots.llm1 on disk.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    /// The folder or file that was opened.
    pub path: PathBuf,
    /// What it came in.
    pub format: Format,
    /// Its shape.
    pub config: Config,
    /// Its tokenizer, or `None` where it brings none.
    pub tokenizer: Option<TokenizerSource>,
    /// Its Jinja chat template, or `None` where it brings none.
    pub chat_template: Option<String>,
    /// Its authors' sampling settings and end-of-turn ids.
    pub generation: GenerationDefaults,
    pub(crate) tensors: HashMap<String, Tensor>,
}

impl Checkpoint {
    /// Opens a folder or a GGUF file: reads headers and small files, maps the rest, and checks that every tensor that the
    /// config calls for is there in the shape it must have, and that there is none besides.
    ///
    /// A folder holds either `config.json` with safetensors or one GGUF model; any one of a model's splits opens them all.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let metadata = std::fs::metadata(path).map_err(|source| Error::io(path, source))?;
        if !metadata.is_dir() {
            return gguf::open(path, path);
        }
        let folder = Folder::on_disk(path);
        if hf::is_checkpoint(&folder) {
            return hf::open(&folder);
        }
        match gguf::find(path)? {
            Some(file) => gguf::open(path, &file),
            None => hf::open(&folder),
        }
    }

    /// As [`Self::open`] of a folder that holds these files, which a program brings in itself: its tensors are these bytes, not copies.
    /// `name` stands for the folder in messages. Files that begin at multiples of [`container::TENSOR_ALIGNMENT`] are read fastest.
    pub fn inside(name: &Path, files: &[File]) -> Result<Self, Error> {
        hf::open(&Folder::inside(name, files))
    }

    /// The tensor of that published name.
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }

    /// All tensors, in no order.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }
}
