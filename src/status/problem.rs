//! What a problem is: its code, how severe it is, and its texts.

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
    /// PostgreSQL has not confirmed the view for [`AWAY_AFTER`](super::AWAY_AFTER).
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
    /// Hooks have not freed what ended leases held.
    DeathsUnreleased,
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
    /// Daemons that share the database have different policies or tokens.
    PoliciesDiffer,
    /// A port is open to the network without identities.
    OpenToNetwork,
    /// Objects of the schema differ from those of this daemon.
    SchemaDrift,
    /// A newer musterd has migrated the database.
    SchemaAhead,
    /// A certificate of this daemon expires soon, or has expired.
    CertificateExpiring,
    /// The list of revoked client certificates should have been replaced.
    RevocationListStale,
    /// Files for TLS or for the policy on disk cannot be used.
    SecurityNotReloaded,
    /// The records use most of the budget, or all of it.
    RegistryFilling,
    /// Logical ids have no live instance.
    Unserved,
    /// Logical ids have suspect instances only.
    AllSuspect,
}

impl Code {
    /// Every code.
    pub const ALL: [Self; 26] = [
        Self::DatabaseAway,
        Self::DatabaseBehind,
        Self::DatabaseSlow,
        Self::ChangesBlocked,
        Self::NotReady,
        Self::BeatsNotSaved,
        Self::ReaperLate,
        Self::ReaperFailing,
        Self::DeathsUnreleased,
        Self::BrakeProtect,
        Self::BrakePace,
        Self::Hold,
        Self::DaemonLost,
        Self::DaemonSilent,
        Self::DaemonUnlisted,
        Self::VersionsDiffer,
        Self::PoliciesDiffer,
        Self::OpenToNetwork,
        Self::SchemaDrift,
        Self::SchemaAhead,
        Self::CertificateExpiring,
        Self::RevocationListStale,
        Self::SecurityNotReloaded,
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
            Self::DeathsUnreleased => "deaths_unreleased",
            Self::BrakeProtect => "brake_protect",
            Self::BrakePace => "brake_pace",
            Self::Hold => "hold",
            Self::DaemonLost => "daemon_lost",
            Self::DaemonSilent => "daemon_silent",
            Self::DaemonUnlisted => "daemon_unlisted",
            Self::VersionsDiffer => "versions_differ",
            Self::PoliciesDiffer => "policies_differ",
            Self::OpenToNetwork => "open_to_network",
            Self::SchemaDrift => "schema_drift",
            Self::SchemaAhead => "schema_ahead",
            Self::CertificateExpiring => "certificate_expiring",
            Self::RevocationListStale => "revocation_list_stale",
            Self::SecurityNotReloaded => "security_not_reloaded",
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
            Self::DeathsUnreleased => "ended leases still hold work",
            Self::BrakeProtect => "expiry is stopped by the brake",
            Self::BrakePace => "expiry is slowed by the brake",
            Self::Hold => "expiry is on hold",
            Self::DaemonLost => "a daemon was lost",
            Self::DaemonSilent => "a daemon is silent",
            Self::DaemonUnlisted => "this daemon is not on the list",
            Self::VersionsDiffer => "daemons of several versions",
            Self::PoliciesDiffer => "daemons have different policies",
            Self::OpenToNetwork => "a port is open to the network",
            Self::SchemaDrift => "the schema was changed",
            Self::SchemaAhead => "the schema is newer than this daemon",
            Self::CertificateExpiring => "a certificate expires",
            Self::RevocationListStale => "the list of revoked certificates is out of date",
            Self::SecurityNotReloaded => "files that protect the daemon are not in use",
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
