//! What the judgement is made of: values that the daemon gathers, each as it is at one moment.

use std::{fmt, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::ports::Ports;
use crate::model::{Blocker, Brake, BrakeMode, Budget, DaemonRecord, Hold, LostDaemon, Usage};

/// The feed polls once a second: if PostgreSQL confirmed the view less recently than this, it counts as away.
pub const AWAY_AFTER: Duration = Duration::from_secs(3);

/// A daemon that has not saved for this long is silent; no lease expires then, because its beats may be on the way.
pub const SILENT_AFTER: Duration = Duration::from_secs(3);
/// The cluster evicts a daemon that has been silent for this long (`muster_notice_disruption`).
pub const EVICTED_AFTER: Duration = Duration::from_secs(15);

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

/// One condition of `/readyz`, as it was last recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Its name on the wire.
    pub name: &'static str,
    /// Whether it holds.
    pub ok: bool,
    /// What there is to say about it. May be empty.
    pub detail: String,
}

/// A reaper whose latest runs failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailingReaper {
    /// Which one: `stale`, `old_epoch` or `purge`.
    pub name: &'static str,
    /// How many runs have failed since the last one that succeeded.
    pub failures: u32,
    /// How long ago the first of these failed.
    pub failing_for: Duration,
    /// Why the latest failed.
    pub error: String,
}

/// A database that is behind: an old primary that runs on, or one that has lost changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BehindDatabase {
    /// Where it is.
    pub host: String,
    /// Its revision.
    pub revision: u64,
    /// The revision that this daemon has seen.
    pub seen: u64,
}

/// A certificate that the ports of this daemon depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// What it is, in words.
    pub name: &'static str,
    /// When it expires.
    pub expires: DateTime<Utc>,
    /// How long until then; zero if it has expired.
    pub left: Duration,
    /// How long it is valid in all.
    pub lifetime: Duration,
}

/// How the release of deaths gets on: hooks free what ended leases held.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Release {
    /// Deaths that hooks have to run for.
    pub unreleased: u64,
    /// How long ago the first of them died.
    pub oldest: Duration,
    /// Which hook failed last for one of them, and why.
    pub failure: Option<String>,
    /// Hooks that do not run until an operator acts, and why.
    pub waiting: Vec<String>,
}

/// How the schema relates to the binary.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Schema {
    /// Objects that differ from those of the binary.
    pub drift: Vec<String>,
    /// A newer binary has migrated the database up to this version, and this one may work with it.
    pub ahead: Option<i32>,
}

/// Logical ids. One that left on purpose counts nowhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// With a live instance.
    pub live: u64,
    /// Without one, though they did not leave on purpose.
    pub unserved: u64,
    /// The first of these.
    pub unserved_first: Vec<String>,
    /// Of the live, those whose every live instance is suspect.
    pub all_suspect: u64,
}

/// What is known. The default is a daemon that is alone and has no problem.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The daemon that answers.
    pub daemon_id: Uuid,
    /// Whether the registry is loaded.
    pub loaded: bool,
    /// The conditions of `/readyz`.
    pub conditions: Vec<Condition>,
    /// How long ago PostgreSQL last confirmed the registry in memory.
    pub stale_for: Duration,
    /// When that was, by the database clock.
    pub confirmed_at: DateTime<Utc>,
    /// A database that was refused within the last seconds because it is behind what this daemon has seen.
    pub behind: Option<BehindDatabase>,
    /// How long PostgreSQL took for the latest save; `None` before the first.
    pub database_latency: Option<Duration>,
    /// What in PostgreSQL holds a lock that changes of this daemon wait for, as last seen.
    pub blocker: Option<Blocker>,
    /// By how much saving beats is late, beyond the period of a flush.
    pub flush_lag: Duration,
    /// How long ago the reaper of stale leases last ran; `None` before the first time.
    pub last_reap_age: Option<Duration>,
    /// Reapers whose latest runs failed.
    pub failing_reapers: Vec<FailingReaper>,
    /// How the schema relates to the binary, as last compared.
    pub schema: Schema,
    /// How the release of deaths gets on, as last read.
    pub release: Release,
    /// The hold, as last read.
    pub hold: Option<Hold>,
    /// The brake, as last read.
    pub brake: Option<Brake>,
    /// What protects the ports of this daemon.
    pub ports: Ports,
    /// The certificates of this daemon; none without TLS.
    pub certificates: Vec<Certificate>,
    /// Since when the list of revoked client certificates is out of date, if it is.
    pub stale_list: Option<DateTime<Utc>>,
    /// Why files for TLS or for the policy on disk are not in use, if they are not.
    pub security_failures: Vec<String>,
    /// What the records of the registry use.
    pub usage: Usage,
    /// What they may use by the settings of this daemon.
    pub budget: Budget,
    /// The daemons that share the database, as last read.
    pub daemons: Vec<DaemonRecord>,
    /// Those that were lost.
    pub lost_daemons: Vec<LostDaemon>,
    /// Logical ids.
    pub names: Names,
}

impl Default for Facts {
    fn default() -> Self {
        Self {
            daemon_id: Uuid::nil(),
            loaded: true,
            conditions: Vec::new(),
            stale_for: Duration::ZERO,
            confirmed_at: DateTime::UNIX_EPOCH,
            behind: None,
            database_latency: None,
            blocker: None,
            flush_lag: Duration::ZERO,
            last_reap_age: None,
            failing_reapers: Vec::new(),
            schema: Schema::default(),
            release: Release::default(),
            hold: None,
            brake: None,
            ports: Ports::default(),
            certificates: Vec::new(),
            stale_list: None,
            security_failures: Vec::new(),
            usage: Usage::default(),
            budget: Budget { records: u64::MAX, bytes: u64::MAX },
            daemons: Vec::new(),
            lost_daemons: Vec::new(),
            names: Names::default(),
        }
    }
}

impl Facts {
    /// Whether PostgreSQL is away: what was read from it tells the past.
    #[must_use]
    pub fn is_away(&self) -> bool {
        self.loaded && self.stale_for > AWAY_AFTER
    }

    /// Whether leases expire.
    #[must_use]
    pub fn expiry(&self) -> Expiry {
        match (&self.hold, &self.brake) {
            _ if self.is_away() || !self.loaded => Expiry::Unknown,
            (Some(_), _) => Expiry::Held,
            (None, Some(Brake { mode: BrakeMode::Protect, .. })) => Expiry::Protected,
            (None, Some(Brake { mode: BrakeMode::Pace, .. })) => Expiry::Paced,
            (None, None) => Expiry::Running,
        }
    }
}

/// Gathers the facts as they are now. Clones share it.
#[derive(Clone)]
pub struct Gather(Arc<dyn Fn() -> Facts + Send + Sync>);

impl Gather {
    /// Facts from a function, which must not block.
    #[must_use]
    pub fn new(facts: impl Fn() -> Facts + Send + Sync + 'static) -> Self {
        Self(Arc::new(facts))
    }

    /// The facts as they are now.
    #[must_use]
    pub fn facts(&self) -> Facts {
        (self.0)()
    }
}

impl fmt::Debug for Gather {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gather").finish_non_exhaustive()
    }
}
