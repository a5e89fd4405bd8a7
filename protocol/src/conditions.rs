//! Conditions that people write: a field, an operator and a value, such as `vram>=16`.

use std::{cmp::Ordering, fmt};

/// Most conditions of a query.
pub const MAX_CONDITIONS: usize = 16;

/// How a figure is compared with a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// `=`
    Equal,
    /// `!=`
    Unequal,
    /// `>=`
    AtLeast,
    /// `<=`
    AtMost,
    /// `>`
    Above,
    /// `<`
    Below,
}

/// Longer ones first, so that `>=` is not taken for `>`.
const OPERATORS: [(&str, Operator); 6] = [
    (">=", Operator::AtLeast),
    ("<=", Operator::AtMost),
    ("!=", Operator::Unequal),
    ("=", Operator::Equal),
    (">", Operator::Above),
    ("<", Operator::Below),
];

impl Operator {
    /// Whether it holds for an order of figure and value.
    pub fn holds(self, order: Ordering) -> bool {
        match self {
            Self::Equal => order == Ordering::Equal,
            Self::Unequal => order != Ordering::Equal,
            Self::AtLeast => order != Ordering::Less,
            Self::AtMost => order != Ordering::Greater,
            Self::Above => order == Ordering::Greater,
            Self::Below => order == Ordering::Less,
        }
    }
}

impl fmt::Display for Operator {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = OPERATORS.iter().find(|(_, operator)| operator == self).map_or("", |(mark, _)| mark);
        formatter.write_str(mark)
    }
}

/// Takes a condition apart: field, operator, value. `None` of a word without an operator.
pub fn split(text: &str) -> Option<(&str, Operator, &str)> {
    let (field, rest) = text.split_at(text.find(['=', '!', '<', '>'])?);
    let (mark, operator) = OPERATORS.iter().find(|(mark, _)| rest.starts_with(mark))?;
    Some((field, *operator, rest.strip_prefix(mark)?))
}
