//! `aitbc demo --private`: two nodes, a model of handwritten digits, and a digit that only one of them sees.

use super::{Member, Role};
use crate::{
    cli::{Exit, Global, Outcome, narrate::Narrator, output, private},
    market::verify::verify_receipt_file,
    models::ModelStore,
    private::{PrivateRequest, PrivateStep},
    routing::Wishes,
};
use aitbc_protocol::{Digest, job::ModelName, receipt::ReceiptFile};
use serde_json::{Value, json};
use std::time::Instant;

/// A network of 64 inputs, one hidden layer and ten classes, trained on scikit-learn's digits.
const MODEL: &[u8] = include_bytes!("digits.fhe");
const NAME: &str = "digits";
/// One of the digits that it was not trained on: eight rows of eight grey values, 0 to 16.
#[rustfmt::skip]
const DIGIT: [u8; 64] = [
    0, 2, 14, 16, 6, 0, 0, 0,
    0, 12, 14, 12, 15, 0, 0, 0,
    0, 11, 2, 8, 12, 0, 0, 0,
    0, 0, 0, 11, 11, 0, 0, 0,
    0, 0, 2, 16, 4, 0, 0, 0,
    0, 0, 7, 13, 0, 0, 0, 0,
    0, 1, 14, 13, 8, 8, 7, 0,
    0, 2, 15, 16, 16, 15, 8, 0,
];

const PARIS: Role = Role {
    name: "paris",
    location: "48.85,2.35",
    flags: &["--relay", "--provide", "--model", NAME, "--slots", "2"],
};
const LONDON: Role = Role { name: "london", location: "51.5,-0.12", flags: &[] };

/// Runs the demo.
pub(super) async fn demo(global: &Global) -> Outcome {
    let started = Instant::now();
    let json = global.json;
    let say = |text: String| {
        if !json {
            println!("{text}");
        }
    };
    let home = tempfile::Builder::new().prefix("aitbc-demo-").tempdir()?;
    let file = home.path().join("digits.fhe");
    std::fs::write(&file, MODEL)?;
    let model: ModelName = NAME.parse().expect("a literal name");
    let store = ModelStore::new(home.path().join("models"));
    store.deploy(Some(&model), &file)?;

    say(
        "Two nodes of this binary on loopback, on the network \"local\" (places are pretended, the rest is real):"
            .to_owned(),
    );
    let paris = PARIS.start(home.path(), store.directory(), None).await?;
    let london = LONDON.start(home.path(), store.directory(), Some(&paris.address)).await?;
    london.ready(false).await?;
    paris.ready(true).await?;
    for member in [&paris, &london] {
        say(format!("  {:10} {}  pid {}", member.name, member.id, member.child.id().unwrap_or_default()));
    }
    say("\nlondon has a digit, and wants to know which one it is. paris has the model, and sees neither:"
        .to_owned());
    for row in DIGIT.chunks(8) {
        say(row.iter().map(|grey| ["  ", "░░", "▒▒", "▓▓", "██"][usize::from(grey.div_ceil(4))]).collect());
    }
    let names = [&paris, &london].map(|member| (member.id, member.name.to_owned())).into_iter().collect();
    let narrator = Narrator { names, is_private: true };
    let request =
        PrivateRequest { model, input: DIGIT.map(f64::from).to_vec(), wishes: Wishes::default(), verify: None };
    let mut runs = Vec::new();
    for again in [false, true] {
        if again {
            say("\nOnce more: paris has the evaluation key now, and only the input goes over.".to_owned());
        }
        let began = Instant::now();
        let told = private::follow(&london.client, &request, json, &narrator).await?;
        let Some(answer) = told.answer.clone() else { return told.outcome() };
        let PrivateStep::Answer { receipts, labels, class: Some(class), .. } = &answer else {
            return told.outcome();
        };
        let digit = labels.get(*class).map_or_else(|| class.to_string(), Clone::clone);
        say(format!("answer    it is a {digit}"));
        let verified = verify(&london, receipts, &say).await?;
        let seconds = began.elapsed().as_secs_f64();
        say(format!("after {seconds:.1} s"));
        runs.push(json!({"answer": answer, "receipts": verified, "updates": told.updates, "seconds": seconds}));
    }
    let earned: Value = paris.client.get("status").await?;
    let spent: Value = london.client.get("status").await?;
    let (earned, spent) = (earned["totals"]["earned"].as_u64(), spent["totals"]["spent"].as_u64());
    let (paris_id, london_id) = (paris.id, london.id);
    futures::future::join(paris.stop(), london.stop()).await;
    if earned != spent || spent.is_none_or(|spent| spent == 0) {
        return Err(Exit::verification(format_args!("earned {earned:?} and spent {spent:?} do not agree")));
    }
    let seconds = started.elapsed().as_secs_f64();
    say(format!("\nparis earned {} micro-credits. Done in {seconds:.1} s.", earned.unwrap_or_default()));
    let document = json!({
        "schema": "aitbc.demo.private/1", "nodes": {"paris": paris_id, "london": london_id}, "runs": runs,
        "earned": earned, "spent": spent, "seconds": seconds,
    });
    output::print(json, &document, || ())
}

/// Checks receipts once more from their files alone, as anybody could.
async fn verify(london: &Member, receipts: &[Digest], say: &impl Fn(String)) -> Result<Vec<Value>, Exit> {
    let mut verified = Vec::new();
    for id in receipts {
        let file: ReceiptFile = london.client.get(&format!("receipts/{id}")).await?;
        let checks = verify_receipt_file(&file);
        if checks.iter().any(|check| check.passed == Some(false)) {
            return Err(Exit::verification(format_args!("the receipt {id} does not hold")));
        }
        say(format!("receipt   {id} verified offline: {} checks hold", checks.len()));
        verified.push(json!({"id": id, "checks": checks, "file": file}));
    }
    Ok(verified)
}
