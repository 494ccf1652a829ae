//! Changing from one database to another: which sessions are admitted.
//!
//! A session that finds another database prepares it before any other session uses it: the database begins a new history
//! if it has lost revisions, and expiry is put on hold, because the beats that this daemon has saved elsewhere are not in
//! it. Only then do all other sessions end ([`super::lineage`]).

use std::time::Duration;

use tokio::{sync::MutexGuard, time::timeout};

use super::{
    connect::{ConnectError, Target},
    lineage::{Fit, Identity, Lineage},
    session::Opened,
};
use crate::telemetry::chain;

/// How long the preparation of another database may take.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(3);
/// Records a disruption: each lease is held for its TTL. The reason of a hold that is in force stays, because that is what
/// led to the change.
const HOLD: &str = "SELECT muster_note_disruption(coalesce( \
    (SELECT hold_reason FROM cluster_metadata WHERE id = 1 AND hold_until > muster_now()), \
    'a daemon changed to another database'))";

/// Another database that is ready to be the measure for all sessions. No other session changes the database while this
/// exists.
pub(super) struct Change<'a> {
    lineage: &'a Lineage,
    fit: Fit,
    identity: Identity,
    _alone: MutexGuard<'a, ()>,
}

impl Change<'_> {
    /// Makes it the measure and ends all other sessions. Returns the new generation.
    pub(super) fn adopt(self, server: &Target) -> u64 {
        let generation = self.lineage.adopt(self.identity);
        tracing::warn!(%server, fit = ?self.fit, "database changed, reloading the registry");
        generation
    }
}

/// Admits a session that was asked for its identity when the daemon had seen `floor`, and refuses one that is behind.
/// `None`: it belongs to the known database.
pub(super) async fn admit<'a>(
    lineage: &'a Lineage,
    opened: &mut Opened,
    floor: u64,
) -> Result<Option<Change<'a>>, ConnectError> {
    let Some(identity) = &opened.identity else {
        // No epoch yet, so there is nothing to compare.
        opened.generation = lineage.generation();
        return Ok(None);
    };
    let (fit, generation) = lineage.fit(identity, floor);
    if fit == Fit::Behind {
        let behind = lineage.refuse(opened.target.to_string(), identity);
        if !lineage.is_lost() {
            let (revision, seen) = (behind.revision, behind.seen);
            return Err(ConnectError::Behind { target: opened.target.clone(), revision, seen });
        }
    }
    opened.generation = generation;
    if fit == Fit::Same {
        return Ok(None);
    }
    match timeout(CHANGE_TIMEOUT, change(lineage, opened, floor)).await {
        Ok(changed) => changed.map_err(|error| lost(opened, chain(&error))),
        Err(_) => Err(lost(opened, format!("no answer within {} s", CHANGE_TIMEOUT.as_secs()))),
    }
}

fn lost(opened: &Opened, reason: String) -> ConnectError {
    ConnectError::Unreachable { target: opened.target.clone(), reason }
}

/// Prepares the database of this session. After a failover every task of the daemon finds the new database at the same
/// time: one prepares it, and the others wait and then find that it is the known one. Otherwise each of them would end
/// the sessions of those before it, and the changes that run over them.
#[tracing::instrument(level = "debug", name = "db.change", skip_all)]
async fn change<'a>(
    lineage: &'a Lineage,
    opened: &mut Opened,
    floor: u64,
) -> Result<Option<Change<'a>>, tokio_postgres::Error> {
    let alone = lineage.change_alone().await;
    // The feed may have read a new history of the known database since this session was asked. What was seen may be
    // confirmed in any case, so that is no round trip of its own.
    let confirm = format!("SELECT muster_confirm_history({})", lineage.seen());
    let [Some(before), Some(mut after)] = opened.ask_identity_around(&confirm).await? else { return Ok(None) };
    let (fit, generation) = lineage.fit(&before, floor);
    if fit == Fit::Same {
        opened.generation = generation;
        return Ok(None);
    }
    if after.is_history_of(&before) && !lineage.is_same_server(&before) {
        // A new history comes with a hold, from this daemon or from the one that began it.
        let [_, held] = opened.ask_identity_around(HOLD).await?;
        after = held.unwrap_or(after);
    }
    Ok(Some(Change { lineage, fit, identity: after, _alone: alone }))
}
