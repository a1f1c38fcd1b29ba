//! The seam through which others see what flows through the layers.

/// What a row of activations is the input of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Input {
    /// `q_proj`, `k_proj` and `v_proj`: `(hidden)`.
    Attention,
    /// `o_proj`: `(heads · head_dim)`.
    Output,
    /// The MLP, whichever it is: `gate_proj` and `up_proj` of a dense layer or of the shared experts, and the router:
    /// `(hidden)`.
    Mlp,
    /// `gate_proj` and `up_proj` of the routed expert of this number: `(hidden)`.
    Expert(usize),
    /// `down_proj` of a dense layer's or the shared experts' MLP: `(intermediate)`.
    Down,
    /// `down_proj` of the routed expert of this number: `(moe_intermediate)`.
    ExpertDown(usize),
    /// The head, behind the last norm: `(hidden)`. Its layer is one past the last.
    Head,
}

/// Sees activations as a batch is computed, in f32 before any rounding, one row at a time. Every row of the batch passes;
/// within a layer and an input, rows come in their order.
pub trait Observer {
    /// `x` goes into `input` of layer `layer`.
    fn row(&mut self, layer: usize, input: Input, x: &[f32]);
}
