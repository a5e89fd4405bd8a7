//! The stream between a job and its client: there, lost for the moment, or given up.

use crate::{
    jobs::metrics::Counted,
    network::{
        FramedStream, StreamError,
        streams::{FrameReader, FrameWriter},
    },
};
use aitbc_protocol::{messages::ToClient, wire};
use futures::future::BoxFuture;
use tokio::time::Instant;

/// Where the client of a job is.
pub(super) enum Link {
    /// At the other end of a stream. Without a reader it has closed its side.
    Up { reader: Option<FrameReader>, writer: Writer },
    /// Away, since then; it may come back on another stream.
    Parked { since: Instant, _counted: Counted },
    /// Away for good.
    Gone,
}

/// The sending side of a stream, one message at a time.
pub(super) enum Writer {
    Idle(FrameWriter),
    /// What comes back is the writer, or nothing where the stream was closed.
    Sending(BoxFuture<'static, Result<Option<FrameWriter>, StreamError>>),
    Closed,
}

impl Writer {
    /// Waits until what is on its way is out; `None` while nothing is. Cancel-safe: the work goes on with the next
    /// call.
    pub(super) async fn sent(&mut self) -> Option<Result<(), StreamError>> {
        let Self::Sending(sending) = self else { return None };
        let sent = sending.await;
        let (writer, result) = match sent {
            Ok(Some(writer)) => (Self::Idle(writer), Ok(())),
            Ok(None) => (Self::Closed, Ok(())),
            Err(error) => (Self::Closed, Err(error)),
        };
        *self = writer;
        Some(result)
    }
}

impl Link {
    /// A stream that starts with `message`.
    pub(super) fn open(stream: FramedStream, message: ToClient) -> Self {
        let (reader, writer) = stream.split();
        let mut link = Self::Up { reader: Some(reader), writer: Writer::Idle(writer) };
        link.send(message);
        link
    }

    /// Both sides of the stream, as far as there is one.
    pub(super) fn sides(&mut self) -> (Option<&mut FrameReader>, Option<&mut Writer>) {
        match self {
            Self::Up { reader, writer } => (reader.as_mut(), Some(writer)),
            Self::Parked { .. } | Self::Gone => (None, None),
        }
    }

    /// True if a message can be sent now.
    pub(super) fn is_idle(&self) -> bool {
        matches!(self, Self::Up { writer: Writer::Idle(_), .. })
    }

    /// True while a message is on its way.
    pub(super) fn is_sending(&self) -> bool {
        matches!(self, Self::Up { writer: Writer::Sending(_), .. })
    }

    pub(super) fn is_parked(&self) -> bool {
        matches!(self, Self::Parked { .. })
    }

    pub(super) fn is_gone(&self) -> bool {
        matches!(self, Self::Gone)
    }

    /// True once both sides have said all they had to say.
    pub(super) fn is_closed(&self) -> bool {
        matches!(self, Self::Up { reader: None, writer: Writer::Closed })
    }

    /// The client has closed its side.
    pub(super) fn client_closed(&mut self) {
        if let Self::Up { reader, .. } = self {
            *reader = None;
        }
    }

    /// Sends a message. Only where the link is idle.
    pub(super) fn send(&mut self, message: ToClient) {
        self.occupy(|mut writer| {
            Box::pin(async move {
                writer.send(&message, wire::MAX_JOB_FRAME).await?;
                Ok(Some(writer))
            })
        });
    }

    /// Says that nothing more comes. Only where the link is idle.
    pub(super) fn close(&mut self) {
        self.occupy(|mut writer| {
            Box::pin(async move {
                writer.close().await?;
                Ok(None)
            })
        });
    }

    fn occupy(
        &mut self,
        work: impl FnOnce(FrameWriter) -> BoxFuture<'static, Result<Option<FrameWriter>, StreamError>>,
    ) {
        if let Self::Up { writer, .. } = self {
            *writer = match std::mem::replace(writer, Writer::Closed) {
                Writer::Idle(idle) => Writer::Sending(work(idle)),
                busy => busy,
            };
        }
    }
}
