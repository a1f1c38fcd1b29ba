//! Server-sent events (<https://html.spec.whatwg.org/multipage/server-sent-events.html>), however the bytes are cut.

/// Most bytes of one event: many times what a token with its log-probabilities takes.
pub const MOST_EVENT_BYTES: usize = 1 << 20;

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its type; empty where the stream names none.
    pub name: String,
    pub data: String,
}

/// An event is longer than [`MOST_EVENT_BYTES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLong;

/// Makes events of bytes.
#[derive(Debug, Default)]
pub struct Parser {
    line: Vec<u8>,
    name: String,
    /// `None` until a data line came: an event without one is none.
    data: Option<String>,
    /// The last byte was a carriage return, so that a line feed now belongs to it.
    after_return: bool,
    /// A byte order mark may only stand at the beginning.
    begun: bool,
}

impl Parser {
    /// Takes the stream's next bytes and appends the events that they complete.
    pub fn feed(&mut self, mut bytes: &[u8], events: &mut Vec<Event>) -> Result<(), TooLong> {
        if bytes.is_empty() {
            return Ok(());
        }
        if std::mem::take(&mut self.after_return) && bytes[0] == b'\n' {
            bytes = &bytes[1..];
        }
        while let Some(end) = bytes.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
            self.append(&bytes[..end])?;
            self.end_line(events);
            let returned = bytes[end] == b'\r';
            bytes = &bytes[end + 1..];
            match bytes.first() {
                Some(b'\n') if returned => bytes = &bytes[1..],
                None => self.after_return = returned,
                _ => {}
            }
        }
        self.append(bytes)
    }

    /// The stream has ended. An event that lacks only its empty line counts: some servers close after `data: [DONE]`.
    pub fn finish(mut self, events: &mut Vec<Event>) {
        if !self.line.is_empty() {
            self.end_line(events);
        }
        self.dispatch(events);
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), TooLong> {
        let held = self.line.len() + self.data.as_ref().map_or(0, String::len) + self.name.len();
        if held + bytes.len() > MOST_EVENT_BYTES {
            return Err(TooLong);
        }
        self.line.extend_from_slice(bytes);
        Ok(())
    }

    fn end_line(&mut self, events: &mut Vec<Event>) {
        let bytes = std::mem::take(&mut self.line);
        let mut line = bytes.as_slice();
        if !std::mem::replace(&mut self.begun, true) {
            line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
        }
        if line.is_empty() {
            self.dispatch(events);
        } else {
            let text = String::from_utf8_lossy(line);
            let (field, value) = text.split_once(':').unwrap_or((&text, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "data" => match &mut self.data {
                    Some(data) => {
                        data.push('\n');
                        data.push_str(value);
                    }
                    None => self.data = Some(value.to_owned()),
                },
                "event" => self.name = value.to_owned(),
                // Comments have an empty name; `id` and `retry` are for those who connect again.
                _ => {}
            }
        }
        self.line = bytes;
        self.line.clear();
    }

    fn dispatch(&mut self, events: &mut Vec<Event>) {
        let name = std::mem::take(&mut self.name);
        if let Some(data) = self.data.take() {
            events.push(Event { name, data });
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(chunks: &[&[u8]]) -> Vec<(String, String)> {
        let (mut parser, mut events) = (Parser::default(), Vec::new());
        for chunk in chunks {
            parser.feed(chunk, &mut events).unwrap();
        }
        parser.finish(&mut events);
        events.into_iter().map(|event| (event.name, event.data)).collect()
    }

    fn datas(text: &str) -> Vec<String> {
        parsed(&[text.as_bytes()]).into_iter().map(|(_, data)| data).collect()
    }

    #[test]
    fn events_end_with_an_empty_line_of_any_kind() {
        for end in ["\n", "\r", "\r\n"] {
            assert_eq!(datas(&["data: a", "", "data:b", "", ""].join(end)), ["a", "b"], "{end:?}");
        }
    }

    #[test]
    fn comments_and_unknown_fields_are_passed_over_and_data_lines_joined() {
        let text =
            "\u{feff}: keep-alive\n\nid: 1\nevent: error\ndata: one\ndata:  two\nretry: 3\n\nevent: lost\n\ndata\n\n";
        assert_eq!(parsed(&[text.as_bytes()]), [("error".into(), "one\n two".into()), ("".into(), "".into())]);
    }

    #[test]
    fn the_last_event_needs_no_empty_line() {
        assert_eq!(datas("data: 1\n\ndata: [DONE]"), ["1", "[DONE]"]);
    }

    #[test]
    fn a_line_without_an_end_is_refused_and_not_kept() {
        let mut parser = Parser::default();
        let chunk = vec![b'x'; 1 << 16];
        let fed = (0..1000).position(|_| parser.feed(&chunk, &mut Vec::new()).is_err());
        assert_eq!(fed, Some(MOST_EVENT_BYTES / chunk.len()));
        assert!(parser.line.len() <= MOST_EVENT_BYTES);
    }

    #[test]
    fn data_lines_without_an_end_are_refused_too() {
        let (mut parser, mut events) = (Parser::default(), Vec::new());
        let line = format!("data: {}\n", "x".repeat(1000));
        assert!((0..2000).any(|_| parser.feed(line.as_bytes(), &mut events) == Err(TooLong)));
        assert!(events.is_empty());
    }

    proptest! {
        #[test]
        fn wherever_the_bytes_are_cut_the_events_are_the_same(
            lines in prop::collection::vec("(data|event|id|:|)(:|: )?[a-zé字 {}\\[\\]]{0,12}(\n|\r|\r\n|\n\n|\r\n\r\n)", 0..20),
            cuts in prop::collection::vec(0usize..400, 0..12),
        ) {
            let text = lines.concat();
            let bytes = text.as_bytes();
            let mut ends: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            ends.extend([0, bytes.len()]);
            ends.sort_unstable();
            let pieces: Vec<&[u8]> = ends.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
            prop_assert_eq!(parsed(&pieces), parsed(&[bytes]));
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            prop_assert_eq!(parsed(&single), parsed(&[bytes]));
        }
    }
}
