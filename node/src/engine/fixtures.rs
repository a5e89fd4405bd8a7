//! Engines without processes, for tests of what is asked of them.

use super::{
    Backend, EngineHandle, EngineModel, EngineState, EngineStatus, Generation, Shared, loading,
    supervisor::{INBOX, Request},
};
use aitbc_protocol::{Digest, job::JobSpec};
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Ready engines of `models`, and what is asked of them: the weights of the engine asked, and the request. They count
/// one token in every prompt and never say one.
pub(crate) fn asked(models: Vec<EngineModel>) -> (EngineHandle, mpsc::Receiver<(Digest, JobSpec)>) {
    let (note, noted) = mpsc::channel(INBOX);
    let (tasks, cancel) = (TaskTracker::new(), CancellationToken::new());
    let mut statuses = Vec::new();
    let mut backends = Vec::new();
    for model in models {
        let (requests, inbox) = mpsc::channel(INBOX);
        backends.push(Backend::Child { model: model.model.clone(), weights: model.weights, requests });
        tasks.spawn(answer(model.weights, inbox, note.clone()));
        let status = loading(&model.model);
        statuses.push(EngineStatus { state: EngineState::Ready, models: vec![model], ..status });
    }
    let status = watch::channel(Arc::new(statuses)).1;
    let shared = Shared { status, backends, tasks, cancel: cancel.clone(), _cancel_on_drop: cancel.drop_guard() };
    (EngineHandle { shared: Arc::new(shared) }, noted)
}

async fn answer(weights: Digest, mut inbox: mpsc::Receiver<Request>, note: mpsc::Sender<(Digest, JobSpec)>) {
    while let Some(request) = inbox.recv().await {
        let spec = match request {
            Request::Count { spec, reply } => {
                reply.send(Ok(1)).expect("somebody waits");
                spec
            }
            Request::Generate { spec, reply, .. } => {
                let generation = Generation::new(mpsc::channel(1).1, mpsc::channel(1).0);
                reply.send(Ok(generation)).expect("somebody waits");
                spec
            }
            Request::Grant { .. } | Request::Cancel { .. } => continue,
        };
        note.send((weights, spec)).await.expect("the test reads on");
    }
}
