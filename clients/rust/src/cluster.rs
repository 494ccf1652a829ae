//! The cluster, as operators see it: epoch, daemons, counts, expiry, and the problems that a daemon reports.

use std::time::{Duration, SystemTime};

use uuid::Uuid;

/// The state of the cluster, and of the daemon that answered.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Cluster {
    /// The current epoch.
    pub cluster_epoch: Uuid,
    /// Number of that epoch.
    pub epoch_number: u64,
    /// The latest revision that the daemon has seen.
    pub revision: u64,
    /// Changes when the history of revisions was broken, for example by a restored backup.
    pub history_id: String,
    /// The daemons that share the database.
    pub daemons: Vec<Daemon>,
    /// Daemons that were lost within the last hour.
    pub lost_daemons: Vec<LostDaemon>,
    /// Set while expiry is on hold.
    pub hold: Option<Hold>,
    /// Set while the expiry rate is limited.
    pub brake: Option<Brake>,
    /// How many instances there are.
    pub counts: Counts,
    /// How long ago PostgreSQL last confirmed what the daemon knows.
    pub stale_for: Duration,
    /// The daemon that answered.
    pub daemon_id: String,
    /// Its version.
    pub version: String,
    /// How it is doing; `None` from a daemon that does not report it.
    pub health: Option<Health>,
    /// What the database clock shows.
    pub database_time: Option<SystemTime>,
    /// Logical ids without a live instance, as many as were asked for.
    pub unserved_logical_ids: Vec<String>,
    /// That of the most severe problem.
    pub severity: Severity,
    /// What is wrong, the most severe first, each followed by its consequences.
    pub problems: Vec<Problem>,
    /// Whether leases expire.
    pub expiry: Expiry,
}

/// One daemon.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Daemon {
    /// Identifies its current run.
    pub daemon_id: String,
    /// Its gRPC address, as it is configured.
    pub address: String,
    /// Version of musterd it runs.
    pub version: String,
    /// When it started, by the database clock.
    pub started_at: Option<SystemTime>,
    /// How long ago it last saved beats, or confirmed that it had none to save.
    pub last_flush_age: Option<Duration>,
}

/// A daemon that the cluster has evicted.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct LostDaemon {
    /// As it was last on record.
    pub daemon: Daemon,
    /// How long ago it was evicted.
    pub lost_for: Option<Duration>,
}

/// How many instances are on record.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct Counts {
    /// Starting.
    pub starting: u64,
    /// Alive.
    pub alive: u64,
    /// Draining.
    pub draining: u64,
    /// Dead, kept for the record.
    pub dead: u64,
    /// Logical ids with a live instance.
    pub logical_ids_live: u64,
    /// Logical ids without a live instance that did not leave on purpose.
    pub logical_ids_unserved: u64,
    /// Instances that are not dead and suspect to this daemon.
    pub suspect: u64,
    /// Logical ids that left on purpose.
    pub logical_ids_left: u64,
}

/// Expiry is on hold: no lease expires.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Hold {
    /// For how much longer.
    pub remaining: Option<Duration>,
    /// Why.
    pub reason: String,
}

/// The limit on the expiry rate.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct Brake {
    /// How it limits.
    pub mode: BrakeMode,
    /// How many leases were overdue at the last look.
    pub overdue: u64,
    /// Of how many.
    pub live: u64,
    /// Since when, by the database clock.
    pub since: Option<SystemTime>,
}

/// How the expiry rate is limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BrakeMode {
    /// A mode that this version does not know.
    #[default]
    Unknown,
    /// Leases expire bit by bit.
    Pace,
    /// No lease expires.
    Protect,
}

/// How the daemon that answered is doing.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Health {
    /// Whether callers should come here.
    pub ready: bool,
    /// What is missing if not, a line each.
    pub missing: Vec<String>,
    /// By how much saving beats is late.
    pub flush_lag: Option<Duration>,
    /// How long PostgreSQL took for the latest save. `None` before the first.
    pub database_latency: Option<Duration>,
    /// How long ago its reaper last looked for overdue leases. `None` before the first time.
    pub last_reap_age: Option<Duration>,
    /// Address and port of metrics and probes, as bound.
    pub http_address: String,
    /// How open its ports are. Empty: the daemon does not tell.
    pub ports: Vec<Port>,
    /// The same in words.
    pub ports_summary: String,
}

/// A port of a daemon.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Port {
    /// `grpc` or `http`.
    pub name: String,
    /// How open it is: `machine`, `network` or `secured`.
    pub open_to: String,
}

/// How severe a problem is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Severity {
    /// Nothing is wrong.
    Ok,
    /// The daemon does not report its problems, or this version does not know the severity.
    #[default]
    Unknown,
    /// It works; an operator should look at it.
    Warning,
    /// Callers are affected, or soon will be.
    Critical,
}

/// Whether leases expire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Expiry {
    /// The daemon does not say, or this version does not know the state.
    #[default]
    Unreported,
    /// Leases expire after their TTL.
    Running,
    /// On hold: no lease expires.
    Held,
    /// Leases expire bit by bit.
    Paced,
    /// Stopped by the rate limit: no lease expires.
    Protected,
    /// PostgreSQL, which decides it, is away: no lease expires through this daemon.
    Unknown,
}

/// One problem of the cluster, or of the daemon that answered.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Problem {
    /// Which one; stable.
    pub code: String,
    /// How severe it is.
    pub severity: Severity,
    /// What is the case, with the values.
    pub summary: String,
    /// What it means, and what to do.
    pub action: String,
    /// A command of musterd that shows more or ends it. May be empty.
    pub command: String,
    /// Code of the problem that this one follows from. May be empty.
    pub cause: String,
}

/// One epoch.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Epoch {
    /// The epoch.
    pub cluster_epoch: Uuid,
    /// Its number.
    pub epoch_number: u64,
    /// When it began, by the database clock.
    pub started_at: Option<SystemTime>,
    /// The revision at which it began.
    pub started_revision: u64,
    /// Why it was begun. May be empty.
    pub reason: String,
    /// The daemon that began it, and the identity that asked for it, if one did; `sql/ROLE` for a direct SQL caller.
    pub rotated_by: String,
}

/// One decision on record: what was done to the cluster, when, and which identity asked for it.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Decision {
    /// Its number, in the order of recording.
    pub id: u64,
    /// When, by the database clock.
    pub at: Option<SystemTime>,
    /// What was done, for example `rotate`, `hold`, `expire` or `denied`.
    pub action: String,
    /// The identity that asked a daemon; without a policy the daemon; `sql/ROLE` for a direct SQL caller. Empty: not known.
    pub by: String,
    /// The PostgreSQL role of the session that recorded it.
    pub by_role: String,
    /// Of what: an epoch, an instance, a hook, a migration, a table, a set of files, or the method that was denied.
    pub object: String,
    /// What else is known, as a JSON object.
    pub detail: String,
    /// The revision that it made; `None` if it made none.
    pub revision: Option<u64>,
}

/// Which decisions [`Client::decisions`](crate::Client::decisions) returns. The default is all of them.
#[derive(Clone, Debug, Default)]
pub struct DecisionFilter {
    since: Option<SystemTime>,
    action: String,
    by: String,
}

impl DecisionFilter {
    /// All decisions.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Those recorded at this time or later.
    #[must_use]
    pub const fn since(mut self, time: SystemTime) -> Self {
        self.since = Some(time);
        self
    }

    /// This action alone.
    #[must_use]
    pub fn action(mut self, action: impl Into<String>) -> Self {
        self.action = action.into();
        self
    }

    /// Of this identity alone.
    #[must_use]
    pub fn by(mut self, identity: impl Into<String>) -> Self {
        self.by = identity.into();
        self
    }

    /// Time, action and identity.
    pub(crate) fn parts(&self) -> (Option<SystemTime>, String, String) {
        (self.since, self.action.clone(), self.by.clone())
    }
}

/// The answer of [`Client::rotate_epoch`](crate::Client::rotate_epoch).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Rotated {
    /// The epoch that is current now.
    pub cluster_epoch: Uuid,
    /// Its number.
    pub epoch_number: u64,
    /// The revision at which it began.
    pub revision: u64,
    /// The epoch before; `None` if there was none, or nothing changed.
    pub previous_epoch: Option<Uuid>,
    /// False if it was current already.
    pub rotated: bool,
}

/// What became of an instance that an operator changed.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Changed {
    /// Its lease; 0 where the registry does not tell.
    pub lease_id: u64,
    /// The revision of the change.
    pub revision: u64,
    /// Whether it had been dead before.
    pub already_dead: bool,
}

/// Which identity a daemon knows the client by, and what it may do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WhoAmI {
    /// The identity, as policies name it; `anonymous` without a credential, and for every caller of a daemon without a policy.
    pub identity: String,
    /// How it was proven: `certificate`, `token`, `jwt`, `local` or `anonymous`.
    pub kind: String,
    /// When the credential expires; `None`: it does not.
    pub expires_at: Option<SystemTime>,
    /// What it may do.
    pub grants: Vec<Grant>,
    /// Whether the daemon has a policy. Without one every caller may do everything.
    pub enforced: bool,
    /// What it may use, and uses. Empty: there is no limit for it.
    pub quotas: Vec<Quota>,
}

/// A quota of an identity.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Quota {
    /// `records`, `registrations` (in a second), `watches` or `connections`.
    pub unit: String,
    /// How many it may have.
    pub limit: u64,
    /// How many it has; 0 for `registrations`.
    pub used: u64,
}

/// A right.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Grant {
    /// `register`, `beat`, `resolve`, `read`, `operate`, `cluster` or `metrics`.
    pub verb: String,
    /// On which logical ids: names, and prefixes with a final `*`. Empty for `metrics`, which concerns none.
    pub logical_ids: Vec<String>,
}
