//! Instances of every kind for the matrix, one for each cell, so that no call changes what another one finds.

use std::{collections::HashMap, fmt::Write as _};

use musterd::proto::v1;
use uuid::Uuid;

use super::{Guarded, rules::Judge};
use crate::harness::{registry::id, served::seconds};

/// What a call is aimed at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Target {
    /// A live instance of the caller.
    Own,
    /// A live instance of another identity.
    Foreign,
    /// A live instance without an owner.
    Ownerless,
    /// A dead instance of the caller.
    OwnDead,
    /// A dead instance of another identity.
    ForeignDead,
    /// Nothing.
    Absent,
}

impl Target {
    pub(super) const ALL: [Self; 6] =
        [Self::Own, Self::Foreign, Self::Ownerless, Self::OwnDead, Self::ForeignDead, Self::Absent];

    pub(super) fn is_dead(self) -> bool {
        matches!(self, Self::OwnDead | Self::ForeignDead)
    }

    /// What a caller finds of it, where `other` is the verb for what others own: that it may use it, that it has lost the right
    /// to what it owns, or nothing.
    pub(super) fn claim(self, judge: Judge<'_>, who: &str, other: &str, name: &str) -> Claim {
        let may = |verb| judge.may(who, verb, name);
        match self {
            Self::Absent => Claim::None,
            _ if may(other) => Claim::Holds,
            Self::Own | Self::OwnDead | Self::Ownerless if may("register") => Claim::Holds,
            Self::Own | Self::OwnDead => Claim::Lost,
            _ => Claim::None,
        }
    }
}

/// What a caller finds of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    Holds,
    Lost,
    None,
}

/// The instance of a cell.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    pub(super) instance_id: Uuid,
    /// Of an absent one, a revision that is no lease.
    pub(super) lease_id: u64,
}

/// The registration that a row was made by, of the same process.
pub(super) fn registration(instance_id: Uuid, name: &str) -> v1::RegisterRequest {
    v1::RegisterRequest {
        instance_id: instance_id.to_string(),
        logical_id: name.to_owned(),
        node_id: "node".to_owned(),
        pid: 7,
        ip_address: "10.0.0.1".to_owned(),
        ttl: Some(seconds(300)),
        initial_status: v1::InstanceStatus::Alive.into(),
        ..Default::default()
    }
}

/// Makes the rows of all cells: caller, logical id and target of each.
pub(super) async fn make(guarded: &Guarded, cells: &[(&str, &str, Target)]) -> Vec<Row> {
    let client = &guarded.sql.client;
    let numbered = |at: usize| id(u128::try_from(at).unwrap() + 1);
    for (chunk, cells) in cells.chunks(500).enumerate() {
        let (mut alive, mut dead) = (String::new(), String::new());
        for (at, (who, name, target)) in cells.iter().enumerate() {
            let instance_id = numbered(chunk * 500 + at);
            let owner = match target {
                Target::Own | Target::OwnDead => format!("token/{who}"),
                Target::Foreign | Target::ForeignDead => "token/stranger".to_owned(),
                Target::Ownerless => "anonymous".to_owned(),
                Target::Absent => continue,
            };
            write!(
                alive,
                r#"{{"op":"register","instance_id":"{instance_id}","logical_id":"{name}","status":"alive","node_id":"node","pid":7,"ip_address":"10.0.0.1","ttl_ms":300000,"labels":{{}},"identity":"{owner}"}},"#
            )
            .unwrap();
            if target.is_dead() {
                write!(dead, r#"{{"op":"status","instance_id":"{instance_id}","status":"dead"}},"#).unwrap();
            }
        }
        for operations in [alive, dead].iter().filter(|operations| !operations.is_empty()) {
            let operations = format!("[{}]", operations.trim_end_matches(','));
            client.query("SELECT muster_apply($1::text::jsonb, 'the test')", &[&operations]).await.unwrap();
        }
    }
    let rows = client.query("SELECT instance_id, lease_id FROM registry_instance", &[]).await.unwrap();
    let leases: HashMap<Uuid, i64> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    // The revision of a death is no lease.
    let dead =
        client.query_one("SELECT max(revision) FROM registry_instance WHERE status = 'dead'", &[]).await.unwrap();
    let absent: i64 = dead.get(0);
    guarded.caught_up().await;
    (0..cells.len())
        .map(|at| {
            let instance_id = numbered(at);
            let lease_id = leases.get(&instance_id).copied().unwrap_or(absent);
            Row { instance_id, lease_id: u64::try_from(lease_id).unwrap() }
        })
        .collect()
}
