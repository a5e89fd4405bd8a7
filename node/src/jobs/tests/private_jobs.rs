//! Private jobs on a real engine: whose key it is, what is computed, and what the receipt says.

use super::*;
use crate::engine::fhe::{
    fixtures::{MODEL, Served, package},
    keys::Offered,
};
use aitbc_crypto::fhe::{ClientKey, Profile};
use aitbc_protocol::{bytes::BoundedBytes, private, sealed::Sealed};

fn private_spec(served: &Served, key: &ClientKey) -> JobSpec {
    let ciphertext = key.encrypt(&package().interface(), &[1.5, 0.5]).unwrap();
    let sealed = Sealed {
        profile: Profile::Fast.name().parse().unwrap(),
        evaluation_key: Some(Digest::of(&key.evaluation_key())),
        values: 2,
        ciphertext: BoundedBytes::new(ciphertext).unwrap(),
    };
    private::spec(MODEL.parse().unwrap(), served.weights(MODEL), sealed, 2)
}

fn private_quote(spec: &JobSpec, nonce: u8) -> Quote {
    let base = quote();
    Quote {
        nonce: Nonce([nonce; 16]),
        request: spec.digest().unwrap(),
        model: spec.model.clone(),
        weights: spec.weights.unwrap(),
        prompt_tokens: 2,
        max_completion_tokens: 2,
        max_total: base.total_of(2, 2).unwrap(),
        ..base
    }
}

/// Opens a job, as its client does, and reads the first answer.
async fn open(provider: &TestProvider, spec: &JobSpec, nonce: u8) -> (FramedStream, ToClient) {
    let quote = signing::seal(&provider_key(), &network(), &private_quote(spec, nonce)).unwrap();
    let (mut client, stream) = FramedStream::pair(client_key().node_id(), provider_key().node_id());
    provider.serve(stream);
    let message = ToProvider::Open { quote, spec: spec.clone() };
    client.send(&message, MAX_JOB_FRAME).await.unwrap();
    let answer = receive(&mut client).await.expect("an answer");
    (client, answer)
}

#[tokio::test]
async fn a_private_job_runs_under_its_client_s_key_alone() {
    let served = Served::start().await;
    let provider = TestProvider::new(served.engine.clone());
    let key = ClientKey::generate(Profile::Fast).unwrap();
    let spec = private_spec(&served, &key);

    // Somebody else has sent it, which is not enough.
    let bytes = key.evaluation_key();
    let keep = |client: NodeId| {
        let keys = served.engine.evaluation_keys();
        let offered = keys.offer(client, Digest::of(&bytes), bytes.len() as u64, now_ms()).unwrap();
        let Offered::Wanted(mut upload) = offered else { panic!("it is new") };
        upload.take(&bytes).unwrap();
        upload.finish(now_ms()).unwrap();
    };
    keep(provider_key().node_id());
    let (_, refused) = open(&provider, &spec, 1).await;
    assert!(matches!(refused, ToClient::Rejected(Rejection::UnknownEvaluationKey)), "{refused:?}");

    keep(client_key().node_id());
    let (mut client, accepted) = open(&provider, &spec, 2).await;
    assert!(matches!(accepted, ToClient::Accepted { .. }), "{accepted:?}");
    let (mut bootstraps, mut answer) = (0, Vec::new());
    let receipt = loop {
        match receive(&mut client).await.expect("it goes on") {
            ToClient::Chunk(chunk) => {
                assert!(chunk.text.is_empty() && chunk.tokens.is_empty());
                bootstraps += chunk.count;
                answer.extend(chunk.sealed.into_vec());
            }
            ToClient::Finished { receipt, failure, .. } => {
                assert_eq!(failure, None);
                break signing::open(&receipt, &network()).unwrap();
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((bootstraps, receipt.completion_tokens, receipt.finish), (2, 2, Finish::Stop));
    assert_eq!(receipt.output, OutputDigest::Sealed(Digest::of(&answer)));
    let seen = Seen { tokens: 2, output: receipt.output, sealed: spec.input.sealed().map(Sealed::work) };
    let checks = receipt.check(&private_quote(&spec, 2), Some(&seen));
    assert!(checks.iter().all(|check| check.passed == Some(true)), "{checks:?}");
    assert_eq!(receipt.engine.name.as_str(), "tfhe");
    let read = key.decrypt(&package().interface(), &answer).unwrap().values[0];
    assert!((read - 1.0).abs() < 0.4, "{read}");
}
