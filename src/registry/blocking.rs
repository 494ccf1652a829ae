//! Finds the transaction in PostgreSQL that changes wait for, so that operators are told which session to end.
//!
//! It asks only while a change waits for longer than a commit takes, because only then `pg_blocking_pids` has something
//! to tell, and from then on until the transaction it found has ended or a change is committed. The waiting call fails at
//! its deadline; the lock stays, and with it the finding. An idle daemon asks nothing.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::health::Health;
use crate::{
    store::{self, Pool},
    telemetry::{Repeated, chain},
};

/// How often it is checked, in memory, whether a change waits. A call waits 1.9 s at most, so there is time for a question.
const PERIOD: Duration = Duration::from_millis(250);
/// A change that waits for longer may be blocked.
const ASK_AFTER: Duration = Duration::from_secs(1);
/// The least pause between two questions.
const PAUSE: Duration = Duration::from_secs(1);
/// How long a question may take.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Keeps `health` informed about what blocks changes, until told to stop.
pub async fn run(pool: Pool, health: Arc<Health>, stop: CancellationToken) {
    let (mut trouble, mut logged) = (Repeated::default(), None);
    let mut pause = PERIOD;
    while stop.run_until_cancelled(sleep(pause)).await.is_some() {
        pause = PERIOD;
        if let Some(suspect) = health.suspect(ASK_AFTER) {
            pause = PAUSE;
            let found = store::blocking::find(&pool, suspect.known.as_deref(), Instant::now() + TIMEOUT).await;
            match found {
                Ok(found) => {
                    trouble.works();
                    health.blocked_by(&suspect, found);
                }
                Err(error) => {
                    if let Some(told) = trouble.failed() {
                        let (error, failures, lasting_ms) = (chain(&error), told.failures, told.lasting_ms());
                        tracing::warn!(error, failures, lasting_ms, "blocking session could not be looked up");
                    }
                }
            }
        }
        let session = health.blocker().map(|blocker| (blocker.pid, blocker.user, blocker.application));
        if session != logged {
            match &session {
                Some((pid, user, application)) => {
                    tracing::warn!(pid, user, application, "changes are blocked by a transaction");
                }
                None => tracing::info!("changes are no longer blocked"),
            }
            logged = session;
        }
    }
}
