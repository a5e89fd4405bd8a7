//! Questions to the catalogue: `vendor=amd vram>=16 form=card`.
//!
//! Conditions are separated by spaces and all must hold. A condition is a field, one of `=`, `!=`, `>=`, `<=`, `>`, `<`, and
//! a value; a word alone must be part of the name. Capitals do not count. A figure that is not known meets no condition but
//! `!=`.

use super::GpuProfile;
use crate::conditions::{MAX_CONDITIONS, Operator, split};
use std::str::FromStr;

/// Every field, for errors and help.
pub const FIELDS: &str = "vendor, name, chip, architecture, grade (consumer, workstation, server, mining, embedded), \
form (card, laptop, integrated, system), api (cuda, vulkan, metal, dx12, gl, web_gpu), year, vram (GiB), \
bandwidth (GB/s), tdp (W), fp32, fp16 (GFLOPS), int8 (GOPS)";

/// Why a query cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// No such field.
    #[error("there is no field {0:?}: use {FIELDS}")]
    Field(String),
    /// A number is needed.
    #[error("{field} is compared with a number, and {value:?} is none")]
    Number {
        /// Of which field.
        field: &'static str,
        /// What stands there.
        value: String,
    },
    /// Texts are equal or not.
    #[error("{0} is a text: compare it with = or !=")]
    Order(&'static str),
    /// Nothing to compare with.
    #[error("{0:?} lacks a value")]
    Empty(String),
    /// Too long.
    #[error("more than {MAX_CONDITIONS} conditions")]
    TooMany,
}

#[derive(Clone, Debug, PartialEq)]
enum Condition {
    Word(String),
    Text { field: Text, equal: bool, value: String },
    Number { field: Number, operator: Operator, value: f64 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Text {
    Vendor,
    Name,
    Chip,
    Architecture,
    Grade,
    Form,
    Api,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Number {
    Year,
    Vram,
    Bandwidth,
    Tdp,
    Fp32,
    Fp16,
    Int8,
}

const TEXTS: [(&str, Text); 7] = [
    ("vendor", Text::Vendor),
    ("name", Text::Name),
    ("chip", Text::Chip),
    ("architecture", Text::Architecture),
    ("grade", Text::Grade),
    ("form", Text::Form),
    ("api", Text::Api),
];

const NUMBERS: [(&str, Number); 7] = [
    ("year", Number::Year),
    ("vram", Number::Vram),
    ("bandwidth", Number::Bandwidth),
    ("tdp", Number::Tdp),
    ("fp32", Number::Fp32),
    ("fp16", Number::Fp16),
    ("int8", Number::Int8),
];

/// A question to the catalogue.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Query(Vec<Condition>);

impl FromStr for Query {
    type Err = QueryError;

    fn from_str(text: &str) -> Result<Self, QueryError> {
        let conditions: Vec<Condition> =
            text.split_whitespace().take(MAX_CONDITIONS + 1).map(condition).collect::<Result<_, _>>()?;
        if conditions.len() > MAX_CONDITIONS { Err(QueryError::TooMany) } else { Ok(Self(conditions)) }
    }
}

fn condition(text: &str) -> Result<Condition, QueryError> {
    let lower = text.to_lowercase();
    let Some((field, operator, value)) = split(&lower) else { return Ok(Condition::Word(lower)) };
    if value.is_empty() {
        return Err(QueryError::Empty(text.to_owned()));
    }
    if let Some((name, field)) = TEXTS.into_iter().find(|(name, _)| *name == field) {
        return match operator {
            Operator::Equal => Ok(Condition::Text { field, equal: true, value: value.to_owned() }),
            Operator::Unequal => Ok(Condition::Text { field, equal: false, value: value.to_owned() }),
            _ => Err(QueryError::Order(name)),
        };
    }
    let Some((name, field)) = NUMBERS.into_iter().find(|(name, _)| *name == field) else {
        return Err(QueryError::Field(field.to_owned()));
    };
    match value.parse::<f64>() {
        Ok(number) if number.is_finite() => Ok(Condition::Number { field, operator, value: number }),
        _ => Err(QueryError::Number { field: name, value: value.to_owned() }),
    }
}

impl Query {
    /// Whether `profile` meets all conditions.
    pub fn admits(&self, profile: &GpuProfile) -> bool {
        self.0.iter().all(|condition| match condition {
            Condition::Word(word) => profile.name.to_lowercase().contains(word),
            Condition::Text { field, equal, value } => {
                texts(profile, *field).iter().any(|text| text == value) == *equal
            }
            Condition::Number { field, operator, value } => match number(profile, *field) {
                Some(figure) => operator.holds(figure.total_cmp(value)),
                None => *operator == Operator::Unequal,
            },
        })
    }
}

/// What a field says, in lower case; of interfaces all that there are.
fn texts(profile: &GpuProfile, field: Text) -> Vec<String> {
    let one = |text: &str| vec![text.to_lowercase()];
    match field {
        Text::Vendor => one(profile.vendor.name()),
        Text::Name => one(&profile.name.replace(' ', "")),
        Text::Chip => one(&profile.chip.replace(' ', "")),
        Text::Architecture => one(&profile.architecture.replace(' ', "")),
        Text::Grade => one(&format!("{:?}", profile.grade)),
        Text::Form => one(&format!("{:?}", profile.form)),
        Text::Api => profile.apis().into_iter().map(|api| api.word().to_owned()).collect(),
    }
}

fn number(profile: &GpuProfile, field: Number) -> Option<f64> {
    match field {
        Number::Year => profile.released.map(f64::from),
        Number::Vram => profile.memory_bytes.map(|bytes| bytes as f64 / 1_073_741_824.0),
        Number::Bandwidth => profile.bandwidth.map(|rate| rate as f64 / 1e9),
        Number::Tdp => profile.tdp_watts.map(f64::from),
        Number::Fp32 => profile.fp32_gflops.map(f64::from),
        Number::Fp16 => profile.fp16_gflops.map(f64::from),
        Number::Int8 => profile.int8_gops.map(f64::from),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::{Form, Vendor, catalogue::catalogue};

    fn found(query: &str) -> Vec<&'static GpuProfile> {
        let query: Query = query.parse().unwrap();
        catalogue().profiles().iter().filter(|profile| query.admits(profile)).collect()
    }

    #[test]
    fn conditions_hold_together() {
        let large = found("vendor=AMD vram>=16 form=card");
        assert!(large.len() > 10);
        let fits = |profile: &&GpuProfile| {
            profile.vendor == Vendor::Amd
                && profile.form == Form::Card
                && profile.memory_bytes.is_some_and(|bytes| bytes >= 16 << 30)
        };
        assert!(large.iter().all(fits));
        assert_eq!(found("name=geforcertx4090").len(), 1);
        assert!(found("rtx 3060").iter().all(|profile| profile.name.contains("RTX 3060")));
        assert_eq!(found("").len(), catalogue().profiles().len());
        assert_eq!(found("vram=24 vram!=24").len(), 0);
        assert!(found("api=metal").iter().all(|profile| profile.vendor == Vendor::Apple));
    }

    #[test]
    fn what_is_not_known_meets_only_unequal() {
        assert!(found("vendor=apple vram>0").is_empty());
        assert!(!found("vendor=apple vram!=8").is_empty());
    }

    #[test]
    fn bad_queries_say_what_is_wrong() {
        let error = |query: &str| query.parse::<Query>().unwrap_err().to_string();
        assert!(error("colour=red").contains("vendor"), "the fields are named");
        assert!(error("vram>=much").contains("\"much\""));
        assert!(error("vendor>amd").contains("= or !="));
        assert!(error("vram>=").contains("lacks a value"));
        assert!(error("vram>=inf").contains("none"));
        assert_eq!("a ".repeat(17).parse::<Query>(), Err(QueryError::TooMany));
    }
}
