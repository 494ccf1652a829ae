//! What the registry knows, as values of this crate.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::{Duration, SystemTime},
};

use uuid::Uuid;

/// State of an instance, from its registration to its death.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Status {
    /// A status that this version does not know.
    #[default]
    Unknown,
    /// Registered, not ready for work. Never resolved.
    Starting,
    /// Ready for work. Only these are resolved.
    Alive,
    /// Finishes its work and takes nothing new. Never resolved.
    Draining,
    /// The lease has ended. Final.
    Dead,
}

impl Status {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Alive => "alive",
            Self::Draining => "draining",
            Self::Dead => "dead",
            Self::Unknown => "unknown",
        }
    }
}

/// Why a lease ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DeathReason {
    /// No beat arrived within the TTL.
    Stale,
    /// The epoch was rotated.
    OldEpoch,
    /// The owner deregistered it.
    Deregistered,
    /// A new registration of the same instance id took its place.
    Replaced,
    /// An operator declared it dead.
    Operator,
    /// Not recorded, or not known to this version.
    #[default]
    Unknown,
}

impl DeathReason {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stale => "stale",
            Self::OldEpoch => "old_epoch",
            Self::Deregistered => "deregistered",
            Self::Replaced => "replaced",
            Self::Operator => "operator",
            Self::Unknown => "unknown",
        }
    }
}

/// The record of a death.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Death {
    /// Why the lease ended.
    pub reason: DeathReason,
    /// When it was declared dead, by the database clock.
    pub at: Option<SystemTime>,
    /// When the lease would have ended without another beat.
    pub deadline: Option<SystemTime>,
    /// The daemon that decided it, and the identity that asked for it, if one did; `sql/ROLE` for a direct SQL caller. Empty if not
    /// recorded.
    pub decided_by: String,
}

/// One instance. The default is an instance of which nothing is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Instance {
    /// Identifies the incarnation.
    pub instance_id: Uuid,
    /// The name that routers resolve.
    pub logical_id: String,
    /// The lease: lease, generation and fencing token in one number.
    pub lease_id: u64,
    /// The epoch in which it registered.
    pub cluster_epoch: Uuid,
    /// Number of that epoch.
    pub epoch_number: u64,
    /// Revision of its latest durable change.
    pub revision: u64,
    /// Its status.
    pub status: Status,
    /// Name of the actor, empty if none.
    pub actor_name: String,
    /// Deployment name or base route, empty if none.
    pub serve_route: String,
    /// Node on which it runs, empty if unknown.
    pub node_id: String,
    /// Where it can be reached, if known.
    pub ip: Option<IpAddr>,
    /// Port on which it can be reached, if known.
    pub port: Option<u16>,
    /// Process id on its node, if known.
    pub pid: Option<u32>,
    /// Version of the software it runs, empty if unknown.
    pub version: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// How long the lease lives after its last beat.
    pub ttl: Duration,
    /// When the lease was registered, by the database clock.
    pub started_at: Option<SystemTime>,
    /// The latest beat that the daemon knows of, by the database clock.
    pub last_beat: Option<SystemTime>,
    /// What is left of the lease, by the daemon's knowledge.
    pub lease_remaining: Duration,
    /// Whether two beats are overdue, or its stream of beats broke.
    pub suspect: bool,
    /// Set if the status is [`Status::Dead`].
    pub death: Option<Death>,
    /// The identity that registered it; `sql/ROLE` for a direct SQL caller. Empty if it was registered through a daemon without
    /// a policy.
    pub owner: String,
    /// Why it has its status, in the words of what set it; empty if no reason was given.
    pub status_reason: String,
    /// Since when it has this status and reason.
    pub status_since: Option<SystemTime>,
}

impl Instance {
    /// Address and port, if both are known.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.ip.zip(self.port).map(SocketAddr::from)
    }
}

/// Selects instances; all conditions must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    pub(crate) logical_id: String,
    pub(crate) prefix: String,
    pub(crate) statuses: Vec<Status>,
    pub(crate) node_id: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) alive_at: Option<SystemTime>,
}

impl Filter {
    /// All instances that are not dead.
    #[must_use]
    pub fn all() -> Self {
        Self::default()
    }

    /// Only this logical id.
    #[must_use]
    pub fn logical_id(logical_id: impl Into<String>) -> Self {
        Self { logical_id: logical_id.into(), ..Self::default() }
    }

    /// Only logical ids that begin so.
    #[must_use]
    pub fn prefix(prefix: impl Into<String>) -> Self {
        Self { prefix: prefix.into(), ..Self::default() }
    }

    /// Also, or only, this status: the first call replaces the default, all but dead.
    #[must_use]
    pub fn status(mut self, status: Status) -> Self {
        self.statuses.push(status);
        self
    }

    /// All statuses: also the dead, while they are on record.
    #[must_use]
    pub fn any_status(mut self) -> Self {
        self.statuses = vec![Status::Starting, Status::Alive, Status::Draining, Status::Dead];
        self
    }

    /// Only instances that were not dead at this time, by the database clock, as far as they are on record. For lists, not
    /// for watches, and not together with a status.
    #[must_use]
    pub fn alive_at(mut self, time: SystemTime) -> Self {
        self.alive_at = Some(time);
        self
    }

    /// Only instances on this node.
    #[must_use]
    pub fn node(mut self, node_id: impl Into<String>) -> Self {
        self.node_id = node_id.into();
        self
    }

    /// Only instances that carry this label.
    #[must_use]
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(key.into(), value.into());
        self
    }
}
