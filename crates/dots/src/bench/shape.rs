//! Shapes of random models: a width by name, and a number of layers.

use std::{fmt, str::FromStr};

use dots_model::Config;

/// How wide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Width {
    /// As published.
    Full,
    /// An eighth of it, with fewer experts and a smaller vocabulary: seconds instead of minutes. The proportions are kept,
    /// and so is that 256 does not divide the experts' width.
    Small,
}

/// A width and a number of layers, written `full-width:5`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    width: Width,
    pub layers: usize,
}

/// Most layers that can be asked for.
const MOST_LAYERS: usize = 1024;

impl Shape {
    /// The shape as a config. Layer 0 is dense, as in the published model.
    pub fn config(self) -> Config {
        let num_hidden_layers = self.layers;
        match self.width {
            Width::Full => Config { num_hidden_layers, ..Config::dots_llm1() },
            Width::Small => Config {
                vocab_size: 8192,
                hidden_size: 512,
                intermediate_size: 1376,
                moe_intermediate_size: 160,
                num_attention_heads: 4,
                num_key_value_heads: 4,
                n_routed_experts: 32,
                num_hidden_layers,
                ..Config::dots_llm1()
            },
        }
    }

    /// The same width with another number of layers.
    pub fn with_layers(self, layers: usize) -> Self {
        Self { layers, ..self }
    }
}

impl FromStr for Shape {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || format!("expected full-width:LAYERS or small:LAYERS, with 1 to {MOST_LAYERS} layers");
        let (width, layers) = text.split_once(':').ok_or_else(expected)?;
        let width = match width {
            "full-width" => Width::Full,
            "small" => Width::Small,
            _ => return Err(expected()),
        };
        let layers = layers.parse().ok().filter(|layers| (1..=MOST_LAYERS).contains(layers)).ok_or_else(expected)?;
        Ok(Self { width, layers })
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = match self.width {
            Width::Full => "full-width",
            Width::Small => "small",
        };
        write!(f, "{width}:{}", self.layers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_written_as_they_are_read() {
        for text in ["full-width:62", "small:2"] {
            assert_eq!(text.parse::<Shape>().unwrap().to_string(), text);
        }
        assert_eq!("full-width:62".parse::<Shape>().unwrap().config(), Config::dots_llm1());
        for wrong in ["", "small", "small:", "small:0", "small:2000", "nano:2", "full-width:-1"] {
            assert!(wrong.parse::<Shape>().unwrap_err().contains("full-width:LAYERS"), "{wrong}");
        }
    }
}
