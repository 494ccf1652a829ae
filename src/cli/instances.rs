//! Columns that `resolve` and `list` share: an instance in words short enough for a table.

use std::time::Duration;

use super::{json, output};
use crate::proto::{std_duration, v1};

/// A daemon that has not heard of PostgreSQL for longer than this is worth a warning. Around a second is normal.
const STALE_AFTER: Duration = Duration::from_secs(5);

/// `alive`, `alive(suspect)`, `dead(stale)`.
pub(super) fn status(instance: &v1::Instance) -> String {
    let name = short(instance.status().as_str_name(), "INSTANCE_STATUS_");
    match &instance.death {
        Some(death) if death.reason() != v1::DeathReason::Unspecified => {
            format!("{name}({})", short(death.reason().as_str_name(), "DEATH_REASON_"))
        }
        _ if instance.suspect => format!("{name}(suspect)"),
        _ => name,
    }
}

fn short(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix).unwrap_or(name).to_ascii_lowercase()
}

/// `10.0.0.1:80`, `[::1]:80`, `10.0.0.1`, `:80`, or nothing.
pub(super) fn address(instance: &v1::Instance) -> String {
    match (instance.ip_address.as_str(), instance.port) {
        (ip, 0) => ip.to_owned(),
        (ip, port) if ip.contains(':') => format!("[{ip}]:{port}"),
        (ip, port) => format!("{ip}:{port}"),
    }
}

/// Seconds to a tenth, for example `12.3s`; nothing where unset.
pub(super) fn seconds(duration: Option<&prost_types::Duration>) -> String {
    duration.map_or_else(String::new, |wire| match std_duration(wire) {
        Some(d) => format!("{}.{}s", d.as_secs(), d.subsec_millis() / 100),
        None => json::duration_text(wire),
    })
}

/// A number, nothing for 0 where 0 means unknown.
pub(super) fn known(number: i64) -> String {
    if number == 0 { String::new() } else { number.to_string() }
}

/// Says so if the answer is old, because PostgreSQL is away: the data on standard output looks the same.
pub(super) fn warn_if_stale(stale_for: Option<&prost_types::Duration>) {
    if let Some(age) = stale_for
        && std_duration(age).is_some_and(|age| age > STALE_AFTER)
    {
        let age = seconds(Some(age));
        output::note(&format!("warning: PostgreSQL last confirmed this answer {age} ago"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_says_why_it_is_not_plain() {
        let alive = v1::Instance { status: v1::InstanceStatus::Alive.into(), ..Default::default() };
        assert_eq!(status(&alive), "alive");
        assert_eq!(status(&v1::Instance { suspect: true, ..alive }), "alive(suspect)");
        let dead = v1::Instance {
            status: v1::InstanceStatus::Dead.into(),
            death: Some(v1::Death { reason: v1::DeathReason::OldEpoch.into(), ..Default::default() }),
            ..Default::default()
        };
        assert_eq!(status(&dead), "dead(old_epoch)");
    }

    #[test]
    fn an_address_shows_what_is_known() {
        let at = |ip: &str, port| address(&v1::Instance { ip_address: ip.to_owned(), port, ..Default::default() });
        assert_eq!(at("10.0.0.1", 80), "10.0.0.1:80");
        assert_eq!(at("::1", 80), "[::1]:80");
        assert_eq!(at("::1", 0), "::1");
        assert_eq!(at("", 0), "");
    }

    #[test]
    fn seconds_are_cut_to_a_tenth() {
        assert_eq!(seconds(Some(&prost_types::Duration { seconds: 12, nanos: 390_000_000 })), "12.3s");
        assert_eq!(seconds(Some(&prost_types::Duration { seconds: -1, nanos: 0 })), "-1s");
        assert_eq!(seconds(None), "");
    }
}
