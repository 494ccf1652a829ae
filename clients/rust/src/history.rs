//! Leases that have ended: what held a lease, when and why it ended.

use std::time::SystemTime;

use uuid::Uuid;

use crate::{
    client::Client,
    error::Error,
    model::Death,
    reads::discovery,
    wire::{self, ListEndedLeasesRequest},
};

/// Selects ended leases, of one logical id or of one instance id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    logical_id: String,
    instance_id: Option<Uuid>,
    alive_at: Option<SystemTime>,
    limit: u32,
}

impl Ended {
    /// The leases of a logical id.
    #[must_use]
    pub fn of_logical_id(logical_id: impl Into<String>) -> Self {
        Self { logical_id: logical_id.into(), instance_id: None, alive_at: None, limit: 0 }
    }

    /// The leases of an instance id, under whatever logical id.
    #[must_use]
    pub fn of_instance(instance_id: Uuid) -> Self {
        Self { logical_id: String::new(), instance_id: Some(instance_id), alive_at: None, limit: 0 }
    }

    /// Only leases that had begun and not ended at this time, by the database clock.
    #[must_use]
    pub fn alive_at(mut self, time: SystemTime) -> Self {
        self.alive_at = Some(time);
        self
    }

    /// At most so many, up to 1,000; 100 without it.
    #[must_use]
    pub fn limit(mut self, limit: u32) -> Self {
        self.limit = limit;
        self
    }
}

/// A lease that has ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EndedLease {
    /// The lease.
    pub lease_id: u64,
    /// The instance that held it.
    pub instance_id: Uuid,
    /// Its logical id.
    pub logical_id: String,
    /// Its actor name, empty if none.
    pub actor_name: String,
    /// The node that it ran on, empty if unknown.
    pub node_id: String,
    /// The identity that registered it, empty if not recorded.
    pub owner: String,
    /// Number of the epoch that it was registered in.
    pub epoch_number: u64,
    /// When it was registered, by the database clock.
    pub started_at: Option<SystemTime>,
    /// When and why it ended. The deadline is not recorded.
    pub death: Death,
}

impl Client {
    /// Leases that have ended, the latest first, as long as they are kept: 7 days by default, longer than instances.
    ///
    /// # Errors
    /// A refused argument; PostgreSQL cannot be reached; or no daemon answered.
    pub async fn ended_leases(&self, ended: &Ended) -> Result<Vec<EndedLease>, Error> {
        let message = ListEndedLeasesRequest {
            logical_id: ended.logical_id.clone(),
            instance_id: ended.instance_id.map(|id| id.to_string()).unwrap_or_default(),
            alive_at: ended.alive_at.map(wire::to_time),
            limit: i32::try_from(ended.limit).unwrap_or(i32::MAX),
        };
        let method = |channel, request| async { discovery(channel).list_ended_leases(request).await };
        let answer = self.call(message, method).await?;
        answer.leases.into_iter().map(EndedLease::try_from).collect()
    }
}

impl TryFrom<wire::EndedLease> for EndedLease {
    type Error = Error;

    fn try_from(wire: wire::EndedLease) -> Result<Self, Error> {
        Ok(Self {
            lease_id: wire.lease_id,
            instance_id: wire::uuid(&wire.instance_id, "instance id")?,
            logical_id: wire.logical_id,
            actor_name: wire.actor_name,
            node_id: wire.node_id,
            owner: wire.owner,
            epoch_number: wire.epoch_number,
            started_at: wire::time(wire.started_at.as_ref()),
            death: wire.death.map(wire::death).unwrap_or_default(),
        })
    }
}
