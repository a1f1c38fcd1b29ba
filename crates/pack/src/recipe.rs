//! Which type each tensor is packed in: the one place to tune.

use dots_kernels::WeightType;

use crate::{Error, glob::Pattern};

use WeightType::{BF16, F32, Q3_D, Q4_D, Q5_D, Q6_D, Q8_D};

/// What a matrix does in the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// `model.embed_tokens`.
    Embedding,
    /// `lm_head`.
    Head,
    /// `q_proj` and `k_proj`.
    QueryKey,
    /// `v_proj`.
    Value,
    /// `o_proj`.
    Output,
    /// `gate_proj` and `up_proj` of a dense layer's or the shared experts' MLP.
    GateUp,
    /// `down_proj` of these.
    Down,
    /// `gate_proj` and `up_proj` of a routed expert.
    ExpertGateUp,
    /// `down_proj` of a routed expert.
    ExpertDown,
}

/// What a name says: the role and the layer of a matrix (0 for those outside layers); `None` for the router.
pub fn role(name: &str) -> Option<(Role, usize)> {
    match name {
        "model.embed_tokens.weight" => return Some((Role::Embedding, 0)),
        "lm_head.weight" => return Some((Role::Head, 0)),
        _ => {}
    }
    let (layer, rest) = name.strip_prefix("model.layers.")?.split_once('.')?;
    let projection = rest.strip_suffix(".weight")?.rsplit('.').next()?;
    let expert = rest.starts_with("mlp.experts.");
    let role = match projection {
        "q_proj" | "k_proj" => Role::QueryKey,
        "v_proj" => Role::Value,
        "o_proj" => Role::Output,
        "gate_proj" | "up_proj" if expert => Role::ExpertGateUp,
        "gate_proj" | "up_proj" => Role::GateUp,
        "down_proj" if expert => Role::ExpertDown,
        "down_proj" => Role::Down,
        _ => return None,
    };
    Some((role, layer.parse().ok()?))
}

/// The names that [`Recipe::named`] knows, and what each is for.
pub const NAMES: [(&str, &str); 7] = [
    ("q8", "every matrix in Q8_D, 8.3 bits a weight"),
    ("q6", "Q6_D, the head in Q8_D, 6.3 bits"),
    ("q5", "Q5_D with some matrices in Q6_D, about 5.4 bits"),
    ("q4", "Q4_D, matrices that suffer most in Q5_D and Q6_D, about 4.5 bits"),
    ("q4s", "Q4_D, experts of the middle layers in Q3_D, about 4 bits"),
    ("q3", "experts in Q3_D and Q4_D, about 3.6 bits"),
    ("bf16", "nothing rounded beyond bf16, readable by anyone"),
];

/// A choice of types: a named one, and exceptions to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipe {
    name: &'static str,
    exceptions: Vec<(Pattern, WeightType)>,
}

impl Recipe {
    /// The recipe of that name, one of [`NAMES`].
    pub fn named(name: &str) -> Option<Self> {
        let (name, _) = NAMES.into_iter().find(|(known, _)| known.eq_ignore_ascii_case(name))?;
        Some(Self { name, exceptions: Vec::new() })
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Its exceptions, in order.
    pub fn exceptions(&self) -> &[(Pattern, WeightType)] {
        &self.exceptions
    }

    /// Reads `PATTERN=TYPE` and adds it: matrices whose published name fits are packed in that type, whatever stands before.
    /// Types are the packed ones (`Q4_D`, or `q4` for short) and `BF16`.
    pub fn except(&mut self, text: &str) -> Result<(), Error> {
        let wrong = || {
            let expected = "PATTERN=TYPE, TYPE one of Q8_D, Q6_D, Q5_D, Q4_D, Q3_D and BF16";
            Error::Recipe(format!("expected {expected}, found {text:?}"))
        };
        let (pattern, kind) = text.rsplit_once('=').ok_or_else(wrong)?;
        let known = |known: &WeightType| {
            let name = known.name();
            name.eq_ignore_ascii_case(kind) || name.strip_suffix("_D").is_some_and(|n| n.eq_ignore_ascii_case(kind))
        };
        let kind = [Q8_D, Q6_D, Q5_D, Q4_D, Q3_D, BF16].into_iter().find(known).ok_or_else(wrong)?;
        self.exceptions.push((Pattern::new(pattern), kind));
        Ok(())
    }

    /// The type of the tensor of that published name and shape, in a model of `layers` layers. Vectors and the router are
    /// in f32 under every recipe, and a matrix whose rows are no whole number of groups in bf16.
    pub fn of(&self, layers: usize, name: &str, shape: &[usize]) -> WeightType {
        let &[_, cols] = shape else { return F32 };
        let Some((role, layer)) = role(name) else { return F32 };
        let exception = self.exceptions.iter().rev().find(|(pattern, _)| pattern.matches(name));
        let kind = match exception {
            Some((_, kind)) => *kind,
            None => self.table(role, layer, layers),
        };
        if cols.is_multiple_of(kind.block_len()) { kind } else { BF16 }
    }

    fn table(&self, role: Role, layer: usize, layers: usize) -> WeightType {
        use Role::{Down, Embedding, ExpertDown, ExpertGateUp, GateUp, Head, Output, QueryKey, Value};
        // What llama.cpp found for its mixtures: the first and last layers and every third between suffer most.
        let suffers = suffers(layer, layers);
        match (self.name, role) {
            ("bf16", _) => BF16,

            ("q8", _) => Q8_D,

            ("q6", Head) => Q8_D,
            ("q6", _) => Q6_D,

            ("q5", Embedding | Head | Value) => Q6_D,
            ("q5", Down | ExpertDown | Output) if suffers => Q6_D,
            ("q5", _) => Q5_D,

            ("q3", Head) => Q6_D,
            ("q3", Embedding | Value | Output | Down) => Q5_D,
            ("q3", QueryKey | GateUp | ExpertDown) => Q4_D,
            ("q3", ExpertGateUp) => Q3_D,

            ("q4s", ExpertGateUp) if !suffers => Q3_D,

            // q4, and q4s where it says nothing else.
            (_, Embedding | Head) => Q6_D,
            (_, Output) if layer == 0 => Q6_D,
            (_, Value) => {
                if suffers {
                    Q6_D
                } else {
                    Q5_D
                }
            }
            (_, Down) => {
                if suffers {
                    Q6_D
                } else {
                    Q5_D
                }
            }
            ("q4", ExpertDown) if suffers => Q5_D,
            (_, Output | QueryKey | GateUp | ExpertGateUp | ExpertDown) => Q4_D,
        }
    }
}

/// llama.cpp's `use_more_bits`.
fn suffers(layer: usize, layers: usize) -> bool {
    let eighth = layers / 8;
    layer < eighth || layer >= 7 * layers / 8 || (layer - eighth) % 3 == 2
}

#[cfg(test)]
mod tests {
    use dots_model::{
        Config,
        checkpoint::{expected_tensors, tensor_bytes},
    };

    use super::*;

    #[test]
    fn bits_a_weight_of_the_published_model() {
        let config = Config::dots_llm1();
        let total = config.parameters().total as f64;
        for (name, least, most) in [
            ("q8", 8.25, 8.3),
            ("q6", 6.25, 6.3),
            ("q5", 5.25, 5.5),
            ("q4", 4.3, 4.6),
            ("q4s", 3.8, 4.05),
            ("q3", 3.4, 3.75),
            ("bf16", 16.0, 16.02),
        ] {
            let recipe = Recipe::named(name).unwrap();
            let bytes: u64 = expected_tensors(&config)
                .map(|(name, shape)| tensor_bytes(recipe.of(config.num_hidden_layers, &name, &shape), &shape))
                .sum();
            let bits = 8.0 * bytes as f64 / total;
            println!("{name:5} {bits:.3} bits a weight, {:.1} GiB", bytes as f64 / (1u64 << 30) as f64);
            assert!((least..most).contains(&bits), "{name}: {bits}");
        }
    }

    #[test]
    fn routers_and_norms_are_in_f32_whatever_is_asked_for() {
        let mut recipe = Recipe::named("Q4").unwrap();
        recipe.except("*=q8").unwrap();
        assert_eq!(recipe.of(5, "model.layers.2.mlp.gate.weight", &[128, 4096]), F32);
        assert_eq!(recipe.of(5, "model.layers.2.mlp.gate.e_score_correction_bias", &[128]), F32);
        assert_eq!(recipe.of(5, "model.norm.weight", &[4096]), F32);
        assert_eq!(recipe.of(5, "lm_head.weight", &[8, 4096]), Q8_D);
    }

    #[test]
    fn the_last_exception_that_fits_counts_and_odd_widths_stay_bf16() {
        let mut recipe = Recipe::named("q4").unwrap();
        recipe.except("*.down_proj.*=Q8_D").unwrap();
        recipe.except("*layers.1.*=bf16").unwrap();
        assert_eq!(recipe.of(5, "model.layers.1.mlp.experts.0.down_proj.weight", &[8, 64]), BF16);
        assert_eq!(recipe.of(5, "model.layers.2.mlp.experts.0.down_proj.weight", &[8, 64]), Q8_D);
        assert_eq!(recipe.of(5, "model.layers.2.mlp.experts.0.down_proj.weight", &[8, 65]), BF16);
        assert_eq!(recipe.of(5, "model.layers.2.mlp.experts.0.up_proj.weight", &[8, 64]), Q4_D);
        for text in ["lm_head", "lm_head=Q7", "x=Q4_K", "x=F32"] {
            let error = recipe.except(text).unwrap_err().to_string();
            assert!(error.contains("PATTERN=TYPE") && error.contains(text), "{error}");
        }
    }
}
