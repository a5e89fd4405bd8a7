//! What node and engine child say to each other over the child's stdin and stdout: length-prefixed CBOR frames.
//!
//! Neither side trusts the other with its memory: a frame's length is compared with a limit before anything is
//! allocated, and the node takes a child that breaks a rule for crashed.

use aitbc_protocol::{
    job::{Finish, JobSpec, Logprobs},
    wire::{self, WireError},
};
use bytes::{Buf as _, BytesMut};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{io, marker::PhantomData, path::PathBuf};
use tokio_util::codec::Decoder;

/// Largest frame to the child in bytes: a request as large as the network allows, with some room around it.
pub(super) const TO_WORKER_LIMIT: usize = 2 * wire::MAX_QUOTE_FRAME;
/// Largest frame from the child in bytes: 64 vectors of 16,384 dimensions.
pub(super) const FROM_WORKER_LIMIT: usize = 6 * 1024 * 1024;
/// Most texts of one kind in [`Loaded`], so that a hostile model file cannot fill logs.
pub(super) const MAX_WARNINGS: usize = 8;

/// What to load, the first frame of a child's life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Load {
    /// The GGUF file.
    pub(super) path: PathBuf,
    /// Context tokens of each sequence.
    pub(super) context: u32,
    /// Sequences decoded together.
    pub(super) slots: u32,
    /// Threads.
    pub(super) threads: u32,
    /// Layers for the GPU; `None` for all that fit.
    pub(super) gpu_layers: Option<u32>,
    /// Most anonymous memory in bytes, the model file's own size not counted.
    pub(super) memory_limit: Option<u64>,
}

/// What the node tells the child.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ToWorker {
    /// First frame.
    Load(Load),
    /// Asks for the prompt tokens of a request.
    Count {
        /// Number of the question.
        id: u64,
        /// The request.
        spec: JobSpec,
    },
    /// Starts a job.
    Generate {
        /// Number of the job.
        id: u64,
        /// The request.
        spec: JobSpec,
        /// Tokens it may generate before it pauses.
        credit: u32,
    },
    /// Allows more tokens.
    Grant {
        /// The job.
        id: u64,
        /// How many more.
        tokens: u32,
    },
    /// Ends a job at the next step.
    Cancel {
        /// The job.
        id: u64,
    },
    /// Rests between steps, so that the device cools down.
    Pace {
        /// Speed in percent of the full one, 1 to 100.
        percent: u8,
    },
}

/// What the child truly did with the model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Loaded {
    /// The GPU that holds layers, if one does.
    pub(super) gpu: Option<Gpu>,
    /// Layers on the GPU.
    pub(super) gpu_layers: u32,
    /// All layers, the output layer included.
    pub(super) layers: u32,
    /// Context tokens of a sequence.
    pub(super) context: u32,
    /// Sequences decoded together.
    pub(super) slots: u32,
    /// Tokens in the vocabulary.
    pub(super) vocabulary: u32,
    /// Measured speed of one stream in milli-tokens a second.
    pub(super) speed: u32,
    /// `general.architecture` of the file.
    pub(super) architecture: String,
    /// Quantisation by the file's `general.file_type`, where it is a known one.
    pub(super) quantisation: Option<String>,
    /// What the owner should know.
    pub(super) warnings: Vec<String>,
}

/// A GPU as the library that runs on it names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Gpu {
    /// Its name.
    pub(super) name: String,
    /// Its memory in bytes.
    pub(super) memory_bytes: u64,
}

/// Why one job or question fails while the child goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum JobFailure {
    /// Too long for a sequence.
    ContextTooSmall {
        /// Tokens needed.
        needed: u32,
        /// Tokens there are.
        context: u32,
    },
    /// The model cannot do this.
    Unsupported(String),
    /// Anything else.
    Failed(String),
}

/// What the child tells the node.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum FromWorker {
    /// How much of the model is loaded.
    Loading {
        /// In percent.
        percent: u8,
    },
    /// Jobs can come.
    Loaded(Loaded),
    /// The model cannot be loaded; the child ends.
    LoadFailed {
        /// Why.
        reason: String,
    },
    /// Answer to `Count`.
    Counted {
        /// Number of the question.
        id: u64,
        /// Prompt tokens.
        result: Result<u32, JobFailure>,
    },
    /// The job has a sequence, its prompt is being read.
    Started {
        /// The job.
        id: u64,
    },
    /// One token of the answer.
    Token {
        /// The job.
        id: u64,
        /// Its id.
        token: u32,
        /// Text that became certain.
        text: String,
        /// If asked for.
        logprobs: Option<Logprobs>,
    },
    /// Vectors.
    Embeddings {
        /// The job.
        id: u64,
        /// One a text.
        vectors: Vec<Vec<f32>>,
    },
    /// The job's end.
    Finished {
        /// The job.
        id: u64,
        /// Why.
        finish: Finish,
        /// Text held back.
        text: String,
    },
    /// The job's end.
    Failed {
        /// The job.
        id: u64,
        /// Why.
        failure: JobFailure,
    },
}

/// Reads one frame from a blocking stream; `None` at its end between frames.
pub(super) fn read_frame<T: DeserializeOwned>(reader: &mut impl io::Read, limit: usize) -> io::Result<Option<T>> {
    let mut header = [0; wire::HEADER_BYTES];
    let mut filled = 0;
    while filled < header.len() {
        match reader.read(&mut header[filled..]) {
            Ok(0) if filled == 0 => return Ok(None),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let mut body = vec![0; wire::frame_length(header, limit).map_err(io::Error::other)?];
    reader.read_exact(&mut body)?;
    wire::decode(&body, limit).map(Some).map_err(io::Error::other)
}

/// Takes frames of `T` from an asynchronous stream.
#[derive(Debug)]
pub(super) struct Frames<T> {
    limit: usize,
    kind: PhantomData<fn() -> T>,
}

impl<T> Frames<T> {
    /// Frames of at most `limit` bytes.
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, kind: PhantomData }
    }
}

impl<T: DeserializeOwned> Decoder for Frames<T> {
    type Item = T;
    type Error = io::Error;

    fn decode(&mut self, buffer: &mut BytesMut) -> io::Result<Option<T>> {
        let Some(header) = buffer.first_chunk::<{ wire::HEADER_BYTES }>() else { return Ok(None) };
        let length = wire::frame_length(*header, self.limit).map_err(io::Error::other)?;
        let whole = wire::HEADER_BYTES + length;
        if buffer.len() < whole {
            buffer.reserve(whole - buffer.len());
            return Ok(None);
        }
        let item = wire::decode(&buffer[wire::HEADER_BYTES..whole], self.limit).map_err(io::Error::other)?;
        buffer.advance(whole);
        Ok(Some(item))
    }
}

/// A frame to the child.
pub(super) fn to_worker(message: &ToWorker) -> Result<Vec<u8>, WireError> {
    wire::encode_frame(message, TO_WORKER_LIMIT)
}

/// A frame from the child.
pub(super) fn from_worker(message: &FromWorker) -> Result<Vec<u8>, WireError> {
    wire::encode_frame(message, FROM_WORKER_LIMIT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame() -> Vec<u8> {
        from_worker(&FromWorker::Token { id: 7, token: 42, text: "\u{e9}".to_owned(), logprobs: None }).unwrap()
    }

    #[test]
    fn frames_come_whole_from_any_cut() {
        let bytes = [frame(), frame()].concat();
        for cut in 0..bytes.len() {
            let mut decoder = Frames::<FromWorker>::new(FROM_WORKER_LIMIT);
            let mut buffer = BytesMut::from(&bytes[..cut]);
            let mut count = 0;
            while decoder.decode(&mut buffer).unwrap().is_some() {
                count += 1;
            }
            buffer.extend_from_slice(&bytes[cut..]);
            while let Some(message) = decoder.decode(&mut buffer).unwrap() {
                assert!(matches!(message, FromWorker::Token { id: 7, token: 42, .. }));
                count += 1;
            }
            assert_eq!(count, 2);
        }
    }

    #[test]
    fn a_frame_over_the_limit_is_refused_before_it_is_read() {
        let mut decoder = Frames::<FromWorker>::new(64);
        assert!(decoder.decode(&mut BytesMut::from(&[0xff, 0xff, 0xff, 0xff][..])).is_err());
        let mut bytes: &[u8] = &[0xff, 0xff, 0xff, 0xff];
        assert!(read_frame::<FromWorker>(&mut bytes, 64).is_err());
    }

    #[test]
    fn the_end_between_frames_is_no_error_and_inside_one_is() {
        let bytes = frame();
        let mut whole = bytes.as_slice();
        assert!(read_frame::<FromWorker>(&mut whole, FROM_WORKER_LIMIT).unwrap().is_some());
        assert!(read_frame::<FromWorker>(&mut whole, FROM_WORKER_LIMIT).unwrap().is_none());
        for cut in 1..bytes.len() {
            assert!(read_frame::<FromWorker>(&mut &bytes[..cut], FROM_WORKER_LIMIT).is_err());
        }
    }

    proptest! {
        #[test]
        fn altered_frames_never_panic(position in 0_usize..64, flip in 1_u8..=255) {
            let mut bytes = frame();
            let position = position % bytes.len();
            bytes[position] ^= flip;
            let mut decoder = Frames::<FromWorker>::new(FROM_WORKER_LIMIT);
            let mut buffer = BytesMut::from(bytes.as_slice());
            let _ = decoder.decode(&mut buffer);
            // Whatever length the header now tells, no more than the limit is held.
            prop_assert!(buffer.capacity() <= 2 * (FROM_WORKER_LIMIT + wire::HEADER_BYTES));
        }
    }
}
