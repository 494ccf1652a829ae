//! Membership changes as asked for, and what became of them.
//!
//! The decision itself is made by PostgreSQL under the cluster row's lock (`muster_apply`); these are its arguments
//! and its answers.

use std::{net::IpAddr, sync::Arc, time::Duration};

use super::{
    budget::record_bytes,
    cluster::Epoch,
    ids::{EpochId, InstanceId, LeaseId, LogicalId, Revision},
    input::{Labels, Ttl},
    status::{DeathReason, InstanceStatus},
};

/// A registration asked for, validated.
#[derive(Clone, Debug, PartialEq)]
pub struct Registration {
    /// The incarnation.
    pub instance_id: InstanceId,
    /// The name routers will ask for.
    pub logical_id: LogicalId,
    /// The epoch it claims; `None`: the current one.
    pub epoch: Option<EpochId>,
    /// `Starting` or `Alive`.
    pub status: InstanceStatus,
    /// Name of the actor.
    pub actor_name: Option<String>,
    /// Deployment name or base route.
    pub serve_route: Option<String>,
    /// Node it runs on.
    pub node_id: Option<String>,
    /// Address.
    pub ip_address: Option<IpAddr>,
    /// Port.
    pub port: Option<u16>,
    /// Process id.
    pub pid: Option<u32>,
    /// Version of its software.
    pub version: Option<String>,
    /// Labels.
    pub labels: Labels,
    /// TTL.
    pub ttl: Ttl,
    /// The identity that asks, and so the owner; `None`: the daemon has no policy.
    pub identity: Option<Arc<str>>,
    /// How many records this identity may own; `None`: there is no limit.
    pub records_max: Option<u64>,
}

impl Registration {
    /// What its record will take in memory.
    #[must_use]
    pub fn record_bytes(&self) -> u64 {
        let texts = [&self.actor_name, &self.serve_route, &self.node_id, &self.version];
        let texts: usize = texts.into_iter().flatten().map(String::len).sum();
        record_bytes(self.logical_id.as_str().len() + texts + self.labels.text_bytes(), self.labels.len())
    }
}

/// A change of status asked for. `Dead` ends the lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusChange {
    /// Whose.
    pub instance_id: InstanceId,
    /// Only on this lease; `None`: on the one it has.
    pub lease_id: Option<LeaseId>,
    /// The status to change to.
    pub status: InstanceStatus,
    /// Why, where the status is `Dead`.
    pub reason: DeathReason,
    /// Why, in words; `None`: no reason is given.
    pub status_reason: Option<Arc<str>>,
    /// The identity that asks; `None`: the daemon has no policy.
    pub identity: Option<Arc<str>>,
    /// Also an instance of another owner; if not, that is unknown. Of no meaning without an identity.
    pub as_operator: bool,
}

/// One membership change.
#[derive(Clone, Debug, PartialEq)]
pub enum Operation {
    /// Grant a lease.
    Register(Box<Registration>),
    /// Change a status or end a lease.
    SetStatus(StatusChange),
}

/// How PostgreSQL decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A lease for an instance id that had none.
    Created,
    /// The same owner's lease goes on.
    Renewed,
    /// A new lease in the place of one that had ended.
    Replaced,
    /// The status is now the one asked for; with whether anything had to change.
    Set(bool),
    /// Not the current epoch.
    EpochFenced,
    /// A live lease of the instance id has another owner, or another address.
    Taken,
    /// No such instance or lease.
    Unknown,
    /// The lease has ended.
    Expired,
    /// A newer lease took its place.
    LeaseReplaced,
    /// The change of status is not allowed; with the present status.
    InvalidTransition(InstanceStatus),
}

/// What became of one operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The decision.
    pub verdict: Verdict,
    /// The lease concerned.
    pub lease_id: Option<LeaseId>,
    /// Revision of the change, or of the instance where nothing had to change.
    pub revision: Revision,
    /// Status afterwards.
    pub status: Option<InstanceStatus>,
    /// The epoch current at the decision.
    pub epoch: Epoch,
}

/// What became of a rotation of the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rotation {
    /// A new epoch began.
    Rotated {
        /// The epoch now current.
        epoch: Epoch,
        /// The revision at which it began.
        revision: Revision,
        /// The one before, if there was one.
        previous: Option<EpochId>,
    },
    /// The epoch asked for was current already.
    Unchanged {
        /// The current epoch.
        epoch: Epoch,
        /// The latest revision.
        revision: Revision,
    },
    /// Another epoch than the expected one is current. Nothing happened.
    Mismatch {
        /// The current epoch; `None` if there is none yet.
        current: Option<Epoch>,
    },
    /// The new epoch was in use before. Nothing happened.
    Reused,
    /// A daemon rotated the epoch a moment ago. Nothing happened.
    TooSoon {
        /// When another rotation is allowed.
        retry_after: Duration,
    },
}
