//! The search for a newer primary among the hosts that the daemon does not use.
//!
//! Without it, a daemon whose old primary runs on would stay with it until the old primary ends, while other daemons use
//! the promoted standby.

use std::{convert::Infallible, time::Duration};

use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{change::admit, database::Database};

/// How often the other hosts are looked at.
const SEARCH_PERIOD: Duration = Duration::from_secs(5);
/// The least time between two looks, however often calls are not answered.
const SEARCH_PAUSE: Duration = Duration::from_millis(500);
/// How long another host may take to answer.
const SEARCH_TIMEOUT: Duration = Duration::from_secs(2);
/// Looks for a promoted standby among the hosts that are not used, until told to stop: every few seconds, and at once when
/// a call is not answered.
///
/// # Errors
/// None: it goes on through every outage.
pub async fn run(database: Database, stop: CancellationToken) -> Result<(), Infallible> {
    loop {
        let pause = async {
            sleep(SEARCH_PAUSE).await;
            let _ = timeout(SEARCH_PERIOD, database.search_requested()).await;
        };
        if stop.run_until_cancelled(pause).await.is_none() {
            return Ok(());
        }
        if stop.run_until_cancelled(search_once(&database)).await.is_none() {
            return Ok(());
        }
    }
}

async fn search_once(database: &Database) {
    let Some(lineage) = database.lineage() else { return };
    let Some((used, server)) = database.used_among_several() else { return };
    let floor = database.seen();
    for mut opened in server.primaries_beside(&used, SEARCH_TIMEOUT, &database.preparation()).await {
        if !opened.identity.as_ref().is_some_and(|identity| lineage.is_promotion(identity)) {
            continue;
        }
        match admit(lineage, &mut opened, floor).await {
            Ok(()) => database.used(&opened.target),
            Err(error) => tracing::warn!(server = %opened.target, %error, "promoted standby cannot be used"),
        }
    }
}
