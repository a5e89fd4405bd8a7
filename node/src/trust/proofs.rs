//! Asks providers to prove that they meet a policy of the network.

use super::{
    Trust,
    zero_knowledge::{ProofError, ZeroKnowledge},
};
use crate::{
    clock::now_ms,
    network::{FramedStream, NetworkError, NetworkHandle, Protocol, StreamError},
};
use aitbc_protocol::{
    NodeId,
    attestation::exchange::{PolicyName, Presentation, ToAttester, ToVerifier},
    text::Line,
    wire::MAX_ATTEST_FRAME,
};
use libp2p::Multiaddr;
use std::{sync::Arc, time::Duration};
use tokio::time::timeout;

/// How long a proof may take: half a second of work, and those that wait before. Jobs wait for it.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a proof is believed without another, in milliseconds. What is taken back meanwhile comes by gossip.
pub const BELIEVED_MS: u64 = 10 * 60_000;

/// Why a provider is worth nothing more than before.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Its offer names no policy of this network.
    #[error("its offer names no policy of this network's parameters")]
    NoPolicy,
    /// It cannot be reached.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The stream broke.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// It refuses.
    #[error("it refuses: {0}")]
    Refused(Line<240>),
    /// It said something else.
    #[error("it said something else than what was asked")]
    OutOfTurn,
    /// Something was taken back meanwhile.
    #[error("a verifier took its word about it back in the meantime")]
    Overtaken,
    /// The proof does not hold.
    #[error(transparent)]
    Proof(#[from] ProofError),
}

/// Asks for proofs.
#[derive(Clone, Copy, Debug)]
pub struct Asker<'a> {
    /// The network.
    pub network: &'a NetworkHandle,
    /// Where what was proved is taken down.
    pub trust: &'a Trust,
    /// The parameters.
    pub zk: &'a Arc<ZeroKnowledge>,
}

impl Asker<'_> {
    /// Has `provider`, whose offer names `policies`, prove that it meets one; takes it down where it does.
    pub async fn ask(
        &self,
        provider: NodeId,
        addresses: Vec<Multiaddr>,
        policies: &[PolicyName],
    ) -> Result<(), AskError> {
        let policy = self.zk.choose(policies).ok_or(AskError::NoPolicy)?;
        let mut stream = self.network.open(provider, addresses, Protocol::Attest).await?;
        let at_ms = now_ms();
        let request = self.zk.ask(policy, self.trust.taken_back(provider, at_ms), at_ms);
        let asked = request.revoked.clone();
        let exchange = exchange(&mut stream, ToAttester::Prove(request.clone()));
        let shown = timeout(PATIENCE, exchange).await.map_err(|_| StreamError::Timeout(PATIENCE))??;
        let (zk, client) = (Arc::clone(self.zk), self.network.local_id());
        let verified = tokio::task::spawn_blocking(move || zk.verify(&request, client, provider, &shown)).await;
        let nullifier = verified.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?;
        // A provider that is about to be found out could hold its proof back until that was known.
        if self.trust.taken_back(provider, now_ms()) != asked {
            return Err(AskError::Overtaken);
        }
        if let Some(other) = self.trust.proved(provider, nullifier, at_ms, at_ms.saturating_add(BELIEVED_MS)) {
            let (peer, other) = (provider.short(), other.short());
            tracing::warn!(%peer, %other, "two providers show one TPM: both count as less");
        }
        Ok(())
    }
}

async fn exchange(stream: &mut FramedStream, request: ToAttester) -> Result<Presentation, AskError> {
    stream.send(&request, MAX_ATTEST_FRAME).await?;
    match stream.receive(MAX_ATTEST_FRAME).await? {
        Some(ToVerifier::Proof(shown)) => Ok(shown),
        Some(ToVerifier::Refused(reason)) => Err(AskError::Refused(reason)),
        Some(_) => Err(AskError::OutOfTurn),
        None => Err(StreamError::Closed("the provider left".to_owned()).into()),
    }
}
