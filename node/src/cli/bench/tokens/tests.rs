//! Which model is measured and what is told of it; a board that the tests write stands for the engine.

use super::*;
use crate::{jobs::tests::engine_model, models::Progress};
use std::fs;

fn name(text: &str) -> ModelName {
    text.parse().expect("a name")
}

/// The least that is taken for a model file.
fn gguf() -> Vec<u8> {
    let text = |text: &str| [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
    let (version, string) = (3_u32.to_le_bytes(), 8_u32.to_le_bytes());
    let (tensors, pairs) = (1_u64.to_le_bytes(), 1_u64.to_le_bytes());
    let (key, value) = (text("general.architecture"), text("llama"));
    [b"GGUF", version.as_slice(), &tensors, &pairs, &key, &string, &value].concat()
}

#[tokio::test]
async fn the_model_asked_for_is_measured_or_else_the_first() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = ModelStore::new(directory.path().join("models"));
    let none = chosen(&store, None).expect_err("there is nothing").to_string();
    assert!(none.contains("aitbc models pull"), "{none}");
    assert!(none.contains(&store.directory().display().to_string()), "{none}");

    let file = directory.path().join("file.gguf");
    fs::write(&file, gguf()).expect("written");
    for model in ["second:1", "first:1"] {
        store.add(&name(model), &file, |_: Progress| {}).await.expect("added");
    }
    let model = |wanted: Option<&str>| {
        chosen(&store, wanted.map(name).as_ref()).map(|installed| installed.manifest.model.to_string())
    };
    assert_eq!(model(None).expect("two are there"), "first:1");
    assert_eq!(model(Some("second:1")).expect("it is there"), "second:1");
    let missing = model(Some("third:1")).expect_err("it is not there");
    assert!(matches!(&missing, TokensError::NotHere(model) if *model == name("third:1")), "{missing}");
    assert!(missing.to_string().contains("aitbc models pull third:1"), "{missing}");
}

fn status(state: EngineState, models: Vec<EngineModel>) -> Arc<Vec<EngineStatus>> {
    let warnings = vec!["a GPU is there and not used".to_owned()];
    Arc::new(vec![EngineStatus { name: "llama.cpp".to_owned(), state, pid: None, models, warnings }])
}

/// What comes of a board that shows these one after the other.
async fn told(
    first: Arc<Vec<EngineStatus>>,
    later: Option<Arc<Vec<EngineStatus>>>,
) -> Result<Tokens, TokensError> {
    let (board, shown) = watch::channel(first);
    let (model, bar) = (name("tiny:1"), ProgressBar::hidden());
    let write = async move {
        if let Some(later) = later {
            tokio::task::yield_now().await;
            board.send_replace(later);
        }
    };
    tokio::join!(ready(shown, &model, &bar, Instant::now() + LOAD_PATIENCE), write).0
}

fn loading() -> Arc<Vec<EngineStatus>> {
    status(EngineState::Loading { percent: 40 }, Vec::new())
}

#[tokio::test]
async fn an_engine_is_waited_for_until_it_is_ready_or_fails() {
    let ready = told(loading(), Some(status(EngineState::Ready, vec![engine_model()]))).await.expect("ready");
    assert_eq!(
        (ready.model.model, ready.warnings.len()),
        (engine_model().model, 1),
        "what the owner should know comes along"
    );

    let reason = || "out of memory".to_owned();
    let failures = [
        (Some(status(EngineState::BackingOff { reason: reason(), retry_ms: 1 }, Vec::new())), "out of memory"),
        (Some(status(EngineState::Unusable { reason: reason() }, Vec::new())), "out of memory"),
        (Some(status(EngineState::Ready, Vec::new())), "the engine has no model"),
        (Some(Arc::default()), "no engine was started"),
        (None, "the engine ended"),
    ];
    for (later, why) in failures {
        let error = told(loading(), later).await.expect_err(why);
        assert_eq!(error.to_string(), format!("tiny:1 does not run: {why}"));
    }
}

#[tokio::test]
async fn a_model_that_does_not_load_is_given_up() {
    let (_board, shown) = watch::channel(loading());
    let (model, bar) = (name("tiny:1"), ProgressBar::hidden());
    let slow = ready(shown, &model, &bar, Instant::now());
    let slow = tokio::time::timeout(Duration::from_secs(30), slow).await.expect("its time is over");
    assert!(matches!(slow, Err(TokensError::Slow(_))), "{slow:?}");
}

#[test]
fn what_is_told_names_the_device_and_tokens_a_second() {
    let model = EngineModel { speed: 41_250, ..engine_model() };
    let tokens = Tokens { model, warnings: vec!["a GPU is there and not used".to_owned()] };
    let document = tokens.document();
    assert_eq!(document["tokens_per_second"], 41.25);
    assert_eq!((&document["model"], &document["quantisation"]), (&json!("smollm2:135m"), &json!("Q4_1")));
    assert_eq!((&document["context"], &document["device"]["name"]), (&json!(2048), &json!("test")));
    assert_eq!(document["warnings"], json!(["a GPU is there and not used"]));
    assert_eq!(
        tokens.lines(),
        [
            "smollm2:135m (Q4_1) by llama.cpp on test",
            "tokens          41.2 a second",
            "a GPU is there and not used"
        ]
    );
}
