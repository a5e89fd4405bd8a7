//! Answers `/aitbc/attest/1`: evidence for verifiers, proofs for clients.

use super::{Shared, blocking, collect, standing};
use crate::{
    clock::now_ms,
    network::{
        FramedStream, IncomingStream, StreamError,
        intake::{Busy, Limits},
    },
    storage::StorageError,
    trust::Vouched,
};
use aitbc_crypto::{ear, signing};
use aitbc_protocol::{
    Digest, NodeId,
    attestation::{
        binding,
        exchange::{
            EVIDENCE_PATIENCE_MS, Issued, MAX_ATTESTED, MAX_IDENTITY_BYTES, ProofRequest, ToAttester, ToVerifier,
        },
    },
    bytes::BoundedBytes,
    text::Line,
    wire::{MAX_ATTEST_FRAME, WireError},
};
use std::{sync::Arc, time::Duration};
use tokio::{sync::Semaphore, time::timeout};

/// A quote takes a TPM a second, and a proof a processor half of one.
pub(super) const LIMITS: Limits = Limits { streams: 8, per_peer: 1, burst: 4, interval: Duration::from_secs(5) };
/// How long a peer may take for a message.
const MESSAGE: Duration = Duration::from_secs(20);
/// How long a verifier may take to judge what it was shown.
const VERDICT: Duration = Duration::from_secs(60);
/// How long evidence or a proof may take here, with those that wait before it.
const WORK: Duration = Duration::from_millis(EVIDENCE_PATIENCE_MS - 5_000);

/// Why nothing was shown, or nothing kept.
#[derive(Debug, thiserror::Error)]
enum ServeError {
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("{0}")]
    Refused(String),
    #[error("the verifier found: {0}")]
    Failed(Line<240>),
    #[error("the verifier said something else")]
    OutOfTurn,
}

/// Shows what this node is.
pub(super) struct Server {
    shared: Arc<Shared>,
    /// One TPM: held while it works, and not while a verifier is waited for.
    tpm: Arc<Semaphore>,
    /// One proof at a time.
    proof: Arc<Semaphore>,
    /// Held from reading what was issued until the change is on disk.
    keeping: tokio::sync::Mutex<()>,
}

impl Server {
    pub(super) fn new(shared: Arc<Shared>) -> Arc<Self> {
        let one = || Arc::new(Semaphore::new(1));
        Arc::new(Self { shared, tpm: one(), proof: one(), keeping: tokio::sync::Mutex::default() })
    }

    /// Puts what was issued before a restart, and still stands, into the offer again.
    pub(super) async fn recall(&self) {
        let store = self.shared.store.clone();
        match blocking(move || store.issued()).await {
            Ok(issued) => self.offer(standing(issued, now_ms())),
            Err(error) => tracing::warn!(%error, "what verifiers had issued to this node cannot be read"),
        }
    }

    /// Shows others what was issued: in private only the policies that can be proved with it.
    fn offer(&self, issued: Vec<Issued>) {
        let vouched = if self.shared.config.private {
            let provable = self.shared.zero_knowledge.as_ref().map(|zk| zk.provable(&issued));
            Vouched { attested: Vec::new(), policies: provable.unwrap_or_default() }
        } else {
            let attested = issued.iter().map(|issued| issued.result.clone()).collect();
            Vouched { attested, policies: Vec::new() }
        };
        self.shared.issued.send_replace(issued);
        self.shared.vouched.send_replace(vouched);
    }

    /// Answers one peer.
    pub(super) async fn serve(self: Arc<Self>, incoming: IncomingStream, turn: Result<(), Busy>) {
        let IncomingStream { peer, mut stream } = incoming;
        let result = match turn {
            Ok(()) => self.answer(peer, &mut stream).await,
            Err(Busy { retry_ms }) => Err(ServeError::Refused(format!("asked too often: again in {retry_ms} ms"))),
        };
        match result {
            Ok(()) => {}
            Err(ServeError::Refused(reason)) => {
                tracing::debug!(peer = %peer.short(), %reason, "nothing is shown");
                // Who does not read it has its answer all the same.
                let _ = say(&mut stream, &ToVerifier::Refused(Line::lossy(&reason))).await;
            }
            Err(error @ ServeError::Failed(_)) => {
                tracing::warn!(peer = %peer.short(), %error, "this node's evidence did not hold");
            }
            Err(error) => tracing::info!(peer = %peer.short(), %error, "an attestation came to nothing"),
        }
    }

    async fn answer(&self, peer: NodeId, stream: &mut FramedStream) -> Result<(), ServeError> {
        match receive(stream, MESSAGE).await? {
            ToAttester::Begin => self.show(peer, stream).await,
            ToAttester::Prove(request) => self.prove(peer, stream, request).await,
            _ => Err(ServeError::OutOfTurn),
        }
    }

    /// Shows evidence, and keeps what the verifier makes of it.
    async fn show(&self, peer: NodeId, stream: &mut FramedStream) -> Result<(), ServeError> {
        if self.shared.config.private && !self.issues_credentials(peer) {
            let reason =
                "this node shows its hardware to verifiers of the network's set alone, and proofs to everybody";
            return Err(ServeError::Refused(reason.to_owned()));
        }
        let config = self.shared.config.clone();
        let session = at(&self.tpm, move || collect::Session::begin(config)).await?;
        let identity = session.identity().map(BoundedBytes::<MAX_IDENTITY_BYTES>::new).transpose();
        let identity = identity.map_err(|error| ServeError::Refused(format!("the TPM's keys: {error}")))?;
        say(stream, &ToVerifier::Identity { tpm: identity }).await?;
        let (nonce, credential) = match receive(stream, MESSAGE).await? {
            ToAttester::Challenge { nonce, tpm } => (nonce, tpm),
            ToAttester::Failed(reason) => return Err(ServeError::Failed(reason)),
            _ => return Err(ServeError::OutOfTurn),
        };
        let shared = Arc::clone(&self.shared);
        let collecting =
            move || collect(&shared, &session, nonce, credential.as_ref().map(BoundedBytes::as_slice));
        let evidence = at(&self.tpm, collecting).await??;
        say(stream, &evidence).await?;
        match receive(stream, VERDICT).await? {
            ToAttester::Issued(issued) => self.keep(peer, *issued).await,
            ToAttester::Failed(reason) => {
                self.drop_word_of(peer).await?;
                Err(ServeError::Failed(reason))
            }
            _ => Err(ServeError::OutOfTurn),
        }
    }

    fn issues_credentials(&self, peer: NodeId) -> bool {
        self.shared.zero_knowledge.as_ref().is_some_and(|zk| zk.parameters().nodes().contains(&peer))
    }

    /// Takes a verifier's word onto the disk and into the offer: the newest of each verifier, the newest of all first.
    async fn keep(&self, peer: NodeId, issued: Issued) -> Result<(), ServeError> {
        let me = self.shared.key.node_id();
        let result =
            signing::open(&issued.result, &self.shared.config.network).map_err(|_| ServeError::OutOfTurn)?;
        let token = ear::open(issued.ear.as_str(), now_ms()).map_err(|_| ServeError::OutOfTurn)?;
        let own = issued.result.signer() == peer
            && token.0 == peer
            && result.peer == me
            && result.ear == Digest::of(issued.ear.as_str().as_bytes());
        if !own || !result.stands(now_ms()) {
            return Err(ServeError::OutOfTurn);
        }
        tracing::info!(peer = %peer.short(), tier = %result.tier, score = result.score, "this node was attested");
        self.change(|kept| {
            kept.retain(|known| known.result.signer() != peer);
            kept.insert(0, issued);
        })
        .await
    }

    /// Forgets what a verifier has said, which it has taken back.
    async fn drop_word_of(&self, peer: NodeId) -> Result<(), ServeError> {
        self.change(|kept| kept.retain(|known| known.result.signer() != peer)).await
    }

    /// Changes what was issued, on disk and in the offer. Where it is too much, strangers' words go before those of verifiers
    /// that this node counts on.
    async fn change(&self, change: impl FnOnce(&mut Vec<Issued>)) -> Result<(), ServeError> {
        let _keeping = self.keeping.lock().await;
        let mut kept = standing(self.shared.issued.borrow().clone(), now_ms());
        change(&mut kept);
        kept.sort_by_key(|issued| !self.shared.trust.heeds(issued.result.signer()));
        kept.truncate(MAX_ATTESTED);
        let (store, records) = (self.shared.store.clone(), kept.clone());
        let written = blocking(move || store.put_issued(&records)).await;
        self.offer(kept);
        Ok(written?)
    }

    /// Proves that this node meets a policy that its offer names. Why it does not is nobody else's business: a client that asks
    /// for one policy after the other would read the credential.
    async fn prove(
        &self,
        peer: NodeId,
        stream: &mut FramedStream,
        request: ProofRequest,
    ) -> Result<(), ServeError> {
        let refused = || ServeError::Refused("this node does not prove that now".to_owned());
        let offered = self.shared.vouched.borrow().policies.contains(&request.policy);
        let zk = self.shared.zero_knowledge.clone().filter(|_| offered).ok_or_else(refused)?;
        let issued = standing(self.shared.issued.borrow().clone(), now_ms());
        let me = self.shared.key.node_id();
        let proved = at(&self.proof, move || zk.prove(&issued, me, peer, &request, now_ms())).await?;
        let presentation = proved.map_err(|error| {
            tracing::info!(peer = %peer.short(), %error, "nothing is proved");
            refused()
        })?;
        say(stream, &ToVerifier::Proof(presentation)).await?;
        Ok(())
    }
}

/// Does blocking work at a place, when it is free. The place is given back when the work is done, and not when somebody
/// stops waiting for it.
async fn at<T: Send + 'static>(
    place: &Arc<Semaphore>,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ServeError> {
    let too_busy = || ServeError::Refused("too many ask at the same time: try again in a minute".to_owned());
    let working = async {
        let place = Arc::clone(place).acquire_owned().await.map_err(|_| too_busy())?;
        Ok(blocking(move || {
            let _place = place;
            work()
        })
        .await)
    };
    timeout(WORK, working).await.unwrap_or_else(|_| Err(too_busy()))
}

/// Collects evidence that is bound to `nonce` and this node. Blocks.
fn collect(
    shared: &Shared,
    session: &collect::Session,
    nonce: Digest,
    credential: Option<&[u8]>,
) -> Result<ToVerifier, ServeError> {
    let claims = session.claims(nonce, now_ms());
    let claims = signing::seal(&shared.key, &shared.config.network, &claims)?;
    let bound = binding(&shared.config.network, &nonce.0, shared.key.node_id(), claims.payload());
    let pieces = session.evidence(&bound, credential, shared.collateral.as_ref());
    Ok(ToVerifier::Evidence { claims, pieces })
}

async fn say(stream: &mut FramedStream, message: &ToVerifier) -> Result<(), StreamError> {
    match timeout(MESSAGE, stream.send(message, MAX_ATTEST_FRAME)).await {
        Ok(sent) => sent,
        Err(_) => Err(StreamError::Timeout(MESSAGE)),
    }
}

async fn receive(stream: &mut FramedStream, patience: Duration) -> Result<ToAttester, ServeError> {
    match timeout(patience, stream.receive(MAX_ATTEST_FRAME)).await {
        Ok(Ok(Some(message))) => Ok(message),
        Ok(Ok(None)) => Err(StreamError::Closed("the peer left".to_owned()).into()),
        Ok(Err(error)) => Err(error.into()),
        Err(_) => Err(StreamError::Timeout(patience).into()),
    }
}
