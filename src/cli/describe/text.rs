//! What is known of an instance or a name, as a person would tell it: a line for each thing, nothing for what is unset.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use crate::{
    cli::{
        instances::{self, address, age_text, ago, known, labels, moment, seconds, status, time},
        output::escape,
        paint,
    },
    proto::v1,
};

/// How many of the dead are told of.
const DEATHS_MAX: usize = 5;
/// Where the second column begins.
const COLUMN: usize = 13;

/// Lines of `Key: value`.
struct Lines(String);

impl Lines {
    /// A line, unless there is nothing to say.
    fn put(&mut self, key: &str, value: &str) {
        if !value.is_empty() {
            let key = if key.is_empty() { String::new() } else { format!("{key}:") };
            let line = format!("{key:<COLUMN$}{}", escape(value));
            self.0.push_str(&line);
            self.0.push('\n');
        }
    }
}

/// An instance.
pub(super) fn instance(one: &v1::Instance, revision: u64, now: DateTime<Utc>) -> String {
    let mut lines = Lines(String::new());
    lines.put("Instance", &one.instance_id);
    lines.put("Name", &one.logical_id);
    // Painted, so it must not be escaped: its words are ours.
    let word = status(one);
    lines.0.push_str(&format!("{:<COLUMN$}{}\n", "Status:", shown_status(&word, one)));
    lines.put("Lease", &lease(one));
    lines.put("Epoch", &format!("{} ({})", one.epoch_number, one.cluster_epoch));
    lines.put("Address", &address(one));
    lines.put("Node", &one.node_id);
    lines.put("PID", &known(one.pid));
    lines.put("Actor", &one.actor_name);
    lines.put("Route", &one.serve_route);
    lines.put("Version", &one.version);
    for (at, label) in labels(one).iter().enumerate() {
        lines.put(if at == 0 { "Labels" } else { "" }, label);
    }
    lines.put("Started", &when(one.started_at.as_ref(), now));
    lines.put("Last beat", &when(one.last_beat.as_ref(), now));
    if let Some(death) = &one.death {
        lines.put("Died", &when(death.at.as_ref(), now));
        lines.put("Because", reason(death));
        lines.put("Deadline", &deadline(death));
        lines.put("Decided by", &death.decided_by);
    }
    lines.put("Revision", &format!("{}, seen at {revision}", one.revision));
    lines.0
}

fn shown_status(word: &str, one: &v1::Instance) -> String {
    let painted = if paint::is_on() { paint::paint(word, paint::status(word)) } else { word.to_owned() };
    match one.status() {
        _ if one.suspect => format!("{painted}, because two beats are overdue; its next beat takes that back"),
        v1::InstanceStatus::Starting => format!("{painted}, not resolved before it says that it is alive"),
        v1::InstanceStatus::Draining => format!("{painted}, no longer resolved"),
        _ => painted,
    }
}

fn lease(one: &v1::Instance) -> String {
    let ttl = seconds(one.ttl.as_ref());
    match one.status() {
        v1::InstanceStatus::Dead => format!("{}, ended", one.lease_id),
        _ => format!("{}, for {ttl} after each beat, {} left", one.lease_id, seconds(one.lease_remaining.as_ref())),
    }
}

/// Why an instance is dead.
fn reason(death: &v1::Death) -> &'static str {
    match death.reason() {
        v1::DeathReason::Unspecified => "not on record: it died before reasons were kept",
        v1::DeathReason::Stale => "stale: no beat arrived within its TTL",
        v1::DeathReason::OldEpoch => "old_epoch: the epoch was rotated",
        v1::DeathReason::Deregistered => "deregistered: its owner, or somebody in its name, ended the lease",
        v1::DeathReason::Replaced => "replaced: its instance id was registered anew",
        v1::DeathReason::Operator => "operator: somebody declared it dead",
    }
}

/// When the lease would have ended, and how much later its end was declared.
fn deadline(death: &v1::Death) -> String {
    let text = time(death.deadline.as_ref());
    match (moment(death.at.as_ref()), moment(death.deadline.as_ref())) {
        (Some(at), Some(deadline)) if at >= deadline => {
            format!("{text}, {} before that", age_text((at - deadline).to_std().unwrap_or_default()))
        }
        _ => text,
    }
}

fn when(timestamp: Option<&prost_types::Timestamp>, now: DateTime<Utc>) -> String {
    match moment(timestamp) {
        Some(at) => format!("{} ({})", time(timestamp), since(at, now)),
        None => String::new(),
    }
}

fn since(at: DateTime<Utc>, now: DateTime<Utc>) -> String {
    ago((now - at).max(TimeDelta::zero()).to_std().unwrap_or(Duration::MAX))
}

/// A name and its instances.
pub(super) fn name(
    logical_id: &str,
    all: &v1::ListInstancesResponse,
    cluster: &v1::GetClusterResponse,
    now: DateTime<Utc>,
) -> String {
    let count = |status| all.instances.iter().filter(|one| one.status() == status).count();
    let suspects = all.instances.iter().filter(|one| one.suspect).count();
    let mut lines = Lines(String::new());
    lines.put("Name", logical_id);
    let mut on_record = format!(
        "{} alive, {} starting, {} draining, {} dead",
        count(v1::InstanceStatus::Alive),
        count(v1::InstanceStatus::Starting),
        count(v1::InstanceStatus::Draining),
        count(v1::InstanceStatus::Dead)
    );
    if suspects > 0 {
        on_record.push_str(&format!("; {suspects} suspect"));
    }
    lines.put("On record", &on_record);
    lines.put("Best", &best(&all.instances));
    lines.put("Epoch", &format!("{} ({})", cluster.epoch_number, cluster.cluster_epoch));
    lines.put("Revision", &all.revision.to_string());
    let living: Vec<_> = all.instances.iter().filter(|one| one.status() != v1::InstanceStatus::Dead).collect();
    let mut text = lines.0;
    if !living.is_empty() {
        text.push('\n');
        text.push_str(&instances::table(living, false));
    }
    text.push_str(&deaths(&all.instances, now));
    text
}

/// Whom Resolve chooses, as far as this answer tells: alive, not suspect before suspect, then the longest serving.
fn best(all: &[v1::Instance]) -> String {
    let candidates = all.iter().filter(|one| one.status() == v1::InstanceStatus::Alive);
    let rank = |one: &&v1::Instance| (one.suspect, moment(one.started_at.as_ref()), one.instance_id.clone());
    match candidates.min_by_key(rank) {
        None => "none: nobody of this name is alive".to_owned(),
        Some(one) => [one.instance_id.clone(), address(one)].join(" ").trim_end().to_owned(),
    }
}

/// The latest deaths.
fn deaths(all: &[v1::Instance], now: DateTime<Utc>) -> String {
    let mut dead: Vec<_> = all.iter().filter(|one| one.status() == v1::InstanceStatus::Dead).collect();
    if dead.is_empty() {
        return String::new();
    }
    let died = |one: &&v1::Instance| one.death.as_ref().and_then(|death| moment(death.at.as_ref()));
    // Who died by a rotation a moment ago has no time yet: the latest of all.
    dead.sort_by_key(|one| std::cmp::Reverse((died(one).is_none(), died(one), one.revision)));
    let shown = dead.len().min(DEATHS_MAX);
    let which = if dead.len() > shown { format!("the latest {shown} of {}", dead.len()) } else { String::new() };
    let mut text = format!("\nDeaths:      {which}").trim_end().to_owned();
    text.push('\n');
    for one in &dead[..shown] {
        let death = one.death.clone().unwrap_or_default();
        let at = died(one).map_or_else(|| "just now".to_owned(), |at| since(at, now));
        let by =
            if death.decided_by.is_empty() { String::new() } else { format!(", by {}", escape(&death.decided_by)) };
        text.push_str(&format!("  {}  {at}{by}, {}\n", one.instance_id, reason(&death)));
    }
    text
}

#[cfg(test)]
mod tests {
    use prost_types::Timestamp;

    use super::*;

    fn at(seconds: i64) -> Option<Timestamp> {
        Some(Timestamp { seconds, nanos: 0 })
    }

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(1_000, 0).expect("a time")
    }

    fn alive(id: &str, started: i64) -> v1::Instance {
        v1::Instance {
            instance_id: id.into(),
            logical_id: "organ".into(),
            status: v1::InstanceStatus::Alive.into(),
            started_at: at(started),
            ..Default::default()
        }
    }

    #[test]
    fn a_dead_instance_tells_why_when_and_by_whom() {
        let dead = v1::Instance {
            status: v1::InstanceStatus::Dead.into(),
            lease_id: 7,
            last_beat: at(900),
            death: Some(v1::Death {
                reason: v1::DeathReason::Stale.into(),
                at: at(917),
                deadline: at(915),
                decided_by: "10.0.0.1:7717/ab".into(),
            }),
            ..alive("6f1e", 100)
        };
        let text = instance(&dead, 50, now());
        for line in [
            "Status:      dead(stale)",
            "Lease:       7, ended",
            "Last beat:   1970-01-01T00:15:00Z (1m 40s ago)",
            "Died:        1970-01-01T00:15:17Z (1m 23s ago)",
            "Because:     stale: no beat arrived within its TTL",
            "Deadline:    1970-01-01T00:15:15Z, 2.0s before that",
            "Decided by:  10.0.0.1:7717/ab",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line:?} in\n{text}");
        }
        assert!(!text.contains("Node:"), "what is unset is not told\n{text}");
    }

    #[test]
    fn what_was_registered_cannot_forge_a_line() {
        let forged = v1::Instance { node_id: "a\nStatus: dead\u{1b}[2J".into(), ..alive("6f1e", 100) };
        let text = instance(&forged, 50, now());
        assert!(text.contains("Node:        a\\nStatus: dead\\u{1b}[2J\n"), "{text}");
    }

    #[test]
    fn the_best_of_a_name_is_not_suspect_and_serves_the_longest() {
        let all = [
            v1::Instance { suspect: true, ..alive("a", 1) },
            alive("c", 5),
            alive("b", 5),
            v1::Instance { status: v1::InstanceStatus::Draining.into(), ..alive("d", 0) },
        ];
        assert_eq!(best(&all), "b");
        assert_eq!(best(&all[3..]), "none: nobody of this name is alive");
        let dead = |id: &str, time: i64| v1::Instance {
            status: v1::InstanceStatus::Dead.into(),
            death: Some(v1::Death { at: at(time), ..Default::default() }),
            ..alive(id, 1)
        };
        let many: Vec<_> = (0..9).map(|number| dead(&format!("id-{number}"), 100 + number)).collect();
        let text = deaths(&many, now());
        assert!(text.starts_with("\nDeaths:      the latest 5 of 9\n  id-8 "), "{text}");
        assert_eq!(text.lines().count(), 7);
    }
}
