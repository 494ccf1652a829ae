//! The one judgement of health: [`judge`] turns [`Facts`] into a [`Status`].
//!
//! `GetCluster` returns the result. The status page, `/api/v1`, `/readyz`, `musterd status` and `musterd check` render it
//! and decide nothing, so that they never disagree. The judgement is a pure function of values: it performs no I/O, and
//! each rule is tested by a table without an outage.
//!
//! # To add a problem
//!
//! 1. Add a variant to [`Code`] and to [`Code::ALL`], with its word in [`Code::as_str`] and its short form in
//!    [`Code::brief`]. The word is stable: programs compare it.
//! 2. Add what the rule needs to know to [`Facts`], and its harmless value to `Facts::default()`.
//! 3. Write the rule in `rules.rs` (or a file beside it), and call it in [`judge`]. A problem that follows from another
//!    one names it with [`Problem::caused_by`]; it is then listed behind its cause.
//! 4. Set the fact where the daemon gathers them (`src/daemon/facts.rs`).
//! 5. Add a row to the table in `tests.rs`, and the code to the list in `docs/http-api.md` and to the comment of
//!    `Problem.code` in `proto/muster/v1/cluster.proto`. A test compares both with [`Code::ALL`].
//!
//! Every surface shows the new problem without a change of its own.

mod blocked;
mod budget;
mod conditions;
mod facts;
mod protection;
mod rules;
#[cfg(test)]
mod tests;

use std::{cmp::Reverse, time::Duration};

pub use conditions::{ConditionState, State};
pub use facts::{BehindDatabase, Certificate, Condition, Facts, FailingReaper, Gather, Names};
pub use rules::daemon_state;

/// The feed polls once a second: if PostgreSQL confirmed the view less recently than this, it counts as away.
pub const AWAY_AFTER: Duration = Duration::from_secs(3);

/// A daemon that has not saved for this long is silent; no lease expires then, because its beats may be on the way.
pub const SILENT_AFTER: Duration = Duration::from_secs(3);
/// The cluster evicts a daemon that has been silent for this long (`muster_notice_disruption`).
pub const EVICTED_AFTER: Duration = Duration::from_secs(15);

/// How severe a problem is, the least first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Nothing is wrong.
    #[default]
    Ok,
    /// It works; an operator should look at it.
    Warning,
    /// Callers are affected, or soon will be.
    Critical,
}

impl Severity {
    /// The word for it, for programs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// Which problem it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// PostgreSQL has not confirmed the view for [`AWAY_AFTER`].
    DatabaseAway,
    /// A session was refused because its database is behind what this daemon has seen.
    DatabaseBehind,
    /// PostgreSQL takes long to save beats.
    DatabaseSlow,
    /// A transaction in PostgreSQL holds a lock that changes wait for.
    ChangesBlocked,
    /// A condition of `/readyz` does not hold.
    NotReady,
    /// Saving beats is late.
    BeatsNotSaved,
    /// A reaper of this daemon has not run for long.
    ReaperLate,
    /// A reaper of this daemon fails again and again.
    ReaperFailing,
    /// The brake has stopped expiry.
    BrakeProtect,
    /// The brake slows expiry.
    BrakePace,
    /// Expiry is on hold.
    Hold,
    /// A daemon was lost within the last hour.
    DaemonLost,
    /// A daemon has stopped saving beats.
    DaemonSilent,
    /// The daemon that answers is not on the list of daemons.
    DaemonUnlisted,
    /// Daemons of several versions share the database.
    VersionsDiffer,
    /// A certificate of this daemon expires soon, or has expired.
    CertificateExpiring,
    /// The files for TLS on disk cannot be used.
    TlsNotReloaded,
    /// The records use most of the budget, or all of it.
    RegistryFilling,
    /// Logical ids have no live instance.
    Unserved,
    /// Logical ids have suspect instances only.
    AllSuspect,
}

impl Code {
    /// Every code.
    pub const ALL: [Self; 20] = [
        Self::DatabaseAway,
        Self::DatabaseBehind,
        Self::DatabaseSlow,
        Self::ChangesBlocked,
        Self::NotReady,
        Self::BeatsNotSaved,
        Self::ReaperLate,
        Self::ReaperFailing,
        Self::BrakeProtect,
        Self::BrakePace,
        Self::Hold,
        Self::DaemonLost,
        Self::DaemonSilent,
        Self::DaemonUnlisted,
        Self::VersionsDiffer,
        Self::CertificateExpiring,
        Self::TlsNotReloaded,
        Self::RegistryFilling,
        Self::Unserved,
        Self::AllSuspect,
    ];

    /// The word for it, for programs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::DatabaseAway => "database_away",
            Self::DatabaseBehind => "database_behind",
            Self::DatabaseSlow => "database_slow",
            Self::ChangesBlocked => "changes_blocked",
            Self::NotReady => "not_ready",
            Self::BeatsNotSaved => "beats_not_saved",
            Self::ReaperLate => "reaper_late",
            Self::ReaperFailing => "reaper_failing",
            Self::BrakeProtect => "brake_protect",
            Self::BrakePace => "brake_pace",
            Self::Hold => "hold",
            Self::DaemonLost => "daemon_lost",
            Self::DaemonSilent => "daemon_silent",
            Self::DaemonUnlisted => "daemon_unlisted",
            Self::VersionsDiffer => "versions_differ",
            Self::CertificateExpiring => "certificate_expiring",
            Self::TlsNotReloaded => "tls_not_reloaded",
            Self::RegistryFilling => "registry_filling",
            Self::Unserved => "unserved",
            Self::AllSuspect => "all_suspect",
        }
    }

    /// A few words for a headline that names several problems.
    #[must_use]
    pub const fn brief(self) -> &'static str {
        match self {
            Self::DatabaseAway => "PostgreSQL is away",
            Self::DatabaseBehind => "an old primary answers",
            Self::DatabaseSlow => "PostgreSQL is slow",
            Self::ChangesBlocked => "changes are blocked",
            Self::NotReady => "this daemon is not ready",
            Self::BeatsNotSaved => "beats are not saved",
            Self::ReaperLate => "the reaper is late",
            Self::ReaperFailing => "a reaper fails",
            Self::BrakeProtect => "expiry is stopped by the brake",
            Self::BrakePace => "expiry is slowed by the brake",
            Self::Hold => "expiry is on hold",
            Self::DaemonLost => "a daemon was lost",
            Self::DaemonSilent => "a daemon is silent",
            Self::DaemonUnlisted => "this daemon is not on the list",
            Self::VersionsDiffer => "daemons of several versions",
            Self::CertificateExpiring => "a certificate expires",
            Self::TlsNotReloaded => "the TLS files on disk are not in use",
            Self::RegistryFilling => "the registry is filling up",
            Self::Unserved => "logical ids without a live instance",
            Self::AllSuspect => "logical ids with suspect instances only",
        }
    }
}

/// One problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Which one.
    pub code: Code,
    /// How severe it is.
    pub severity: Severity,
    /// What is the case, with the values.
    pub summary: String,
    /// What it means, and what to do.
    pub action: String,
    /// A command that shows more or ends it; may be empty.
    pub command: &'static str,
    /// The problem that this one follows from, if that is reported as well.
    pub cause: Option<Code>,
}

impl Problem {
    /// A problem without a command that follows from no other one.
    #[must_use]
    pub fn new(code: Code, severity: Severity, summary: impl Into<String>, action: impl Into<String>) -> Self {
        Self { code, severity, summary: summary.into(), action: action.into(), command: "", cause: None }
    }

    /// With a command that shows more or ends it.
    #[must_use]
    pub fn with_command(self, command: &'static str) -> Self {
        Self { command, ..self }
    }

    /// As a consequence of another problem.
    #[must_use]
    pub fn caused_by(self, cause: Option<Code>) -> Self {
        Self { cause, ..self }
    }
}

/// Whether leases expire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Expiry {
    /// Leases expire after their TTL.
    #[default]
    Running,
    /// On hold: no lease expires.
    Held,
    /// Slowed by the brake.
    Paced,
    /// Stopped by the brake.
    Protected,
    /// PostgreSQL, which decides it, is away. No lease expires through this daemon.
    Unknown,
}

impl Expiry {
    /// The word for it, for programs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Held => "held",
            Self::Paced => "paced",
            Self::Protected => "protected",
            Self::Unknown => "unknown",
        }
    }
}

/// How this daemon and its cluster are doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// That of the most severe problem.
    pub severity: Severity,
    /// Whether callers should use this daemon.
    pub ready: bool,
    /// Whether leases expire.
    pub expiry: Expiry,
    /// What `/readyz` lists, as it is now.
    pub conditions: Vec<ConditionState>,
    /// The most severe first, each followed by its consequences.
    pub problems: Vec<Problem>,
}

/// Judges what is known.
#[must_use]
pub fn judge(facts: &Facts) -> Status {
    let mut found = Vec::new();
    rules::database(facts, &mut found);
    blocked::changes(facts, &mut found);
    rules::daemon(facts, &mut found);
    rules::expiry(facts, &mut found);
    rules::daemons(facts, &mut found);
    protection::protection(facts, &mut found);
    budget::records(facts, &mut found);
    rules::names(facts, &mut found);
    let problems = in_order(found);
    Status {
        severity: problems.iter().map(|problem| problem.severity).max().unwrap_or_default(),
        ready: facts.conditions.iter().all(|condition| condition.ok),
        expiry: facts.expiry(),
        conditions: conditions::present(facts),
        problems,
    }
}

/// The most severe first, each followed by what it causes. Among equals the order of the rules stays.
fn in_order(found: Vec<Problem>) -> Vec<Problem> {
    let known = |code: Option<Code>| code.is_some_and(|code| found.iter().any(|problem| problem.code == code));
    let (consequences, mut causes): (Vec<_>, Vec<_>) = found.iter().partition(|problem| known(problem.cause));
    causes.sort_by_key(|problem| Reverse(problem.severity));
    let mut ordered: Vec<Problem> = Vec::with_capacity(found.len());
    for problem in causes {
        let first = !ordered.iter().any(|other| other.code == problem.code);
        ordered.push(Problem { cause: None, ..problem.clone() });
        if first {
            ordered.extend(consequences.iter().filter(|other| other.cause == Some(problem.code)).copied().cloned());
        }
    }
    ordered
}

/// A duration for people: `42 s`, `3 min`, `2 h`.
fn short(duration: Duration) -> String {
    match duration.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7_200 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3_600),
    }
}
