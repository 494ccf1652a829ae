//! Spans and moments of time, short enough for a table.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chrono::{DateTime, SecondsFormat, Utc};

/// Seconds to a tenth, for example `12.3s`.
pub(crate) fn seconds(span: Duration) -> String {
    format!("{}.{}s", span.as_secs(), span.subsec_millis() / 100)
}

/// Milliseconds to a tenth.
pub(crate) fn millis(duration: Duration) -> String {
    format!("{:.1}ms", duration.as_secs_f64() * 1_000.0)
}

/// A time to the second, `2026-01-02T03:04:05Z`; nothing where unset.
pub(crate) fn time(time: Option<SystemTime>) -> String {
    moment(time).map_or_else(String::new, |time| time.to_rfc3339_opts(SecondsFormat::Secs, true))
}

/// A time of the calendar; `None` where unset or outside of it.
pub(crate) fn moment(time: Option<SystemTime>) -> Option<DateTime<Utc>> {
    let since = time?.duration_since(UNIX_EPOCH).ok()?;
    DateTime::from_timestamp(i64::try_from(since.as_secs()).ok()?, since.subsec_nanos())
}

/// How long ago, in the two largest units: `3h 12m ago`, `41s ago`.
pub(crate) fn ago(age: Duration) -> String {
    format!("{} ago", age_text(age))
}

/// `12d 3h`, `3h 12m`, `41s`, `0.4s`.
pub(crate) fn age_text(age: Duration) -> String {
    const UNITS: [(u64, &str); 4] = [(86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")];
    let seconds = age.as_secs();
    if seconds < 10 {
        return format!("{seconds}.{}s", age.subsec_millis() / 100);
    }
    let first = UNITS.iter().position(|(size, _)| seconds >= *size).unwrap_or(UNITS.len() - 1);
    let mut rest = seconds;
    let mut parts = Vec::new();
    for (size, unit) in &UNITS[first..UNITS.len().min(first + 2)] {
        if rest / size > 0 {
            parts.push(format!("{}{unit}", rest / size));
        }
        rest %= size;
    }
    parts.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_has_its_two_largest_units() {
        for (seconds, text) in
            [(0, "0.0s"), (9, "9.0s"), (41, "41s"), (60, "1m"), (3_720, "1h 2m"), (3_605, "1h"), (266_400, "3d 2h")]
        {
            assert_eq!(age_text(Duration::from_secs(seconds)), text);
        }
        assert_eq!(ago(Duration::from_millis(450)), "0.4s ago");
    }

    #[test]
    fn seconds_are_cut_to_a_tenth() {
        assert_eq!(seconds(Duration::from_millis(12_390)), "12.3s");
    }
}
