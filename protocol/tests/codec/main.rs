//! Every message of the network: round trip, unknown fields, truncation, bit flips, sizes.

mod attest;
mod challenge;
mod offers;
mod private;

use aitbc_protocol::messages::{QuoteReply, QuoteRequest, ToClient, ToProvider};
use aitbc_protocol::{
    Digest, JobId, MicroCredits, NodeId, Nonce, Signed,
    bandwidth::{self, Bandwidth, ToAsker, ToHelper},
    coordinates::Coordinate,
    credit::{Settlement, SettlementReply},
    evidence::Evidence,
    geo::{Cell, Location},
    gossip::Gossip,
    gpu::measured::Measured,
    holdback::Audit,
    job::{Chunk, Finish, Input, JobSpec, Logprobs, Message, Rejection, Role, Sampling, TokenLogprob},
    ledger::{LedgerExport, LedgerSums},
    offer::{
        Device, DeviceKind, Engine, Heartbeat, MAX_ADDRESSES, MAX_CELLS, MAX_DEVICES, MAX_MODELS, ModelOffer,
        Offer, OfferReply, OfferRequest, Statements,
    },
    price::{Adjustment, Factor, FactorKind, Inputs, LatencyClass, TokenPrice},
    qos::{Observation, Served, Uptime},
    quote::Quote,
    reach::{Dialled, MAX_CHECKED, ReachReply, ReachRequest, Refusal},
    receipt::{Cheque, OutputDigest, Receipt, Timings},
    terms::Terms,
    text::Line,
    wire::{self, WireError},
};
use proptest::{collection::vec, prelude::*};
use serde::{Serialize, de::DeserializeOwned};
use std::fmt::Debug;

fn line<const MAX: usize>() -> impl Strategy<Value = Line<MAX>> {
    ".{0,40}".prop_map(|text| Line::lossy(&text))
}

prop_compose! {
    fn digest()(bytes: [u8; 32]) -> Digest { Digest(bytes) }
}

prop_compose! {
    fn nonce()(bytes: [u8; 16]) -> Nonce { Nonce(bytes) }
}

prop_compose! {
    fn job_id()(bytes: [u8; 16]) -> JobId { JobId(bytes) }
}

prop_compose! {
    fn node()(bytes: [u8; 32]) -> NodeId { NodeId(bytes) }
}

prop_compose! {
    fn price()(prompt: u64, completion: u64) -> TokenPrice {
        TokenPrice { prompt: MicroCredits(prompt), completion: MicroCredits(completion) }
    }
}

prop_compose! {
    fn cell()(latitude in -90.0..=90.0f64, longitude in -180.0..=180.0f64, precision in 2u8..=7) -> Cell {
        Cell::at(&Location::new(latitude, longitude).expect("in range"), precision)
    }
}

fn role() -> impl Strategy<Value = Role> {
    prop_oneof![Just(Role::System), Just(Role::User), Just(Role::Assistant)]
}

fn input() -> impl Strategy<Value = Input> {
    let message = (role(), ".{0,60}").prop_map(|(role, content)| Message { role, content });
    prop_oneof![
        vec(message, 0..6).prop_map(Input::Chat),
        ".{0,80}".prop_map(Input::Text),
        vec(".{0,40}", 0..4).prop_map(Input::Embed),
        private::sealed().prop_map(Input::Sealed),
    ]
}

prop_compose! {
    fn sampling()(temperature in 0.0..2.0f32, top_p in 0.01..1.0f32, seed: u64) -> Sampling {
        Sampling { temperature, top_p, seed }
    }
}

prop_compose! {
    fn spec()(
        model in line(), weights in proptest::option::of(digest()), input in input(), sampling in sampling(),
        max_tokens: u32, stop in vec(".{1,8}", 0..=4), top_logprobs: Option<u8>, prefix in vec(any::<u32>(), 0..40),
    ) -> JobSpec {
        JobSpec { model, weights, input, sampling, max_tokens, stop, top_logprobs, prefix }
    }
}

prop_compose! {
    fn measured()(
        bandwidth_mb_s: u32, random_mb_s: u32, fp32_gflops: u32, fp16_gflops: Option<u32>, int8_gops: u32,
        measured_ms: u64,
    ) -> Measured {
        Measured { bandwidth_mb_s, random_mb_s, fp32_gflops, fp16_gflops, int8_gops, measured_ms }
    }
}

prop_compose! {
    fn bandwidth()(up: u64, down: u64, measured_ms: u64) -> Bandwidth { Bandwidth { up, down, measured_ms } }
}

prop_compose! {
    fn coordinate()(
        place in (-1_000_000..=1_000_000, -1_000_000..=1_000_000), height in 0..=1_000_000u32, error in 0..=1_000u16,
    ) -> Coordinate {
        Coordinate::new(place, height, error).expect("within bounds")
    }
}

fn to_helper() -> impl Strategy<Value = ToHelper> {
    prop_oneof![
        any::<u32>().prop_map(|blocks| ToHelper::Begin { blocks }),
        vec(any::<u8>(), 0..200).prop_map(ToHelper::Block),
    ]
}

fn to_asker() -> impl Strategy<Value = ToAsker> {
    prop_oneof![
        Just(ToAsker::Go),
        prop_oneof![
            any::<u32>().prop_map(|retry_ms| bandwidth::Refusal::Busy { retry_ms }),
            Just(bandwidth::Refusal::Relayed),
            Just(bandwidth::Refusal::Size),
        ]
        .prop_map(ToAsker::Refused),
        digest().prop_map(|last| ToAsker::Received { last }),
        vec(any::<u8>(), 0..200).prop_map(ToAsker::Block),
    ]
}

prop_compose! {
    fn device()(
        kind in prop_oneof![Just(DeviceKind::Gpu), Just(DeviceKind::Cpu), Just(DeviceKind::Upstream)],
        name in line(), memory_bytes: u64, measured in proptest::option::of(measured()),
    ) -> Device {
        Device { kind, name, memory_bytes, measured }
    }
}

prop_compose! {
    fn engine()(name in line(), version in line()) -> Engine { Engine { name, version } }
}

prop_compose! {
    fn model_offer()(
        model in line(), weights in digest(), engine in engine(), quantisation in line(), device in device(),
        context: u32, price in price(), speed: u32, declared: bool, private in proptest::option::of(private::offer()),
    ) -> ModelOffer {
        ModelOffer { model, weights, engine, quantisation, device, context, price, speed, declared, private }
    }
}

prop_compose! {
    fn offer()(
        sequence: u64, issued_ms: u64, expires_ms: u64, cell in cell(), addresses in vec(line(), 0..=8),
        devices in vec(device(), 0..4), models in vec(model_offer(), 0..4), slots: u32, agent in line(),
        attested in vec(sealed(attest::result()), 0..=2), policies in vec(line(), 0..=2),
        (shown, line, coordinate) in (
            vec(sealed(challenge::shown()), 0..=2), proptest::option::of(bandwidth()), proptest::option::of(coordinate()),
        ),
    ) -> Offer {
        Offer {
            sequence, issued_ms, expires_ms, cell, addresses, devices, models, slots,
            attested, policies, shown, bandwidth: line, coordinate, agent,
        }
    }
}

prop_compose! {
    fn heartbeat()(offer: u64, issued_ms: u64, running: u32, queued: u32) -> Heartbeat {
        Heartbeat { offer, issued_ms, running, queued }
    }
}

fn statements() -> impl Strategy<Value = Statements> {
    (sealed(offer()), proptest::option::of(sealed(heartbeat())))
        .prop_map(|(offer, heartbeat)| Statements { offer, heartbeat })
}

fn latency() -> impl Strategy<Value = LatencyClass> {
    use LatencyClass::{Economy, Fast, Realtime, Standard};
    prop::sample::select(vec![Realtime, Fast, Standard, Economy])
}

prop_compose! {
    fn inputs()(
        latency in latency(), capability: Option<u32>, round_trip_ms: Option<u32>, queue: u32, utilisation: u32,
        cell_utilisation: Option<u32>, (hour, utc_offset_minutes) in any::<(u8, i16)>(),
        (context_used, context) in any::<(u32, u32)>(),
    ) -> Inputs {
        Inputs {
            latency, capability, round_trip_ms, queue, utilisation, cell_utilisation, hour, utc_offset_minutes,
            context_used, context,
        }
    }
}

prop_compose! {
    fn factor()(kind in prop::sample::select(FactorKind::ALL.to_vec()), ppm: u32) -> Factor { Factor { kind, ppm } }
}

prop_compose! {
    fn adjustment()(
        inputs in proptest::option::of(inputs()), factors in vec(factor(), 0..=FactorKind::ALL.len()), electricity: u64,
    ) -> Adjustment {
        Adjustment { inputs, factors, electricity: MicroCredits(electricity) }
    }
}

prop_compose! {
    fn quote()(
        (nonce, client, job, request) in (nonce(), node(), job_id(), digest()),
        (model, weights, price, adjustment) in (line(), digest(), price(), adjustment()),
        prompt_tokens: u32, max_completion_tokens: u32, max_total: u64, window: u32, declared: bool,
        issued_ms: u64, expires_ms: u64, terms in any::<(u32, u32, u32)>(),
        (rate, held, due_ms) in any::<(u32, u64, u64)>(),
    ) -> Quote {
        let (first_token_ms, penalty_from_ms, speed) = terms;
        let terms = Terms { first_token_ms, penalty_from_ms, speed };
        Quote {
            nonce, client, job, request, model, weights, prompt_tokens, max_completion_tokens, price,
            adjustment, terms, audit: Audit { rate, held: MicroCredits(held), due_ms }, max_total: MicroCredits(max_total), window, declared, issued_ms, expires_ms,
        }
    }
}

fn finish() -> impl Strategy<Value = Finish> {
    prop_oneof![Just(Finish::Stop), Just(Finish::Length), Just(Finish::Cancelled), Just(Finish::Failed)]
}

prop_compose! {
    fn receipt()(
        (job, client, quote, request) in (job_id(), node(), nonce(), digest()),
        (model, weights, engine, quantisation) in (line(), digest(), engine(), line()),
        (device, sampling, price, finish) in (device(), sampling(), price(), finish()),
        output in prop_oneof![
            digest().prop_map(OutputDigest::Tokens),
            digest().prop_map(OutputDigest::Text),
            digest().prop_map(OutputDigest::Vectors),
            digest().prop_map(OutputDigest::Sealed),
        ],
        prompt_tokens: u32, completion_tokens: u32, declared: bool, total: u64, admitted_ms: u64,
        (timings, penalty) in (any::<(u64, u64, u64, u64)>(), any::<u64>()),
        sealed in proptest::option::of(private::work()),
    ) -> Receipt {
        let (queued_ms, first_token_ms, total_ms, paused_ms) = timings;
        Receipt {
            job, client, quote, request, model, weights, engine, quantisation, device, sampling, prompt_tokens,
            completion_tokens, output, declared, finish, price, total: MicroCredits(total), admitted_ms,
            penalty: MicroCredits(penalty), timings: Timings { queued_ms, first_token_ms, total_ms, paused_ms }, sealed,
        }
    }
}

prop_compose! {
    fn cheque()(
        provider in node(), sequence: u64, cumulative: u64, job in job_id(), quote in nonce(), job_total: u64,
        tokens: u32, held: u64,
    ) -> Cheque {
        Cheque {
            provider, sequence, cumulative: MicroCredits(cumulative), job, quote,
            job_total: MicroCredits(job_total), tokens, held: MicroCredits(held),
        }
    }
}

prop_compose! {
    fn settlement()(payer in node(), cumulative: u64, issued_ms: u64) -> Settlement {
        Settlement { payer, cumulative: MicroCredits(cumulative), issued_ms }
    }
}

prop_compose! {
    fn ledger_export()(
        lines: u64, digest in digest(), since_ms: u64, issued_ms: u64, jobs: u64, earned: u64, spent: u64, unpaid: u64,
        (refunds_given, refunds_received) in any::<(u64, u64)>(),
    ) -> LedgerExport {
        let sums = LedgerSums {
            jobs, earned: MicroCredits(earned), spent: MicroCredits(spent), unpaid: MicroCredits(unpaid),
            refunds_given: MicroCredits(refunds_given), refunds_received: MicroCredits(refunds_received),
        };
        LedgerExport { lines, digest, since_ms, issued_ms, sums }
    }
}

/// Sealed by nobody: the codec does not look at signatures.
fn sealed<T: Serialize + Debug>(statement: impl Strategy<Value = T>) -> impl Strategy<Value = Signed<T>> {
    (node(), statement, vec(any::<u8>(), 64)).prop_map(|(signer, statement, signature)| {
        let payload = wire::encode_payload(&statement, usize::MAX).expect("encodes");
        Signed::from_parts(signer, signature.try_into().expect("64 bytes"), payload)
    })
}

fn logprob() -> impl Strategy<Value = TokenLogprob> {
    (any::<u32>(), vec(any::<u8>(), 0..8), -50.0..0.0f32).prop_map(|(token, bytes, logprob)| TokenLogprob {
        token,
        bytes,
        logprob,
    })
}

prop_compose! {
    fn chunk()(
        first: u32, count: u32, tokens in vec(any::<u32>(), 0..=64), text in ".{0,60}",
        logprobs in vec((logprob(), vec(logprob(), 0..3)).prop_map(|(chosen, top)| Logprobs { chosen, top }), 0..4),
        embeddings in vec(vec(-1.0..1.0f32, 0..8), 0..3), sealed in private::bytes(),
        sent_ms in proptest::option::of(any::<u64>()),
    ) -> Chunk {
        Chunk { first, count, tokens, text, logprobs, embeddings, sealed, sent_ms }
    }
}

fn rejection() -> impl Strategy<Value = Rejection> {
    prop_oneof![
        Just(Rejection::UnknownModel),
        any::<(u32, u32, u32)>().prop_map(|(running, promised, slots)| Rejection::Full {
            running,
            promised,
            slots
        }),
        any::<u64>().prop_map(|uc| Rejection::Debt(MicroCredits(uc))),
        any::<(u64, u64)>().prop_map(|(needed, left)| Rejection::Credit {
            needed: MicroCredits(needed),
            left: MicroCredits(left)
        }),
        line().prop_map(Rejection::Invalid),
        any::<u32>().prop_map(|retry_ms| Rejection::RateLimited { retry_ms }),
        Just(Rejection::UnknownJob),
        Just(Rejection::UnknownEvaluationKey),
        any::<u32>().prop_map(|newest| Rejection::StaleAttempt { newest }),
    ]
}

fn to_provider() -> impl Strategy<Value = ToProvider> {
    prop_oneof![
        (sealed(quote()), spec()).prop_map(|(quote, spec)| ToProvider::Open { quote, spec }),
        (any::<u32>(), sealed(cheque())).prop_map(|(next, cheque)| ToProvider::Ack { next, cheque }),
        Just(ToProvider::Cancel),
        (job_id(), nonce(), proptest::option::of(sealed(cheque())))
            .prop_map(|(job, quote, cheque)| ToProvider::Settle { job, quote, cheque }),
        (job_id(), nonce(), any::<u32>(), any::<u32>())
            .prop_map(|(job, quote, attempt, next)| ToProvider::Resume { job, quote, attempt, next }),
        Just(ToProvider::Done),
    ]
}

fn to_client() -> impl Strategy<Value = ToClient> {
    prop_oneof![
        any::<u32>().prop_map(|queued| ToClient::Accepted { queued }),
        rejection().prop_map(ToClient::Rejected),
        Just(ToClient::Resumed),
        chunk().prop_map(ToClient::Chunk),
        (sealed(receipt()), proptest::option::of(line()), sealed(served()))
            .prop_map(|(receipt, failure, served)| ToClient::Finished { receipt, failure, served }),
        any::<u64>().prop_map(|total| ToClient::Paid { total: MicroCredits(total) }),
        (any::<u64>(), proptest::option::of(sealed(receipt())))
            .prop_map(|(paid, receipt)| ToClient::Settled { paid: MicroCredits(paid), receipt }),
    ]
}

prop_compose! {
    fn served()(client in node(), receipt in digest(), total: u64, ended_ms: u64) -> Served {
        Served { client, receipt, total: MicroCredits(total), ended_ms }
    }
}

prop_compose! {
    fn observation()(
        served in sealed(served()), first_token_ms: Option<u32>, speed: Option<u32>, total_ms: u32, finish in finish(),
        verified: Option<bool>, uptime in proptest::option::of((any::<u16>(), any::<u16>())), issued_ms: u64,
    ) -> Observation {
        let uptime = uptime.map(|(heard, of)| Uptime { heard, of });
        Observation { served, first_token_ms, speed, total_ms, finish, verified, uptime, issued_ms }
    }
}

fn evidence() -> impl Strategy<Value = Evidence> {
    prop_oneof![
        (sealed(offer()), sealed(offer())).prop_map(|(first, second)| Evidence::Offers(first, second)),
        (sealed(receipt()), sealed(receipt())).prop_map(|(first, second)| Evidence::Receipts(first, second)),
        (sealed(cheque()), sealed(cheque())).prop_map(|(first, second)| Evidence::Cheques(first, second)),
        sealed(quote()).prop_map(Evidence::Quote),
    ]
}

fn gossip() -> impl Strategy<Value = Gossip> {
    prop_oneof![
        sealed(offer()).prop_map(Gossip::Offer),
        sealed(heartbeat()).prop_map(Gossip::Heartbeat),
        sealed(attest::revoke()).prop_map(Gossip::Revoke),
        sealed(observation()).prop_map(Gossip::Observation),
        evidence().prop_map(|evidence| Gossip::Evidence(Box::new(evidence))),
    ]
}

fn reach_request() -> impl Strategy<Value = ReachRequest> {
    prop_oneof![
        Just(ReachRequest::Ping),
        vec(line(), 0..=MAX_CHECKED).prop_map(|addresses| ReachRequest::Check { addresses }),
        (node(), vec(line(), 0..=MAX_CHECKED), any::<bool>())
            .prop_map(|(node, addresses, acquainted)| ReachRequest::Dial { node, addresses, acquainted }),
    ]
}

fn reach_reply() -> impl Strategy<Value = ReachReply> {
    let dialled = (line(), proptest::option::of(line())).prop_map(|(address, error)| Dialled { address, error });
    let refusals = vec![Refusal::Nobody, Refusal::Acquainted, Refusal::Addresses, Refusal::Busy];
    prop_oneof![
        any::<u64>().prop_map(|now_ms| ReachReply::Pong { now_ms }),
        (node(), vec(dialled, 0..=MAX_CHECKED)).prop_map(|(by, results)| ReachReply::Dialled { by, results }),
        proptest::sample::select(refusals).prop_map(ReachReply::Refused),
    ]
}

/// Everything that must hold of any encoded message, whatever its type.
fn check<T: Serialize + DeserializeOwned + Debug>(message: &T, limit: usize, flip: usize, cut: usize) {
    let bytes = wire::encode(message, limit).expect("encodes");
    let back: T = wire::decode(&bytes, limit).expect("own encoding");
    assert_eq!(wire::encode(&back, limit).expect("encodes"), bytes, "the round trip keeps every byte");

    // A frame's header announces exactly the body.
    let frame = wire::encode_frame(message, limit).expect("encodes");
    let (header, body) = frame.split_first_chunk().expect("a header");
    assert_eq!(wire::frame_length(*header, limit), Ok(body.len()));
    assert_eq!(body, bytes);
    assert!(matches!(wire::frame_length(*header, body.len() - 1), Err(WireError::TooLarge { .. })));

    // A cut message is an error, wherever it is cut.
    assert!(wire::decode::<T>(&bytes[..cut % bytes.len()], limit).is_err(), "a truncated message");
    // So is one with something behind it.
    assert!(matches!(wire::decode::<T>(&[&bytes[..], &[0xf6]].concat(), limit), Err(WireError::Trailing(_))));
    // A flipped bit is an error or a value that can be encoded again, never a panic; that no flip passes under a
    // signature is shown where signatures are made.
    let mut flipped = bytes.clone();
    flipped[flip / 8 % bytes.len()] ^= 1 << (flip % 8);
    if let Ok(other) = wire::decode::<T>(&flipped, limit) {
        wire::encode(&other, usize::MAX).expect("what decodes encodes");
    }
    // Another version is refused by name.
    let mut newer = bytes.clone();
    newer[0] = 9;
    assert_eq!(wire::decode::<T>(&newer, limit).err(), Some(WireError::Version(9)));
    // What is over the limit is refused before it is read.
    assert!(matches!(wire::decode::<T>(&bytes, bytes.len() - 1), Err(WireError::TooLarge { .. })));
}

macro_rules! codec {
    ($($name:ident: $strategy:expr, $limit:expr;)*) => {
        proptest! {
            #![proptest_config(ProptestConfig::with_cases(64))]
            $(
                #[test]
                fn $name(message in $strategy, flip: usize, cut: usize) {
                    check(&message, $limit, flip, cut);
                }
            )*
        }
    };
}

codec! {
    gossip_messages: gossip(), wire::MAX_GOSSIP_BYTES;
    offer_requests: vec(cell(), 0..=MAX_CELLS).prop_map(|near| OfferRequest { near }), wire::MAX_OFFER_FRAME;
    offer_replies: (proptest::option::of(statements()), vec(statements(), 0..4))
        .prop_map(|(own, known)| OfferReply { own, known }), wire::MAX_OFFER_FRAME;
    quote_requests: sealed((job_id(), node(), spec(), latency(), any::<u64>())
        .prop_map(|(job, provider, spec, latency, issued_ms)| QuoteRequest { job, provider, spec, latency, issued_ms })),
        wire::MAX_QUOTE_FRAME;
    quote_replies: prop_oneof![
        sealed(quote()).prop_map(QuoteReply::Quote),
        rejection().prop_map(QuoteReply::Rejected),
    ], wire::MAX_QUOTE_FRAME;
    reach_requests: reach_request(), wire::MAX_REACH_FRAME;
    reach_replies: reach_reply(), wire::MAX_REACH_FRAME;
    messages_to_the_provider: to_provider(), wire::MAX_JOB_FRAME;
    messages_to_the_client: to_client(), wire::MAX_JOB_FRAME;
    messages_to_the_helper: to_helper(), wire::MAX_BANDWIDTH_FRAME;
    messages_to_the_asker: to_asker(), wire::MAX_BANDWIDTH_FRAME;
    messages_to_the_keeper: private::to_keeper(), wire::MAX_FHE_FRAME;
    messages_to_the_owner_of_a_key: private::to_key_owner(), wire::MAX_FHE_FRAME;
    messages_to_the_prover: challenge::to_prover(), wire::MAX_CHALLENGE_FRAME;
    messages_to_the_verifier: challenge::to_verifier(), wire::MAX_CHALLENGE_FRAME;
    messages_to_the_attester: attest::to_attester(), wire::MAX_ATTEST_FRAME;
    messages_of_the_attester: attest::to_verifier(), wire::MAX_ATTEST_FRAME;
    statements_claims: attest::claims(), 8192;
    statements_result: attest::result(), 512;
    statements_revoke: attest::revoke(), 128;
    statements_offer: offer(), wire::MAX_OFFER_FRAME;
    statements_quote: quote(), 4096;
    statements_receipt: receipt(), 8192;
    statements_cheque: cheque(), 512;
    settlements: sealed(settlement()), wire::MAX_SETTLEMENT_FRAME;
    settlement_replies: prop_oneof![Just(SettlementReply::Taken), line().prop_map(SettlementReply::Refused)],
        wire::MAX_SETTLEMENT_FRAME;
    statements_settlement: settlement(), 128;
    statements_ledger_export: ledger_export(), 512;
}

proptest! {
    #[test]
    fn garbage_never_panics(bytes in vec(any::<u8>(), 0..400)) {
        let _ = wire::decode::<Gossip>(&bytes, 1024);
        let _ = wire::decode::<ToClient>(&bytes, 1024);
        let _ = wire::decode::<ToProvider>(&bytes, 1024);
        let _ = wire::decode::<QuoteReply>(&bytes, 1024);
        let _ = wire::decode::<ReachReply>(&bytes, 1024);
        let _ = wire::decode::<aitbc_protocol::private::ToKeeper>(&bytes, 1024);
        let _ = wire::decode::<aitbc_protocol::private::ToKeyOwner>(&bytes, 1024);
        let _ = wire::decode_payload::<Offer>(&bytes, 1024);
        let _ = wire::decode_payload::<Receipt>(&bytes, 1024);
    }
}

#[test]
fn unknown_fields_are_ignored() {
    #[derive(Serialize)]
    struct Newer {
        s: u64,
        t: u64,
        r: u32,
        q: u32,
        temperature: Vec<&'static str>,
    }
    let newer = Newer { s: 1, t: 2, r: 3, q: 4, temperature: vec!["unheard", "of"] };
    let bytes = wire::encode(&newer, 1024).expect("encodes");
    let read: Heartbeat = wire::decode(&bytes, 1024).expect("the known part");
    assert_eq!(read, Heartbeat { offer: 1, issued_ms: 2, running: 3, queued: 4 });
}

#[test]
fn a_list_that_claims_to_be_long_costs_nothing() {
    // An array header of 2^32 items, with nothing behind it, where a chunk's tokens stand.
    let mut bytes = vec![wire::VERSION, 0xa1, 0x66];
    bytes.extend_from_slice(b"tokens");
    bytes.extend_from_slice(&[0x9b, 0, 0, 0, 1, 0, 0, 0, 0]);
    assert!(matches!(wire::decode::<Chunk>(&bytes, 1024), Err(WireError::Malformed(_))));
    // The same for a byte string where a signed statement stands.
    let bytes = [wire::VERSION, 0x5b, 0, 0, 0, 1, 0, 0, 0, 0];
    assert!(wire::decode::<Signed<Offer>>(&bytes, 1024).is_err());
}

#[test]
fn deep_nesting_is_an_error() {
    let bytes = [vec![wire::VERSION], vec![0x81; 100_000]].concat();
    assert!(wire::decode::<Gossip>(&bytes, 200_000).is_err());
}

#[test]
fn a_heartbeat_with_its_signature_fits_a_small_packet() {
    let heartbeat = Heartbeat { offer: u64::MAX, issued_ms: u64::MAX, running: 64, queued: 64 };
    let payload = wire::encode_payload(&heartbeat, 128).expect("fits");
    let signed = Signed::<Heartbeat>::from_parts(NodeId([7; 32]), [7; 64], payload);
    let bytes = wire::encode(&Gossip::Heartbeat(signed), 1024).expect("encodes");
    assert!(bytes.len() <= 150, "{} bytes", bytes.len());
}
