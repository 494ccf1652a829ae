//! What a caller is told when the answer to its change was lost and the repetition is refused: the outcome is unknown.
//!
//! A link takes away the answer to one change that PostgreSQL has made, and holds back everything after it. Meanwhile
//! the world changes, so that the repetition, let through at last, finds another one than the first try did. Or it holds
//! back the change itself, until its caller has gone on to another request.

use std::time::Duration;

use musterd::proto::v1::{self, InstanceStatus};
use tokio::task::JoinHandle;

use super::{
    proxy::{Counts, Link, Mode},
    world::database_link,
};
use crate::harness::{
    actor::{Caller, alive, reason},
    daemon::Daemon,
    postgres::BOUND,
    registry::{Registry, get, run},
    wait::wait_until,
};

const TTL: Duration = Duration::from_secs(300);

struct Scene {
    sql: Registry,
    link: Link,
    _daemon: Daemon,
    caller: Caller,
}

impl Scene {
    async fn start() -> Self {
        let sql = Registry::head().await;
        let (url, link) = database_link(sql.database.url()).await;
        let daemon = Daemon::start_as_asked(&["--database-url", &url]).await;
        let caller = Caller::of(&daemon);
        Self { sql, link, _daemon: daemon, caller }
    }

    /// Asks for a change whose first answer is lost; returns once that has happened and the repetition is held back.
    async fn lose<T: Send + 'static>(
        &self,
        change: impl Future<Output = Result<T, String>> + Send + 'static,
    ) -> JoinHandle<Result<T, String>> {
        self.link.lose_an_answer_and_block();
        let asked = tokio::spawn(change);
        wait_until("an answer is lost", BOUND, async || match Counts::of(&self.link.counts().answers_lost) {
            0 => Err("none is"),
            _ => Ok(()),
        })
        .await;
        asked
    }

    fn register(&self, request: v1::RegisterRequest) -> impl Future<Output = Result<u64, String>> + Send + 'static {
        let caller = self.caller.clone();
        async move { caller.register(request).await.map(|granted| granted.lease_id) }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn registration_made_before_a_rotation_is_not_reported_as_fenced() {
    let scene = Scene::start().await;
    let epoch = scene.caller.cluster().await.unwrap().cluster_epoch.to_string();
    let request = v1::RegisterRequest { cluster_epoch: epoch, ..alive("organ", TTL) };
    let asked = scene.lose(scene.register(request.clone())).await;
    run(&scene.sql.client, "SELECT set_current_epoch(gen_random_uuid())").await;
    scene.link.heal();
    assert_eq!(asked.await.unwrap().unwrap_err(), "MAYBE_APPLIED", "it was applied, in the epoch before");
    let sql = format!("SELECT count(*) FROM registry_instance WHERE instance_id = '{}'", request.instance_id);
    assert_eq!(get::<i64>(&scene.sql.client, &sql).await, 1);
    assert_eq!(scene.register(request).await.unwrap_err(), "EPOCH_FENCED", "asked once, it is refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn status_set_before_a_death_is_not_reported_as_refused() {
    let scene = Scene::start().await;
    let lease = scene.caller.register(alive("organ", TTL)).await.unwrap();
    let mut registry = scene.caller.wire.registry.clone();
    let status = InstanceStatus::Draining.into();
    let request = v1::SetStatusRequest { lease_id: lease.lease_id, status, ..Default::default() };
    let set = async move { registry.set_status(request).await.map(drop).map_err(|status| reason(&status)) };
    let asked = scene.lose(set).await;
    run(&scene.sql.client, &format!("SELECT set_instance_status('{}', 'dead')", lease.instance_id)).await;
    scene.link.heal();
    assert_eq!(asked.await.unwrap().unwrap_err(), "MAYBE_APPLIED");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repetition_that_finds_the_database_busy_does_not_make_the_first_try_undone() {
    let scene = Scene::start().await;
    let request = alive("organ", TTL);
    let asked = scene.lose(scene.register(request.clone())).await;
    run(&scene.sql.client, "BEGIN; SELECT FROM cluster_metadata FOR UPDATE").await;
    scene.link.heal();
    // Each repetition waits for the row, and is cancelled: busy, nothing applied, as far as that one goes.
    let observer = scene.sql.connect().await;
    let cancel = "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity
                  WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%muster_apply%'";
    while !asked.is_finished() {
        get::<i64>(&observer, cancel).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(asked.await.unwrap().unwrap_err(), "MAYBE_APPLIED");
    run(&scene.sql.client, "COMMIT").await;
    let granted = wait_until("it is repeated", BOUND, async || scene.register(request.clone()).await).await;
    let sql = format!("SELECT lease_id FROM registry_instance WHERE instance_id = '{}'", request.instance_id);
    assert_eq!(get::<i64>(&scene.sql.client, &sql).await, i64::try_from(granted).unwrap());
    assert_eq!(get::<i64>(&scene.sql.client, "SELECT revision FROM cluster_metadata").await, 2, "once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_arrives_after_its_caller_has_gone_on_is_not_made() {
    let scene = Scene::start().await;
    let daemon = Daemon::start_as_asked(&["--database-url", scene.sql.database.url()]).await;
    let other = Caller::of(&daemon);
    // Every connection has the statement prepared: what is sent from now on is executed without a further answer.
    for _ in 0..20 {
        scene.register(alive("before", TTL)).await.unwrap();
    }
    scene.link.set(Mode::BlackHole { from_client: true, from_server: true });
    let request = alive("organ", TTL);
    assert_eq!(scene.register(request.clone()).await.unwrap_err(), "MAYBE_APPLIED");
    let lease = other.register(request.clone()).await.unwrap();
    let end = v1::DeregisterRequest { lease_id: lease.lease_id, ..Default::default() };
    other.wire.registry.clone().deregister(end).await.unwrap();
    scene.link.heal();
    wait_until("changes arrive again", BOUND, async || scene.caller.register(alive("marker", TTL)).await).await;
    // One that waits for the row, if there is one, has it by now.
    let busy = "SELECT count(*) FROM pg_stat_activity
                WHERE datname = current_database() AND state = 'active' AND query LIKE '%muster_apply($1%' AND pid <> pg_backend_pid()";
    wait_until("nothing is under way", BOUND, async || match get::<i64>(&scene.sql.client, busy).await {
        0 => Ok(()),
        count => Err(count),
    })
    .await;
    let sql = format!("SELECT status::text FROM registry_instance WHERE instance_id = '{}'", request.instance_id);
    assert_eq!(get::<String>(&scene.sql.client, &sql).await, "dead", "it was ended, and not registered again");
}
