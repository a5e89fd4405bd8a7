//! Engines without processes, for tests of what is asked of them.

use super::{
    Backend, EngineEvent, EngineHandle, EngineModel, EngineState, EngineStatus, Generation, PrivateConfig, Shared,
    loading,
    supervisor::{INBOX, Request},
};
use aitbc_protocol::{
    Digest,
    job::{Finish, JobSpec},
};
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
    let pace = watch::Sender::new(100);
    let shared = Shared {
        status,
        backends,
        pace,
        evaluation_keys: super::fhe::key_store(&PrivateConfig::default()),
        tasks,
        cancel: cancel.clone(),
        _cancel_on_drop: cancel.drop_guard(),
    };
    (EngineHandle { shared: Arc::new(shared) }, noted)
}

/// A ready engine of `model` that says `tokens` tokens to everything, as far as it is allowed, and holds text back to
/// the end: token 7 is the text " 7".
pub(crate) fn saying(model: EngineModel, tokens: u32) -> EngineHandle {
    let (requests, mut inbox) = mpsc::channel(INBOX);
    let (tasks, cancel) = (TaskTracker::new(), CancellationToken::new());
    let speaking = tasks.clone();
    tasks.spawn(async move {
        while let Some(request) = inbox.recv().await {
            match request {
                Request::Count { reply, .. } => reply.send(Ok(1)).expect("somebody waits"),
                Request::Generate { credit, reply, .. } => {
                    let (events, told) = mpsc::channel(INBOX);
                    let (granter, grants) = mpsc::channel(INBOX);
                    speaking.spawn(say(tokens, credit, events, grants));
                    // Whoever asked may have left.
                    let _ = reply.send(Ok(Generation::new(told, granter)));
                }
                Request::Grant { .. } | Request::Cancel { .. } => {}
            }
        }
    });
    let backend = Backend::Child { model: model.model.clone(), weights: model.weights, requests };
    let status = loading(&model.model);
    let status = vec![EngineStatus { state: EngineState::Ready, models: vec![model], ..status }];
    let status = watch::channel(Arc::new(status)).1;
    let backends = vec![backend];
    let pace = watch::Sender::new(100);
    let shared = Shared {
        status,
        backends,
        pace,
        evaluation_keys: super::fhe::key_store(&PrivateConfig::default()),
        tasks,
        cancel: cancel.clone(),
        _cancel_on_drop: cancel.drop_guard(),
    };
    EngineHandle { shared: Arc::new(shared) }
}

async fn say(tokens: u32, mut credit: u32, events: mpsc::Sender<EngineEvent>, mut grants: mpsc::Receiver<u32>) {
    if events.send(EngineEvent::Started).await.is_err() {
        return;
    }
    for id in 0..tokens {
        while credit == 0 {
            let Some(more) = grants.recv().await else { return };
            credit += more;
        }
        credit -= 1;
        let token = EngineEvent::Token { id: Some(id), text: format!(" {id}"), logprobs: None };
        if events.send(token).await.is_err() {
            return;
        }
    }
    let _ = events.send(EngineEvent::Finished { finish: Finish::Stop, text: " end".to_owned() }).await;
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
