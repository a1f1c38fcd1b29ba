//! A checkpoint's tensors in the places where the forward pass looks for them. Matrices stay as they lie in their files;
//! only vectors (norms, biases) become f32.

use dots_kernels::Weights;

use crate::{Checkpoint, Config, Error, checkpoint::Tensor};

/// A weight matrix, mapped.
#[derive(Debug, Clone)]
pub struct Matrix(Tensor);

impl Matrix {
    /// As kernels take it.
    pub fn view(&self) -> Weights<'_> {
        self.0.weights().expect("`Loader::matrix` has tried it")
    }
}

/// A gated MLP: the dense layer's, one expert's, or the shared experts'.
#[derive(Debug)]
pub struct Mlp {
    /// `(intermediate, hidden)`.
    pub gate: Matrix,
    /// `(intermediate, hidden)`.
    pub up: Matrix,
    /// `(hidden, intermediate)`.
    pub down: Matrix,
}

/// A mixture of experts.
#[derive(Debug)]
pub struct Moe {
    /// `(experts, hidden)`.
    pub router: Matrix,
    /// `(experts)`, added to scores for the choice only.
    pub router_bias: Vec<f32>,
    /// The routed experts.
    pub experts: Vec<Mlp>,
    /// All shared experts as one MLP; `None` where the config has none.
    pub shared: Option<Mlp>,
}

/// What follows attention in a layer.
#[derive(Debug)]
pub enum FeedForward {
    /// One MLP.
    Dense(Mlp),
    /// Routed and shared experts.
    Moe(Moe),
}

/// One transformer layer.
#[derive(Debug)]
pub struct Layer {
    /// `(hidden)`.
    pub input_norm: Vec<f32>,
    /// `(heads · head_dim, hidden)`.
    pub q: Matrix,
    /// `(kv_heads · head_dim, hidden)`.
    pub k: Matrix,
    /// `(kv_heads · head_dim, hidden)`.
    pub v: Matrix,
    /// `(hidden, heads · head_dim)`.
    pub o: Matrix,
    /// `(head_dim)`.
    pub q_norm: Vec<f32>,
    /// `(head_dim)`.
    pub k_norm: Vec<f32>,
    /// `(hidden)`.
    pub post_attention_norm: Vec<f32>,
    /// What follows attention.
    pub feed_forward: FeedForward,
}

/// The whole model.
#[derive(Debug)]
pub struct Layers {
    /// `(vocab, hidden)`.
    pub embedding: Matrix,
    /// In order.
    pub layers: Vec<Layer>,
    /// `(hidden)`.
    pub final_norm: Vec<f32>,
    /// `(vocab, hidden)`.
    pub head: Matrix,
}

impl Layers {
    /// Finds every tensor of `checkpoint`.
    pub fn new(checkpoint: &Checkpoint) -> Result<Self, Error> {
        let load = Loader { checkpoint };
        Ok(Self {
            embedding: load.matrix("model.embed_tokens.weight")?,
            layers: (0..checkpoint.config.num_hidden_layers).map(|i| load.layer(i)).collect::<Result<_, _>>()?,
            final_norm: load.vector("model.norm.weight")?,
            head: load.matrix("lm_head.weight")?,
        })
    }
}

struct Loader<'a> {
    checkpoint: &'a Checkpoint,
}

impl Loader<'_> {
    fn layer(&self, index: usize) -> Result<Layer, Error> {
        let at = format!("model.layers.{index}");
        let config = &self.checkpoint.config;
        let feed_forward = if config.is_moe(index) {
            FeedForward::Moe(self.moe(&format!("{at}.mlp"), config)?)
        } else {
            FeedForward::Dense(self.mlp(&format!("{at}.mlp"))?)
        };
        Ok(Layer {
            input_norm: self.vector(&format!("{at}.input_layernorm.weight"))?,
            q: self.matrix(&format!("{at}.self_attn.q_proj.weight"))?,
            k: self.matrix(&format!("{at}.self_attn.k_proj.weight"))?,
            v: self.matrix(&format!("{at}.self_attn.v_proj.weight"))?,
            o: self.matrix(&format!("{at}.self_attn.o_proj.weight"))?,
            q_norm: self.vector(&format!("{at}.self_attn.q_norm.weight"))?,
            k_norm: self.vector(&format!("{at}.self_attn.k_norm.weight"))?,
            post_attention_norm: self.vector(&format!("{at}.post_attention_layernorm.weight"))?,
            feed_forward,
        })
    }

    fn moe(&self, at: &str, config: &Config) -> Result<Moe, Error> {
        let bias = format!("{at}.gate.e_score_correction_bias");
        Ok(Moe {
            router: self.matrix(&format!("{at}.gate.weight"))?,
            // Some GGUF files leave a bias of zeros out.
            router_bias: match self.checkpoint.tensor(&bias) {
                Some(_) => self.vector(&bias)?,
                None => vec![0.0; config.n_routed_experts],
            },
            experts: (0..config.n_routed_experts)
                .map(|expert| self.mlp(&format!("{at}.experts.{expert}")))
                .collect::<Result<_, _>>()?,
            shared: match config.n_shared_experts {
                0 => None,
                _ => Some(self.mlp(&format!("{at}.shared_experts"))?),
            },
        })
    }

    fn mlp(&self, at: &str) -> Result<Mlp, Error> {
        Ok(Mlp {
            gate: self.matrix(&format!("{at}.gate_proj.weight"))?,
            up: self.matrix(&format!("{at}.up_proj.weight"))?,
            down: self.matrix(&format!("{at}.down_proj.weight"))?,
        })
    }

    fn matrix(&self, name: &str) -> Result<Matrix, Error> {
        let tensor = self.tensor(name)?;
        tensor.weights()?;
        Ok(Matrix(tensor.clone()))
    }

    fn vector(&self, name: &str) -> Result<Vec<f32>, Error> {
        self.tensor(name)?.to_f32_vec()
    }

    fn tensor(&self, name: &str) -> Result<&Tensor, Error> {
        self.checkpoint.tensor(name).ok_or_else(|| self.invalid(name, "a tensor", "nothing"))
    }

    fn invalid(&self, name: &str, expected: &str, found: &str) -> Error {
        Error::invalid(&self.checkpoint.path, name, expected, found)
    }
}
