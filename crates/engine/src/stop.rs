//! Texts that end an answer.

/// Finds the first stop text in a stream of text, and holds back what could be the beginning of one.
#[derive(Debug)]
pub(crate) struct StopTexts {
    matchers: Vec<Matcher>,
    /// Whether the stop text belongs to the answer that it ends.
    is_included: bool,
    held: String,
}

impl StopTexts {
    pub fn new(stops: Vec<String>, is_included: bool) -> Self {
        Self { matchers: stops.into_iter().map(Matcher::new).collect(), is_included, held: String::new() }
    }

    /// The text that is certain to belong to the answer, and the stop text that ended it. The stop text that is complete
    /// first counts, and of those complete at once the longest, so that nothing depends on how the text was cut. Where the
    /// answer `may_end` not yet, what is complete is passed over; what is begun may still be completed by a later text.
    pub fn push(&mut self, text: &str, may_end: bool) -> (String, Option<String>) {
        let held_before = self.held.len();
        self.held.push_str(text);
        for (index, &byte) in text.as_bytes().iter().enumerate() {
            let completed = self.matchers.iter_mut().filter_map(|matcher| matcher.completed_by(byte)).max();
            if let Some(stop_bytes) = completed
                && may_end
            {
                let end = held_before + index + 1;
                let stop = self.held.get(end - stop_bytes..end).unwrap_or_default().to_owned();
                self.held.truncate(if self.is_included { end } else { end - stop_bytes });
                return (self.flush(), Some(stop));
            }
        }
        let possible = self.matchers.iter().map(|matcher| matcher.matched).max().unwrap_or(0);
        let held = self.held.split_off(self.held.len() - possible);
        (std::mem::replace(&mut self.held, held), None)
    }

    /// What was held back, once no more text can come.
    pub fn flush(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// Knuth, Morris and Pratt's search for one text, a byte at a time.
#[derive(Debug)]
struct Matcher {
    stop: Vec<u8>,
    /// `fallback[n]`: the longest beginning of `stop` that also ends its first `n + 1` bytes, these themselves aside.
    fallback: Vec<usize>,
    /// Bytes of `stop` that the text so far ends with.
    matched: usize,
}

impl Matcher {
    fn new(stop: String) -> Self {
        let stop = stop.into_bytes();
        let mut matcher = Self { fallback: vec![0; stop.len()], stop, matched: 0 };
        for index in 1..matcher.stop.len() {
            matcher.advance(matcher.stop[index]);
            matcher.fallback[index] = matcher.matched;
        }
        matcher.matched = 0;
        matcher
    }

    fn advance(&mut self, byte: u8) {
        while self.matched > 0 && self.stop[self.matched] != byte {
            self.matched = self.fallback[self.matched - 1];
        }
        if self.stop[self.matched] == byte {
            self.matched += 1;
        }
    }

    /// The stop text's bytes, where `byte` is the last of them. The search goes on behind it.
    fn completed_by(&mut self, byte: u8) -> Option<usize> {
        self.advance(byte);
        let is_complete = self.matched == self.stop.len();
        if is_complete {
            self.matched = self.fallback[self.matched - 1];
        }
        is_complete.then_some(self.stop.len())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stream<'a>(stops: &[&str], pieces: impl IntoIterator<Item = &'a str>) -> (Vec<String>, bool) {
        let mut texts = StopTexts::new(stops.iter().map(|stop| stop.to_string()).collect(), false);
        let mut certain = Vec::new();
        for piece in pieces {
            let (text, is_stopped) = texts.push(piece, true);
            certain.push(text);
            if let Some(stop) = is_stopped {
                assert!(stops.contains(&stop.as_str()));
                return (certain, true);
            }
        }
        certain.push(texts.flush());
        (certain, false)
    }

    #[test]
    fn text_that_may_begin_a_stop_waits_and_comes_when_it_does_not() {
        assert_eq!(stream(&["</s>"], ["a<", "/s", "x<", "/"]).0, ["a", "", "</sx", "", "</"]);
    }

    #[test]
    fn a_stop_that_spans_pieces_is_left_out_with_what_follows() {
        assert_eq!(stream(&["</s>"], ["a<", "/s", ">b"]), (vec!["a".into(), "".into(), "".into()], true));
        assert_eq!(stream(&["é中"], ["xé", "é", "中y"]).0.concat(), "xé");
    }

    #[test]
    fn a_stop_is_found_behind_its_own_false_start() {
        assert_eq!(stream(&["aab"], ["xaa", "a", "b"]), (vec!["x".into(), "a".into(), "".into()], true));
    }

    #[test]
    fn the_first_complete_stop_counts_and_the_longest_of_those() {
        assert_eq!(stream(&["abc", "b"], ["xabc"]).0.concat(), "xa");
        assert_eq!(stream(&["b", "ab"], ["xab"]).0.concat(), "x");
    }

    #[test]
    fn a_stop_that_may_not_end_the_answer_yet_is_passed_over() {
        let stops = || vec!["aa".to_owned()];
        let mut texts = StopTexts::new(stops(), false);
        assert_eq!(texts.push("xaa", false), ("xa".to_owned(), None), "what may begin another is held back");
        assert_eq!(texts.push("b", true), ("ab".to_owned(), None));
        assert_eq!(texts.push("aa", true), (String::new(), Some("aa".to_owned())));
        let mut texts = StopTexts::new(stops(), false);
        assert_eq!(texts.push("xa", false), ("x".to_owned(), None));
        assert_eq!(texts.push("ay", true), (String::new(), Some("aa".to_owned())), "one that began before ends it");
    }

    #[test]
    fn a_stop_that_belongs_to_the_answer_is_its_end() {
        let mut texts = StopTexts::new(vec!["<end>".to_owned()], true);
        assert_eq!(texts.push("a<en", true), ("a".to_owned(), None));
        assert_eq!(texts.push("d>b", true), ("<end>".to_owned(), Some("<end>".to_owned())));
    }

    fn text() -> impl Strategy<Value = String> {
        prop::collection::vec(prop::sample::select(vec!['a', 'b', 'é', 'è', '中']), 0..30)
            .prop_map(|characters| characters.into_iter().collect())
    }

    fn cut_naively(stops: &[String], text: &str) -> Option<String> {
        (1..=text.len())
            .filter(|&end| text.is_char_boundary(end))
            .find_map(|end| {
                stops.iter().filter_map(|stop| text[..end].strip_suffix(stop.as_str())).min_by_key(|t| t.len())
            })
            .map(str::to_owned)
    }

    proptest! {
        #[test]
        fn the_answer_is_the_text_before_the_first_stop_however_it_was_cut(
            text in text(),
            stops in prop::collection::vec("[abéè中]{1,4}", 0..4),
            piece in 1usize..6,
        ) {
            let characters: Vec<char> = text.chars().collect();
            let pieces: Vec<String> = characters.chunks(piece).map(|piece| piece.iter().collect()).collect();
            let stop_texts: Vec<&str> = stops.iter().map(String::as_str).collect();
            let (certain, is_stopped) = stream(&stop_texts, pieces.iter().map(String::as_str));
            let expected = cut_naively(&stops, &text);
            prop_assert_eq!(is_stopped, expected.is_some());
            prop_assert_eq!(certain.concat(), expected.unwrap_or(text));
        }
    }
}
