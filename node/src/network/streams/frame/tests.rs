use super::*;
use aitbc_protocol::wire::{WireError, encode_frame};
use futures::FutureExt;
use proptest::prelude::*;
use tokio::io::DuplexStream;

const LIMIT: usize = 1024 * 1024;
const NODE: NodeId = NodeId([7; 32]);

/// A framed stream and the bare bytes at its other end.
fn framed(buffer: usize) -> (FramedStream, DuplexStream) {
    let (near, far) = tokio::io::duplex(buffer);
    (FramedStream::from_io(NODE, near), far)
}

/// What a stream that holds `bytes` and then ends is read as.
fn read_all(bytes: &[u8], limit: usize) -> Result<Vec<String>, StreamError> {
    let (mut stream, mut far) = framed(bytes.len().max(1));
    async {
        far.write_all(bytes).await.expect("there is room");
        drop(far);
        let mut messages = Vec::new();
        while let Some(message) = stream.receive::<String>(limit).await? {
            messages.push(message);
        }
        Ok(messages)
    }
    .now_or_never()
    .expect("a stream that ended needs no waiting")
}

fn frame(text: &str) -> Vec<u8> {
    encode_frame(&text, LIMIT).expect("fits")
}

#[tokio::test]
async fn both_ends_of_a_pair_talk_and_know_each_other() {
    let (a, b) = (NodeId([1; 32]), NodeId([2; 32]));
    let (mut near, mut far) = FramedStream::pair(a, b);
    assert_eq!((near.peer(), far.peer(), near.connection()), (b, a, None));
    near.send(&"question", LIMIT).await.expect("sent");
    assert_eq!(far.receive::<String>(LIMIT).await.expect("received").as_deref(), Some("question"));
    let (mut reader, mut writer) = far.split();
    writer.send(&"answer", LIMIT).await.expect("sent");
    writer.close().await.expect("closed");
    assert_eq!(near.receive::<String>(LIMIT).await.expect("received").as_deref(), Some("answer"));
    assert!(near.receive::<String>(LIMIT).await.expect("the end").is_none());
    // The other direction is still open.
    near.send(&"thanks", LIMIT).await.expect("sent");
    assert_eq!(reader.receive::<String>(LIMIT).await.expect("received").as_deref(), Some("thanks"));
    drop(near);
    assert!(reader.receive::<String>(LIMIT).await.expect("the end").is_none());
}

#[tokio::test]
async fn a_large_frame_passes_through_a_small_pipe_and_its_buffer_is_freed() {
    let text = "x".repeat(LIMIT - 64);
    let (near, far) = tokio::io::duplex(1000);
    let (mut near, mut far) = (FramedStream::from_io(NODE, near), FramedStream::from_io(NODE, far));
    let (sent, received) = tokio::join!(near.send(&text, LIMIT), far.receive::<String>(LIMIT));
    sent.expect("sent");
    assert_eq!(received.expect("received"), Some(text));
    assert_eq!(far.reader.buffer.capacity(), 0);
}

#[tokio::test]
async fn what_is_announced_and_not_sent_costs_nothing() {
    let (mut stream, mut far) = framed(100_000);
    far.write_all(&(LIMIT as u32).to_be_bytes()).await.expect("there is room");
    assert!(stream.receive::<String>(LIMIT).now_or_never().is_none());
    assert!(stream.reader.buffer.capacity() <= 2 * READ_BYTES);
    far.write_all(&vec![0; 50_000]).await.expect("there is room");
    assert!(stream.receive::<String>(LIMIT).now_or_never().is_none());
    assert!(stream.reader.buffer.capacity() <= 3 * 50_000);
}

#[tokio::test]
async fn an_oversize_frame_is_refused_by_its_header() {
    let (mut stream, mut far) = framed(100);
    far.write_all(&(LIMIT as u32 + 1).to_be_bytes()).await.expect("there is room");
    for _ in 0..2 {
        let error = stream.receive::<String>(LIMIT).now_or_never().expect("at once").expect_err("too large");
        assert!(
            matches!(error, StreamError::Wire(WireError::TooLarge { limit: LIMIT, got }) if got == LIMIT + 1),
            "{error}"
        );
    }
    let error = stream.send(&"x".repeat(200), 100).await.expect_err("too large to send");
    assert!(matches!(error, StreamError::Wire(WireError::TooLarge { .. })));
    stream.send(&"short", 100).await.expect("what was refused left nothing on the stream");
}

#[test]
fn a_frame_that_does_not_decode_is_skipped() {
    let mut bytes = encode_frame(&17_u8, LIMIT).expect("fits");
    bytes.extend(frame("next"));
    let (mut stream, mut far) = framed(1000);
    async {
        far.write_all(&bytes).await.expect("there is room");
        assert!(matches!(stream.receive::<String>(LIMIT).await, Err(StreamError::Wire(WireError::Malformed(_)))));
        assert_eq!(stream.receive::<String>(LIMIT).await.expect("whole").as_deref(), Some("next"));
    }
    .now_or_never()
    .expect("all is there");
}

#[test]
fn other_versions_are_named() {
    let mut bytes = frame("hello");
    bytes[HEADER_BYTES] = 9;
    assert!(matches!(read_all(&bytes, LIMIT), Err(StreamError::Wire(WireError::Version(9)))));
}

#[test]
fn a_slow_writer_is_waited_for_without_losing_a_byte() {
    let (mut stream, mut far) = framed(16);
    let bytes = frame("one byte now and then");
    for (index, byte) in bytes.iter().enumerate() {
        // The caller's patience ends twice before each byte.
        for _ in 0..2 {
            assert!(stream.receive::<String>(LIMIT).now_or_never().is_none(), "after {index} bytes");
        }
        far.write_all(&[*byte]).now_or_never().expect("there is room").expect("open");
    }
    let message = stream.receive::<String>(LIMIT).now_or_never().expect("all is there").expect("whole");
    assert_eq!(message.as_deref(), Some("one byte now and then"));
}

#[tokio::test]
async fn after_a_send_that_was_cut_off_nothing_more_is_sent() {
    let (mut stream, far) = framed(10);
    assert!(stream.send(&"longer than the pipe", LIMIT).now_or_never().is_none());
    assert!(matches!(stream.send(&"x", LIMIT).await, Err(StreamError::Closed(_))));
    drop(far);
}

proptest! {
    #[test]
    fn frames_arrive_however_they_are_cut(
        texts in proptest::collection::vec("[a-z]{0,300}", 1..8),
        cuts in proptest::collection::vec(1..200_usize, 1..50),
    ) {
        let bytes: Vec<u8> = texts.iter().flat_map(|text| frame(text)).collect();
        prop_assert_eq!(&read_all(&bytes, LIMIT).expect("whole"), &texts, "all frames in one read");

        // In pieces, with a receive that is dropped after each.
        let (mut stream, mut far) = framed(bytes.len());
        let mut received: Vec<String> = Vec::new();
        let mut rest = &bytes[..];
        let mut cuts = cuts.iter().cycle();
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(rest.len().min(*cuts.next().expect("endless")));
            rest = after;
            far.write_all(piece).now_or_never().expect("there is room").expect("open");
            while let Some(result) = stream.receive::<String>(LIMIT).now_or_never() {
                received.push(result.expect("whole").expect("a frame"));
            }
        }
        prop_assert_eq!(received, texts);
    }

    #[test]
    fn every_truncation_is_an_error(text in "[a-z]{0,40}") {
        let bytes = frame(&text);
        for length in 1..bytes.len() {
            prop_assert!(matches!(read_all(&bytes[..length], LIMIT), Err(StreamError::Closed(_))));
        }
        prop_assert!(read_all(&[], LIMIT).expect("a clean end").is_empty());
    }

    #[test]
    fn a_wrong_length_is_an_error(text in "[a-z]{0,40}", length in any::<u32>()) {
        let mut bytes = frame(&text);
        let right = u32::try_from(bytes.len() - HEADER_BYTES).expect("small");
        prop_assume!(length != right);
        bytes[..HEADER_BYTES].copy_from_slice(&length.to_be_bytes());
        prop_assert!(read_all(&bytes, 4096).is_err());
    }

    #[test]
    fn no_bit_flip_panics_or_passes_for_two_messages(text in "[a-z]{1,40}", flip in any::<prop::sample::Index>()) {
        let mut bytes = frame(&text);
        let bit = flip.index(bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        if let Ok(messages) = read_all(&bytes, LIMIT) {
            prop_assert_eq!(messages.len(), 1);
            prop_assert!(messages[0] != text);
        }
    }

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = read_all(&bytes, 4096);
    }
}
