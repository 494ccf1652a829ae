//! Whom a router should talk to.

use std::sync::Arc;

use super::{Entry, Snapshot};
use crate::model::InstanceStatus;

/// The best instance of a name.
#[derive(Clone, Debug)]
pub struct Best {
    /// The instance.
    pub entry: Arc<Entry>,
    /// How many other live ones there are.
    pub alternatives: usize,
}

/// Nobody to talk to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nobody {
    /// No instance of this name is on record.
    UnknownLogicalId,
    /// None of those on record is alive; with how many there are.
    NoLiveInstance(usize),
}

/// The best live instance of a logical id at `now_ms`: the lowest [`crate::model::ranking::Rank`].
///
/// # Errors
/// [`Nobody`] says whether the name is known.
pub fn best(snapshot: &Snapshot, logical_id: &str, now_ms: u64) -> Result<Best, Nobody> {
    let (Some(name), Some(cluster)) = (snapshot.name(logical_id), snapshot.cluster()) else {
        return Err(Nobody::UnknownLogicalId);
    };
    let mut live =
        name.alive.iter().filter(|entry| entry.instance.status_in(cluster.epoch) == InstanceStatus::Alive).peekable();
    // They stand in the order of their ranks but for suspicion, so the first that is not suspect is the best.
    let first = live.peek().copied().ok_or(Nobody::NoLiveInstance(name.all.len()))?;
    let mut best = None;
    let mut count = 0;
    for entry in live {
        count += 1;
        if best.is_none() && !entry.lease.is_suspect(now_ms) {
            best = Some(entry);
        }
    }
    Ok(Best { entry: Arc::clone(best.unwrap_or(first)), alternatives: count - 1 })
}
