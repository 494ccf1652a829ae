//! Durations, times and long integers as the proto3 JSON mapping has them.

use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::Value;

use crate::model::Lease;

/// `1s`, `0.200s`: to the millisecond.
#[must_use]
pub fn duration(duration: Duration) -> Value {
    let millis = duration.subsec_millis();
    Value::String(match (duration.as_secs(), millis) {
        (seconds, 0) => format!("{seconds}s"),
        (seconds, millis) => format!("{seconds}.{millis:03}s"),
    })
}

/// How long ago an instance was last heard of. Unlike what remains of its lease, this goes on when that has ended.
#[must_use]
pub fn silent_for(lease: &Lease, now_ms: u64) -> Value {
    duration(Duration::from_millis(now_ms.saturating_sub(lease.heard_ms())))
}

/// `2026-01-02T03:04:05.678Z`.
#[must_use]
pub fn time(time: DateTime<Utc>) -> Value {
    Value::String(time.to_rfc3339_opts(SecondsFormat::AutoSi, true))
}

/// A 64-bit integer. As a number it would be rounded by readers that know only doubles.
#[must_use]
pub fn long(number: impl ToString) -> Value {
    Value::String(number.to_string())
}
