//! What the engine says about a job.

use super::{End, Run, milliseconds};
use crate::{
    engine::{EngineError, EngineEvent},
    jobs::metrics::Outcome,
};
use aitbc_protocol::{job::Finish, resume::Token};

impl Run {
    /// Takes what the engine has told already, so that tokens which came together go out together.
    pub(super) fn take_ready(&mut self) {
        while self.delivery.has_room()
            && let Some(event) = self.generation.as_mut().and_then(|generation| generation.events.try_recv().ok())
        {
            self.event(Some(event));
        }
    }

    pub(super) fn event(&mut self, event: Option<EngineEvent>) {
        match event {
            Some(EngineEvent::Started) => {
                self.job.ticket.started();
                self.timings.queued_ms.get_or_insert(milliseconds(self.job.since.elapsed()));
            }
            Some(EngineEvent::Token { id, text, logprobs }) => {
                if !self.delivery.token(Token { id, text, logprobs }) {
                    self.end(End { finish: Finish::Length, outcome: Outcome::Completed, failure: None });
                }
            }
            Some(EngineEvent::Embeddings(vectors)) => self.delivery.vectors(vectors),
            Some(EngineEvent::Sealed(answer)) => self.delivery.sealed(answer),
            Some(EngineEvent::Finished { finish, text }) => {
                self.delivery.text(&text);
                self.end(match finish {
                    Finish::Stop | Finish::Length => End { finish, outcome: Outcome::Completed, failure: None },
                    Finish::Cancelled => End::cancelled(),
                    Finish::Failed => End::failed("the engine failed"),
                });
            }
            Some(EngineEvent::Failed(error)) => {
                tracing::warn!(%error, "the engine failed");
                self.end(End::failed(told(&error)));
            }
            None => self.end(End::failed("the engine stopped")),
        }
    }
}

/// What the client is told of an engine's failure; the rest is for the owner's log.
fn told(error: &EngineError) -> &'static str {
    match error {
        EngineError::Crashed(_) => "the engine crashed",
        EngineError::NotReady(_) => "the engine was stopped",
        EngineError::ContextTooSmall { .. } => "the request does not fit the model's context",
        EngineError::Unsupported(_) => "the engine does not support the request",
        EngineError::Request(_) => "the request does not fit the model",
        EngineError::UnknownModel(_) | EngineError::Full | EngineError::Memory { .. } | EngineError::Failed(_) => {
            "the engine failed"
        }
    }
}
