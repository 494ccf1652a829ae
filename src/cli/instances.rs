//! An instance in words short enough for a table, and the tables of those commands that show instances.

use std::time::Duration;

use chrono::{DateTime, SecondsFormat};
use uuid::Uuid;

use super::{
    json,
    output::{self, Table},
    paint,
};
use crate::{
    proto::{std_duration, v1},
    status::AWAY_AFTER,
};

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

/// A table of instances; `wide` with all that is known of them.
pub(super) fn table<'a>(instances: impl IntoIterator<Item = &'a v1::Instance>, wide: bool) -> String {
    if wide {
        let header = [
            "LOGICAL ID",
            "INSTANCE",
            "STATUS",
            "ADDRESS",
            "NODE",
            "EPOCH",
            "LEASE",
            "TTL",
            "REMAINING",
            "LAST BEAT",
            "STARTED",
            "ACTOR",
            "ROUTE",
            "PID",
            "VERSION",
            "LABELS",
        ];
        let mut table = Table::new(header).painted(2, paint::status);
        instances.into_iter().for_each(|instance| table.row(wide_row(instance)));
        return table.text();
    }
    let header = ["LOGICAL ID", "INSTANCE", "STATUS", "ADDRESS", "NODE", "EPOCH", "LEASE", "TTL", "REMAINING"];
    let mut table = Table::new(header).painted(2, paint::status);
    instances.into_iter().for_each(|instance| table.row(row(instance)));
    table.text()
}

fn row(instance: &v1::Instance) -> [String; 9] {
    [
        instance.logical_id.clone(),
        instance.instance_id.clone(),
        status(instance),
        address(instance),
        instance.node_id.clone(),
        instance.epoch_number.to_string(),
        instance.lease_id.to_string(),
        seconds(instance.ttl.as_ref()),
        seconds(instance.lease_remaining.as_ref()),
    ]
}

fn wide_row(instance: &v1::Instance) -> [String; 16] {
    let [logical_id, instance_id, status, address, node, epoch, lease, ttl, remaining] = row(instance);
    [
        logical_id,
        instance_id,
        status,
        address,
        node,
        epoch,
        lease,
        ttl,
        remaining,
        time(instance.last_beat.as_ref()),
        time(instance.started_at.as_ref()),
        instance.actor_name.clone(),
        instance.serve_route.clone(),
        known(instance.pid),
        instance.version.clone(),
        labels(instance).join(","),
    ]
}

/// `key=value` of each label, by key.
pub(super) fn labels(instance: &v1::Instance) -> Vec<String> {
    let mut labels: Vec<_> = instance.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    labels.sort_unstable();
    labels
}

/// A time to the second, `2026-01-02T03:04:05Z`; nothing where unset.
pub(super) fn time(timestamp: Option<&prost_types::Timestamp>) -> String {
    moment(timestamp).map_or_else(String::new, |time| time.to_rfc3339_opts(SecondsFormat::Secs, true))
}

/// A time as a value; `None` where unset or outside the calendar.
pub(super) fn moment(timestamp: Option<&prost_types::Timestamp>) -> Option<DateTime<chrono::Utc>> {
    timestamp.and_then(|t| DateTime::from_timestamp(t.seconds, u32::try_from(t.nanos).ok()?))
}

/// How long ago, in the two largest units: `3h 12m ago`, `41s ago`.
pub(super) fn ago(age: Duration) -> String {
    format!("{} ago", age_text(age))
}

/// `12d 3h`, `3h 12m`, `41s`, `0.4s`.
pub(super) fn age_text(age: Duration) -> String {
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

/// Reads the id of an instance.
pub(super) fn parse_instance_id(text: &str) -> Result<Uuid, String> {
    Uuid::try_parse(text).map_err(|_| {
        "is no instance id, which is a UUID; `musterd describe NAME` and `musterd list -o name` show those of a name"
            .to_owned()
    })
}

/// Reads any other UUID: of an epoch, of a history.
pub(super) fn parse_uuid(text: &str) -> Result<Uuid, String> {
    Uuid::try_parse(text).map_err(|_| "is no UUID; expected one like 6f1e7a52-3c1b-4c57-9e0e-2b8a4a7d9c10".to_owned())
}

/// Reads a lease id or a revision.
pub(super) fn parse_number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| "is no whole number from 0 to 18446744073709551615".to_owned())
}

/// Reads a lease id, of which 0 is none.
pub(super) fn parse_lease_id(text: &str) -> Result<u64, String> {
    text.parse().ok().filter(|lease_id| *lease_id > 0).ok_or_else(|| {
        "is no lease id, which is a whole number from 1; `musterd list` shows those of all instances".to_owned()
    })
}

/// A number, nothing for 0 where 0 means unknown.
pub(super) fn known(number: i64) -> String {
    if number == 0 { String::new() } else { number.to_string() }
}

/// Says so if the answer is old, because PostgreSQL is away: the data on standard output looks the same.
pub(super) fn warn_if_stale(stale_for: Option<&prost_types::Duration>) {
    if let Some(warning) = stale_warning(stale_for) {
        output::note(&warning);
    }
}

/// What there is to say about an answer that is old.
pub(super) fn stale_warning(stale_for: Option<&prost_types::Duration>) -> Option<String> {
    let age = stale_for.filter(|age| std_duration(age).is_some_and(|age| age > AWAY_AFTER))?;
    Some(format!("warning: PostgreSQL last confirmed this answer {} ago", seconds(Some(age))))
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
    fn an_age_has_its_two_largest_units() {
        for (seconds, text) in
            [(0, "0.0s"), (9, "9.0s"), (41, "41s"), (60, "1m"), (3_720, "1h 2m"), (3_605, "1h"), (266_400, "3d 2h")]
        {
            assert_eq!(age_text(Duration::from_secs(seconds)), text);
        }
        assert_eq!(ago(Duration::from_millis(450)), "0.4s ago");
    }

    #[test]
    fn a_wide_table_has_the_labels_in_order() {
        let labels = [("b".to_owned(), "2".to_owned()), ("a".to_owned(), "1".to_owned())].into_iter().collect();
        let instance = v1::Instance { labels, logical_id: "organ".into(), ..Default::default() };
        assert!(table([&instance], true).trim_end().ends_with("a=1,b=2"));
        assert_eq!(table([&instance], false).lines().count(), 2);
    }

    #[test]
    fn seconds_are_cut_to_a_tenth() {
        assert_eq!(seconds(Some(&prost_types::Duration { seconds: 12, nanos: 390_000_000 })), "12.3s");
        assert_eq!(seconds(Some(&prost_types::Duration { seconds: -1, nanos: 0 })), "-1s");
        assert_eq!(seconds(None), "");
    }
}
