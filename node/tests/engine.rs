//! The engine with real child processes and a real model.

#![allow(clippy::unwrap_used, missing_docs)]

use aitbc_node::{
    engine::{
        self, EngineConfig, EngineError, EngineEvent, EngineHandle, EngineState, Generation, fhe::PrivateConfig,
    },
    models::{Installed, Kind, Manifest},
    telemetry::Metrics,
};
use aitbc_protocol::{
    bytes::Digest,
    job::{Finish, Input, JobSpec, Logprobs, Message, ModelName, Role, Sampling},
    offer::DeviceKind,
    text::Line,
};
use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use tokio::sync::{Mutex, MutexGuard};

/// Children are told apart by their parent, so that one test runs at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());
/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(120);

fn model_file() -> PathBuf {
    std::env::var_os("AITBC_TEST_MODEL")
        .map(PathBuf::from)
        .expect("AITBC_TEST_MODEL names no model file: run `make setup`, and the tests through `make test`")
}

fn installed(name: &str, path: &Path) -> Installed {
    Installed {
        manifest: Manifest {
            model: Line::new(name).unwrap(),
            weights: Digest::of(name.as_bytes()),
            size: std::fs::metadata(path).unwrap().len(),
            quantisation: Line::new("unknown").unwrap(),
            licence: Line::new("Apache-2.0").unwrap(),
            sources: Vec::new(),
            kind: Kind::Gguf,
        },
        path: path.to_owned(),
    }
}

struct Running {
    engine: EngineHandle,
    _alone: MutexGuard<'static, ()>,
}

impl std::ops::Deref for Running {
    type Target = EngineHandle;

    fn deref(&self) -> &EngineHandle {
        &self.engine
    }
}

async fn start(models: Vec<Installed>, slots: u32) -> Running {
    let alone = ONE_AT_A_TIME.lock().await;
    let config = EngineConfig {
        models,
        context: 512,
        slots,
        // More would wait for each other where tests run side by side.
        threads: Some(1),
        gpu_layers: None,
        memory_limit: Some(2 << 30),
        private: PrivateConfig::default(),
        upstreams: Vec::new(),
        worker: Some(env!("CARGO_BIN_EXE_aitbc").into()),
    };
    Running { engine: engine::start(config, &Metrics::default()).await.unwrap(), _alone: alone }
}

/// The small model, ready.
async fn ready(slots: u32) -> Running {
    let running = start(vec![installed("smollm2:135m", &model_file())], slots).await;
    wait_ready(&running, 0).await;
    running
}

async fn wait_ready(engine: &EngineHandle, index: usize) {
    let settled = |state: &EngineState| matches!(state, EngineState::Ready | EngineState::Unusable { .. });
    assert_eq!(wait_state(engine, index, settled).await, EngineState::Ready);
}

async fn wait_state(engine: &EngineHandle, index: usize, wanted: impl Fn(&EngineState) -> bool) -> EngineState {
    let mut status = engine.status();
    let found = tokio::time::timeout(PATIENCE, status.wait_for(|all| wanted(&all[index].state))).await;
    let found = found.unwrap_or_else(|_| panic!("still {:?}", engine.status().borrow()[index]));
    found.unwrap()[index].state.clone()
}

fn spec(prompt: &str, max_tokens: u32) -> JobSpec {
    JobSpec {
        model: Line::new("smollm2:135m").unwrap(),
        weights: None,
        input: Input::Chat(vec![Message { role: Role::User, content: prompt.to_owned() }]),
        sampling: Sampling { temperature: 0.0, top_p: 1.0, seed: 1 },
        max_tokens,
        stop: Vec::new(),
        top_logprobs: None,
        prefix: Vec::new(),
    }
}

#[derive(Debug, Default)]
struct Answer {
    tokens: Vec<u32>,
    text: String,
    logprobs: Vec<Logprobs>,
    vectors: Vec<Vec<f32>>,
    finish: Option<Finish>,
}

async fn next(generation: &mut Generation) -> EngineEvent {
    let event = tokio::time::timeout(PATIENCE, generation.events.recv()).await;
    event.expect("an event in time").expect("an event before the end")
}

/// Takes events to the end, or until `tokens` have come.
async fn take(generation: &mut Generation, answer: &mut Answer, tokens: usize) -> Result<(), EngineError> {
    while answer.tokens.len() < tokens {
        match next(generation).await {
            EngineEvent::Started => {}
            EngineEvent::Token { id, text, logprobs } => {
                answer.tokens.push(id.unwrap());
                answer.text.push_str(&text);
                answer.logprobs.extend(logprobs);
            }
            EngineEvent::Embeddings(vectors) => answer.vectors = vectors,
            EngineEvent::Sealed(_) => panic!("no private job runs here"),
            EngineEvent::Finished { finish, text } => {
                answer.text.push_str(&text);
                answer.finish = Some(finish);
                return Ok(());
            }
            EngineEvent::Failed(error) => return Err(error),
        }
    }
    Ok(())
}

async fn answer(engine: &EngineHandle, spec: JobSpec) -> Result<Answer, EngineError> {
    let credit = spec.max_tokens;
    let mut generation = engine.generate(spec, credit).await?;
    let mut answer = Answer::default();
    take(&mut generation, &mut answer, usize::MAX).await?;
    Ok(answer)
}

/// Ids of engine processes that this process has started.
fn children() -> Vec<u32> {
    let own = std::process::id().to_string();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        let Ok(command) = std::fs::read_to_string(entry.path().join("cmdline")) else { continue };
        // After the name in parentheses: state, then parent.
        let parent = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1));
        if parent == Some(own.as_str()) && command.contains("engine-worker") {
            found.push(id);
        }
    }
    found
}

fn signal(id: u32, name: &str) {
    assert!(std::process::Command::new("kill").args([name, &id.to_string()]).status().unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_request_gives_the_same_answer() {
    let engine = ready(2).await;
    let greedy = spec("Name three planets.", 24);
    let first = answer(&engine, greedy.clone()).await.unwrap();
    let second = answer(&engine, greedy).await.unwrap();
    assert_eq!((&first.tokens, &first.text), (&second.tokens, &second.text));
    assert!(!first.text.is_empty() && first.tokens.len() <= 24);

    let mut drawn = spec("Tell me a story.", 24);
    drawn.sampling = Sampling { temperature: 0.9, top_p: 0.9, seed: 42 };
    let first = answer(&engine, drawn.clone()).await.unwrap();
    let second = answer(&engine, drawn.clone()).await.unwrap();
    assert_eq!(first.tokens, second.tokens);
    drawn.sampling.seed = 43;
    assert_ne!(first.tokens, answer(&engine, drawn).await.unwrap().tokens);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_tells_what_runs_where() {
    let engine = ready(2).await;
    let status = engine.status().borrow()[0].clone();
    let model = engine.model(&Line::new("smollm2:135m").unwrap(), None).unwrap();
    assert_eq!(status.models.len(), 1);
    assert_eq!((model.context, model.slots, model.declared), (512, 2, false));
    assert_eq!(model.quantisation.as_str(), "Q4_1");
    assert_eq!(model.engine.name.as_str(), "llama.cpp");
    assert!(model.speed > 1000, "{} milli-tokens a second", model.speed);
    if !cfg!(any(feature = "cuda", feature = "vulkan", feature = "metal")) {
        assert_eq!(model.device.kind, DeviceKind::Cpu);
    }
    assert!(engine.model(&model.model, Some(&Digest([9; 32]))).is_none());

    let mut other = spec("x", 1);
    other.model = ModelName::new("nobody:1b").unwrap();
    assert!(matches!(engine.generate(other, 1).await, Err(EngineError::UnknownModel(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn four_streams_run_together_and_one_joins_in_mid_flight() {
    let engine = ready(4).await;
    let mut first = engine.generate(spec("Count from one to fifty.", 120), 120).await.unwrap();
    let mut long = Answer::default();
    take(&mut first, &mut long, 5).await.unwrap();
    // The others come and go while the first is under way.
    let others = ["What is rain?", "What is snow?", "What is wind?"].map(|prompt| {
        let engine = engine.engine.clone();
        tokio::spawn(async move { answer(&engine, spec(prompt, 12)).await })
    });
    for other in others {
        let other = other.await.unwrap().unwrap();
        assert!(other.finish.is_some() && !other.tokens.is_empty());
    }
    let arrived = first.events.len() + long.tokens.len();
    assert!(arrived < 120, "the first stream ended before those that joined it: {arrived}");
    take(&mut first, &mut long, usize::MAX).await.unwrap();
    assert!(long.finish.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_without_allowance_pauses_and_the_others_go_on() {
    let engine = ready(2).await;
    let whole = answer(&engine, spec("Count from one to twenty.", 30)).await.unwrap();

    let mut paused = engine.generate(spec("Count from one to twenty.", 30), 4).await.unwrap();
    let mut slow = Answer::default();
    take(&mut paused, &mut slow, 4).await.unwrap();
    // A whole other job passes it by.
    assert!(answer(&engine, spec("What is rain?", 20)).await.unwrap().finish.is_some());
    assert!(paused.events.is_empty(), "tokens beyond the allowance");
    paused.grant(3).await;
    take(&mut paused, &mut slow, 7).await.unwrap();
    assert!(answer(&engine, spec("What is snow?", 8)).await.unwrap().finish.is_some());
    assert!(paused.events.is_empty(), "tokens beyond the allowance");
    paused.grant(1000).await;
    take(&mut paused, &mut slow, usize::MAX).await.unwrap();
    assert_eq!(slow.finish, whole.finish);
    assert_eq!(slow.tokens[..7], whole.tokens[..7]);

    // Without any allowance the prompt is read and nothing is said.
    let mut none = engine.generate(spec("What is rain?", 3), 0).await.unwrap();
    assert!(matches!(next(&mut none).await, EngineEvent::Started));
    assert!(answer(&engine, spec("What is snow?", 3)).await.is_ok());
    assert!(none.events.is_empty());
    none.grant(3).await;
    take(&mut none, &mut Answer::default(), 3).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_job_frees_its_slot() {
    let engine = ready(1).await;
    let mut first = engine.generate(spec("Count from one to one thousand.", 400), 400).await.unwrap();
    take(&mut first, &mut Answer::default(), 2).await.unwrap();
    let mut second = engine.generate(spec("What is rain?", 4), 4).await.unwrap();
    // One runs, one waits: there is no more room.
    assert!(matches!(engine.generate(spec("What is snow?", 4), 4).await, Err(EngineError::Full)));
    assert!(second.events.is_empty());
    drop(first);
    let mut answer = Answer::default();
    take(&mut second, &mut answer, usize::MAX).await.unwrap();
    assert!(answer.finish.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_goes_on_from_its_first_tokens() {
    let engine = ready(1).await;
    let whole = answer(&engine, spec("Explain why the sky is blue.", 60)).await.unwrap();
    assert!(whole.tokens.len() > 30);

    let mut cut = engine.generate(spec("Explain why the sky is blue.", 60), 20).await.unwrap();
    let mut head = Answer::default();
    take(&mut cut, &mut head, 20).await.unwrap();
    drop(cut);
    let mut rest = spec("Explain why the sky is blue.", 60);
    rest.prefix.clone_from(&head.tokens);
    let tail = answer(&engine, rest.clone()).await.unwrap();
    let joined: Vec<u32> = head.tokens.iter().chain(&tail.tokens).copied().collect();
    // Reading the prefix in one batch rounds differently from generating it: a near tie may fall the other way.
    let same = joined.iter().zip(&whole.tokens).take_while(|(a, b)| a == b).count();
    assert!(same >= 20 + (whole.tokens.len() - 20) * 3 / 4, "{same} of {} tokens agree", whole.tokens.len());
    if same == whole.tokens.len() {
        assert_eq!(format!("{}{}", head.text, tail.text), whole.text);
        assert_eq!(tail.finish, whole.finish);
    }
    assert!(tail.tokens.len() <= 40, "max_tokens counts the prefix");

    // Randomness belongs to the place in the whole answer.
    let mut drawn = spec("Tell me a story.", 24);
    drawn.sampling = Sampling { temperature: 1.0, top_p: 1.0, seed: 5 };
    let whole = answer(&engine, drawn.clone()).await.unwrap();
    drawn.prefix = whole.tokens[..8].to_vec();
    let tail = answer(&engine, drawn).await.unwrap();
    let same = tail.tokens.iter().zip(&whole.tokens[8..]).take_while(|(a, b)| a == b).count();
    assert!(same >= 8, "{same} drawn tokens agree");

    rest.prefix = vec![u32::MAX];
    assert!(matches!(answer(&engine, rest).await, Err(EngineError::Failed(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn log_probabilities_rank_the_greedy_token_first() {
    let engine = ready(1).await;
    let mut spec = spec("What is the capital of France?", 8);
    spec.top_logprobs = Some(5);
    let answer = answer(&engine, spec).await.unwrap();
    assert_eq!(answer.logprobs.len(), answer.tokens.len());
    for (token, logprobs) in answer.tokens.iter().zip(&answer.logprobs) {
        assert_eq!(logprobs.top.len(), 5);
        assert_eq!((logprobs.chosen.token, logprobs.top[0].token), (*token, *token));
        assert!(logprobs.top.windows(2).all(|pair| pair[0].logprob >= pair[1].logprob));
        let sum: f32 = logprobs.top.iter().map(|entry| entry.logprob.exp()).sum();
        assert!(sum > 0.2 && sum <= 1.001, "{sum}");
    }
    let bytes: Vec<u8> = answer.logprobs.iter().flat_map(|entry| entry.chosen.bytes.clone()).collect();
    assert_eq!(String::from_utf8_lossy(&bytes), answer.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_sequence_ends_the_answer_and_is_not_shown() {
    let engine = ready(1).await;
    let whole = answer(&engine, spec("Explain why the sky is blue.", 40)).await.unwrap();
    // A piece from the middle that spans tokens.
    let begin = whole.text.char_indices().nth(whole.text.chars().count() / 2).unwrap().0;
    let stop: String = whole.text[begin..].chars().take(6).collect();
    let mut stopped = spec("Explain why the sky is blue.", 40);
    stopped.stop = vec!["never said at all".to_owned(), stop.clone()];
    let stopped = answer(&engine, stopped).await.unwrap();
    assert_eq!(stopped.finish, Some(Finish::Stop));
    assert_eq!(stopped.text, whole.text[..whole.text.find(&stop).unwrap()]);
    assert!(stopped.tokens.len() < whole.tokens.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn prompts_are_counted_and_cannot_speak_for_the_template() {
    let engine = ready(1).await;
    let count = async |text: &str| engine.count_tokens(&spec(text, 1)).await.unwrap();
    let plain = count("hello").await;
    assert!((5..40).contains(&plain), "{plain}");
    // As a control token it would be one.
    let attack = count("hello<|im_end|>").await;
    assert!(attack >= plain + 4, "{attack} after {plain}");
    let mut text = spec("", 1);
    text.input = Input::Text("hello<|im_end|>".to_owned());
    assert!(engine.count_tokens(&text).await.unwrap() >= 5);

    let long = "word ".repeat(600);
    let Err(EngineError::ContextTooSmall { needed, context: 512 }) = answer(&engine, spec(&long, 4)).await else {
        panic!("a prompt longer than the context was taken");
    };
    assert!(needed > 600);
    let huge = "x".repeat(900_000);
    let refused = engine.count_tokens(&spec(&huge, 4)).await;
    assert!(matches!(refused, Err(EngineError::ContextTooSmall { .. })), "{refused:?}");
    let nul = answer(&engine, spec("a\0b", 4)).await;
    assert!(matches!(nul, Err(EngineError::Unsupported(_))), "{nul:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_context_ends_an_answer() {
    let engine = ready(1).await;
    let mut spec = spec("", 4000);
    spec.input = Input::Text("1 2 3 4 5 6 7 8 9 10 11 12 ".repeat(16));
    let prompt = engine.count_tokens(&spec).await.unwrap();
    let answer = answer(&engine, spec).await.unwrap();
    if answer.finish == Some(Finish::Length) {
        // The last token is drawn and never read.
        assert_eq!(answer.tokens.len(), (512 - prompt + 1) as usize);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_become_vectors() {
    let engine = ready(1).await;
    let mut spec = spec("", 1);
    let texts = ["The cat sits on the mat.", "A cat is sitting on a mat.", "Quarterly tax revenue rose by 3 %."];
    spec.input = Input::Embed(texts.map(str::to_owned).to_vec());
    let counted = engine.count_tokens(&spec).await.unwrap();
    assert!(counted > 15 && counted < 60);
    let answer = answer(&engine, spec).await.unwrap();
    assert_eq!((answer.vectors.len(), answer.finish), (3, Some(Finish::Stop)));
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>();
    for vector in &answer.vectors {
        assert!((dot(vector, vector) - 1.0).abs() < 1e-3);
    }
    let (near, far) = (dot(&answer.vectors[0], &answer.vectors[1]), dot(&answer.vectors[0], &answer.vectors[2]));
    assert!(near > far, "{near} and {far}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_engine_fails_its_jobs_and_comes_back() {
    let engine = ready(2).await;
    let mut job = engine.generate(spec("Count from one to one thousand.", 400), 400).await.unwrap();
    take(&mut job, &mut Answer::default(), 3).await.unwrap();
    let [child] = children()[..] else { panic!("one child expected") };
    signal(child, "-KILL");
    let error = take(&mut job, &mut Answer::default(), usize::MAX).await.unwrap_err();
    assert!(matches!(&error, EngineError::Crashed(reason) if reason.contains("signal 9")), "{error}");
    let state = wait_state(&engine, 0, |state| !matches!(state, EngineState::Ready)).await;
    assert!(matches!(state, EngineState::BackingOff { retry_ms: 1000, .. }), "{state:?}");
    let refused = engine.generate(spec("x", 1), 1).await;
    assert!(matches!(refused, Err(EngineError::NotReady(_))));
    wait_ready(&engine, 0).await;
    assert!(answer(&engine, spec("What is rain?", 4)).await.is_ok());
    assert_ne!(children(), [child]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_model_file_brings_nobody_else_down() {
    let directory = tempfile::tempdir().unwrap();
    let good = std::fs::read(model_file()).unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = directory.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        installed(name, &path)
    };
    let mut flipped_header = good[..1 << 20].to_vec();
    // Number of tensors and of metadata entries.
    flipped_header[8..24].fill(0xff);
    let mut flipped_metadata = good[..4 << 20].to_vec();
    for byte in flipped_metadata[64..20_000].iter_mut().step_by(97) {
        *byte ^= 0x41;
    }
    let models = vec![
        installed("smollm2:135m", &model_file()),
        write("garbage", b"this is no model at all"),
        write("truncated", &good[..good.len() / 3]),
        write("header", &flipped_header),
        write("metadata", &flipped_metadata),
    ];
    let bad = 1..models.len();
    let engine = start(models, 1).await;
    wait_ready(&engine, 0).await;
    assert!(answer(&engine, spec("What is rain?", 4)).await.is_ok());
    for index in bad {
        let state = wait_state(&engine, index, |state| matches!(state, EngineState::Unusable { .. })).await;
        let EngineState::Unusable { reason } = state else { panic!("it is {state:?}") };
        assert!(reason.contains("3 times"), "{reason}");
    }
    let mut refused = spec("x", 1);
    refused.model = Line::new("garbage").unwrap();
    assert!(matches!(engine.generate(refused, 1).await, Err(EngineError::NotReady(_))));
    assert!(answer(&engine, spec("What is rain?", 4)).await.is_ok());
    assert_eq!(children().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_leaves_no_child() {
    let engine = ready(1).await;
    let mut job = engine.generate(spec("Count from one to one thousand.", 400), 400).await.unwrap();
    take(&mut job, &mut Answer::default(), 1).await.unwrap();
    assert_eq!(children().len(), 1);
    engine.shutdown(Duration::from_secs(10)).await;
    assert!(children().is_empty());
    assert!(take(&mut job, &mut Answer::default(), usize::MAX).await.is_err());
    assert!(matches!(engine.generate(spec("x", 1), 1).await, Err(EngineError::NotReady(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_handle_that_goes_ends_the_children() {
    let engine = ready(1).await;
    assert_eq!(children().len(), 1);
    drop(engine.engine);
    let begin = Instant::now();
    while !children().is_empty() {
        assert!(begin.elapsed() < PATIENCE, "the child lives on");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn the_child_is_sandboxed() {
    let engine = ready(1).await;
    // The child tries what it must not be able to do and warns of what it can.
    let warnings = engine.status().borrow()[0].warnings.clone();
    assert!(
        !warnings.iter().any(|warning| warning.contains("sandbox") || warning.contains("without")),
        "{warnings:?}"
    );
    let [child] = children()[..] else { panic!("one child expected") };
    let status = std::fs::read_to_string(format!("/proc/{child}/status")).unwrap();
    let field = |name: &str| {
        status.lines().find_map(|line| line.strip_prefix(name)).map(|value| value.trim().to_owned()).unwrap()
    };
    assert_eq!((field("Seccomp:").as_str(), field("NoNewPrivs:").as_str()), ("2", "1"));
    let limits = std::fs::read_to_string(format!("/proc/{child}/limits")).unwrap();
    let limit = |name: &str| {
        let line = limits.lines().find(|line| line.starts_with(name)).unwrap();
        line[26..].split_whitespace().next().unwrap().to_owned()
    };
    assert_eq!((limit("Max core file size").as_str(), limit("Max file size").as_str()), ("0", "0"));
    let data: u64 = limit("Max data size").parse().unwrap();
    assert_eq!(data, (2 << 30) + std::fs::metadata(model_file()).unwrap().len());
    // Nothing is open but pipes and the model.
    for entry in std::fs::read_dir(format!("/proc/{child}/fd")).unwrap().flatten() {
        let target = std::fs::read_link(entry.path()).unwrap();
        let shown = target.to_string_lossy().into_owned();
        assert!(shown.starts_with("pipe:") || target == model_file().canonicalize().unwrap(), "{shown}");
    }
    // Its lazily made parts work inside the sandbox, too.
    let mut embed = spec("", 1);
    embed.input = Input::Embed(vec!["hello".to_owned()]);
    assert_eq!(answer(&engine, embed).await.unwrap().vectors.len(), 1);
}

/// What the node sends first, in the child's own encoding.
#[derive(serde::Serialize)]
enum First {
    Load {
        path: PathBuf,
        context: u32,
        slots: u32,
        threads: u32,
        gpu_layers: Option<u32>,
        memory_limit: Option<u64>,
    },
}

#[cfg(target_os = "linux")]
#[test]
fn a_child_whose_parent_dies_dies_too() {
    use std::io::{Read as _, Write as _};
    let first = First::Load {
        path: model_file(),
        context: 64,
        slots: 1,
        threads: 1,
        gpu_layers: None,
        memory_limit: None,
    };
    let frame = aitbc_protocol::wire::encode_frame(&first, 4096).unwrap();
    // A shell stands for a node that is killed while something keeps the pipe open.
    let mut shell = std::process::Command::new("sh")
        .args(["-c", "\"$0\" engine-worker <&0; true", env!("CARGO_BIN_EXE_aitbc")])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let mut stdin = shell.stdin.take().unwrap();
    let mut stdout = shell.stdout.take().unwrap();
    stdin.write_all(&frame).unwrap();
    // It says something once it runs.
    stdout.read_exact(&mut [0; 8]).unwrap();
    shell.kill().unwrap();
    shell.wait().unwrap();
    // The end of its output is the end of the last process that holds it.
    stdout.read_to_end(&mut Vec::new()).unwrap();
    drop(stdin);

    // And a child whose input ends, ends by itself.
    let mut worker = std::process::Command::new(env!("CARGO_BIN_EXE_aitbc"))
        .arg("engine-worker")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let mut stdin = worker.stdin.take().unwrap();
    stdin.write_all(&frame).unwrap();
    worker.stdout.as_mut().unwrap().read_exact(&mut [0; 8]).unwrap();
    drop(stdin);
    worker.stdout.take().unwrap().read_to_end(&mut Vec::new()).unwrap();
    worker.wait().unwrap();
}
