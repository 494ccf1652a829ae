//! The cluster as its one row describes it.

use std::time::Duration;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::ids::{EpochId, Revision};

/// The cluster's current life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Epoch {
    /// Its UUID.
    pub id: EpochId,
    /// Its number; only grows.
    pub number: u64,
}

/// Expiry is suspended, because beats may not have been heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// For how much longer, when the row was read.
    pub remaining: Duration,
    /// Why.
    pub reason: String,
}

/// How expiry is braked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BrakeMode {
    /// Deaths are paced.
    Pace,
    /// No lease expires.
    Protect,
}

impl BrakeMode {
    /// The mode for a word, if it is one.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        match word {
            "pace" => Some(Self::Pace),
            "protect" => Some(Self::Protect),
            _ => None,
        }
    }
}

/// Expiry is braked, because too many would die at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Brake {
    /// How.
    pub mode: BrakeMode,
    /// Since when, by the database clock.
    pub since: DateTime<Utc>,
    /// How many were overdue when it last looked.
    pub overdue: u64,
    /// Of how many living ones.
    pub live: u64,
}

/// The cluster row, as read at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// The current epoch.
    pub epoch: Epoch,
    /// The latest revision.
    pub revision: Revision,
    /// Changes when the history of revisions was broken.
    pub history_id: Uuid,
    /// The highest revision of a dead row that is gone for good.
    pub purged: Revision,
    /// Set while expiry is suspended.
    pub hold: Option<Hold>,
    /// Set while expiry is braked.
    pub brake: Option<Brake>,
    /// The database clock when the row was read.
    pub read_at: DateTime<Utc>,
}

/// One entry of the history of epochs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EpochRecord {
    /// The epoch.
    pub epoch: Epoch,
    /// When it began, by the database clock.
    pub started_at: DateTime<Utc>,
    /// The revision at which it began.
    pub started_revision: Revision,
    /// Why, in the operator's words.
    pub reason: String,
    /// Which daemon began it, or `sql`.
    pub rotated_by: String,
}

/// A daemon that shares the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DaemonRecord {
    /// One run of it.
    pub daemon_id: Uuid,
    /// Its gRPC address.
    pub address: String,
    /// Version of musterd it runs.
    pub version: String,
    /// When it started.
    pub started_at: DateTime<Utc>,
    /// How long ago it last saved beats, when the row was read.
    pub last_flush_age: Duration,
    /// Digests of its policy and tokens, `POLICY/TOKENS`, or `none` without a policy; `None`: it does not tell.
    pub policy: Option<String>,
}

/// The daemons that share the database, as read at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Daemons {
    /// Those on record, by when they started.
    pub present: Vec<DaemonRecord>,
    /// Those that were lost within the last hour and whose address no other one serves, the latest first.
    pub lost: Vec<LostDaemon>,
}

/// A daemon that the cluster has evicted, because it had not saved beats for 15 s.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostDaemon {
    /// As it was last on record.
    pub record: DaemonRecord,
    /// How long ago it was evicted, when the row was read.
    pub lost_for: Duration,
}
