//! What a full block of the cache holds, as a name: two blocks of one name hold the same keys and values.

use std::fmt::{self, Debug, Formatter};

use dots_model::{executor::BLOCK_TOKENS, hex};
use sha2::{Digest, Sha256};

/// Name of the tokens of one block and of all before it. A cryptographic hash: tokens come from strangers, and one who could
/// make two prefixes share a name would read another's answer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct BlockName([u8; 32]);

impl Debug for BlockName {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.hex())
    }
}

impl BlockName {
    /// What comes before the first block. Only requests of one salt share blocks.
    fn root(salt: Option<&str>) -> Self {
        Self(Sha256::digest(salt.unwrap_or_default()).into())
    }

    fn then(&self, tokens: &[u32]) -> Self {
        let mut hash = Sha256::new_with_prefix(self.0);
        tokens.iter().for_each(|token| hash.update(token.to_le_bytes()));
        Self(hash.finalize().into())
    }

    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// 64 digits, as files are named.
    pub fn hex(&self) -> String {
        hex(&self.0)
    }

    /// What [`Self::hex`] wrote.
    pub fn from_hex(digits: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        if digits.len() != 64 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        for (byte, digits) in bytes.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        }
        Some(Self(bytes))
    }
}

/// The names of a sequence's full blocks, kept as it grows.
#[derive(Debug, Clone)]
pub(crate) struct BlockNames {
    root: BlockName,
    names: Vec<BlockName>,
}

impl BlockNames {
    pub fn new(salt: Option<&str>) -> Self {
        Self { root: BlockName::root(salt), names: Vec::new() }
    }

    /// Names the blocks that `tokens`, the whole sequence, has filled since the last call.
    pub fn extend(&mut self, tokens: &[u32]) {
        for block in tokens.chunks_exact(BLOCK_TOKENS).skip(self.names.len()) {
            let name = self.names.last().unwrap_or(&self.root).then(block);
            self.names.push(name);
        }
    }

    /// In the order of blocks.
    pub fn as_slice(&self) -> &[BlockName] {
        &self.names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(salt: Option<&str>, tokens: &[u32]) -> Vec<BlockName> {
        let mut names = BlockNames::new(salt);
        names.extend(tokens);
        names.as_slice().to_vec()
    }

    #[test]
    fn a_name_stands_for_the_block_and_all_before_it() {
        let tokens: Vec<u32> = (0..100).collect();
        let all = names(None, &tokens);
        assert_eq!(all.len(), 3);
        assert_eq!(names(None, &tokens[..64]), all[..2]);
        let mut other = tokens.clone();
        other[0] = 7;
        assert!(all.iter().zip(names(None, &other)).all(|(one, other)| *one != other));
        other = tokens.clone();
        other[40] = 7;
        assert_eq!(all.iter().zip(names(None, &other)).map(|(a, b)| *a == b).collect::<Vec<_>>(), [true, false, false]);
        assert!(all.iter().zip(names(Some("mine"), &tokens)).all(|(one, other)| *one != other));
    }

    #[test]
    fn a_files_name_leads_back() {
        let name = names(None, &[1; 32])[0];
        assert_eq!(BlockName::from_hex(&name.hex()), Some(name));
        for wrong in ["", "00", &"g".repeat(64), &"0".repeat(65), &"é".repeat(32)] {
            assert_eq!(BlockName::from_hex(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn names_do_not_depend_on_how_the_sequence_grew() {
        let tokens: Vec<u32> = (0..200).map(|i| i * 31 % 128).collect();
        let mut grown = BlockNames::new(None);
        (0..=200).for_each(|length| grown.extend(&tokens[..length]));
        assert_eq!(grown.as_slice(), names(None, &tokens));
    }
}
