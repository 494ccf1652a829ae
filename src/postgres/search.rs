//! The search for a newer primary among the hosts that the daemon does not use.
//!
//! Without it, a daemon whose old primary runs on would stay with it until the old primary ends, while other daemons use
//! the promoted standby. And one whose old primary is gone would find the promoted standby only when an attempt to open a
//! session meets it by chance: attempts wait for the host that does not answer.
//!
//! While the database is silent, a session with each other host stays open, and its promotion is noticed one round trip
//! after a short pause. That session is then the first one with the new primary.

use std::{
    convert::Infallible,
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::time::{sleep, timeout};
use tokio_postgres::Config;
use tokio_util::sync::CancellationToken;

use super::{change, database::Database, lineage::Lineage, server::Server, session::Opened};

/// How often the other hosts are looked at while the database answers.
const SEARCH_PERIOD: Duration = Duration::from_secs(5);
/// How long a search goes on at most; what is not answered begins the next one. The database url may change meanwhile.
const SEARCH_LIMIT: Duration = Duration::from_secs(30);
/// The pause between two looks at a host while the database is silent.
const LOOK_PAUSE: Duration = Duration::from_millis(150);
/// How long another host may take to answer.
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);

/// Looks for a promoted standby among the hosts that are not used, until told to stop: every few seconds, and at once when
/// a call is not answered.
///
/// # Errors
/// None: it goes on through every outage.
pub async fn run(database: Database, stop: CancellationToken) -> Result<(), Infallible> {
    loop {
        let pause = timeout(SEARCH_PERIOD, database.search_requested());
        if stop.run_until_cancelled(pause).await.is_none() {
            return Ok(());
        }
        let searching = async {
            let _ = timeout(SEARCH_LIMIT, search(&database)).await;
            sleep(LOOK_PAUSE).await;
        };
        if stop.run_until_cancelled(searching).await.is_none() {
            return Ok(());
        }
    }
}

/// Looks at each of the other hosts until one has been promoted, or the database answers.
#[tracing::instrument(level = "debug", name = "db.search", skip_all)]
async fn search(database: &Database) {
    let (Some(lineage), Some((used, server))) = (database.lineage(), database.used_among_several()) else { return };
    let asked_at = Instant::now();
    // No host waits for another one.
    let mut looks: FuturesUnordered<_> =
        server.hosts_beside(&used).map(|host| look(database, lineage, &server, host, asked_at)).collect();
    while let Some(found) = looks.next().await {
        if let Some(promoted) = found
            && change_to(database, lineage, promoted).await
        {
            return;
        }
    }
}

/// Returns a session with a host once that is a promoted standby; `None` if the database has answered.
async fn look(
    database: &Database,
    lineage: &Lineage,
    server: &Server,
    host: &Config,
    asked_at: Instant,
) -> Option<Opened> {
    let is_promoted = |opened: &Opened| opened.identity.as_ref().is_some_and(|found| lineage.is_promotion(found));
    let mut session: Option<Opened> = None;
    loop {
        session = match session.take() {
            None => server.attempt(host, LOOK_TIMEOUT, &database.preparation()).await.ok(),
            Some(mut opened) => match timeout(LOOK_TIMEOUT, opened.ask_identity()).await {
                Ok(Ok(())) => Some(opened),
                _ => None,
            },
        };
        if let Some(promoted) = session.take_if(|opened| is_promoted(opened)) {
            return Some(promoted);
        }
        if !lineage.is_silent_since(asked_at) {
            return None;
        }
        sleep(LOOK_PAUSE).await;
    }
}

/// Returns whether the daemon uses the database of this session from now on.
async fn change_to(database: &Database, lineage: &Lineage, mut opened: Opened) -> bool {
    let server = opened.target.clone();
    match Box::pin(change::admit(lineage, &mut opened, database.seen())).await {
        Ok(Some(change)) => {
            // Before all other sessions end, because those that follow take this session, and begin with this host.
            database.used(&server);
            database.leave(opened);
            change.adopt(&server);
            true
        }
        // Another session was faster.
        Ok(None) => true,
        Err(error) => {
            tracing::warn!(%server, %error, "promoted standby cannot be used");
            false
        }
    }
}
