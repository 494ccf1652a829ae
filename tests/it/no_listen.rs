//! Where no notification arrives: everything works all the same, by asking once a second.
//!
//! LISTEN cannot be taken away from a role, but its notifications can be muted: then none arrives, as behind a pooler or on
//! an engine that takes LISTEN and never notifies.

use std::time::{Duration, Instant};

use musterd::proto::v1::WatchRequest;
use musterd_client::Status;

use crate::harness::{
    actor::{Caller, alive},
    daemon::Daemon,
    postgres::BOUND,
    registry::{Registry, make_alive, run},
    wait::wait_until,
    wire::Watcher,
};

const TTL: Duration = Duration::from_secs(300);

/// A registry that never notifies, and two daemons.
async fn muted() -> (Registry, Daemon, Daemon) {
    let sql = Registry::head().await;
    run(
        &sql.client,
        "CREATE OR REPLACE FUNCTION muster_advance(p_revision bigint) RETURNS void LANGUAGE sql VOLATILE AS
         'UPDATE cluster_metadata SET revision = p_revision WHERE id = 1 AND revision < p_revision'",
    )
    .await;
    let flags = ["--no-migrate", "--database-url", sql.database.url()];
    let daemons = (Daemon::start_with(&flags).await, Daemon::start_with(&flags).await);
    // Rotations and broken histories ring by themselves, so the test has to do without them.
    (sql, daemons.0, daemons.1)
}

#[tokio::test(flavor = "multi_thread")]
async fn without_notifications_changes_show_everywhere_within_about_a_second() {
    let (sql, one, other) = muted().await;
    let (here, there) = (Caller::of(&one), Caller::of(&other));
    let mut watcher = Watcher::open(&other, WatchRequest::default()).await.unwrap();
    watcher.until(|watcher| watcher.complete).await;
    let mut longest = Duration::ZERO;
    for round in 0..3_u128 {
        let name = format!("organ-{round}");
        let lease = here.register(alive(&name, TTL)).await.unwrap();
        assert_eq!(here.best(&name).await, lease.instance_id, "what this daemon has written it shows at once");
        let began = Instant::now();
        watcher.until(|watcher| watcher.known.contains_key(&lease.instance_id)).await;
        longest = longest.max(began.elapsed());
        assert_eq!(there.best(&name).await, lease.instance_id);
        assert_eq!(there.beat(lease.lease_id).await.map(|_| ()), Ok(()));

        let drained = here.set_status(&lease.instance_id, Status::Draining).await.unwrap();
        assert_eq!(here.best(&name).await, "NO_LIVE_INSTANCE");
        assert_eq!(there.resolve_at(&name, drained).await.unwrap_err(), "NO_LIVE_INSTANCE", "it is waited for");
    }
    // The bound of the promise is a second; on a loaded machine what matters is that it is no matter of minutes.
    assert!(longest < Duration::from_secs(10), "{longest:?}");

    let rows =
        crate::harness::registry::column::<uuid::Uuid>(&sql.client, "SELECT current_epoch FROM cluster_metadata");
    make_alive(&sql.client, 7, "by-sql", rows.await[0].as_u128()).await;
    wait_until("what SQL callers change shows", BOUND, async || match there.resolve("by-sql").await {
        Ok(_) => Ok(()),
        Err(reason) => Err(reason),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn muted_notifications_do_not_arrive() {
    let (sql, one, _other) = muted().await;
    let listener = NotificationCount::start(sql.database.url()).await;
    Caller::of(&one).register(alive("organ", TTL)).await.unwrap();
    run(&sql.client, "NOTIFY muster, 'end'").await;
    assert_eq!(listener.until_end().await, 0);
}

/// Counts the notifications until one with the payload `end`.
struct NotificationCount {
    _client: tokio_postgres::Client,
    count: tokio::task::JoinHandle<usize>,
}

impl NotificationCount {
    async fn start(url: &str) -> Self {
        let (client, mut connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
        let count = tokio::spawn(async move {
            let mut count = 0;
            loop {
                let message = std::future::poll_fn(|context| connection.poll_message(context)).await;
                match message.unwrap().unwrap() {
                    tokio_postgres::AsyncMessage::Notification(it) if it.payload() == "end" => return count,
                    tokio_postgres::AsyncMessage::Notification(_) => count += 1,
                    _ => {}
                }
            }
        });
        client.batch_execute("LISTEN muster").await.unwrap();
        Self { _client: client, count }
    }

    async fn until_end(self) -> usize {
        tokio::time::timeout(BOUND, self.count).await.unwrap().unwrap()
    }
}
