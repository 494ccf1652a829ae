//! An instance as PostgreSQL has it on record.

use std::{
    net::IpAddr,
    num::{NonZeroU16, NonZeroU32},
    sync::Arc,
};

use chrono::{DateTime, Utc};

use super::{
    budget::record_bytes,
    cluster::Epoch,
    ids::{InstanceId, LeaseId, LogicalId, Revision},
    input::{Labels, Ttl},
    owner::Owner,
    status::{DeathReason, InstanceStatus},
};

/// The record of a death.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Death {
    /// Why; `None` if it died before reasons were kept.
    pub reason: Option<DeathReason>,
    /// When it was declared; `None` for a death by rotation that is not yet written down.
    pub at: Option<DateTime<Utc>>,
    /// When the lease would have ended without another beat.
    pub deadline: Option<DateTime<Utc>>,
    /// Who decided it.
    pub decided_by: Option<Arc<str>>,
}

/// Why an instance has its status, and since when.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StatusNote {
    /// Why, in the words of what set it.
    pub reason: Option<Box<str>>,
    /// Since when it has this status and reason; `None`: since before that was kept.
    pub since: Option<DateTime<Utc>>,
}

/// What only some instances have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    /// The record of its death, as written.
    pub death: Option<Death>,
    /// Why it has its status, and since when; `None`: since it was registered, for no reason.
    pub note: Option<StatusNote>,
}

impl From<Death> for Details {
    fn from(death: Death) -> Self {
        Self { death: Some(death), note: None }
    }
}

/// One row of `registry_instance`.
#[derive(Clone, Debug, PartialEq)]
pub struct Instance {
    /// The incarnation.
    pub instance_id: InstanceId,
    /// The name routers ask for.
    pub logical_id: LogicalId,
    /// Its lease.
    pub lease_id: LeaseId,
    /// The lease of the same instance id whose place this one took.
    pub replaces: Option<LeaseId>,
    /// The epoch it registered in.
    pub epoch: Epoch,
    /// Revision of its latest durable change.
    pub revision: Revision,
    /// Status as written; see [`Instance::status_in`].
    pub status: InstanceStatus,
    /// Name of the actor.
    pub actor_name: Option<Box<str>>,
    /// Deployment name or base route.
    pub serve_route: Option<Arc<str>>,
    /// Node it runs on.
    pub node_id: Option<Arc<str>>,
    /// Address.
    pub ip_address: Option<IpAddr>,
    /// Port.
    pub port: Option<NonZeroU16>,
    /// Process id.
    pub pid: Option<NonZeroU32>,
    /// Version of its software.
    pub version: Option<Arc<str>>,
    /// Labels.
    pub labels: Labels,
    /// TTL in effect.
    pub ttl: Ttl,
    /// The identity that registered it; `None`: through a daemon without a policy. Identities are few and shared, and count
    /// into no budget.
    pub owner: Option<Owner>,
    /// When the lease was registered.
    pub started_at: DateTime<Utc>,
    /// The latest saved beat, as of when the row was read.
    pub last_beat: DateTime<Utc>,
    /// What most do not need. Boxed: live instances are many more than dead ones.
    pub details: Option<Box<Details>>,
}

impl Instance {
    /// The status in the current epoch: an instance of an older one is dead by definition, whatever was written.
    #[must_use]
    pub fn status_in(&self, current: Epoch) -> InstanceStatus {
        if self.epoch.id == current.id { self.status } else { InstanceStatus::Dead }
    }

    /// The record of its death, as written.
    #[must_use]
    pub fn death(&self) -> Option<&Death> {
        self.details.as_ref()?.death.as_ref()
    }

    /// Why it has the status as written, in the words of what set it.
    #[must_use]
    pub fn status_reason(&self) -> Option<&str> {
        self.details.as_ref()?.note.as_ref()?.reason.as_deref()
    }

    /// Since when it has the status as written, and its reason; `None`: since before that was kept.
    #[must_use]
    pub fn status_since(&self) -> Option<DateTime<Utc>> {
        let note = self.details.as_ref().and_then(|details| details.note.as_ref());
        note.map_or(Some(self.started_at), |note| note.since)
    }

    /// How many bytes its texts have: what may be large about it.
    #[must_use]
    pub fn text_bytes(&self) -> usize {
        let shared = [&self.serve_route, &self.node_id, &self.version].into_iter().flatten().map(|text| text.len());
        let own = [self.actor_name.as_deref(), self.status_reason()].into_iter().flatten().map(str::len);
        let texts = shared.chain(own);
        self.logical_id.as_str().len() + texts.sum::<usize>() + self.labels.text_bytes()
    }

    /// What its record takes in memory.
    #[must_use]
    pub fn record_bytes(&self) -> u64 {
        record_bytes(self.text_bytes(), self.labels.len())
    }

    /// Whether it lived at a time, as far as is written down. An instance of an older epoch whose death is not yet
    /// written down counts as alive: it is written down seconds after the rotation.
    #[must_use]
    pub fn was_alive_at(&self, time: DateTime<Utc>) -> bool {
        let died = self.death().map(|death| death.at.unwrap_or(self.started_at));
        self.started_at <= time && died.is_none_or(|died| died > time)
    }

    /// The death as seen in the current epoch; `None` if it is not dead.
    #[must_use]
    pub fn death_in(&self, current: Epoch) -> Option<Death> {
        match (self.status, self.status_in(current)) {
            (_, InstanceStatus::Starting | InstanceStatus::Alive | InstanceStatus::Draining) => None,
            (InstanceStatus::Dead, _) => Some(self.death().cloned().unwrap_or(Death {
                reason: None,
                at: None,
                deadline: None,
                decided_by: None,
            })),
            _ => Some(Death { reason: Some(DeathReason::OldEpoch), at: None, deadline: None, decided_by: None }),
        }
    }
}
