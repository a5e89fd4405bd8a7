//! Texts that come from strangers: bounded in length, free of control characters.

use serde::{Deserialize, Deserializer, Serialize, de};
use std::{fmt, str::FromStr};

/// A line of at most `MAX` bytes without control characters or changes of writing direction, so that a peer can
/// neither fill memory, nor write escape sequences to a terminal or a log, nor make a text read as another one.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Line<const MAX: usize>(String);

/// Why a text is not a [`Line`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// Longer than allowed.
    #[error("text of {got} bytes where at most {max} are allowed")]
    TooLong {
        /// The limit in bytes.
        max: usize,
        /// The length in bytes.
        got: usize,
    },
    /// Holds a control character.
    #[error("text with a control character or a change of writing direction")]
    Control,
}

/// Control characters, and the marks that reverse the direction of what follows (Unicode TR 9).
fn is_unprintable(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

impl<const MAX: usize> Line<MAX> {
    /// Takes the text if it is a valid line.
    pub fn new(text: impl Into<String>) -> Result<Self, LineError> {
        let text = text.into();
        if text.len() > MAX {
            return Err(LineError::TooLong { max: MAX, got: text.len() });
        }
        if text.chars().any(is_unprintable) {
            return Err(LineError::Control);
        }
        Ok(Self(text))
    }

    /// Makes a line of any text: control characters become spaces, and what is too long is cut.
    pub fn lossy(text: &str) -> Self {
        let mut line = String::with_capacity(text.len().min(MAX));
        for character in text.chars() {
            let character = if is_unprintable(character) { ' ' } else { character };
            if line.len() + character.len_utf8() > MAX {
                break;
            }
            line.push(character);
        }
        Self(line)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<const MAX: usize> fmt::Display for Line<MAX> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(&self.0)
    }
}

impl<const MAX: usize> FromStr for Line<MAX> {
    type Err = LineError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::new(text)
    }
}

impl<'de, const MAX: usize> Deserialize<'de> for Line<MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

/// Reads a list of at most `MAX` items, for `deserialize_with`: a longer one fails while it is read, before it is held.
pub fn bounded_vec<'de, D, T, const MAX: usize>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct Visitor<T, const MAX: usize>(std::marker::PhantomData<T>);
    impl<'de, T: Deserialize<'de>, const MAX: usize> de::Visitor<'de> for Visitor<T, MAX> {
        type Value = Vec<T>;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(formatter, "a list of at most {MAX} items")
        }

        fn visit_seq<A: de::SeqAccess<'de>>(self, mut sequence: A) -> Result<Vec<T>, A::Error> {
            let mut items = Vec::new();
            while let Some(item) = sequence.next_element()? {
                if items.len() == MAX {
                    return Err(de::Error::invalid_length(MAX + 1, &self));
                }
                items.push(item);
            }
            Ok(items)
        }
    }
    deserializer.deserialize_seq(Visitor::<T, MAX>(std::marker::PhantomData))
}
