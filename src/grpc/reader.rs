//! The view as calls read it: not before it is loaded, and not before the revision a caller has seen.

use std::{sync::Arc, time::Duration};

use arc_swap::Guard;
use tokio::time::{Instant, sleep, timeout};

use crate::{
    model::{LeaseId, Revision},
    view::{Snapshot, View},
    wire::failure::Failure,
};

/// How long a call waits for a revision.
const WAIT: Duration = Duration::from_secs(1);
/// How often a call that waits for a confirmation looks for it.
const CONFIRMED_PERIOD: Duration = Duration::from_millis(20);

/// Returns the registry at `min_revision` or later.
pub(super) async fn snapshot(view: &View, min_revision: u64) -> Result<Guard<Arc<Snapshot>>, Failure> {
    let snapshot = view.snapshot();
    if snapshot.cluster().is_some() && snapshot.revision().0 >= min_revision {
        return Ok(snapshot);
    }
    wait(view, Revision(min_revision)).await?;
    Ok(view.snapshot())
}

/// Waits until the registry is loaded and `revision` has been applied.
pub(super) async fn wait(view: &View, revision: Revision) -> Result<(), Failure> {
    if view.wait_for(revision, WAIT).await { Ok(()) } else { Err(Failure::NotYetSeen) }
}

/// Whether a lease that is not known may be one that the feed has not brought yet.
pub(super) fn may_still_come(view: &View, lease_id: LeaseId) -> bool {
    view.applied().is_none_or(|applied| lease_id.0 > applied.0)
}

/// Waits for the feed to bring a lease. Fails with "unknown" only if PostgreSQL has confirmed meanwhile that the feed
/// holds all there is: an owner that is told so gives its lease up.
pub(super) async fn lease(view: &View, lease_id: LeaseId) -> Result<(), Failure> {
    let asked = Instant::now();
    // Twice, because the feed may look as seldom as once in the time of one wait.
    for _ in 0..2 {
        if wait(view, Revision(lease_id.0)).await.is_ok() {
            return Ok(());
        }
        if view.stale_for() < asked.elapsed() {
            return Err(Failure::UnknownLease(lease_id));
        }
    }
    Err(Failure::NotYetSeen)
}

/// Waits until PostgreSQL has confirmed the view as of `at_ms` or later.
pub(super) async fn confirmed_after(view: &View, at_ms: u64) -> Result<(), Failure> {
    let confirmed = async {
        while view.confirmed_ms() < at_ms {
            sleep(CONFIRMED_PERIOD).await;
        }
    };
    timeout(WAIT, confirmed).await.map_err(|_| Failure::NotYetSeen)
}
