//! The rules: which facts are which problems. `docs/http-api.md` lists the thresholds.

use std::time::Duration;

use super::{
    facts::{EVICTED_AFTER, Expiry, Facts, FailingReaper, SILENT_AFTER},
    problem::{Code, Problem, Severity},
    text::short,
};
use crate::model::{Brake, BrakeMode, DaemonRecord, Hold};

/// A save that takes longer is slow: a healthy PostgreSQL takes a few milliseconds.
const SLOW_SAVE: Duration = Duration::from_millis(250);
/// A busy machine is late by less.
const SAVING_LATE_AFTER: Duration = Duration::from_secs(1);
/// A reaper runs every 30 s at least, and may wait 10 s for an answer.
const REAPER_LATE_AFTER: Duration = Duration::from_secs(45);
/// Fewer failures in a row are what a lock timeout or a restart of PostgreSQL does.
const REAPER_FAILURES: u32 = 3;

/// What this daemon's problems follow from while PostgreSQL is away.
fn away(facts: &Facts) -> Option<Code> {
    facts.is_away().then_some(Code::DatabaseAway)
}

pub(super) fn database(facts: &Facts, found: &mut Vec<Problem>) {
    if let Some(behind) = &facts.behind {
        let summary = format!(
            "The database at {} is behind: it is at revision {}, and this daemon has seen revision {}",
            behind.host, behind.revision, behind.seen
        );
        let action = "Two primaries run, or the database has lost changes. The daemon refuses sessions with it while \
                      the other database answers, and uses it 2 s after that one is gone, under a hold. End the old primary, \
                      and check where the database url leads.";
        found.push(Problem::new(Code::DatabaseBehind, Severity::Critical, summary, action));
    }
    if facts.is_away() {
        let at = facts.confirmed_at.format("%Y-%m-%d %H:%M:%S UTC");
        let summary = format!("PostgreSQL has not answered for {}; all data is as of {at}", short(facts.stale_for));
        let action = "Resolve and List answer from memory; registrations fail; beats are accepted while they can still \
                      be saved in time; no lease expires. Check PostgreSQL and the network to it. Once it is back, the \
                      daemon recovers without an operator.";
        found.push(Problem::new(Code::DatabaseAway, Severity::Critical, summary, action));
    } else if let Some(latency) = facts.database_latency.filter(|latency| *latency > SLOW_SAVE) {
        let summary = format!("PostgreSQL takes {} ms to save beats", latency.as_millis());
        let action = "Check the disk and the load of PostgreSQL, and the network to it.";
        found.push(Problem::new(Code::DatabaseSlow, Severity::Warning, summary, action));
    }
}

pub(super) fn daemon(facts: &Facts, found: &mut Vec<Problem>) {
    for condition in facts.conditions.iter().filter(|condition| !condition.ok) {
        let summary = format!("This daemon is not ready: {}: {}", condition.name, condition.detail);
        let action = "Use another daemon until it is. If it does not become ready, check its log.";
        found.push(Problem::new(Code::NotReady, Severity::Critical, summary, action).caused_by(away(facts)));
    }
    if facts.loaded && is_flush_late(facts) {
        let severity = if facts.flush_lag > SILENT_AFTER { Severity::Critical } else { Severity::Warning };
        let summary = format!("Beats are not saved: {}", flush_text(facts));
        let action = "Actors whose beats are refused go to another daemon. Check the disk, the locks and the \
                      connections of PostgreSQL.";
        found.push(Problem::new(Code::BeatsNotSaved, severity, summary, action).caused_by(away(facts)));
    }
    for reaper in facts.failing_reapers.iter().filter(|reaper| is_failing(reaper)) {
        let summary = format!(
            "The {} reaper of this daemon has failed {} times in a row, for {}: {}",
            reaper.name,
            reaper.failures,
            short(reaper.failing_for),
            reaper.error
        );
        let (severity, action) = match reaper.name {
            "stale" => (
                Severity::Critical,
                "No lease expires through this daemon. The error names the cause; other daemons reap as well unless they \
                 fail alike.",
            ),
            _ => {
                (Severity::Warning, "The error names the cause; other daemons do the same work unless they fail alike.")
            }
        };
        found.push(Problem::new(Code::ReaperFailing, severity, summary, action).caused_by(away(facts)));
    }
    if let Some(age) = facts.last_reap_age.filter(|age| *age > REAPER_LATE_AFTER) {
        let cause = away(facts).or_else(|| failing_stale(facts).map(|_| Code::ReaperFailing));
        let summary = format!("The stale reaper of this daemon last succeeded {} ago", short(age));
        let action = "It runs every 30 s at least. No lease expires through this daemon; others reap as well. Check the \
                      log of this daemon; if PostgreSQL is healthy, restart the daemon.";
        found.push(Problem::new(Code::ReaperLate, Severity::Critical, summary, action).caused_by(cause));
    }
}

fn is_failing(reaper: &FailingReaper) -> bool {
    reaper.failures >= REAPER_FAILURES
}

fn failing_stale(facts: &Facts) -> Option<&FailingReaper> {
    facts.failing_reapers.iter().find(|reaper| reaper.name == "stale" && is_failing(reaper))
}

/// What the failing reaper of stale leases means for expiry.
pub(super) fn failing_expiry(facts: &Facts) -> Option<String> {
    let reaper = failing_stale(facts)?;
    Some(format!("the stale reaper has failed {} times in a row: {}", reaper.failures, reaper.error))
}

/// Whether saving beats is later than a busy machine explains.
pub(super) fn is_flush_late(facts: &Facts) -> bool {
    facts.flush_lag > SAVING_LATE_AFTER
}

/// By how much saving is late, and which beats that refuses: those whose lease is saved less often than that.
pub(super) fn flush_text(facts: &Facts) -> String {
    format!(
        "saving is {} late; beats of leases with a TTL below {} are refused",
        short(facts.flush_lag),
        short(facts.flush_lag * 3)
    )
}

/// For how long expiry is on hold, and why.
pub(super) fn hold_text(hold: &Hold) -> String {
    format!("on hold for another {}: {}", short(hold.remaining), hold.reason)
}

/// How expiry is braked.
pub(super) fn brake_text(brake: &Brake) -> String {
    let how = match brake.mode {
        BrakeMode::Protect => "stopped",
        BrakeMode::Pace => "slowed",
    };
    format!("{how} by the brake: {} of {} live instances are overdue", brake.overdue, brake.live)
}

pub(super) fn expiry(facts: &Facts, found: &mut Vec<Problem>) {
    if facts.expiry() == Expiry::Unknown {
        // What was read of hold and brake is out of date.
        return;
    }
    if let Some(brake) = &facts.brake {
        let summary = format!("Expiry is {}", brake_text(brake));
        let (code, severity, action) = match brake.mode {
            BrakeMode::Protect => (
                Code::BrakeProtect,
                Severity::Critical,
                "No lease expires: when more instances are silent than heard, a fault between them and the registry is \
                 more likely than their end. It ends when they are heard again, or after 10 minutes. Check the network; if the instances are gone for good, release the brake.",
            ),
            BrakeMode::Pace => (
                Code::BrakePace,
                Severity::Warning,
                "Many instances are overdue at once, so their leases expire in portions. Find out why; if they are gone \
                 for good, release the brake.",
            ),
        };
        found.push(Problem::new(code, severity, summary, action).with_command("musterd release"));
    }
    if let Some(hold) = &facts.hold {
        let action = "After a disruption each lease has its TTL and 5 s; no lease expires during an operator's hold. Silent \
                      instances become suspect and rank last. The hold ends automatically.";
        let problem = Problem::new(Code::Hold, Severity::Warning, format!("Expiry is {}", hold_text(hold)), action);
        found.push(problem.with_command("musterd release"));
    }
}

pub(super) fn daemons(facts: &Facts, found: &mut Vec<Problem>) {
    for lost in &facts.lost_daemons {
        let summary = format!(
            "The daemon at {} was lost {} ago: it had not saved beats for {} s",
            lost.record.address,
            short(lost.lost_for + facts.stale_for),
            EVICTED_AFTER.as_secs()
        );
        let action = "It stopped without leaving the cluster, or cannot reach PostgreSQL. Its clients have moved to other \
                      daemons. Start it again; this notice clears then, or one hour after the loss.";
        let problem = Problem::new(Code::DaemonLost, Severity::Warning, summary, action);
        found.push(problem.with_command("musterd status"));
    }
    if facts.is_away() {
        // How the others are is not known.
        return;
    }
    found.extend(facts.daemons.iter().filter_map(|record| silent(record, facts)));
    if !facts.daemons.is_empty() && !facts.daemons.iter().any(|record| record.daemon_id == facts.daemon_id) {
        let summary = "The daemon that answers is not on the list of daemons";
        let action = "It rejoins within seconds. If it does not, check its log.";
        found.push(Problem::new(Code::DaemonUnlisted, Severity::Critical, summary, action));
    }
    let mut versions: Vec<&str> = facts.daemons.iter().map(|record| record.version.as_str()).collect();
    versions.sort_unstable();
    versions.dedup();
    if versions.len() > 1 {
        let summary = format!("Daemons of {} versions share the database: {}", versions.len(), versions.join(", "));
        let action = "Expected during an upgrade only: restart the daemons of the older version one after the other.";
        let problem = Problem::new(Code::VersionsDiffer, Severity::Warning, summary, action);
        found.push(problem.with_command("musterd status"));
    }
}

/// How long ago a daemon last saved: since it was read, time has passed.
fn silence(record: &DaemonRecord, facts: &Facts) -> Duration {
    record.last_flush_age + facts.stale_for
}

fn silent(record: &DaemonRecord, facts: &Facts) -> Option<Problem> {
    let age = silence(record, facts);
    if age <= SILENT_AFTER {
        return None;
    }
    let next = if age > EVICTED_AFTER {
        "it is being evicted".to_owned()
    } else {
        format!("it is evicted at {} s", EVICTED_AFTER.as_secs())
    };
    let summary = format!("The daemon at {} has not saved beats for {}; {next}", record.address, short(age));
    let action =
        "No lease expires meanwhile, because its beats may be on the way. Check why it is stalled, or restart it.";
    let cause = (record.daemon_id == facts.daemon_id && is_flush_late(facts)).then_some(Code::BeatsNotSaved);
    let problem = Problem::new(Code::DaemonSilent, Severity::Critical, summary, action);
    Some(problem.with_command("musterd status").caused_by(cause))
}

/// The state of a daemon on the list, for programs.
#[must_use]
pub fn daemon_state(record: &DaemonRecord, facts: &Facts) -> &'static str {
    match silence(record, facts) {
        _ if facts.is_away() => "unknown",
        age if age > SILENT_AFTER => "silent",
        _ => "ok",
    }
}

pub(super) fn names(facts: &Facts, found: &mut Vec<Problem>) {
    let names = &facts.names;
    let total = names.live + names.unserved;
    if names.unserved > 0 {
        let mut summary = share(names.unserved, total, "no live instance");
        if !names.unserved_first.is_empty() {
            let more = u64::try_from(names.unserved_first.len()).is_ok_and(|shown| shown < names.unserved);
            summary.push_str(&format!(": {}{}", names.unserved_first.join(", "), if more { ", ..." } else { "" }));
        }
        let action =
            "Resolve answers NO_LIVE_INSTANCE for them. Check why their instances ended, and start them again.";
        let problem = Problem::new(Code::Unserved, by_share(names.unserved, total), summary, action);
        found.push(problem.with_command("musterd list --all-statuses"));
    }
    if names.all_suspect > 0 {
        let severity = by_share(names.unserved + names.all_suspect, total);
        let summary = share(names.all_suspect, total, "suspect instances only");
        let action = "These instances have missed two beats, or their stream broke. Resolve still returns them. Check them \
                      and the network between them and the daemons.";
        let problem = Problem::new(Code::AllSuspect, severity, summary, action);
        found.push(problem.with_command("musterd list").caused_by(away(facts)));
    }
}

/// More than half of all names is critical; so is the only one.
fn by_share(count: u64, total: u64) -> Severity {
    if count * 2 > total { Severity::Critical } else { Severity::Warning }
}

fn share(count: u64, total: u64, what: &str) -> String {
    let have = if count == 1 { "has" } else { "have" };
    match (count, total) {
        (1, 1) => format!("The only logical id has {what}"),
        (count, total) if count == total => format!("All {total} logical ids have {what}"),
        _ => format!("{count} of {total} logical ids {have} {what}"),
    }
}
