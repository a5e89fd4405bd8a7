//! Placeholder until the branch that owns this file is merged.
use super::{EngineError, EngineStatus, Generation, UpstreamConfig};
use aitbc_protocol::job::JobSpec;
use tokio::sync::watch;
#[derive(Debug)]
pub(crate) struct Upstream(watch::Receiver<EngineStatus>);
impl Upstream {
    pub(crate) async fn start(_: UpstreamConfig) -> Upstream {
        todo!()
    }
    pub(crate) fn status(&self) -> watch::Receiver<EngineStatus> {
        self.0.clone()
    }
    pub(crate) async fn count_tokens(&self, _: &JobSpec) -> Result<u32, EngineError> {
        todo!()
    }
    pub(crate) async fn generate(&self, _: JobSpec, _: u32) -> Result<Generation, EngineError> {
        todo!()
    }
}
