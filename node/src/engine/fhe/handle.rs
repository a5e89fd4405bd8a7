//! Private models through the handle of all engines.

use super::{Described, Fhe, keys::KeyStore};
use crate::{
    clock::now_ms,
    engine::{Backend, EngineError, EngineHandle, Generation, check, encrypted},
};
use aitbc_crypto::fhe::Profile;
use aitbc_protocol::{
    NodeId,
    bytes::Digest,
    job::{JobSpec, ModelName},
};

impl EngineHandle {
    /// Starts a private job of `client` with an allowance of `credit` bootstraps; `None` where the client has not sent the
    /// evaluation key that it names.
    pub async fn compute(
        &self,
        client: NodeId,
        spec: JobSpec,
        credit: u32,
    ) -> Result<Option<Generation>, EngineError> {
        check(&spec)?;
        let Backend::Private(model) = self.backend(&spec)? else { return Err(encrypted()) };
        let key = match spec.input.sealed().and_then(|sealed| sealed.evaluation_key) {
            None => None,
            Some(digest) => {
                let (keys, profile) = (self.shared.evaluation_keys.clone(), model.profile());
                let finding = tokio::task::spawn_blocking(move || {
                    let stored = keys.find(&client, digest, profile?.evaluation_key_bytes() as u64)?;
                    stored.touch(now_ms());
                    Some(stored)
                });
                match finding.await.map_err(|error| EngineError::Failed(error.to_string()))? {
                    None => return Ok(None),
                    found => found,
                }
            }
        };
        model.compute(spec, credit, key).map(Some)
    }

    /// Whether `client` has sent the evaluation key that a private job names, if it names one.
    pub(crate) async fn holds_key(&self, client: NodeId, spec: &JobSpec) -> bool {
        let Some(digest) = spec.input.sealed().and_then(|sealed| sealed.evaluation_key) else { return true };
        let Ok(Backend::Private(model)) = self.backend(spec) else { return true };
        let (keys, profile) = (self.shared.evaluation_keys.clone(), model.profile());
        let bytes = profile.map(|profile| profile.evaluation_key_bytes() as u64);
        let finding =
            tokio::task::spawn_blocking(move || bytes.and_then(|bytes| keys.find(&client, digest, bytes)));
        matches!(finding.await, Ok(Some(_)))
    }

    /// Evaluation keys of clients.
    pub(crate) fn evaluation_keys(&self) -> &KeyStore {
        &self.shared.evaluation_keys
    }

    /// What clients of a private model have to know, once it is loaded.
    pub(crate) fn describe(&self, name: &ModelName, weights: Option<&Digest>) -> Option<Described> {
        self.private()
            .find(|model| model.model == *name && weights.is_none_or(|w| model.weights == *w))?
            .describe()
    }

    /// The profile of that name, if a model here computes under keys of it.
    pub(crate) fn profile(&self, name: &str) -> Option<Profile> {
        self.private().filter_map(Fhe::profile).find(|profile| profile.name() == name)
    }

    fn private(&self) -> impl Iterator<Item = &Fhe> {
        self.shared.backends.iter().filter_map(|backend| match backend {
            Backend::Private(model) => Some(model),
            Backend::Child { .. } | Backend::Upstream(_) => None,
        })
    }
}
