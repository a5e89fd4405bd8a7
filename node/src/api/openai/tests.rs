use super::*;
use crate::routing::{JobFailure, JobUpdate, Wishes};
use aitbc_protocol::{
    Digest, JobId, MicroCredits, NodeId, Nonce,
    job::{Finish, Input, Logprobs, Message, ModelName, Role, TokenLogprob},
    offer::{Device, DeviceKind, Engine},
    price::TokenPrice,
    receipt::{OutputDigest, Receipt, Timings},
    text::Line,
};
use axum::http::StatusCode;
use embeddings::Encoding;
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::sync::{Semaphore, mpsc};

const JOB: JobId = JobId([7; 16]);

fn provider(number: u8) -> NodeId {
    aitbc_crypto::SecretKey::from_bytes(&[number; 32]).node_id()
}

fn line<const MAX: usize>(text: &str) -> Line<MAX> {
    Line::new(text).unwrap()
}

fn delta(text: &str) -> JobUpdate {
    JobUpdate::Delta { text: text.to_owned(), tokens: vec![1], logprobs: vec![] }
}

fn started(number: u8) -> JobUpdate {
    JobUpdate::Started { provider: provider(number), after_ms: 3 }
}

fn finished(finish: Finish) -> JobUpdate {
    JobUpdate::Finished { finish, prompt_tokens: 5, completion_tokens: 2, paid: MicroCredits(9) }
}

fn receipt(number: u8) -> JobUpdate {
    let receipt = Receipt {
        job: JOB,
        client: provider(0),
        quote: Nonce([1; 16]),
        request: Digest([2; 32]),
        model: line("m"),
        weights: Digest([3; 32]),
        engine: Engine { name: line("llama.cpp"), version: line("1") },
        quantisation: line("Q4_1"),
        device: Device { kind: DeviceKind::Cpu, name: line("cpu"), memory_bytes: 0, measured: None },
        sampling: aitbc_protocol::job::Sampling { temperature: 1.0, top_p: 1.0, seed: 1 },
        prompt_tokens: 5,
        completion_tokens: 2,
        output: OutputDigest::Tokens(Digest([4; 32])),
        declared: false,
        finish: Finish::Stop,
        price: TokenPrice { prompt: MicroCredits(1), completion: MicroCredits(1) },
        total: MicroCredits(9),
        penalty: MicroCredits::ZERO,
        admitted_ms: 0,
        timings: Timings::default(),
        sealed: None,
    };
    JobUpdate::Receipt { provider: provider(number), id: Digest([number; 32]), receipt, checks: vec![] }
}

fn logprobs(bytes: &[u8], logprob: f32) -> Logprobs {
    let entry = TokenLogprob { token: 1, bytes: bytes.to_vec(), logprob };
    let other = TokenLogprob { token: 2, bytes: b"no".to_vec(), logprob: f32::NEG_INFINITY };
    Logprobs { chosen: entry.clone(), top: vec![entry, other] }
}

fn running(updates: Vec<JobUpdate>) -> RunningRequest {
    let (sender, receiver) = mpsc::channel(updates.len().max(1));
    for update in updates {
        sender.try_send(update).unwrap();
    }
    RunningRequest { job: JOB, updates: receiver }
}

fn place() -> OwnedSemaphorePermit {
    Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap()
}

fn head(form: Form) -> Head {
    Head { form, job: JOB, model: ModelName::new("m").unwrap(), created: 1_700_000_000 }
}

async fn body(response: Response) -> String {
    let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
    String::from_utf8(bytes.to_vec()).unwrap()
}

async fn answer(form: Form, streaming: Option<Streaming>, updates: Vec<JobUpdate>) -> Response {
    respond(running(updates), place(), head(form), streaming).await.into_response()
}

/// Status and error of a request that is refused.
async fn refusal<T>(parsed: Result<T, Failure>) -> (StatusCode, Value) {
    let response = parsed.err().expect("the request is refused").into_response();
    let status = response.status();
    let document: Value = serde_json::from_str(&body(response).await).unwrap();
    (status, document["error"].clone())
}

fn chat_request(more: &Value) -> Vec<u8> {
    let mut request = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
    request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    request.to_string().into_bytes()
}

/// Snapshots of documents whose fields stand in no order of meaning.
fn sorted() -> insta::internals::SettingsBindDropGuard {
    let mut settings = insta::Settings::clone_current();
    settings.set_sort_maps(true);
    settings.bind_to_scope()
}

#[test]
fn a_chat_request_becomes_a_job() {
    let body = json!({
        "model": "smollm2:135m",
        "messages": [
            {"role": "developer", "content": "be short"},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": "c", "refusal": null, "tool_calls": null, "annotations": []},
        ],
        "stream": true, "stream_options": {"include_usage": true}, "max_completion_tokens": 7, "max_tokens": 7,
        "temperature": 0.5, "top_p": 0.25, "seed": -1, "stop": "end", "logprobs": true, "top_logprobs": 2, "n": 1,
        "user": "u", "metadata": {"a": "b"}, "store": false, "tools": null, "response_format": {"type": "text"},
        "aitbc": {"max_price": 10, "remote_only": true},
    });
    let ask = chat::parse(body.to_string().as_bytes()).unwrap();
    let message = |role, content: &str| Message { role, content: content.to_owned() };
    let spec = &ask.request.spec;
    assert!(
        spec.input
            == Input::Chat(vec![
                message(Role::System, "be short"),
                message(Role::User, "a\nb"),
                message(Role::Assistant, "c"),
            ])
    );
    assert_eq!((spec.max_tokens, spec.top_logprobs, spec.sampling.seed), (7, Some(2), u64::MAX));
    assert_eq!(spec.stop, ["end"]);
    assert_eq!(
        ask.request.wishes,
        Wishes { max_price: Some(MicroCredits(10)), remote_only: true, ..Wishes::default() }
    );
    assert_eq!(ask.streaming, Some(Streaming { include_usage: true }));
}

#[test]
fn defaults_are_openais_and_seeds_differ() {
    let parse = || chat::parse(&chat_request(&json!({}))).unwrap().request.spec;
    let (one, other) = (parse(), parse());
    assert_eq!((one.sampling.temperature, one.sampling.top_p, one.max_tokens), (1.0, 1.0, 512));
    assert_eq!(one.top_logprobs, None);
    assert_ne!(one.sampling.seed, other.sampling.seed);
}

#[tokio::test]
async fn what_a_chat_cannot_have_is_refused_by_name() {
    let image = json!([{"type": "image_url", "image_url": {"url": "data:,"}}]);
    for (more, param, code) in [
        (json!({"n": 2}), "n", "unsupported_parameter"),
        (json!({"tools": [{"type": "function"}]}), "tools", "unsupported_parameter"),
        (json!({"tool_choice": "required"}), "tool_choice", "unsupported_parameter"),
        (json!({"functions": [{}]}), "functions", "unsupported_parameter"),
        (json!({"response_format": {"type": "json_object"}}), "response_format", "unsupported_parameter"),
        (json!({"modalities": ["text", "audio"]}), "modalities", "unsupported_parameter"),
        (json!({"logit_bias": {"1": 5}}), "logit_bias", "unsupported_parameter"),
        (json!({"presence_penalty": 0.5}), "presence_penalty", "unsupported_parameter"),
        (json!({"frequency_penalty": -1}), "frequency_penalty", "unsupported_parameter"),
        (json!({"store": true}), "store", "unsupported_parameter"),
        (
            json!({"messages": [{"role": "user", "content": image}]}),
            "messages[0].content[0].type",
            "unsupported_parameter",
        ),
        (json!({"messages": [{"role": "tool", "content": "x"}]}), "messages[0].role", "unsupported_parameter"),
        (
            json!({"messages": [{"role": "user", "content": "x", "name": "y"}]}),
            "messages[0].name",
            "unsupported_parameter",
        ),
        (
            json!({"messages": [{"role": "user", "content": null}]}),
            "messages[0].content",
            "missing_required_parameter",
        ),
        (json!({"messages": []}), "messages", "invalid_value"),
        (json!({"messages": [{"role": "user", "content": ""}]}), "messages", "invalid_value"),
        (json!({"model": null}), "model", "missing_required_parameter"),
        (json!({"model": ""}), "model", "invalid_value"),
        (json!({"temperature": "hot"}), "temperature", "invalid_value"),
        (json!({"temperature": 2.5}), "temperature", "invalid_value"),
        (json!({"top_p": 0}), "top_p", "invalid_value"),
        (json!({"max_tokens": 0}), "max_tokens", "invalid_value"),
        (json!({"max_tokens": 1_000_000}), "max_tokens", "invalid_value"),
        (json!({"max_tokens": 1, "max_completion_tokens": 2}), "max_completion_tokens", "invalid_value"),
        (json!({"stop": ["a", "b", "c", "d", "e"]}), "stop", "invalid_value"),
        (json!({"stop": ""}), "stop", "invalid_value"),
        (json!({"top_logprobs": 2}), "top_logprobs", "invalid_value"),
        (json!({"logprobs": true, "top_logprobs": 21}), "top_logprobs", "invalid_value"),
        (json!({"stream_options": {"include_usage": true}}), "stream_options", "invalid_value"),
        (json!({"stream": true, "stream_options": {"usage": 1}}), "stream_options.usage", "unknown_parameter"),
        (json!({"aitbc": {"max_prise": 1}}), "aitbc", "invalid_value"),
        (json!({"seed": 1.5}), "seed", "invalid_value"),
    ] {
        let (status, error) = refusal(chat::parse(&chat_request(&more))).await;
        assert_eq!(status, 400, "{more}");
        assert_eq!(
            (error["param"].as_str(), error["code"].as_str()),
            (Some(param), Some(code)),
            "{more}: {error}"
        );
        assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()));
    }
}

#[tokio::test]
async fn unknown_fields_name_the_nearest_known_one() {
    let (status, error) = refusal(chat::parse(&chat_request(&json!({"temprature": 1})))).await;
    assert_eq!(status, 400);
    assert_eq!(error["message"], "temprature is not known: do you mean temperature?");
    let (_, error) = refusal(chat::parse(&chat_request(&json!({"zzz": 1})))).await;
    assert_eq!(error["message"], "zzz is not known");
    let (_, error) = refusal(chat::parse(b"[]")).await;
    assert_eq!(error["code"], "malformed_request");
}

#[tokio::test]
async fn completions_take_one_text() {
    let parse = |more: Value| {
        let mut request = json!({"model": "m", "prompt": "once"});
        request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        completions::parse(request.to_string().as_bytes())
    };
    let spec = parse(json!({"logprobs": 3, "best_of": 1, "echo": false, "suffix": ""})).unwrap().request.spec;
    assert!(spec.input == Input::Text("once".to_owned()));
    assert_eq!(spec.top_logprobs, Some(3));
    assert!(parse(json!({"prompt": ["once"]})).unwrap().request.spec.input == spec.input);
    for (more, param) in [
        (json!({"prompt": ["a", "b"]}), "prompt"),
        (json!({"prompt": [1, 2]}), "prompt"),
        (json!({"prompt": [[1], [2]]}), "prompt"),
        (json!({"prompt": ""}), "prompt"),
        (json!({"echo": true}), "echo"),
        (json!({"suffix": "x"}), "suffix"),
        (json!({"best_of": 3}), "best_of"),
        (json!({"max_completion_tokens": 3}), "max_completion_tokens"),
    ] {
        assert_eq!(refusal(parse(more.clone())).await.1["param"], param, "{more}");
    }
}

#[tokio::test]
async fn embeddings_take_texts() {
    let parse = |more: Value| {
        let mut request = json!({"model": "m", "input": ["a", "b"]});
        request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        embeddings::parse(request.to_string().as_bytes())
    };
    let embed = parse(json!({"encoding_format": "base64"})).unwrap();
    assert_eq!((embed.encoding, embed.inputs), (Encoding::Base64, 2));
    assert_eq!(parse(json!({"input": "a"})).unwrap().inputs, 1);
    for (more, param) in [
        (json!({"input": []}), "input"),
        (json!({"input": ["a", ""]}), "input"),
        (json!({"input": [1, 2]}), "input"),
        (json!({"input": vec!["x"; 65]}), "input"),
        (json!({"dimensions": 3}), "dimensions"),
        (json!({"encoding_format": "hex"}), "encoding_format"),
    ] {
        assert_eq!(refusal(parse(more.clone())).await.1["param"], param, "{more}");
    }
}

#[tokio::test]
async fn a_whole_chat_answer() {
    let updates = vec![
        started(1),
        delta("Hel"),
        JobUpdate::FailedOver { from: provider(1), reason: "gone".to_owned(), kept: 1 },
        started(2),
        delta("lo"),
        receipt(2),
        finished(Finish::Stop),
    ];
    let response = answer(Form::Chat, None, updates).await;
    assert_eq!(response.headers()["x-aitbc-job"], JOB.to_string());
    assert_eq!(response.headers()["x-aitbc-provider"], format!("{}, {}", provider(1), provider(2)));
    assert_eq!(response.headers()["x-aitbc-receipt"], Digest([2; 32]).to_string());
    let mut document: Value = serde_json::from_str(&body(response).await).unwrap();
    document["aitbc"]["providers"] = json!("[providers]");
    let _sorted = sorted();
    insta::assert_json_snapshot!(document, @r#"
    {
      "aitbc": {
        "job": "07070707070707070707070707070707",
        "paid_micro_credits": 9,
        "providers": "[providers]",
        "receipts": [
          "0202020202020202020202020202020202020202020202020202020202020202"
        ]
      },
      "choices": [
        {
          "finish_reason": "stop",
          "index": 0,
          "logprobs": null,
          "message": {
            "content": "Hello",
            "refusal": null,
            "role": "assistant"
          }
        }
      ],
      "created": 1700000000,
      "id": "chatcmpl-07070707070707070707070707070707",
      "model": "m",
      "object": "chat.completion",
      "usage": {
        "completion_tokens": 2,
        "prompt_tokens": 5,
        "total_tokens": 7
      }
    }
    "#);
}

#[tokio::test]
async fn a_whole_completion_with_log_probabilities() {
    let entries = vec![logprobs("é".as_bytes(), -0.5), logprobs(b"\xe2\x98", f32::NAN), logprobs(b"\x83!", -1.0)];
    let updates = vec![
        started(1),
        JobUpdate::Delta { text: "é☃!".to_owned(), tokens: vec![1, 2, 3], logprobs: entries },
        finished(Finish::Length),
    ];
    let document: Value =
        serde_json::from_str(&body(answer(Form::Completion, None, updates).await).await).unwrap();
    let _sorted = sorted();
    insta::assert_json_snapshot!(document["choices"], @r#"
    [
      {
        "finish_reason": "length",
        "index": 0,
        "logprobs": {
          "text_offset": [
            0,
            1,
            2
          ],
          "token_logprobs": [
            -0.5,
            -9999.0,
            -1.0
          ],
          "tokens": [
            "é",
            "bytes:\\xe2\\x98",
            "bytes:\\x83\\x21"
          ],
          "top_logprobs": [
            {
              "no": -9999.0,
              "é": -0.5
            },
            {
              "bytes:\\xe2\\x98": -9999.0,
              "no": -9999.0
            },
            {
              "bytes:\\x83\\x21": -1.0,
              "no": -9999.0
            }
          ]
        },
        "text": "é☃!"
      }
    ]
    "#);
}

#[tokio::test]
async fn a_streamed_chat() {
    let updates = vec![
        started(1),
        delta(""),
        delta("Hi\n"),
        JobUpdate::Delta { text: "!".to_owned(), tokens: vec![2], logprobs: vec![logprobs(b"!", -0.25)] },
        receipt(1),
        finished(Finish::Stop),
    ];
    let response = answer(Form::Chat, Some(Streaming { include_usage: true }), updates).await;
    assert_eq!(response.headers()["content-type"], "text/event-stream; charset=utf-8");
    assert_eq!(response.headers()["x-aitbc-provider"], provider(1).to_string());
    let text = body(response).await.replace(&provider(1).to_string(), "[provider]");
    insta::assert_snapshot!(text, @r#"
    data: {"id":"chatcmpl-07070707070707070707070707070707","object":"chat.completion.chunk","created":1700000000,"model":"m","choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}],"usage":null}

    data: {"id":"chatcmpl-07070707070707070707070707070707","object":"chat.completion.chunk","created":1700000000,"model":"m","choices":[{"index":0,"delta":{"content":"Hi\n"},"logprobs":null,"finish_reason":null}],"usage":null}

    data: {"id":"chatcmpl-07070707070707070707070707070707","object":"chat.completion.chunk","created":1700000000,"model":"m","choices":[{"index":0,"delta":{"content":"!"},"logprobs":{"content":[{"token":"!","logprob":-0.25,"bytes":[33],"top_logprobs":[{"token":"!","logprob":-0.25,"bytes":[33]},{"token":"no","logprob":-9999.0,"bytes":[110,111]}]}],"refusal":null},"finish_reason":null}],"usage":null}

    data: {"id":"chatcmpl-07070707070707070707070707070707","object":"chat.completion.chunk","created":1700000000,"model":"m","choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}],"usage":null}

    data: {"id":"chatcmpl-07070707070707070707070707070707","object":"chat.completion.chunk","created":1700000000,"model":"m","choices":[],"usage":{"prompt_tokens":5,"completion_tokens":2,"total_tokens":7},"aitbc":{"job":"07070707070707070707070707070707","providers":["[provider]"],"receipts":["0101010101010101010101010101010101010101010101010101010101010101"],"paid_micro_credits":9}}

    data: [DONE]
    "#);
}

#[tokio::test]
async fn a_streamed_completion_without_usage() {
    let updates = vec![started(1), delta("a"), delta("b"), finished(Finish::Length)];
    let text = body(answer(Form::Completion, Some(Streaming { include_usage: false }), updates).await).await;
    insta::assert_snapshot!(text.replace(&provider(1).to_string(), "[provider]"), @r#"
    data: {"id":"cmpl-07070707070707070707070707070707","object":"text_completion","created":1700000000,"model":"m","choices":[{"index":0,"text":"a","logprobs":null,"finish_reason":null}]}

    data: {"id":"cmpl-07070707070707070707070707070707","object":"text_completion","created":1700000000,"model":"m","choices":[{"index":0,"text":"b","logprobs":null,"finish_reason":null}]}

    data: {"id":"cmpl-07070707070707070707070707070707","object":"text_completion","created":1700000000,"model":"m","choices":[{"index":0,"text":"","logprobs":null,"finish_reason":"length"}],"aitbc":{"job":"07070707070707070707070707070707","providers":["[provider]"],"receipts":[],"paid_micro_credits":9}}

    data: [DONE]
    "#);
}

#[tokio::test]
async fn a_stream_that_fails_before_its_first_token_has_the_status_of_the_failure() {
    let failure = JobFailure::NoProvider {
        model: line("m"),
        message: "none within 400 ms".to_owned(),
        ruled_out: Vec::new(),
    };
    let updates = vec![started(1), JobUpdate::Failed(failure)];
    let response = answer(Form::Chat, Some(Streaming { include_usage: false }), updates).await;
    assert_eq!(response.status(), 503);
    let document: Value = serde_json::from_str(&body(response).await).unwrap();
    assert_eq!(document["error"]["code"], "no_provider");
    assert_eq!(document["error"]["message"], "no provider for m: none within 400 ms");
}

#[tokio::test]
async fn a_stream_that_fails_later_ends_with_an_error_event() {
    let failure = JobFailure::Failed { message: "all left".to_owned() };
    let updates = vec![started(1), delta("a"), JobUpdate::Failed(failure)];
    let response = answer(Form::Chat, Some(Streaming { include_usage: false }), updates).await;
    assert_eq!(response.status(), 200);
    let text = body(response).await;
    let last = text.trim_end().rsplit("\n\n").next().unwrap().strip_prefix("data: ").unwrap();
    assert_eq!(serde_json::from_str::<Value>(last).unwrap()["error"]["code"], "job_failed");
    assert!(!text.contains("[DONE]"));
}

#[tokio::test]
async fn a_job_that_ends_without_a_word_is_an_error() {
    assert_eq!(answer(Form::Chat, None, vec![started(1), delta("a")]).await.status(), 500);
    assert_eq!(answer(Form::Chat, None, vec![started(1), finished(Finish::Failed)]).await.status(), 502);
}

#[tokio::test]
async fn an_answer_without_measure_is_refused() {
    let (sender, updates) = mpsc::channel(1);
    let flood = tokio::spawn(async move { while sender.send(delta(&"x".repeat(1 << 20))).await.is_ok() {} });
    let request = RunningRequest { job: JOB, updates };
    let response = respond(request, place(), head(Form::Chat), None).await.into_response();
    assert_eq!(response.status(), 502);
    flood.await.unwrap();
}

#[tokio::test]
async fn vectors_come_as_numbers_or_base64() {
    let updates =
        |vectors| vec![started(1), JobUpdate::Embeddings { vectors }, receipt(1), finished(Finish::Stop)];
    let document = async |vectors, encoding, inputs| {
        let answer = Reader::new(running(updates(vectors)), place()).whole().await.unwrap();
        embeddings::document(&answer, "m", encoding, inputs)
    };
    let read = |bytes: Vec<u8>| serde_json::from_slice::<Value>(&bytes).unwrap();
    let two = vec![vec![1.0, -0.5], vec![0.25, 2.0]];
    let mut floats = read(document(two.clone(), Encoding::Float, 2).await.unwrap());
    floats["aitbc"]["providers"] = json!("[providers]");
    let _sorted = sorted();
    insta::assert_json_snapshot!(floats, @r#"
    {
      "aitbc": {
        "job": "07070707070707070707070707070707",
        "paid_micro_credits": 9,
        "providers": "[providers]",
        "receipts": [
          "0101010101010101010101010101010101010101010101010101010101010101"
        ]
      },
      "data": [
        {
          "embedding": [
            1.0,
            -0.5
          ],
          "index": 0,
          "object": "embedding"
        },
        {
          "embedding": [
            0.25,
            2.0
          ],
          "index": 1,
          "object": "embedding"
        }
      ],
      "model": "m",
      "object": "list",
      "usage": {
        "prompt_tokens": 5,
        "total_tokens": 5
      }
    }
    "#);
    let base64 = read(document(two.clone(), Encoding::Base64, 2).await.unwrap());
    assert_eq!(base64["data"][0]["embedding"], "AACAPwAAAL8=");
    assert!(document(two, Encoding::Float, 3).await.is_err(), "a vector is missing");
    assert!(document(vec![vec![f32::NAN]], Encoding::Float, 1).await.is_err());
}

#[tokio::test]
async fn dropping_an_answer_cancels_its_job() {
    let (sender, updates) = mpsc::channel(4);
    sender.send(delta("a")).await.unwrap();
    let request = RunningRequest { job: JOB, updates };
    let places = Arc::new(Semaphore::new(1));
    let place = places.clone().try_acquire_owned().unwrap();
    let response = respond(request, place, head(Form::Chat), Some(Streaming { include_usage: false })).await;
    assert_eq!(places.available_permits(), 0);
    drop(response);
    sender.closed().await;
    let _free_again = places.acquire().await.unwrap();
}
