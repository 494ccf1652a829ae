//! Durations, timestamps and 64-bit integers as the proto3 JSON mapping has them.
//!
//! Durations are seconds with `s`, timestamps RFC 3339 in UTC; both have 0, 3, 6 or 9 digits after the point.

use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::Value;

/// `1s`, `0.200s`.
#[must_use]
pub(crate) fn duration(duration: Duration) -> Value {
    let (seconds, nanos) = (duration.as_secs(), duration.subsec_nanos());
    Value::String(if nanos == 0 {
        format!("{seconds}s")
    } else if nanos % 1_000_000 == 0 {
        format!("{seconds}.{:03}s", nanos / 1_000_000)
    } else if nanos % 1_000 == 0 {
        format!("{seconds}.{:06}s", nanos / 1_000)
    } else {
        format!("{seconds}.{nanos:09}s")
    })
}

/// `2026-01-02T03:04:05.678Z`.
#[must_use]
pub(crate) fn time(time: DateTime<Utc>) -> Value {
    Value::String(time.to_rfc3339_opts(SecondsFormat::AutoSi, true))
}

/// A 64-bit integer. As a number it would be rounded by readers that know only doubles.
#[must_use]
pub(crate) fn long(number: impl ToString) -> Value {
    Value::String(number.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_0_3_6_or_9_digits() {
        for (nanos, expected) in
            [(0, "0s"), (3_500_000_000, "3.500s"), (15_000_001_000, "15.000001s"), (1, "0.000000001s")]
        {
            assert_eq!(duration(Duration::from_nanos(nanos)), expected);
        }
    }
}
