//! An instance in words short enough for a table, and the tables of those commands that show instances.

use std::{
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use musterd_client::{DeathReason, Instance};
use uuid::Uuid;

pub(crate) use crate::terminal::words::{age_text, ago, moment, seconds, time};
use crate::{
    status::AWAY_AFTER,
    terminal::{
        output::{self, Table},
        paint,
    },
};

/// `alive`, `alive(suspect)`, `dead(stale)`.
pub(crate) fn status(instance: &Instance) -> String {
    let name = instance.status.as_str();
    match &instance.death {
        Some(death) if death.reason != DeathReason::Unknown => format!("{name}({})", death.reason.as_str()),
        _ if instance.suspect => format!("{name}(suspect)"),
        _ => name.to_owned(),
    }
}

/// `10.0.0.1:80`, `[::1]:80`, `10.0.0.1`, `:80`, or nothing.
pub(crate) fn address(instance: &Instance) -> String {
    match (instance.ip, instance.port) {
        (Some(ip), Some(port)) => SocketAddr::from((ip, port)).to_string(),
        (Some(ip), None) => ip.to_string(),
        (None, Some(port)) => format!(":{port}"),
        (None, None) => String::new(),
    }
}

/// A table of instances; `wide` with all that is known of them.
pub(crate) fn table<'a>(instances: impl IntoIterator<Item = &'a Instance>, wide: bool) -> String {
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
            "STATUS SINCE",
            "STATUS REASON",
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

fn row(instance: &Instance) -> [String; 9] {
    [
        instance.logical_id.clone(),
        instance.instance_id.to_string(),
        status(instance),
        address(instance),
        instance.node_id.clone(),
        instance.epoch_number.to_string(),
        instance.lease_id.to_string(),
        seconds(instance.ttl),
        seconds(instance.lease_remaining),
    ]
}

fn wide_row(instance: &Instance) -> [String; 18] {
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
        time(instance.last_beat),
        time(instance.started_at),
        instance.actor_name.clone(),
        instance.serve_route.clone(),
        known(instance.pid),
        instance.version.clone(),
        labels(instance).join(","),
        time(instance.status_since),
        instance.status_reason.clone(),
    ]
}

/// `key=value` of each label, by key.
pub(crate) fn labels(instance: &Instance) -> Vec<String> {
    instance.labels.iter().map(|(key, value)| format!("{key}={value}")).collect()
}

/// Reads the id of an instance.
pub(crate) fn parse_instance_id(text: &str) -> Result<Uuid, String> {
    Uuid::try_parse(text).map_err(|_| {
        "is no instance id, which is a UUID; `musterd describe NAME` and `musterd list -o name` show those of a name"
            .to_owned()
    })
}

/// Reads a time.
pub(crate) fn parse_time(text: &str) -> Result<SystemTime, String> {
    let time = chrono::DateTime::parse_from_rfc3339(text);
    time.map(SystemTime::from).map_err(|_| "expected a time like 2026-01-31T03:12:00Z".to_owned())
}

/// Reads any other UUID: of an epoch, of a history.
pub(crate) fn parse_uuid(text: &str) -> Result<Uuid, String> {
    Uuid::try_parse(text).map_err(|_| "is no UUID; expected one like 6f1e7a52-3c1b-4c57-9e0e-2b8a4a7d9c10".to_owned())
}

/// Reads a lease id or a revision.
pub(crate) fn parse_number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| "is no whole number from 0 to 18446744073709551615".to_owned())
}

/// Reads a lease id, of which 0 is none.
pub(crate) fn parse_lease_id(text: &str) -> Result<u64, String> {
    text.parse().ok().filter(|lease_id| *lease_id > 0).ok_or_else(|| {
        "is no lease id, which is a whole number from 1; `musterd list` shows those of all instances".to_owned()
    })
}

/// A number; nothing where it is unknown.
pub(crate) fn known(number: Option<u32>) -> String {
    number.map(|number| number.to_string()).unwrap_or_default()
}

/// Says so if the answer is old, because PostgreSQL is away: the data on standard output looks the same.
pub(crate) fn warn_if_stale(stale_for: Duration) {
    if let Some(warning) = stale_warning(stale_for) {
        output::note(&warning);
    }
}

/// What there is to say about an answer that is old.
pub(crate) fn stale_warning(stale_for: Duration) -> Option<String> {
    let is_old = stale_for > AWAY_AFTER;
    is_old.then(|| format!("warning: PostgreSQL last confirmed this answer {} ago", seconds(stale_for)))
}

#[cfg(test)]
mod tests {
    use musterd_client::{Death, Status};

    use super::*;

    #[test]
    fn status_shows_the_reason_of_a_mark() {
        let mut one = Instance::default();
        one.status = Status::Alive;
        assert_eq!(status(&one), "alive");
        one.suspect = true;
        assert_eq!(status(&one), "alive(suspect)");
        let mut death = Death::default();
        death.reason = DeathReason::OldEpoch;
        (one.status, one.death) = (Status::Dead, Some(death));
        assert_eq!(status(&one), "dead(old_epoch)");
    }

    #[test]
    fn an_address_shows_what_is_known() {
        let at = |ip: &str, port| {
            let mut one = Instance::default();
            (one.ip, one.port) = (ip.parse().ok(), port);
            address(&one)
        };
        assert_eq!(at("10.0.0.1", Some(80)), "10.0.0.1:80");
        assert_eq!(at("::1", Some(80)), "[::1]:80");
        assert_eq!(at("::1", None), "::1");
        assert_eq!(at("", None), "");
    }

    #[test]
    fn a_wide_table_has_the_labels_in_order() {
        let mut one = Instance::default();
        one.labels = [("b".to_owned(), "2".to_owned()), ("a".to_owned(), "1".to_owned())].into_iter().collect();
        assert!(table([&one], true).lines().nth(1).is_some_and(|row| row.contains("a=1,b=2")));
        assert_eq!(table([&one], false).lines().count(), 2);
    }
}
