//! Server-sent events (WHATWG HTML, section 9.2) as OpenAI's streaming API uses them: lines of `data:`, a blank line
//! between events, `[DONE]` at the end.

use serde::Deserialize;

/// Longest event in bytes.
const MAX_EVENT: usize = 256 * 1024;

/// What one event tells.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// A piece of the answer, possibly empty.
    Piece(Piece),
    /// The end of the stream.
    Done,
}

/// The parts of a chunk that matter here.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) text: String,
    pub(super) finish_reason: Option<String>,
    /// The server's own count of tokens.
    pub(super) usage: Option<Usage>,
}

/// What a server says that a job took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Usage {
    /// Tokens of the prompt.
    pub(crate) prompt_tokens: Option<u32>,
    /// Tokens of the answer.
    pub(crate) completion_tokens: Option<u32>,
}

/// Why a stream cannot be read on. None tells what the server sent: it may quote the prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum EventError {
    #[error("an event has more than {MAX_EVENT} bytes")]
    TooLong,
    #[error("an event is not a chunk of a completion")]
    Malformed,
    #[error("the server reported an error in the stream")]
    Reported,
}

#[derive(Deserialize)]
struct Chunk {
    #[serde(default)]
    choices: Vec<Choice>,
    usage: Option<Usage>,
    error: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    index: u32,
    delta: Option<Delta>,
    text: Option<String>,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Delta {
    content: Option<String>,
}

/// Puts events together out of the pieces in which the network delivers them.
#[derive(Debug, Default)]
pub(super) struct Events {
    buffer: Vec<u8>,
    /// Bytes of the buffer that were looked at and hold no end of line.
    seen: usize,
    data: Vec<u8>,
}

impl Events {
    /// Takes bytes as they came.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole event. `None` until more bytes are pushed.
    pub(super) fn next(&mut self) -> Result<Option<Event>, EventError> {
        loop {
            let Some(end) = self.buffer[self.seen..].iter().position(|byte| *byte == b'\n') else {
                self.seen = self.buffer.len();
                return if self.seen + self.data.len() > MAX_EVENT { Err(EventError::TooLong) } else { Ok(None) };
            };
            let mut line: Vec<u8> = self.buffer.drain(..=self.seen + end).collect();
            self.seen = 0;
            line.pop();
            if line.last() == Some(&b'\r') {
                line.pop();
            }
            if line.is_empty() {
                if self.data.is_empty() {
                    continue;
                }
                return read(&std::mem::take(&mut self.data)).map(Some);
            }
            // Comments and the fields `event`, `id` and `retry` say nothing here.
            let Some(value) = line.strip_prefix(b"data:") else { continue };
            let value = value.strip_prefix(b" ").unwrap_or(value);
            if self.data.len() + value.len() > MAX_EVENT {
                return Err(EventError::TooLong);
            }
            if !self.data.is_empty() {
                self.data.push(b'\n');
            }
            self.data.extend_from_slice(value);
        }
    }
}

fn read(data: &[u8]) -> Result<Event, EventError> {
    if data.trim_ascii() == b"[DONE]" {
        return Ok(Event::Done);
    }
    let chunk: Chunk = serde_json::from_slice(data).map_err(|_| EventError::Malformed)?;
    if chunk.error.is_some() {
        return Err(EventError::Reported);
    }
    let mut piece = Piece { usage: chunk.usage, ..Piece::default() };
    // One answer was asked for; what else a server sends is not it.
    if let Some(choice) = chunk.choices.into_iter().find(|choice| choice.index == 0) {
        piece.text = choice.delta.and_then(|delta| delta.content).or(choice.text).unwrap_or_default();
        piece.finish_reason = choice.finish_reason;
    }
    Ok(Event::Piece(piece))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(pieces: &[&[u8]]) -> Result<Vec<Event>, EventError> {
        let (mut events, mut read) = (Events::default(), Vec::new());
        for piece in pieces {
            events.push(piece);
            while let Some(event) = events.next()? {
                read.push(event);
            }
        }
        Ok(read)
    }

    const STREAM: &str = ": comment\r\n\r\ndata: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\
        \"content\":\"h\u{e9}\"}}],\"usage\":null}\r\n\r\nevent: x\ndata:{\"choices\":[{\"text\":\"b\",\
        \"finish_reason\":\"stop\"}]}\n\ndata: {\"choices\":[],\ndata: \"usage\":{\"completion_tokens\":2}}\n\n\
        data: [DONE]\n\n";

    fn expected() -> Vec<Event> {
        vec![
            Event::Piece(Piece { text: "h\u{e9}".to_owned(), ..Piece::default() }),
            Event::Piece(Piece { text: "b".to_owned(), finish_reason: Some("stop".to_owned()), usage: None }),
            Event::Piece(Piece {
                usage: Some(Usage { prompt_tokens: None, completion_tokens: Some(2) }),
                ..Piece::default()
            }),
            Event::Done,
        ]
    }

    proptest! {
        #[test]
        fn events_do_not_depend_on_how_bytes_arrive(
            mut cuts in proptest::collection::vec(0..STREAM.len(), 0..12),
        ) {
            cuts.extend([0, STREAM.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|cut| &STREAM.as_bytes()[cut[0]..cut[1]]).collect();
            prop_assert_eq!(all(&pieces), Ok(expected()));
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = all(&[b"data: ", &bytes, b"\n\n"]);
        }
    }

    #[test]
    fn what_is_no_chunk_is_an_error() {
        assert_eq!(all(&[b"data: {\"choices\":3}\n\n"]), Err(EventError::Malformed));
        assert_eq!(all(&[b"data: hello\n\n"]), Err(EventError::Malformed));
        assert_eq!(all(&[b"data: {\"error\":{\"message\":\"secret\"}}\n\n"]), Err(EventError::Reported));
        assert_eq!(all(&[b"data: ", &vec![b'x'; MAX_EVENT + 1]]), Err(EventError::TooLong));
        let lines = b"data: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\n".repeat(MAX_EVENT / 30);
        assert_eq!(all(&[&lines]), Err(EventError::TooLong));
    }
}
