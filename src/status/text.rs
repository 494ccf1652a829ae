//! Durations in the texts of problems.

use std::time::Duration;

/// A duration for people: `42 s`, `3 min`, `2 h`.
pub(super) fn short(duration: Duration) -> String {
    match duration.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7_200 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3_600),
    }
}
