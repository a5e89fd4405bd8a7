//! The one place where jobs and quotes get random numbers: their names, and the draw among near-equals.

use rand::distr::{Distribution, StandardUniform};

/// A number that nobody can guess. In a simulated city, the next one of its seed.
pub(crate) fn draw<T>() -> T
where
    StandardUniform: Distribution<T>,
{
    #[cfg(test)]
    if let Some(number) = crate::city::laboratory::draw() {
        return number;
    }
    rand::random()
}
