//! Durations of the API, to the millisecond: it tells ages, for which milliseconds are enough.

use std::time::Duration;

use serde_json::Value;

use crate::{json::value, model::Lease};

/// `1s`, `0.200s`.
pub(super) fn duration(duration: Duration) -> Value {
    value::duration(Duration::from_millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
}

/// How long ago an instance was last heard of. Unlike what remains of its lease, this goes on when that has ended.
pub(super) fn silent_for(lease: &Lease, now_ms: u64) -> Value {
    duration(Duration::from_millis(now_ms.saturating_sub(lease.heard_ms())))
}
