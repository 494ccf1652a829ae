//! Leases, those that are held and those that have ended, as one kind of record.
//!
//! The registry shows an instance as it is now; the history of leases has what ended before. Each knows leases that the other
//! does not: a death by rotation that is not written down yet, and an instance id that was registered again.

use std::{cmp::Reverse, time::SystemTime};

use musterd_client::{Client, Death, Ended, EndedLease, Instance};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    command::instances::moment,
    json::{messages, value::long},
    terminal::output,
};

/// A lease, by what held it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) lease_id: u64,
    pub(super) instance_id: Uuid,
    pub(super) logical_id: String,
    pub(super) node_id: String,
    pub(super) owner: String,
    pub(super) started_at: Option<SystemTime>,
    /// `None`: it has not ended.
    pub(super) death: Option<Death>,
}

impl From<&Instance> for Held {
    fn from(one: &Instance) -> Self {
        Self {
            lease_id: one.lease_id,
            instance_id: one.instance_id,
            logical_id: one.logical_id.clone(),
            node_id: one.node_id.clone(),
            owner: one.owner.clone(),
            started_at: one.started_at,
            death: one.death.clone(),
        }
    }
}

impl From<&EndedLease> for Held {
    fn from(one: &EndedLease) -> Self {
        Self {
            lease_id: one.lease_id,
            instance_id: one.instance_id,
            logical_id: one.logical_id.clone(),
            node_id: one.node_id.clone(),
            owner: one.owner.clone(),
            started_at: one.started_at,
            death: Some(one.death.clone()),
        }
    }
}

impl Held {
    /// Its JSON form: fields of `muster.v1.EndedLease`, with a death of null while the lease is held.
    pub(super) fn json(&self) -> Value {
        json!({
            "leaseId": long(self.lease_id),
            "instanceId": self.instance_id,
            "logicalId": self.logical_id,
            "nodeId": self.node_id,
            "owner": self.owner,
            "startedAt": messages::timestamp(self.started_at),
            "death": self.death.as_ref().map_or(Value::Null, messages::death),
        })
    }

    /// Whether it had begun and not ended at a time.
    pub(super) fn was_alive_at(&self, at: SystemTime) -> bool {
        let ended = self.death.as_ref().and_then(|death| death.at);
        self.started_at.is_some_and(|started| started <= at) && ended.is_none_or(|ended| ended > at)
    }
}

/// Leases of both kinds, each once, by when they ended, the latest first.
pub(super) fn all<'a>(instances: impl IntoIterator<Item = &'a Instance>, ended: &[EndedLease]) -> Vec<Held> {
    let mut all: Vec<Held> = instances.into_iter().map(Held::from).collect();
    for lease in ended {
        if !all.iter().any(|held| held.lease_id == lease.lease_id) {
            all.push(lease.into());
        }
    }
    let ended = |held: &Held| held.death.as_ref().and_then(|death| moment(death.at));
    // What died by a rotation a moment ago has no time yet: the latest of all.
    all.sort_by_key(|held| Reverse((ended(held).is_none(), ended(held), held.lease_id)));
    all
}

/// The ended leases that the registry has on record; none, with a note, where it cannot tell.
pub(super) async fn ended(client: &Client, of: &Ended) -> Vec<EndedLease> {
    match client.ended_leases(of).await {
        Ok(leases) => leases,
        Err(error) => {
            output::note(&format!("warning: leases that ended earlier are not shown: {error}"));
            Vec::new()
        }
    }
}
