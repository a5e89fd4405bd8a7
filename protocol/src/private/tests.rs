use super::*;
use crate::{
    MicroCredits,
    job::{Input, MAX_TOKENS, SpecError, WINDOW_TOKENS},
    price::{Adjustment, TokenPrice, price},
    sealed::{MAX_SEALED_INPUT, MAX_SEALED_OUTPUT},
    text::Line,
    wire,
};
use proptest::prelude::*;

fn sealed(values: u32, bytes: usize) -> Sealed {
    Sealed {
        profile: Line::lossy("high"),
        evaluation_key: Some(Digest([7; 32])),
        values,
        ciphertext: BoundedBytes::new(vec![1; bytes]).expect("few bytes"),
    }
}

fn job(bootstraps: u32) -> JobSpec {
    spec(Line::lossy("digits"), Digest([1; 32]), sealed(64, 600), bootstraps)
}

#[test]
fn a_private_job_counts_values_and_bootstraps() {
    let job = job(42);
    assert_eq!(job.validate(), Ok(()));
    assert_eq!((job.input.max_prompt_tokens(), job.completion_tokens(), job.context_needed(64)), (64, 42, 0));
    let base = TokenPrice { prompt: MicroCredits(1_000), completion: MicroCredits(50_000) };
    assert_eq!(price(&base, &Adjustment::default(), 64, 42), Ok(MicroCredits(64 + 2_100)));
}

#[test]
fn a_linear_model_has_no_bootstraps_and_no_key() {
    let linear = spec(Line::lossy("line"), Digest([1; 32]), Sealed { evaluation_key: None, ..sealed(3, 40) }, 0);
    assert_eq!(linear.validate(), Ok(()));
    assert!(job(0).validate().is_err(), "a key that nothing needs tells who asks");
    let keyless = JobSpec { max_tokens: 1, ..linear };
    assert!(keyless.validate().is_err());
}

#[test]
fn what_a_private_job_cannot_say_is_refused_by_name() {
    let refused = |job: JobSpec, field: &str| {
        let error = job.validate().expect_err(field).to_string();
        assert!(error.contains(field), "{error}");
    };
    let warm = Sampling { temperature: 0.5, ..Sampling::NONE };
    refused(JobSpec { sampling: warm, ..job(1) }, "sampling");
    refused(JobSpec { sampling: Sampling { seed: 1, ..Sampling::NONE }, ..job(1) }, "sampling");
    refused(JobSpec { prefix: vec![1], ..job(8) }, "prefix");
    refused(JobSpec { stop: vec!["x".to_owned()], ..job(1) }, "stop");
    refused(JobSpec { top_logprobs: Some(0), ..job(1) }, "top_logprobs");
    refused(JobSpec { max_tokens: MAX_TOKENS + 1, ..job(1) }, "max_tokens");
    for nothing in [sealed(0, 600), sealed(64, 0)] {
        let empty = JobSpec { input: Input::Sealed(nothing), ..job(1) };
        assert_eq!(empty.validate(), Err(SpecError::EmptyInput));
    }
}

#[test]
fn the_largest_input_fits_a_request_and_the_largest_answer_a_frame() {
    let largest = JobSpec { input: Input::Sealed(sealed(4096, MAX_SEALED_INPUT)), ..job(MAX_TOKENS) };
    assert!(largest.digest().is_ok());
    let bytes = wire::encode_payload(&sealed(1, MAX_SEALED_INPUT), usize::MAX).expect("encodes");
    let longer =
        [&bytes[..bytes.len() - MAX_SEALED_INPUT - 4], &[0x5a, 0, 1, 0, 1], &vec![1; MAX_SEALED_INPUT + 1]];
    assert!(wire::decode_payload::<Sealed>(&longer.concat(), usize::MAX).is_err(), "a byte more is not read");

    let mut kept = crate::resume::Kept::default();
    kept.sealed(BoundedBytes::new(vec![1; MAX_SEALED_OUTPUT]).expect("at the limit"));
    let (chunk, _) = kept.next_chunk().expect("the answer");
    let message = crate::messages::ToClient::Chunk(chunk.clone());
    assert!(wire::encode(&message, wire::MAX_JOB_FRAME).is_ok());
    let part = ToKeeper::Part(BoundedBytes::new(vec![1; MAX_PART]).expect("at the limit"));
    assert!(wire::encode(&part, wire::MAX_FHE_FRAME).is_ok());
}

#[test]
fn nothing_of_an_input_shows() {
    let shown = format!("{:?}", job(3));
    assert!(shown.contains("64 values in 600 bytes") && !shown.contains("1, 1, 1"), "{shown}");
    let part = ToKeeper::Part(BoundedBytes::new(vec![1; 9]).expect("few bytes"));
    assert_eq!(format!("{part:?}"), "Part(9 bytes)");
}

#[test]
fn an_answer_is_bound_after_its_bootstraps_in_a_chunk_of_its_own() {
    let mut kept = crate::resume::Kept::default();
    for _ in 0..3 {
        kept.token(crate::resume::Token { id: None, text: String::new(), logprobs: None });
    }
    kept.sealed(BoundedBytes::new(vec![9; 5]).expect("few bytes"));
    let (first, _) = kept.next_chunk().expect("bootstraps");
    assert_eq!((first.count, first.sealed.len()), (3, 0));
    let (last, _) = kept.next_chunk().expect("the answer");
    assert_eq!((last.first, last.count, last.sealed.len()), (3, 0, 5));
    // What went out is kept to the end of the job, for nothing acknowledges it before.
    kept.acknowledge(3);
    assert!(kept.resume(1, 1).is_ok());
    assert_eq!(kept.next_chunk().map(|(chunk, fresh)| (chunk.sealed.len(), fresh)), Some((5, false)));
}

#[test]
fn a_chunk_without_an_answer_is_written_as_it_was_before_there_were_any() {
    #[derive(Serialize)]
    struct Older {
        first: u32,
        count: u32,
        tokens: Vec<u32>,
        text: String,
        logprobs: Vec<crate::job::Logprobs>,
        embeddings: Vec<Vec<f32>>,
    }
    let older =
        Older { first: 0, count: 1, tokens: vec![], text: String::new(), logprobs: vec![], embeddings: vec![] };
    let mut kept = crate::resume::Kept::default();
    kept.token(crate::resume::Token { id: None, text: String::new(), logprobs: None });
    let (chunk, _) = kept.next_chunk().expect("a token");
    assert_eq!(wire::encode(chunk, 1024), wire::encode(&older, 1024));
    assert_eq!(chunk.count.min(WINDOW_TOKENS), 1);
}

proptest! {
    #[test]
    fn no_key_is_longer_than_its_profile_says(parts in prop::collection::vec(0..2_000_usize, 0..20)) {
        let expected = 9_000;
        let mut got = 0;
        for part in parts {
            match fits(got, part, expected) {
                Ok(sum) => {
                    prop_assert!(part > 0 && sum <= expected && sum == got + part as u64);
                    got = sum;
                }
                Err(refusal) => {
                    let wrong = KeyRefusal::Length { expected, got: got + part as u64 };
                    prop_assert_eq!(refusal, wrong);
                    prop_assert!(part == 0 || got + part as u64 > expected);
                }
            }
        }
    }
}
