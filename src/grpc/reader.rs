//! The view as calls read it: not before it is loaded, and not before the revision a caller has seen.

use std::{sync::Arc, time::Duration};

use arc_swap::Guard;
use tokio::time::{sleep, timeout};

use super::failure::Failure;
use crate::{
    model::Revision,
    view::{Snapshot, View},
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

/// Waits until PostgreSQL has confirmed the view as of `at_ms` or later.
pub(super) async fn confirmed_after(view: &View, at_ms: u64) -> Result<(), Failure> {
    let confirmed = async {
        while view.confirmed_ms() < at_ms {
            sleep(CONFIRMED_PERIOD).await;
        }
    };
    timeout(WAIT, confirmed).await.map_err(|_| Failure::NotYetSeen)
}
