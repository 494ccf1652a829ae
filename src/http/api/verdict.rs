//! Is the registry well? What is wrong, the worst first, each with what it means and what to do.
//!
//! The rules are pure functions of what is known, so that each can be tested without an outage.

use std::{cmp::Reverse, time::Duration};

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use crate::{
    lifecycle::{Condition, Snapshot as Readiness},
    model::{
        Brake, BrakeMode, Hold,
        wellness::{GIVEN_UP_AFTER, SILENT_AFTER, STALE_AFTER, Wellness},
    },
    view::Daemons,
};

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// How bad it is.
    pub severity: Wellness,
    /// A word for it, for programs.
    pub code: &'static str,
    /// What is the case.
    pub text: String,
    /// What that means, and what to do.
    pub advice: &'static str,
    /// A command that shows more or ends it; may be empty.
    pub command: &'static str,
}

impl Problem {
    /// As JSON.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({
            "severity": severity(self.severity),
            "code": self.code,
            "text": self.text,
            "advice": self.advice,
            "command": self.command,
        })
    }
}

/// How bad something is, in a word for programs.
#[must_use]
pub const fn severity(wellness: Wellness) -> &'static str {
    match wellness {
        Wellness::Trouble => "trouble",
        Wellness::Attention => "attention",
        Wellness::Well => "well",
    }
}

/// What is known.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Whether the registry is loaded.
    pub loaded: bool,
    /// Whether callers should come.
    pub readiness: Readiness,
    /// How long ago PostgreSQL last confirmed the registry in memory.
    pub stale_for: Duration,
    /// When that was, by the database clock.
    pub confirmed_at: DateTime<Utc>,
    /// By how much saving beats is late.
    pub flush_lag: Duration,
    /// How long ago the reaper last looked.
    pub last_reap_age: Option<Duration>,
    /// The hold.
    pub hold: Option<Hold>,
    /// The brake.
    pub brake: Option<Brake>,
    /// The daemons.
    pub daemons: Daemons,
    /// Names without a live instance that nobody has taken away on purpose.
    pub unserved: u64,
    /// Names whose every live instance is suspect.
    pub all_suspect: u64,
}

/// What is wrong, the worst first.
#[must_use]
pub fn problems(facts: &Facts) -> Vec<Problem> {
    let mut found = Vec::new();
    registry(facts, &mut found);
    expiry(facts, &mut found);
    daemons(facts, &mut found);
    names(facts, &mut found);
    // Stable: among equals, what explains the others comes first.
    found.sort_by_key(|problem| Reverse(problem.severity));
    found
}

fn registry(facts: &Facts, found: &mut Vec<Problem>) {
    let mut add = |severity, code, text, advice, command| {
        found.push(Problem { severity, code, text, advice, command });
    };
    let view = Wellness::of_view(facts.stale_for);
    let away = view > Wellness::Well;
    if facts.loaded && away {
        let at = facts.confirmed_at.format("%Y-%m-%d %H:%M:%S UTC");
        let text = format!("PostgreSQL has not answered for {}. Everything here is as of {at}", short(facts.stale_for));
        let advice = "Resolve and List go on from memory; registrations fail; beats are accepted while they can still \
                      be saved in time, and nobody is declared dead. Look at PostgreSQL and the network in between. \
                      When it is back, nothing needs to be done here.";
        add(view, "database_away", text, advice, "");
    }
    for state in facts.readiness.conditions.iter().filter(|state| !state.ok) {
        // Said above already, and better.
        if away && matches!(state.condition, Condition::Feed | Condition::Database) {
            continue;
        }
        let text = format!("This daemon is not ready: {}: {}", state.condition.name(), state.detail);
        add(Wellness::Trouble, "not_ready", text, "Callers should use another daemon until it is.", "");
    }
    let saving = Wellness::of_saving(facts.flush_lag);
    if saving > Wellness::Well && facts.loaded {
        let text = format!("Beats have not been saved for {}", short(facts.flush_lag));
        let advice =
            "Once that is a third of a TTL this daemon refuses beats, so that actors go to another one in time.";
        add(saving, "beats_not_saved", text, advice, "");
    }
    let reaper = Wellness::of_reaper(facts.last_reap_age, facts.stale_for);
    if let Some(age) = facts.last_reap_age.filter(|_| reaper > Wellness::Well && !away) {
        let text = format!("The reaper of this daemon last looked {} ago", short(age));
        let advice =
            "It looks at least every 30 s. Other daemons reap as well; the log of this one tells why it does not.";
        add(reaper, "reaper_late", text, advice, "");
    }
}

fn expiry(facts: &Facts, found: &mut Vec<Problem>) {
    if let Some(brake) = &facts.brake {
        let severity = Wellness::of_brake(brake.mode);
        let (code, what, advice) = match brake.mode {
            BrakeMode::Protect => (
                "brake_protect",
                "nobody is declared dead",
                "More than half of the living are silent at once, which is more likely a fault between them and the \
                 registry. It ends by itself when they are heard again, or after 10 minutes. If they really are gone, \
                 release it.",
            ),
            BrakeMode::Pace => (
                "brake_pace",
                "deaths are paced",
                "Many are silent at once, so they are declared dead bit by bit. If they really are gone, release it.",
            ),
        };
        let text = format!("Expiry is braked, {what}: {} of {} living are overdue", brake.overdue, brake.live);
        found.push(Problem { severity, code, text, advice, command: "musterd release" });
    }
    if let Some(hold) = &facts.hold {
        let text = format!("Expiry is on hold for another {}: {}", short(hold.remaining), hold.reason);
        let advice = "Nobody is declared dead for silence meanwhile; who falls silent is suspect and ranks last. It ends \
                      by itself.";
        let (severity, code) = (Wellness::Attention, "hold");
        found.push(Problem { severity, code, text, advice, command: "musterd release" });
    }
}

fn daemons(facts: &Facts, found: &mut Vec<Problem>) {
    let mut add = |severity, code, text, advice| {
        let command = "musterd status";
        found.push(Problem { severity, code, text, advice, command });
    };
    let lost = facts.daemons.lost.iter().map(|lost| &lost.record.address);
    for address in lost {
        let advice = "It ended without a farewell, or cannot reach PostgreSQL. Its actors have beaten at other daemons \
                      since, or are gone. Start it again, or forget it: this note goes after an hour.";
        add(Wellness::Attention, "daemon_lost", format!("The daemon at {address} was lost"), advice);
    }
    if Wellness::of_view(facts.stale_for) > Wellness::Well {
        // Nobody can say how the others are.
        return;
    }
    for record in &facts.daemons.present {
        let age = record.last_flush_age + facts.stale_for;
        let daemon = Wellness::of_daemon(age);
        if daemon > Wellness::Well {
            let text = format!("The daemon at {} has not saved for {}", record.address, short(age));
            let advice = "Nobody is declared dead for silence meanwhile, because its beats may be on the way. After 15 s \
                          it is given up.";
            add(daemon, "daemon_silent", text, advice);
        }
    }
    let mut versions: Vec<&str> = facts.daemons.present.iter().map(|record| record.version.as_str()).collect();
    versions.sort_unstable();
    versions.dedup();
    if versions.len() > 1 {
        let text = format!("Daemons of {} versions share the database: {}", versions.len(), versions.join(", "));
        add(Wellness::Attention, "versions_differ", text, "As it should be during an upgrade only.");
    }
}

fn names(facts: &Facts, found: &mut Vec<Problem>) {
    let counted = [
        (facts.unserved, "unserved", "no live instance", "Routers that ask for them get NO_LIVE_INSTANCE."),
        (
            facts.all_suspect,
            "all_suspect",
            "suspect instances only",
            "Routers are still sent to them; they may be gone.",
        ),
    ];
    for (count, code, what, advice) in counted.into_iter().filter(|(count, ..)| *count > 0) {
        let text =
            if count == 1 { format!("1 logical id has {what}") } else { format!("{count} logical ids have {what}") };
        found.push(Problem { severity: Wellness::Attention, code, text, advice, command: "" });
    }
}

/// How a daemon is, by how long ago it last saved.
#[must_use]
pub fn daemon_state(age: Duration, stale_for: Duration) -> &'static str {
    match age {
        _ if stale_for > STALE_AFTER => "unknown",
        age if age > GIVEN_UP_AFTER => "lost",
        age if age > SILENT_AFTER => "silent",
        _ => "well",
    }
}

/// A duration for people: `42 s`, `3 min`, `2 h`.
fn short(duration: Duration) -> String {
    match duration.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7_200 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3_600),
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::{lifecycle, model::DaemonRecord, view::daemons::LostDaemon};

    fn well() -> Facts {
        let readiness = lifecycle::Readiness::new();
        for condition in Condition::ALL {
            readiness.set(condition, true, "");
        }
        Facts {
            loaded: true,
            readiness: readiness.snapshot(),
            stale_for: Duration::from_millis(400),
            confirmed_at: DateTime::UNIX_EPOCH,
            flush_lag: Duration::ZERO,
            last_reap_age: Some(Duration::from_secs(20)),
            hold: None,
            brake: None,
            daemons: Daemons { present: vec![daemon(1, "a:1", 0)], lost: Vec::new() },
            unserved: 0,
            all_suspect: 0,
        }
    }

    fn daemon(id: u128, address: &str, silent_s: u64) -> DaemonRecord {
        DaemonRecord {
            daemon_id: Uuid::from_u128(id),
            address: address.to_owned(),
            version: "0.1.0".to_owned(),
            started_at: DateTime::default(),
            last_flush_age: Duration::from_secs(silent_s),
        }
    }

    fn told(facts: &Facts) -> Vec<(&'static str, String)> {
        problems(facts).into_iter().map(|problem| (problem.code, problem.text)).collect()
    }

    #[test]
    fn a_registry_that_is_well_has_no_problems() {
        assert_eq!(told(&well()), []);
    }

    #[test]
    fn an_outage_is_told_once_with_the_age_of_the_data_and_not_by_its_consequences() {
        let daemons = Daemons { present: vec![daemon(1, "a:1", 0), daemon(2, "b:1", 1)], lost: Vec::new() };
        let facts = Facts {
            stale_for: Duration::from_secs(42),
            last_reap_age: Some(Duration::from_secs(90)),
            daemons,
            ..well()
        };
        let text = "PostgreSQL has not answered for 42 s. Everything here is as of 1970-01-01 00:00:00 UTC";
        assert_eq!(told(&facts), [("database_away", text.to_owned())]);
    }

    #[test]
    fn what_hurts_callers_comes_before_what_deserves_a_look() {
        let hold = Hold { remaining: Duration::from_secs(200), reason: "a daemon was lost".to_owned() };
        let since = DateTime::UNIX_EPOCH;
        let brake = Brake { mode: BrakeMode::Protect, since, overdue: 30, live: 40 };
        let lost = LostDaemon { record: daemon(2, "b:1", 14), lost_ms: 0 };
        let daemons = Daemons { present: vec![daemon(1, "a:1", 0), daemon(3, "c:1", 9)], lost: vec![lost] };
        let (hold, brake) = (Some(hold), Some(brake));
        let facts = Facts { hold, brake, daemons, unserved: 1, all_suspect: 2, ..well() };
        let expected = [
            ("brake_protect", "Expiry is braked, nobody is declared dead: 30 of 40 living are overdue"),
            ("daemon_silent", "The daemon at c:1 has not saved for 9 s"),
            ("hold", "Expiry is on hold for another 3 min: a daemon was lost"),
            ("daemon_lost", "The daemon at b:1 was lost"),
            ("unserved", "1 logical id has no live instance"),
            ("all_suspect", "2 logical ids have suspect instances only"),
        ];
        assert_eq!(told(&facts), expected.map(|(code, text)| (code, text.to_owned())));
    }

    #[test]
    fn what_this_daemon_cannot_do_is_told() {
        let readiness = lifecycle::Readiness::new();
        for condition in Condition::ALL {
            readiness.set(condition, condition != Condition::Schema, "a migration is pending");
        }
        let (readiness, flush_lag) = (readiness.snapshot(), Duration::from_secs(5));
        let facts = Facts { readiness, flush_lag, last_reap_age: Some(Duration::from_secs(90)), ..well() };
        let expected = [
            ("not_ready", "This daemon is not ready: schema: a migration is pending"),
            ("beats_not_saved", "Beats have not been saved for 5 s"),
            ("reaper_late", "The reaper of this daemon last looked 90 s ago"),
        ];
        assert_eq!(told(&facts), expected.map(|(code, text)| (code, text.to_owned())));
    }

    #[test]
    fn daemons_of_several_versions_are_noticed() {
        let newer = DaemonRecord { version: "0.2.0".to_owned(), ..daemon(2, "b:1", 0) };
        let daemons = Daemons { present: vec![daemon(1, "a:1", 0), newer], lost: Vec::new() };
        let text = "Daemons of 2 versions share the database: 0.1.0, 0.2.0";
        assert_eq!(told(&Facts { daemons, ..well() }), [("versions_differ", text.to_owned())]);
    }
}
