//! What a provider that lies makes of its own words: the code behind it is an honest node's, and does not know.

use crate::network::{Protocol, simulated::Tongue};
use aitbc_crypto::{SecretKey, seal};
use aitbc_protocol::{
    Digest, NetworkId, Nonce, Signed,
    gossip::Gossip,
    messages::{QuoteReply, ToClient},
    offer::Heartbeat,
    qos::Served,
    quote::Quote,
    receipt::Receipt,
    sla::verdict,
    wire::{self, HEADER_BYTES, MAX_GOSSIP_BYTES, MAX_JOB_FRAME, MAX_QUOTE_FRAME},
};
use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

/// When all its answers began, by its word.
const BEGAN_MS: u64 = 100;
/// One of so many prices is twice what the rule makes of it.
const DEAR: u64 = 40;

struct Liar {
    key: SecretKey,
    network: NetworkId,
    said: Mutex<Said>,
}

#[derive(Default)]
struct Said {
    quotes: BTreeMap<Nonce, Quote>,
    count: u64,
}

/// The tongue of the provider with this key.
pub(super) fn tongue(key: SecretKey, network: NetworkId) -> Tongue {
    let liar = std::sync::Arc::new(Liar { key, network, said: Mutex::default() });
    let of_gossip = liar.clone();
    Tongue {
        frame: Box::new(move |protocol, frame| match protocol {
            Protocol::Quote => liar.quote(frame),
            Protocol::Job => liar.job(frame),
            _ => None,
        }),
        gossip: Box::new(move |bytes| of_gossip.idle(bytes)),
    }
}

impl Liar {
    fn said(&self) -> std::sync::MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It has nothing to do, whatever its heartbeats say.
    fn idle(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let Ok(Gossip::Heartbeat(signed)) = wire::decode(bytes, MAX_GOSSIP_BYTES) else { return None };
        let beat = Heartbeat { running: 0, queued: 0, ..signed.read_unverified().ok()? };
        let lie = seal(&self.key, &self.network, &beat).ok()?;
        wire::encode(&Gossip::Heartbeat(lie), MAX_GOSSIP_BYTES).ok()
    }

    /// Remembers what it has quoted, and asks for too much now and then.
    fn quote(&self, frame: &[u8]) -> Option<Vec<u8>> {
        let QuoteReply::Quote(signed) = wire::decode(frame.get(HEADER_BYTES..)?, MAX_QUOTE_FRAME).ok()? else {
            return None;
        };
        let mut quote = signed.read_unverified().ok()?;
        let mut said = self.said();
        said.count += 1;
        said.quotes.insert(quote.nonce, quote.clone());
        if !said.count.is_multiple_of(DEAR) {
            return None;
        }
        quote.adjustment.factors.first_mut()?.ppm *= 2;
        quote.max_total = quote.total(quote.max_completion_tokens).ok()?;
        let lie = seal(&self.key, &self.network, &quote).ok()?;
        wire::encode_frame(&QuoteReply::Quote(lie), MAX_QUOTE_FRAME).ok()
    }

    /// Has every answer begin at once.
    fn job(&self, frame: &[u8]) -> Option<Vec<u8>> {
        let lie = match wire::decode(frame.get(HEADER_BYTES..)?, MAX_JOB_FRAME).ok()? {
            ToClient::Chunk(mut chunk) => {
                chunk.sent_ms = chunk.sent_ms.map(|sent_ms| sent_ms.min(BEGAN_MS));
                ToClient::Chunk(chunk)
            }
            ToClient::Finished { receipt, failure, served } => {
                let (receipt, served) = self.receipt(&receipt, &served)?;
                ToClient::Finished { receipt, failure, served }
            }
            _ => return None,
        };
        wire::encode_frame(&lie, MAX_JOB_FRAME).ok()
    }

    fn receipt(
        &self,
        receipt: &Signed<Receipt>,
        served: &Signed<Served>,
    ) -> Option<(Signed<Receipt>, Signed<Served>)> {
        let (mut receipt, served) = (receipt.read_unverified().ok()?, served.read_unverified().ok()?);
        let quote = self.said().quotes.get(&receipt.quote)?.clone();
        receipt.timings.first_token_ms = receipt.timings.first_token_ms.min(BEGAN_MS);
        receipt.penalty = verdict(&quote, &receipt).penalty;
        let receipt = seal(&self.key, &self.network, &receipt).ok()?;
        let served = Served { receipt: Digest::of(receipt.payload()), ..served };
        Some((receipt, seal(&self.key, &self.network, &served).ok()?))
    }
}
