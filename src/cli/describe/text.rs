//! What is known of an instance or a name, as a person would tell it: a line for each thing, nothing for what is unset.

use std::time::{Duration, SystemTime};

use chrono::{DateTime, TimeDelta, Utc};
use musterd_client::{Cluster, Death, DeathReason, EndedLease, Instance, Page, Status};

use super::held::{self, Held};
use crate::{
    command::instances::{self, address, age_text, ago, known, labels, moment, seconds, status, time},
    terminal::{output::escape, paint},
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
pub(super) fn instance(one: &Instance, revision: u64, now: DateTime<Utc>) -> String {
    let mut lines = Lines(String::new());
    lines.put("Instance", &one.instance_id.to_string());
    lines.put("Name", &one.logical_id);
    // Painted, so it must not be escaped: its words are ours.
    let word = status(one);
    lines.0.push_str(&format!("{:<COLUMN$}{}\n", "Status:", shown_status(&word, one)));
    lines.put("Reason", &one.status_reason);
    lines.put("Since", &when(one.status_since, now));
    lines.put("Lease", &lease(one));
    lines.put("Epoch", &format!("{} ({})", one.epoch_number, one.cluster_epoch));
    lines.put("Address", &address(one));
    lines.put("Node", &one.node_id);
    lines.put("PID", &known(one.pid));
    lines.put("Actor", &one.actor_name);
    lines.put("Route", &one.serve_route);
    lines.put("Version", &one.version);
    lines.put("Owner", &one.owner);
    for (at, label) in labels(one).iter().enumerate() {
        lines.put(if at == 0 { "Labels" } else { "" }, label);
    }
    lines.put("Started", &when(one.started_at, now));
    lines.put("Last beat", &when(one.last_beat, now));
    if let Some(death) = &one.death {
        lines.put("Died", &when(death.at, now));
        lines.put("Because", reason(death));
        lines.put("Deadline", &deadline(death));
        lines.put("Decided by", &death.decided_by);
    }
    lines.put("Revision", &format!("{}, seen at {revision}", one.revision));
    lines.0
}

fn shown_status(word: &str, one: &Instance) -> String {
    let painted = if paint::is_on() { paint::paint(word, paint::status(word)) } else { word.to_owned() };
    match one.status {
        _ if one.suspect => format!("{painted}, because two beats are overdue; its next beat takes that back"),
        Status::Starting => format!("{painted}, not resolved before it says that it is alive"),
        Status::Draining => format!("{painted}, no longer resolved"),
        _ => painted,
    }
}

fn lease(one: &Instance) -> String {
    let ttl = seconds(one.ttl);
    match one.status {
        Status::Dead => format!("{}, ended", one.lease_id),
        _ => format!("{}, for {ttl} after each beat, {} left", one.lease_id, seconds(one.lease_remaining)),
    }
}

/// Why an instance is dead.
fn reason(death: &Death) -> &'static str {
    match death.reason {
        DeathReason::Unknown => "not on record: it died before reasons were kept",
        DeathReason::Stale => "stale: no beat arrived within its TTL",
        DeathReason::OldEpoch => "old_epoch: the epoch was rotated",
        DeathReason::Deregistered => "deregistered: the instance, or a command in its name, ended the lease",
        DeathReason::Replaced => "replaced: its instance id was registered again",
        DeathReason::Operator => "operator: declared dead by hand",
        _ => "for a reason that this version does not know",
    }
}

/// When the lease would have ended, and how much later its end was declared.
fn deadline(death: &Death) -> String {
    let text = time(death.deadline);
    match (moment(death.at), moment(death.deadline)) {
        (Some(at), Some(deadline)) if at >= deadline => {
            format!("{text}, {} before that", age_text((at - deadline).to_std().unwrap_or_default()))
        }
        _ => text,
    }
}

fn when(timestamp: Option<SystemTime>, now: DateTime<Utc>) -> String {
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
    all: &Page,
    ended: &[EndedLease],
    cluster: &Cluster,
    now: DateTime<Utc>,
) -> String {
    let count = |status| all.instances.iter().filter(|one| one.status == status).count();
    let suspects = all.instances.iter().filter(|one| one.suspect).count();
    let mut lines = Lines(String::new());
    lines.put("Name", logical_id);
    let mut on_record = format!(
        "{} alive, {} starting, {} draining, {} dead",
        count(Status::Alive),
        count(Status::Starting),
        count(Status::Draining),
        count(Status::Dead)
    );
    if suspects > 0 {
        on_record.push_str(&format!("; {suspects} suspect"));
    }
    lines.put("On record", &on_record);
    lines.put("Best", &best(&all.instances));
    lines.put("Epoch", &format!("{} ({})", cluster.epoch_number, cluster.cluster_epoch));
    lines.put("Revision", &all.revision.to_string());
    let living: Vec<_> = all.instances.iter().filter(|one| one.status != Status::Dead).collect();
    let mut text = lines.0;
    if !living.is_empty() {
        text.push('\n');
        text.push_str(&instances::table(living, false));
    }
    let dead = all.instances.iter().filter(|one| one.status == Status::Dead);
    text.push_str(&deaths("Deaths", &held::all(dead, ended), now));
    text
}

/// Whom Resolve chooses, as far as this answer tells: alive, not suspect before suspect, then the longest serving.
fn best(all: &[Instance]) -> String {
    let candidates = all.iter().filter(|one| one.status == Status::Alive);
    let rank = |one: &&Instance| (one.suspect, one.started_at, one.instance_id);
    match candidates.min_by_key(rank) {
        None => "none: no instance of this name is alive".to_owned(),
        Some(one) => [one.instance_id.to_string(), address(one)].join(" ").trim_end().to_owned(),
    }
}

/// The ended leases of an instance before the one that it has or had last.
pub(super) fn earlier(leases: &[Held], now: DateTime<Utc>) -> String {
    deaths("Earlier", leases, now)
}

/// The latest of these leases, which have ended.
fn deaths(title: &str, dead: &[Held], now: DateTime<Utc>) -> String {
    if dead.is_empty() {
        return String::new();
    }
    let shown = dead.len().min(DEATHS_MAX);
    let which = if dead.len() > shown { format!("the latest {shown} of {}", dead.len()) } else { String::new() };
    let title = format!("{title}:");
    let mut text = format!("\n{title:<COLUMN$}{which}").trim_end().to_owned() + "\n";
    for held in &dead[..shown] {
        let death = held.death.clone().unwrap_or_default();
        let at = moment(death.at).map_or_else(|| "just now".to_owned(), |at| since(at, now));
        let named = |what: &str, name: &str| {
            if name.is_empty() { String::new() } else { format!(", {what} {}", escape(name)) }
        };
        let (owner, by) = (named("owner", &held.owner), named("by", &death.decided_by));
        let (instance, lease) = (held.instance_id, held.lease_id);
        text.push_str(&format!("  {instance}  lease {lease}{owner}, ended {at}{by}, {}\n", reason(&death)));
    }
    text
}

/// The leases that were held at a time.
pub(super) fn held_at(what: &str, at: SystemTime, leases: &[Held]) -> String {
    let mut lines = Lines(String::new());
    lines.put("Name", what);
    lines.put("At", &time(Some(at)));
    lines.put("Held", &format!("{} on record", leases.len()));
    let mut text = lines.0;
    for held in leases {
        let end = match &held.death {
            None => "still held".to_owned(),
            Some(death) if death.at.is_none() => format!("ended just now, {}", reason(death)),
            Some(death) => format!("ended {}, {}", time(death.at), reason(death)),
        };
        let owner = if held.owner.is_empty() { String::new() } else { format!(", owner {}", escape(&held.owner)) };
        let (instance, lease, since) = (held.instance_id, held.lease_id, time(held.started_at));
        text.push_str(&format!("  {instance}  lease {lease}{owner}, from {since}, {end}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Option<SystemTime> {
        Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
    }

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(1_000, 0).expect("a time")
    }

    fn alive(id: u128, started: u64) -> Instance {
        let mut one = Instance::default();
        (one.instance_id, one.logical_id) = (uuid::Uuid::from_u128(id), "organ".into());
        (one.status, one.started_at) = (Status::Alive, at(started));
        one
    }

    fn dead(id: u128, time: u64) -> Instance {
        let (mut one, mut death) = (alive(id, 1), Death::default());
        (death.reason, death.at) = (DeathReason::Stale, at(time));
        (one.status, one.death) = (Status::Dead, Some(death));
        one
    }

    #[test]
    fn dead_instance_shows_reason_time_and_decider() {
        let mut one = dead(7, 917);
        (one.lease_id, one.last_beat) = (7, at(900));
        if let Some(death) = &mut one.death {
            (death.deadline, death.decided_by) = (at(915), "10.0.0.1:7717/ab".into());
        }
        let text = instance(&one, 50, now());
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
    fn registered_text_cannot_forge_a_line() {
        let mut forged = alive(7, 100);
        forged.node_id = "a\nStatus: dead\u{1b}[2J".into();
        let text = instance(&forged, 50, now());
        assert!(text.contains("Node:        a\\nStatus: dead\\u{1b}[2J\n"), "{text}");
    }

    #[test]
    fn the_best_of_a_name_is_not_suspect_and_serves_the_longest() {
        let mut all = [alive(1, 1), alive(3, 5), alive(2, 5), alive(4, 0)];
        all[0].suspect = true;
        all[3].status = Status::Draining;
        assert_eq!(best(&all), all[2].instance_id.to_string());
        assert_eq!(best(&all[3..]), "none: no instance of this name is alive");
    }

    #[test]
    fn only_the_latest_deaths_are_listed() {
        let many: Vec<_> = (0..9).map(|number| dead(number.into(), 100 + number)).collect();
        let text = deaths("Deaths", &held::all(&many, &[]), now());
        let first = format!("\nDeaths:      the latest 5 of 9\n  {} ", many[8].instance_id);
        assert!(text.starts_with(&first), "{text}");
        assert_eq!(text.lines().count(), 7);
    }
}
