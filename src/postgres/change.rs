//! Changing from one database to another: which sessions are admitted.
//!
//! A session that finds another database prepares it before any other session uses it: the database begins a new history
//! if it has lost revisions, and expiry is put on hold, because the beats that this daemon has saved elsewhere are not in
//! it. Only then do all other sessions end ([`super::lineage`]).

use std::time::Duration;

use tokio::time::timeout;

use super::{
    connect::ConnectError,
    lineage::{Fit, Lineage},
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

/// Admits a session that was asked for its identity when the daemon had seen `floor`, and refuses one that is behind.
pub(super) async fn admit(lineage: &Lineage, opened: &mut Opened, floor: u64) -> Result<(), ConnectError> {
    let Some(identity) = &opened.identity else {
        // No epoch yet, so there is nothing to compare.
        opened.generation = lineage.generation();
        return Ok(());
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
        return Ok(());
    }
    match timeout(CHANGE_TIMEOUT, change(lineage, opened, floor)).await {
        Ok(changed) => changed.map_err(|error| lost(opened, chain(&error))),
        Err(_) => Err(lost(opened, format!("no answer within {} s", CHANGE_TIMEOUT.as_secs()))),
    }
}

fn lost(opened: &Opened, reason: String) -> ConnectError {
    ConnectError::Unreachable { target: opened.target.clone(), reason }
}

/// Prepares the database of this session and ends all other sessions.
async fn change(lineage: &Lineage, opened: &mut Opened, floor: u64) -> Result<(), tokio_postgres::Error> {
    // The feed may have read a new history of the known database since this session was asked.
    let Some(before) = opened.ask_identity().await? else { return Ok(()) };
    let (fit, generation) = lineage.fit(&before, floor);
    if fit == Fit::Same {
        opened.generation = generation;
        return Ok(());
    }
    let confirm = format!("SELECT muster_confirm_history({})", lineage.seen());
    opened.drive(async |client| client.batch_execute(&confirm).await).await?;
    let Some(mut after) = opened.ask_identity().await? else { return Ok(()) };
    if after.is_history_of(&before) && !lineage.is_same_server(&before) {
        // A new history comes with a hold, from this daemon or from the one that began it.
        opened.drive(async |client| client.batch_execute(HOLD).await).await?;
        after = opened.ask_identity().await?.unwrap_or(after);
    }
    opened.generation = lineage.adopt(after);
    tracing::warn!(server = %opened.target, ?fit, "database changed, reloading the registry");
    Ok(())
}
