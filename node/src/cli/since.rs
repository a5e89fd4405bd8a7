//! Since when: a length of time before now, or a day.

use aitbc_protocol::UnixMillis;

/// Reads `7d`, `36h` and the like as so long before now, and `2026-11-01` as the beginning of that day in UTC.
pub(super) fn parse(text: &str) -> Result<UnixMillis, String> {
    if let Ok(day) = text.parse::<jiff::civil::Date>() {
        let midnight = day.to_zoned(jiff::tz::TimeZone::UTC).map_err(|error| error.to_string())?;
        return UnixMillis::try_from(midnight.timestamp().as_millisecond())
            .map_err(|_| "a day before 1970".to_owned());
    }
    let length = humantime::parse_duration(text)
        .map_err(|_| "expected a length of time such as 7d or 36h, or a day such as 2026-11-01".to_owned())?;
    let milliseconds = u64::try_from(length.as_millis()).unwrap_or(u64::MAX);
    Ok(crate::clock::now_ms().saturating_sub(milliseconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_of_time_or_a_day() {
        assert_eq!(parse("2026-11-01"), Ok(1_793_491_200_000));
        let now = crate::clock::now_ms();
        let week_ago = parse("7d").expect("a length of time");
        assert!((now - 7 * 86_400_000..=now - 7 * 86_400_000 + 60_000).contains(&week_ago));
        assert_eq!(parse("9999y"), Ok(0), "before everything");
        for wrong in ["", "7", "yesterday", "2026-13-01", "-7d", "1960-01-01"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
