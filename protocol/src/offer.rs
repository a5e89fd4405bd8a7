//! What a provider offers, and the heartbeat that keeps the offer alive.

use crate::{
    UnixMillis,
    attestation::exchange::{AttestationResult, MAX_ATTESTED, MAX_POLICIES, PolicyName},
    bandwidth::Bandwidth,
    bytes::Digest,
    coordinates::Coordinate,
    envelope::{Signed, Statement},
    geo::Cell,
    gpu::{challenge::exchange::Shown, measured::Measured},
    identity::NodeId,
    job::ModelName,
    price::TokenPrice,
    private::PrivateOffer,
    text::{Line, bounded_vec},
};
use serde::{Deserialize, Serialize};

/// How long an offer stands without a newer one, in milliseconds.
pub const OFFER_LIFETIME_MS: u64 = 30 * 60 * 1000;
/// How often a provider says that it is there, in milliseconds.
pub const HEARTBEAT_MS: u64 = 30_000;
/// After how long without heartbeat a provider counts as gone, in milliseconds.
pub const GONE_AFTER_MS: u64 = 90_000;
/// Most addresses in an offer.
pub const MAX_ADDRESSES: usize = 8;
/// Most devices in an offer.
pub const MAX_DEVICES: usize = 16;
/// Most models in an offer.
pub const MAX_MODELS: usize = 32;
/// Most results of challenges in an offer.
pub const MAX_SHOWN: usize = 4;
/// Most cells that one request names: as many as a node hears topics.
pub const MAX_CELLS: usize = 32;
/// Most other providers that one answer tells of.
pub const MAX_KNOWN: usize = 32;

/// What kind of processor runs a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceKind {
    /// Graphics processor.
    Gpu,
    /// Central processor.
    Cpu,
    /// Another server that the provider forwards to; what it runs on is not known.
    Upstream,
}

/// A processor of the provider, as its driver names it. Declared, not verified.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// What it is.
    pub kind: DeviceKind,
    /// The driver's name for it.
    pub name: Line<96>,
    /// Memory in bytes that models can use; 0 where unknown.
    pub memory_bytes: u64,
    /// What the provider itself measured on it, not verified; `None` where it has not, or before its driver changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured: Option<Measured>,
}

/// The program that runs a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Engine {
    /// `llama.cpp`, `upstream` for an OpenAI-compatible server, or `tfhe` for private jobs.
    pub name: Line<32>,
    /// Its version.
    pub version: Line<48>,
}

/// One model of an offer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelOffer {
    /// Name.
    pub model: ModelName,
    /// SHA-256 of the weights; of the upstream's name for the model where `declared`.
    pub weights: Digest,
    /// What runs it.
    pub engine: Engine,
    /// Quantisation of the weights, such as `Q4_1`; `unknown` where `declared`.
    pub quantisation: Line<24>,
    /// Where the model truly runs.
    pub device: Device,
    /// Most tokens of prompt and answer together.
    pub context: u32,
    /// Price.
    pub price: TokenPrice,
    /// Measured decoding speed of one stream in milli-tokens a second, or milli-bootstraps; 0 while unknown.
    pub speed: u32,
    /// True where the provider only forwards: the receipt binds texts, and nothing proves which weights answered.
    pub declared: bool,
    /// Set where the model computes on encrypted values, and on nothing else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private: Option<PrivateOffer>,
}

/// What a provider offers. Signed and sent by gossip on change, and by request on `/aitbc/offer/1`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// Grows with every offer of this provider, over restarts too.
    pub sequence: u64,
    /// When it was signed.
    pub issued_ms: UnixMillis,
    /// Until when it stands.
    pub expires_ms: UnixMillis,
    /// Where the provider is, as finely as its owner wants it known.
    pub cell: Cell,
    /// Multiaddresses, best first.
    #[serde(deserialize_with = "bounded_vec::<_, _, MAX_ADDRESSES>")]
    pub addresses: Vec<Line<256>>,
    /// Processors.
    #[serde(deserialize_with = "bounded_vec::<_, _, MAX_DEVICES>")]
    pub devices: Vec<Device>,
    /// Models.
    #[serde(deserialize_with = "bounded_vec::<_, _, MAX_MODELS>")]
    pub models: Vec<ModelOffer>,
    /// Jobs that can run at a time.
    pub slots: u32,
    /// What verifiers have signed about its hardware. Each is worth what its signer is.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "bounded_vec::<_, _, MAX_ATTESTED>"
    )]
    pub attested: Vec<Signed<AttestationResult>>,
    /// Policies that it can prove to meet in zero knowledge, on request; then `attested` is empty.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "bounded_vec::<_, _, MAX_POLICIES>"
    )]
    pub policies: Vec<PolicyName>,
    /// What verifiers have signed about the memory of its GPUs. Each is worth what its signer is.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "bounded_vec::<_, _, MAX_SHOWN>")]
    pub shown: Vec<Signed<Shown>>,
    /// What went over its line, as it measured itself with another node, not verified; `None` where it has not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<Bandwidth>,
    /// Where it is in the plane of round trips; `None` from nodes that do not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub coordinate: Option<Coordinate>,
    /// The aitbc version of the node.
    pub agent: Line<48>,
}

impl Statement for Offer {
    const DOMAIN: &'static str = "aitbc/offer/1";
    const MAX_BYTES: usize = 24 * 1024;
}

/// "Still there, this busy": about 120 bytes with its signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Sequence of the offer that stands.
    #[serde(rename = "s")]
    pub offer: u64,
    /// When it was signed; newer wins.
    #[serde(rename = "t")]
    pub issued_ms: UnixMillis,
    /// Jobs running.
    #[serde(rename = "r")]
    pub running: u32,
    /// Jobs waiting.
    #[serde(rename = "q")]
    pub queued: u32,
}

impl Statement for Heartbeat {
    const DOMAIN: &'static str = "aitbc/heartbeat/1";
    const MAX_BYTES: usize = 128;
}

/// Request on `/aitbc/offer/1`: the newest offer of the peer asked, and those it knows of others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfferRequest {
    /// Cells whose providers are asked for, the most wanted first; empty where only the peer itself is.
    #[serde(default, deserialize_with = "bounded_vec::<_, _, MAX_CELLS>")]
    pub near: Vec<Cell>,
}

/// The newest statements of one provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statements {
    /// Its newest offer.
    pub offer: Signed<Offer>,
    /// Its newest heartbeat, where one is known.
    pub heartbeat: Option<Signed<Heartbeat>>,
}

/// Answer on `/aitbc/offer/1`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfferReply {
    /// The peer's own statements, if it provides anything.
    pub own: Option<Statements>,
    /// Those of other providers in the cells asked for, as far as the peer has heard of them.
    #[serde(default, deserialize_with = "bounded_vec::<_, _, MAX_KNOWN>")]
    pub known: Vec<Statements>,
}

/// Two different offers that one provider signed with one sequence number: proof that it tells people different
/// things.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Equivocation {
    /// One.
    pub first: Signed<Offer>,
    /// The other.
    pub second: Signed<Offer>,
}

/// Why an offer or a heartbeat is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OfferFault {
    /// Past its expiry, or a lifetime longer than allowed.
    #[error("expired, or valid for longer than allowed")]
    Expired,
    /// Signed in the future, beyond the tolerance of clocks.
    #[error("dated in the future: is a clock wrong?")]
    Future,
    /// Older than what is known already.
    #[error("older than the one known")]
    Stale,
    /// A different offer with a known sequence number.
    #[error("two different offers with one sequence number")]
    Equivocation,
    /// A heartbeat for an offer that is not known.
    #[error("heartbeat of an unknown offer")]
    UnknownOffer,
    /// Fields that contradict each other, or an empty list of models.
    #[error("inconsistent offer")]
    Inconsistent,
}

impl Offer {
    /// Judges an offer against the clock and itself; signature and sequence are judged elsewhere.
    pub fn check(&self, now_ms: UnixMillis) -> Result<(), OfferFault> {
        if self.issued_ms > now_ms.saturating_add(crate::CLOCK_TOLERANCE_MS) {
            return Err(OfferFault::Future);
        }
        let lifetime = self.expires_ms.checked_sub(self.issued_ms).ok_or(OfferFault::Inconsistent)?;
        if lifetime > OFFER_LIFETIME_MS || self.expires_ms <= now_ms {
            return Err(OfferFault::Expired);
        }
        if self.models.is_empty() || self.slots == 0 {
            return Err(OfferFault::Inconsistent);
        }
        Ok(())
    }
}

/// The sequence number for the next statement: `max(stored + 1, now)`, so that a node that lost its store still
/// counts upwards.
pub fn next_sequence(stored: Option<u64>, now_ms: UnixMillis) -> u64 {
    stored.map_or(now_ms, |stored| stored.saturating_add(1).max(now_ms))
}

/// What others see of a provider's load, by heartbeat.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Load {
    /// Jobs running.
    pub running: u32,
    /// Jobs waiting.
    pub queued: u32,
}

/// A provider's newest statements as one node knows them.
#[derive(Clone, Debug)]
pub struct KnownOffer {
    /// Who.
    pub provider: NodeId,
    /// What it offers.
    pub offer: std::sync::Arc<Offer>,
    /// How busy it says it is.
    pub load: Load,
    /// When it was last heard, by this node's clock.
    pub heard_ms: UnixMillis,
}
