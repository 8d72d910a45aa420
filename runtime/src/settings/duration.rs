//! Durations as Go and Kubernetes write them: `300ms`, `30s`, `5m`, `1h30m`.

use std::time::Duration;

const NANOS_PER_SECOND: u128 = 1_000_000_000;

/// Each unit in nanoseconds; those that begin alike from the longest, so that `ms` is not read as `m`.
const UNITS: [(&str, u128); 7] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("ms", 1_000_000),
    ("s", NANOS_PER_SECOND),
    ("m", 60 * NANOS_PER_SECOND),
    ("h", 3600 * NANOS_PER_SECOND),
];

/// Reads a duration. The error says what was read and what would be right.
pub fn parse(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse::<f64>() {
        return Err(format!("{text:?} has no unit; write {seconds}s if seconds are meant"));
    }
    let unreadable = || format!("{text:?} is not a duration; write one like 300ms, 30s, 5m or 1h30m");
    let mut rest = text;
    let mut nanos = 0_u128;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(unreadable)?;
        let (number, tail) = rest.split_at(digits);
        let (unit, scale) = UNITS.into_iter().find(|(unit, _)| tail.starts_with(unit)).ok_or_else(unreadable)?;
        nanos = scaled(number, scale).and_then(|part| nanos.checked_add(part)).ok_or_else(unreadable)?;
        rest = &tail[unit.len()..];
    }
    if text.is_empty() {
        return Err(unreadable());
    }
    let seconds = u64::try_from(nanos / NANOS_PER_SECOND).map_err(|_| unreadable())?;
    let nanos = u32::try_from(nanos % NANOS_PER_SECOND).map_err(|_| unreadable())?;
    Ok(Duration::new(seconds, nanos))
}

/// `number`, perhaps with decimals, times `scale`; rounded down.
fn scaled(number: &str, scale: u128) -> Option<u128> {
    let (whole, decimals) = number.split_once('.').unwrap_or((number, "0"));
    let whole = whole.parse::<u128>().ok()?.checked_mul(scale)?;
    let unit = 10_u128.checked_pow(u32::try_from(decimals.len()).ok()?)?;
    whole.checked_add(decimals.parse::<u128>().ok()?.checked_mul(scale)? / unit)
}

/// Writes a duration with the largest units that leave it exact: the inverse of [`parse`].
pub fn show(duration: Duration) -> String {
    let seconds = duration.as_secs();
    if duration.subsec_nanos() != 0 {
        return format!("{duration:?}");
    }
    let parts = [(seconds / 3600, "h"), (seconds / 60 % 60, "m"), (seconds % 60, "s")];
    let shown = parts.iter().filter(|(n, _)| *n > 0).map(|(n, unit)| format!("{n}{unit}")).collect::<Vec<_>>();
    if shown.is_empty() { "0s".into() } else { shown.concat() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_go_reads() {
        let cases = [
            ("0s", 0),
            ("300ms", 300_000_000),
            ("30s", 30_000_000_000),
            ("1.5h", 5_400_000_000_000),
            ("1h30m", 5_400_000_000_000),
            ("2us1ns", 2_001),
            ("1µs", 1_000),
        ];
        for (text, nanos) in cases {
            assert_eq!(parse(text), Ok(Duration::from_nanos(nanos)), "{text}");
        }
    }

    #[test]
    fn what_it_shows_it_reads_again() {
        for text in ["0s", "300ms", "30s", "5m", "1h", "1h30m", "1h2m3s", "1.5s"] {
            assert_eq!(show(parse(text).unwrap()), text);
        }
    }

    #[test]
    fn refuses_with_what_would_be_right() {
        assert_eq!(parse("300").unwrap_err(), "\"300\" has no unit; write 300s if seconds are meant");
        for text in ["", "s", "5 m", "5d", "-5s", "1h30", "1..5s", "99999999999999999999999999999h"] {
            let right = format!("{text:?} is not a duration; write one like 300ms, 30s, 5m or 1h30m");
            assert_eq!(parse(text).unwrap_err(), right);
        }
    }
}
