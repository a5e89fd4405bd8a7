//! `GET /v1/models`: what this node can have answered, by itself or by others.

use crate::{
    api::{ApiState, error::Failure},
    engine::EngineModel,
};
use aitbc_protocol::{MicroCredits, job::ModelName, offer::KnownOffer, price::TokenPrice};
use axum::{
    Json,
    extract::{Path, State},
};
use serde::Serialize;
use std::collections::BTreeMap;

/// The list.
#[derive(Debug, Serialize)]
pub(super) struct List {
    object: &'static str,
    data: Vec<Model>,
}

/// One model.
#[derive(Debug, Serialize)]
pub(super) struct Model {
    id: ModelName,
    object: &'static str,
    /// When a model was made is not known here.
    created: u64,
    owned_by: &'static str,
    aitbc: Supply,
}

/// Who has a model, and at what price.
#[derive(Debug, Default, Serialize)]
struct Supply {
    /// Providers with a live offer.
    providers: u32,
    /// Whether this node's own engine answers, for nothing.
    local: bool,
    /// Prices of a thousand prompt tokens in micro-credits.
    prompt_price: Option<Range>,
    /// Prices of a thousand tokens of an answer in micro-credits.
    completion_price: Option<Range>,
    /// Longest context on offer, in tokens.
    context: u32,
    /// True where all who have it only forward to another server: such answers need `aitbc.allow_declared`.
    declared: bool,
    /// True where all who have it compute it on encrypted values only: `POST /v1/private/{id}` asks them.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    private: bool,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Range {
    min: MicroCredits,
    max: MicroCredits,
}

impl Range {
    fn with(range: Option<Self>, price: MicroCredits) -> Self {
        range.map_or(Self { min: price, max: price }, |range| Self {
            min: range.min.min(price),
            max: range.max.max(price),
        })
    }
}

impl Supply {
    /// Before the first offer; `declared` and `private` hold until one is not.
    fn untold() -> Self {
        Self { declared: true, private: true, ..Self::default() }
    }

    fn price(&mut self, price: TokenPrice) {
        self.prompt_price = Some(Range::with(self.prompt_price, price.prompt));
        self.completion_price = Some(Range::with(self.completion_price, price.completion));
    }
}

/// All models of live offers and own engines, by name.
fn catalogue(offers: &[KnownOffer], own: &[EngineModel]) -> Vec<Model> {
    let mut supplies: BTreeMap<ModelName, Supply> = BTreeMap::new();
    for known in offers {
        // A provider may offer one name with several weights: it still counts once.
        let mut counted: Vec<&ModelName> = Vec::new();
        for offered in &known.offer.models {
            let supply = supplies.entry(offered.model.clone()).or_insert_with(Supply::untold);
            if !counted.contains(&&offered.model) {
                counted.push(&offered.model);
                supply.providers += 1;
            }
            supply.price(offered.price);
            supply.context = supply.context.max(offered.context);
            supply.declared &= offered.declared;
            supply.private &= offered.private.is_some();
        }
    }
    for model in own {
        let supply = supplies.entry(model.model.clone()).or_insert_with(Supply::untold);
        supply.local = true;
        supply.context = supply.context.max(model.context);
        supply.declared &= model.declared;
        supply.private &= model.private.is_some();
    }
    let model = |(id, aitbc): (ModelName, Supply)| Model {
        id,
        object: "model",
        created: 0,
        owned_by: if aitbc.local { "this-node" } else { "network" },
        aitbc,
    };
    supplies.into_iter().map(model).collect()
}

fn current(state: &ApiState) -> Vec<Model> {
    let parts = state.parts();
    let engines = parts.engine.as_ref().map(|engine| engine.status().borrow().clone());
    let own: Vec<EngineModel> =
        engines.iter().flat_map(|all| all.iter()).flat_map(|engine| engine.models.clone()).collect();
    catalogue(&parts.routing.offers().offers, &own)
}

/// `GET /v1/models`.
pub(super) async fn list(State(state): State<ApiState>) -> Json<List> {
    Json(List { object: "list", data: current(&state) })
}

/// `GET /v1/models/{id}`.
pub(super) async fn one(State(state): State<ApiState>, Path(id): Path<String>) -> Result<Json<Model>, Failure> {
    find(current(&state), &id).map(Json)
}

fn find(models: Vec<Model>, id: &str) -> Result<Model, Failure> {
    let nearest = models
        .iter()
        .map(|model| (strsim::jaro_winkler(model.id.as_str(), id), model.id.to_string()))
        .filter(|(similarity, _)| *similarity > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    models.into_iter().find(|model| model.id.as_str() == id).ok_or_else(|| {
        let hint = nearest.map_or_else(
            || "GET /v1/models lists the models on offer".to_owned(),
            |(_, name)| format!("do you mean {name}?"),
        );
        Failure::not_found("model_not_found", format!("nobody in sight offers this model: {hint}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use aitbc_protocol::{
        Digest, NodeId,
        geo::{Cell, Location},
        offer::{Device, DeviceKind, Engine, Load, ModelOffer, Offer},
        text::Line,
    };
    use std::sync::Arc;

    fn offered(name: &str, price: u64, declared: bool) -> ModelOffer {
        ModelOffer {
            model: Line::new(name).unwrap(),
            weights: Digest([0; 32]),
            engine: Engine { name: Line::default(), version: Line::default() },
            quantisation: Line::default(),
            device: Device { kind: DeviceKind::Cpu, name: Line::default(), memory_bytes: 0, measured: None },
            context: 2048,
            price: TokenPrice { prompt: MicroCredits(price), completion: MicroCredits(2 * price) },
            speed: 0,
            declared,
            private: None,
        }
    }

    fn known(provider: u8, models: Vec<ModelOffer>) -> KnownOffer {
        let offer = Offer {
            sequence: 1,
            issued_ms: 0,
            expires_ms: 1,
            cell: Cell::at(&Location { latitude: 0.0, longitude: 0.0 }, 4),
            addresses: vec![],
            devices: vec![],
            models,
            slots: 1,
            attested: Vec::new(),
            policies: Vec::new(),
            shown: Vec::new(),
            bandwidth: None,
            coordinate: None,
            agent: Line::default(),
        };
        KnownOffer { provider: NodeId([provider; 32]), offer: Arc::new(offer), load: Load::default(), heard_ms: 0 }
    }

    fn models() -> Vec<Model> {
        let offers = [
            known(1, vec![offered("a", 5, false), offered("a", 7, false), offered("b", 1, true)]),
            known(2, vec![offered("a", 3, true)]),
        ];
        catalogue(&offers, &[])
    }

    #[test]
    fn a_model_tells_who_has_it_and_at_what_price() {
        insta::assert_json_snapshot!(models(), @r#"
        [
          {
            "id": "a",
            "object": "model",
            "created": 0,
            "owned_by": "network",
            "aitbc": {
              "providers": 2,
              "local": false,
              "prompt_price": {
                "min": 3,
                "max": 7
              },
              "completion_price": {
                "min": 6,
                "max": 14
              },
              "context": 2048,
              "declared": false
            }
          },
          {
            "id": "b",
            "object": "model",
            "created": 0,
            "owned_by": "network",
            "aitbc": {
              "providers": 1,
              "local": false,
              "prompt_price": {
                "min": 1,
                "max": 1
              },
              "completion_price": {
                "min": 2,
                "max": 2
              },
              "context": 2048,
              "declared": true
            }
          }
        ]
        "#);
    }

    #[test]
    fn a_name_nobody_offers_names_the_nearest() {
        assert_eq!(find(models(), "b").unwrap().id.as_str(), "b");
        assert!(find(models(), "c").is_err());
    }
}
