//! Which characters of a rendered conversation people wrote.

use std::collections::{BTreeSet, HashMap};

use super::{TemplateError, conversation::Conversation};
use crate::tokenizer::Tokenizer;

/// Characters that are tried alone at the most. Special tokens are spelt with some thirty; a file that brings thousands must
/// not buy as many renderings.
const TRIED_ALONE: usize = 64;

/// A rendering in which the characters that people wrote are twins.
pub(super) struct Tainted {
    /// The rendering.
    pub(super) twinned: String,
    /// Characters that are known to be the template's where they are no twins.
    known: BTreeSet<char>,
    real: HashMap<char, char>,
}

impl Tainted {
    /// Whether a special token found in `twinned` can only be the template's.
    pub(super) fn trusts(&self, special: &[u8]) -> bool {
        String::from_utf8_lossy(special).chars().any(|c| self.known.contains(&c))
    }

    /// Appends `text` with its twins turned back.
    pub(super) fn untwin_into(&self, text: &str, out: &mut String) {
        out.extend(text.chars().map(|c| self.real.get(&c).copied().unwrap_or(c)));
    }
}

/// Renders `conversation` as the module's documentation says.
pub(super) fn tainted(
    tokenizer: &Tokenizer,
    conversation: &Conversation,
    render: impl Fn(&Conversation) -> Result<String, TemplateError>,
) -> Result<Tainted, TemplateError> {
    let plain = render(conversation)?;
    let alphabet: BTreeSet<char> = tokenizer.special_texts().flat_map(str::chars).collect();
    let twins = twins_of(&alphabet, conversation, &plain)?;
    let real: HashMap<char, char> = twins.iter().map(|(&real, &twin)| (twin, real)).collect();

    // The rendering of contents in which `chosen` are twins, or none where the template reads those characters.
    let twinned = |chosen: &BTreeSet<char>| {
        let twin = |c: char| if chosen.contains(&c) { twins[&c] } else { c };
        let spoken = conversation.map_texts(&|text: &str| text.chars().map(twin).collect());
        // A template that refuses twins and accepts the contents reads them, too.
        let twinned = render(&spoken).ok()?;
        let back = twinned.chars().map(|c| real.get(&c).copied().unwrap_or(c));
        back.eq(plain.chars()).then_some(twinned)
    };

    if let Some(twinned) = twinned(&alphabet) {
        return Ok(Tainted { twinned, known: alphabet, real });
    }
    let mut known = BTreeSet::new();
    let mut marked: Vec<char> = plain.chars().collect();
    for &c in alphabet.iter().take(TRIED_ALONE) {
        let Some(twinned) = twinned(&BTreeSet::from([c])) else { continue };
        known.insert(c);
        for (mark, now) in marked.iter_mut().zip(twinned.chars()) {
            if real.contains_key(&now) {
                *mark = now;
            }
        }
    }
    Ok(Tainted { twinned: marked.into_iter().collect(), known, real })
}

/// A private-use character for each of `alphabet` that neither the contents nor their rendering hold.
fn twins_of(
    alphabet: &BTreeSet<char>,
    conversation: &Conversation,
    plain: &str,
) -> Result<HashMap<char, char>, TemplateError> {
    let private = '\u{f0000}'..='\u{ffffd}';
    let mut used = BTreeSet::new();
    let mut note = |text: &str| used.extend(text.chars().filter(|c| private.contains(c)));
    note(plain);
    conversation.each_text(&mut note);
    used.extend(alphabet.iter().filter(|c| private.contains(*c)));
    let twins: HashMap<char, char> = alphabet.iter().copied().zip(private.filter(|c| !used.contains(c))).collect();
    if twins.len() < alphabet.len() {
        return Err(TemplateError("the conversation uses every private-use character".into()));
    }
    Ok(twins)
}
