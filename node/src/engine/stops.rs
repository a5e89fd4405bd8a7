//! Text that may be shown: whole characters, and nothing that a stop sequence may still take back.

/// Turns the bytes of tokens into text that is certain, and finds stop sequences.
#[derive(Debug, Default)]
pub(super) struct Text {
    stops: Vec<String>,
    /// Bytes of a character that is not complete; at most 3.
    partial: Vec<u8>,
    /// Complete text that begins a stop sequence; shorter than the longest one.
    held: String,
}

/// What the bytes of one token made certain.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Certain {
    /// Text to show now.
    pub(super) text: String,
    /// A stop sequence is complete: the answer ends after `text`.
    pub(super) stopped: bool,
}

impl Text {
    /// Text that ends at the first of `stops`.
    pub(super) fn new(stops: Vec<String>) -> Self {
        Self { stops, ..Self::default() }
    }

    /// Takes the bytes of one more token. Bytes that no UTF-8 text holds become U+FFFD.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Certain {
        self.partial.extend_from_slice(bytes);
        let mut rest = self.partial.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    self.held.push_str(valid);
                    rest = &[];
                    break;
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    self.held.push_str(std::str::from_utf8(valid).expect("checked up to here"));
                    rest = after;
                    match error.error_len() {
                        Some(length) => {
                            self.held.push(char::REPLACEMENT_CHARACTER);
                            rest = &rest[length..];
                        }
                        None => break,
                    }
                }
            }
        }
        let kept = rest.len();
        self.partial.drain(..self.partial.len() - kept);
        self.release()
    }

    /// What was held back, when no more tokens come.
    pub(super) fn finish(&mut self) -> Certain {
        if !self.partial.is_empty() {
            self.partial.clear();
            self.held.push(char::REPLACEMENT_CHARACTER);
        }
        let mut certain = self.release();
        if !certain.stopped {
            certain.text.push_str(&std::mem::take(&mut self.held));
        }
        certain
    }

    fn release(&mut self) -> Certain {
        if let Some(end) = self.stops.iter().filter_map(|stop| self.held.find(stop.as_str())).min() {
            self.held.truncate(end);
            return Certain { text: std::mem::take(&mut self.held), stopped: true };
        }
        let open = self.open_stop();
        let held = self.held.split_off(self.held.len() - open);
        Certain { text: std::mem::replace(&mut self.held, held), stopped: false }
    }

    /// Length of the longest end of the held text that begins a stop sequence.
    fn open_stop(&self) -> usize {
        let longest = self.stops.iter().map(String::len).max().unwrap_or(0);
        let most = longest.saturating_sub(1).min(self.held.len());
        (1..=most)
            .rev()
            .find(|&length| {
                self.held
                    .get(self.held.len() - length..)
                    .is_some_and(|end| self.stops.iter().any(|stop| stop.len() > length && stop.starts_with(end)))
            })
            .unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// All text of pieces, shown piece by piece.
    fn show(stops: &[&str], pieces: &[&[u8]]) -> (Vec<String>, bool) {
        let mut text = Text::new(stops.iter().map(ToString::to_string).collect());
        let mut shown = Vec::new();
        for piece in pieces {
            let certain = text.push(piece);
            shown.push(certain.text);
            if certain.stopped {
                return (shown, true);
            }
        }
        let last = text.finish();
        shown.push(last.text);
        (shown, last.stopped)
    }

    #[test]
    fn characters_across_tokens_appear_whole() {
        let (shown, _) = show(&[], &[b"a\xf0\x9f", b"\x98", b"\x80b"]);
        assert_eq!(shown, ["a", "", "\u{1f600}b", ""]);
    }

    #[test]
    fn what_is_no_text_becomes_replacement_characters() {
        let (shown, _) = show(&[], &[b"a\xffb\xc3", b"(", b"\xe2\x82"]);
        assert_eq!(shown.concat(), "a\u{fffd}b\u{fffd}(\u{fffd}");
    }

    #[test]
    fn a_stop_sequence_across_tokens_is_never_shown() {
        let (shown, stopped) = show(&["END"], &[b"x E", b"N", b"D y"]);
        assert_eq!(shown, ["x ", "", ""]);
        assert!(stopped);
    }

    #[test]
    fn what_only_began_like_a_stop_sequence_is_shown() {
        assert_eq!(
            show(&["END"], &[b"E", b"N", b"x", b"EN"]),
            (["", "", "ENx", "", "EN"].map(String::from).into(), false)
        );
        // The start moves on inside what is held back.
        assert_eq!(show(&["aab"], &[b"a", b"a", b"a", b"b"]).0.concat(), "a");
    }

    #[test]
    fn the_earliest_stop_sequence_wins() {
        assert_eq!(show(&["lm", "jkl"], &[b"hijklm"]), (vec!["hi".to_owned()], true));
    }

    proptest! {
        #[test]
        fn shown_text_is_the_answer_up_to_the_first_stop(
            answer in "[ab\u{e9}\u{1f600}]{0,40}",
            stops in prop::collection::vec("[ab\u{e9}\u{1f600}]{1,4}", 0..3),
            cuts in prop::collection::vec(1_usize..4, 40),
        ) {
            let mut text = Text::new(stops.clone());
            let (mut rest, mut shown, mut stopped) = (answer.as_bytes(), String::new(), false);
            for cut in cuts {
                if rest.is_empty() { break; }
                let (piece, after) = rest.split_at(cut.min(rest.len()));
                rest = after;
                let certain = text.push(piece);
                shown.push_str(&certain.text);
                prop_assert!(answer.starts_with(&shown));
                if certain.stopped { stopped = true; break; }
                for stop in &stops {
                    // Nothing shown may still grow into a stop sequence.
                    for length in 1..stop.len() {
                        prop_assert!(!stop.is_char_boundary(length) || !shown.ends_with(&stop[..length])
                            || !could_continue(&answer, shown.len(), &stop[length..]));
                    }
                }
            }
            if !stopped && rest.is_empty() {
                let last = text.finish();
                shown.push_str(&last.text);
                stopped = last.stopped;
            }
            let first = stops.iter().filter_map(|stop| answer.find(stop.as_str())).min();
            for stop in &stops {
                prop_assert!(!shown.contains(stop.as_str()));
            }
            if first.is_none() && rest.is_empty() {
                prop_assert!(!stopped);
                prop_assert_eq!(shown, answer);
            } else if stopped {
                prop_assert!(first.is_some());
            }
        }
    }

    fn could_continue(answer: &str, from: usize, rest: &str) -> bool {
        answer.get(from..).is_some_and(|after| after.starts_with(rest))
    }
}
