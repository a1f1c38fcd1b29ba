//! What a checkpoint is called.

use std::fmt;

/// Where in its run a checkpoint was taken. Shown as the name of its folder, `step-000120-tokens-0031M`: names sort as steps do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    /// Steps made.
    pub step: u64,
    /// Tokens seen.
    pub tokens: u64,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "step-{:06}-tokens-{:04}M", self.step, self.tokens / 1_000_000)
    }
}

impl Name {
    /// The step in a folder's name; `None` where it is not a checkpoint's.
    pub(super) fn step_of(name: &str) -> Option<u64> {
        let (step, tokens) = name.strip_prefix("step-")?.strip_suffix('M')?.split_once("-tokens-")?;
        let digits = |text: &str, least: usize| text.len() >= least && text.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(step, 6) || !digits(tokens, 4) {
            return None;
        }
        step.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_step_and_tokens_and_is_read_again() {
        let name = Name { step: 120, tokens: 31_457_280 }.to_string();
        assert_eq!(name, "step-000120-tokens-0031M");
        assert_eq!(Name::step_of(&name), Some(120));
        assert_eq!(Name::step_of(&Name { step: 12_345_678, tokens: 11_200_000_000_000 }.to_string()), Some(12_345_678));
        for other in ["step-000120-tokens-0031M.part", "step-12-tokens-0031M", "step-+00120-tokens-0031M", "notes", ""]
        {
            assert_eq!(Name::step_of(other), None, "{other}");
        }
    }
}
