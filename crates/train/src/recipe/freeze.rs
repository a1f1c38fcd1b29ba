//! What of a model stays as it is while the rest learns.

use super::{error::RecipeError, section::Section};

/// A part of a model that can be frozen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The token embedding.
    Embedding,
    /// The output head.
    Head,
    /// Every RMSNorm, those of heads among them.
    Norms,
    /// The projections of attention.
    Attention,
    /// The MLPs of dense layers.
    Dense,
    /// The shared experts.
    SharedExperts,
    /// The routed experts that are not new.
    Experts,
    /// The routers' rows and balancing biases of these.
    Routers,
}

pub const PARTS: [(&str, Part); 8] = [
    ("embedding", Part::Embedding),
    ("head", Part::Head),
    ("norms", Part::Norms),
    ("attention", Part::Attention),
    ("dense", Part::Dense),
    ("shared_experts", Part::SharedExperts),
    ("experts", Part::Experts),
    ("routers", Part::Routers),
];

/// Stands for all parts.
const ALL: &str = "all";

impl Part {
    /// The part that the tensor of this published name belongs to.
    fn of(name: &str) -> Self {
        let holds = |part| name.contains(part);
        match name {
            _ if holds("norm.weight") => Self::Norms,
            _ if holds(".self_attn.") => Self::Attention,
            _ if holds(".mlp.experts.") => Self::Experts,
            _ if holds(".mlp.shared_experts.") => Self::SharedExperts,
            _ if holds(".mlp.gate.") => Self::Routers,
            _ if holds(".mlp.") => Self::Dense,
            _ if holds("embed_tokens") => Self::Embedding,
            _ => Self::Head,
        }
    }
}

/// How many rows of the tensor `name`, of `rows` in all, stay as they are where `parts` do and routed experts from number `old` on are
/// new.
pub fn frozen_rows(parts: &[Part], old: usize, name: &str, rows: usize) -> usize {
    let part = Part::of(name);
    if !parts.contains(&part) {
        return 0;
    }
    let expert = || name.split_once(".experts.")?.1.split_once('.')?.0.parse::<usize>().ok();
    match part {
        Part::Routers => rows.min(old),
        Part::Experts if expert().is_some_and(|expert| expert >= old) => 0,
        _ => rows,
    }
}

pub fn read(section: &mut Section<'_>, new_experts: usize) -> Result<Vec<Part>, RecipeError> {
    const NAME: &str = "freeze";
    let words = section.texts(NAME)?.unwrap_or_default();
    let all = words.iter().any(|word| word == ALL);
    let named = |word: &String| word == ALL || PARTS.iter().any(|(part, _)| part == word);
    if let Some(word) = words.iter().find(|word| !named(word)) {
        let known: Vec<&str> = PARTS.into_iter().map(|(part, _)| part).chain([ALL]).collect();
        return Err(section.wrong(NAME, format!("a list of {}", known.join(", ")), Some(format!("{word:?}"))));
    }
    // In one order, so that recipes that mean the same are the same.
    let meant = |(word, _): &(&str, Part)| all || words.iter().any(|other| other == word);
    let parts: Vec<Part> = PARTS.into_iter().filter(meant).map(|(_, part)| part).collect();
    if parts.len() == PARTS.len() && new_experts == 0 {
        return Err(section.wrong(NAME, "something left to learn, such as new_experts above 0", None));
    }
    Ok(parts)
}
