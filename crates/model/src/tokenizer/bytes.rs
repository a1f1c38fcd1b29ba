//! The bytes behind every id, in two flat arrays.

use tokenizers::models::bpe::Vocab;

use super::parts::AddedId;

/// The byte that a character of GPT-2's byte-level alphabet stands for: printable Latin-1 for itself, the other 68
/// bytes in order from U+0100 on.
fn byte_of(c: char) -> Option<u8> {
    match c as u32 {
        code @ (0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) => Some(code as u8),
        code @ 0x100..=0x143 => {
            let nth = (code - 0x100) as u8;
            // The bytes left over are 0 to 0x20, 0x7f to 0xa0, and 0xad.
            Some(match nth {
                0..=0x20 => nth,
                0x21..=0x42 => nth + (0x7f - 0x21),
                _ => 0xad,
            })
        }
        _ => None,
    }
}

/// The alphabet's letters in the order of their code points, which is that of the first 256 ids of every BPE that
/// `tokenizers` trained, with the byte that each stands for.
pub(super) fn alphabet() -> impl Iterator<Item = (char, u8)> {
    ('!'..='\u{143}').filter_map(|letter| Some((letter, byte_of(letter)?)))
}

#[derive(Debug)]
pub(super) struct TokenBytes {
    bytes: Vec<u8>,
    /// Where the bytes of id `i` end; they start where those of `i - 1` do.
    ends: Vec<u32>,
    special: Vec<bool>,
}

impl TokenBytes {
    /// Ids must be below [`super::parts::MAX_ID`]; added tokens hide the vocabulary's where both have an id.
    pub(super) fn new(vocab: &Vocab, added: &[AddedId]) -> Self {
        let highest = vocab.values().copied().chain(added.iter().map(|added| added.id)).max();
        let len = highest.map_or(0, |id| id as usize + 1);
        let mut texts: Vec<Option<&str>> = vec![None; len];
        for (text, &id) in vocab {
            texts[id as usize] = Some(text);
        }
        // Added tokens are written as they are, all others in the alphabet.
        let mut verbatim = vec![false; len];
        let mut special = vec![false; len];
        for AddedId { id, token } in added {
            texts[*id as usize] = Some(&token.content);
            verbatim[*id as usize] = true;
            special[*id as usize] = token.special;
        }
        let mut bytes = Vec::new();
        let mut ends = Vec::with_capacity(len);
        for (text, verbatim) in texts.into_iter().zip(verbatim) {
            let text = text.unwrap_or_default();
            // A token outside the alphabet stands for its own text, as in `tokenizers`.
            if verbatim || text.chars().any(|c| byte_of(c).is_none()) {
                bytes.extend_from_slice(text.as_bytes());
            } else {
                bytes.extend(text.chars().filter_map(byte_of));
            }
            ends.push(bytes.len() as u32);
        }
        Self { bytes, ends, special }
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn get(&self, id: u32) -> &[u8] {
        let id = id as usize;
        let Some(&end) = self.ends.get(id) else { return &[] };
        let start = if id == 0 { 0 } else { self.ends[id - 1] };
        &self.bytes[start as usize..end as usize]
    }

    pub(super) fn is_special(&self, id: u32) -> bool {
        self.special.get(id as usize).copied().unwrap_or(false)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::byte_of;

    #[test]
    fn the_alphabet_has_each_byte_once_and_in_the_order_of_tokenizers() {
        let alphabet = tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet();
        let bytes: HashSet<u8> = alphabet.iter().filter_map(|&c| byte_of(c)).collect();
        assert_eq!((alphabet.len(), bytes.len()), (256, 256));
        assert_eq!(
            (byte_of('Ġ'), byte_of('Ċ'), byte_of('Ń'), byte_of('ÿ')),
            (Some(32), Some(10), Some(0xad), Some(255))
        );
        assert_eq!((byte_of(' '), byte_of('ń')), (None, None));
        assert_eq!(super::alphabet().map(|(_, byte)| byte).collect::<HashSet<_>>(), bytes);
    }
}
