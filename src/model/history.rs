//! Leases that have ended: what the history of leases is asked, and what it tells.

use chrono::{DateTime, Utc};

use super::{
    ids::{InstanceId, LeaseId, LogicalId},
    instance::Death,
};

/// Whose leases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// Those of a logical id.
    LogicalId(String),
    /// Those of an instance id, under whatever logical id.
    Instance(InstanceId),
}

/// Which ended leases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Of what.
    pub holder: Holder,
    /// Only those that had begun and not ended then; `None`: all.
    pub alive_at: Option<DateTime<Utc>>,
    /// At most so many.
    pub limit: usize,
}

/// A lease that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndedLease {
    /// The lease.
    pub lease_id: LeaseId,
    /// The instance that held it.
    pub instance_id: InstanceId,
    /// Its logical id.
    pub logical_id: LogicalId,
    /// Its actor name.
    pub actor_name: Option<String>,
    /// The node that it ran on.
    pub node_id: Option<String>,
    /// The identity that registered it.
    pub owner: Option<String>,
    /// Number of the epoch that it was registered in.
    pub epoch_number: u64,
    /// When it was registered.
    pub started_at: DateTime<Utc>,
    /// When and why it ended.
    pub death: Death,
}
