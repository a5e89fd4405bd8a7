//! `aitbc find`: providers, nearest first, with their ranking.

use super::{
    Exit, Global, Outcome,
    client::{Client, Line},
    narrate, output,
};
use crate::routing::RankedCandidate;
use aitbc_protocol::{
    conditions::split,
    geo::Location,
    job::ModelName,
    routing::query::{Conditions, FIELDS},
};

/// Arguments of `find`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A model, and conditions on its providers such as 'vram>=16 price<0.4 trust>=affirming'; any if not given
    #[arg(value_name = "MODEL|CONDITION", long_help = format!(
        "A model, and conditions on its providers such as 'vram>=16 price<0.4 trust>=affirming'; any if not given.\n\n\
         A condition is a field, one of = != >= <= > <, and a value. Fields: {FIELDS}."
    ))]
    what: Vec<String>,
    /// Near this place instead of the node's own
    #[arg(long, value_name = "LATITUDE,LONGITUDE", allow_hyphen_values = true)]
    near: Option<Location>,
    /// Largest round trip, such as 50ms
    #[arg(long, alias = "latency", value_name = "MS", value_parser = milliseconds)]
    within: Option<u32>,
}

/// `50ms`, or `50`.
fn milliseconds(text: &str) -> Result<u32, String> {
    let number = text.strip_suffix("ms").unwrap_or(text).trim();
    number.parse().map_err(|_| format!("{text:?} is no time in milliseconds: write it like 50ms"))
}

/// The model and the conditions, which are the words with an operator.
fn sought(what: &[String]) -> Result<(Option<ModelName>, String), Exit> {
    let words = what.iter().flat_map(|words| words.split_whitespace());
    let (conditions, models): (Vec<&str>, Vec<&str>) = words.partition(|word| split(word).is_some());
    let model = match models[..] {
        [] => None,
        [model] => Some(ModelName::new(model).map_err(Exit::usage)?),
        [one, other, ..] => {
            return Err(Exit::usage(format_args!(
                "{one:?} and {other:?} are both names of models: name one, and write conditions with an operator, such as vram>=16"
            )));
        }
    };
    let conditions = conditions.join(" ");
    conditions.parse::<Conditions>().map_err(Exit::usage)?;
    Ok((model, conditions))
}

/// Runs the command.
pub(super) async fn run(global: &Global, args: Args) -> Outcome {
    let (model, query) = sought(&args.what)?;
    let client = Client::new(global)?;
    let body = serde_json::json!({
        "model": model, "location": args.near, "latency_budget_ms": args.within, "query": query,
    });
    let mut ranking: Option<Vec<RankedCandidate>> = None;
    let json = global.json;
    let narrator = narrate::Narrator::default();
    client
        .stream("find", &body, |line| {
            match line {
                Line::Update(update) if !json => narrator.progress(&update),
                Line::Other(mut value) if value["event"] == "ranking" => {
                    ranking = Some(serde_json::from_value(value["candidates"].take())?);
                }
                _ => {}
            }
            Ok(())
        })
        .await?;
    let ranking = ranking.ok_or_else(|| Exit::message("the node ended the search without a ranking"))?;
    let document = serde_json::json!({"schema": "aitbc.find/1", "candidates": ranking});
    output::print(global.json, &document, || narrate::ranking(&ranking))?;
    if ranking.iter().all(|candidate| candidate.excluded.is_some()) {
        let message = match (ranking.is_empty(), &model) {
            (true, Some(model)) => {
                format!("nobody near offers {model}; `aitbc status` tells whether this node has peers")
            }
            (true, None) => {
                "nobody near offers anything; `aitbc status` tells whether this node has peers".to_owned()
            }
            (false, _) => "every provider found is ruled out, for the reasons above".to_owned(),
        };
        let model = model.unwrap_or_default();
        return Err(crate::routing::JobFailure::NoProvider { model, message, ruled_out: Vec::new() }.into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &[&str]) -> Result<(Option<String>, String), String> {
        let words: Vec<String> = text.iter().map(|word| (*word).to_owned()).collect();
        let found = sought(&words).map_err(|exit| exit.to_string())?;
        Ok((found.0.map(|model| model.to_string()), found.1))
    }

    #[test]
    fn models_and_conditions_are_told_apart() {
        assert_eq!(words(&[]), Ok((None, String::new())));
        let both = Ok((Some("smollm2:135m".to_owned()), "vram>=16 price<0.4 kind!=cpu".to_owned()));
        assert_eq!(words(&["vram>=16 price<0.4", "smollm2:135m", "kind!=cpu"]), both);
        assert_eq!(words(&["vram>=16 price<0.4 kind!=cpu smollm2:135m"]), both);
        assert!(words(&["one", "two"]).expect_err("two models").contains("\"one\" and \"two\""));
        assert!(words(&["wram>=16"]).expect_err("no field").contains("\"wram>=16\": there is no field"));
    }

    #[test]
    fn times_are_milliseconds() {
        assert_eq!((milliseconds("50ms"), milliseconds("50")), (Ok(50), Ok(50)));
        assert!(milliseconds("1s").expect_err("seconds").contains("50ms"));
    }
}
