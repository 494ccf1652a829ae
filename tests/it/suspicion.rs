//! Suspicion that one daemon has and the others take over: a broken stream, two beats overdue; and its end, wherever the
//! next beat arrives.

use std::time::Duration;

use musterd::proto::v1;

use crate::harness::{
    actor::{Caller, alive},
    client::{BeatStream, Watcher},
    daemon::Daemon,
    registry::{Registry, get, run},
    wait::wait_until,
};

const BOUND: Duration = Duration::from_secs(20);
/// Far longer than any of these tests lasts: without the hint of another daemon nobody would be suspect so soon.
const TTL: Duration = Duration::from_secs(300);

struct Scene {
    sql: Registry,
    daemons: [Daemon; 3],
    callers: [Caller; 3],
}

impl Scene {
    async fn start() -> Self {
        let sql = Registry::head().await;
        let url = sql.database.url();
        let daemons: [Daemon; 3] = tokio::join!(Daemon::start(url), Daemon::start(url), Daemon::start(url)).into();
        let callers = [Caller::of(&daemons[0]), Caller::of(&daemons[1]), Caller::of(&daemons[2])];
        Self { sql, daemons, callers }
    }

    /// Waits until every daemon says so of an instance.
    async fn all_say(&self, instance_id: &str, suspect: bool) {
        for caller in &self.callers {
            wait_until(if suspect { "it is suspect" } else { "it is trusted" }, BOUND, async || {
                let instance = caller.instance(instance_id).await?;
                if instance.suspect == suspect { Ok(()) } else { Err(format!("{instance:?}")) }
            })
            .await;
        }
    }

    async fn told(&self) -> i64 {
        get(&self.sql.client, "SELECT count(*) FROM registry_suspicion").await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_breaks_at_one_daemon_makes_its_leases_suspect_at_all_until_a_beat_at_any() {
    let scene = Scene::start().await;
    let first = scene.callers[0].register(alive("organ", TTL)).await.unwrap();
    let second = scene.callers[0].register(alive("organ", TTL)).await.unwrap();
    let mut watcher = Watcher::open(&scene.daemons[2], v1::WatchRequest::default()).await.unwrap();
    watcher.reach(second.revision).await;
    let mut stream = BeatStream::open(&scene.daemons[0]).await;
    stream.beat(&[first.lease_id]).await.unwrap();
    scene.all_say(&first.instance_id, false).await;

    drop(stream);
    scene.all_say(&first.instance_id, true).await;
    watcher.until(|watcher| watcher.suspects == [first.instance_id.clone()]).await;
    for caller in &scene.callers {
        assert_eq!(caller.best("organ").await, second.instance_id, "a suspect ranks last");
    }
    assert_eq!(scene.told().await, 1, "the one whose stream broke");

    scene.callers[1].beat(first.lease_id).await.unwrap();
    scene.all_say(&first.instance_id, false).await;
    watcher.until(|watcher| watcher.suspects.is_empty()).await;
    for caller in &scene.callers {
        assert_eq!(caller.best("organ").await, first.instance_id, "the longest serving again");
    }
    assert_eq!(scene.told().await, 0, "nothing is left of it");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_overdue_beats_are_noticed_where_they_were_due_and_told_to_the_others() {
    let scene = Scene::start().await;
    // Suspect after 6 s where it beats; elsewhere after 9 s, and dead soon after: a hold keeps it so for the test.
    run(&scene.sql.client, "SELECT muster_hold_expiry('the test', 600000)").await;
    let lease = scene.callers[0].register(alive("organ", Duration::from_secs(9))).await.unwrap();
    scene.callers[0].beat(lease.lease_id).await.unwrap();
    wait_until("it is told", BOUND, async || match scene.told().await {
        1 => Ok(()),
        count => Err(count),
    })
    .await;
    scene.all_say(&lease.instance_id, true).await;
    scene.callers[0].beat(lease.lease_id).await.unwrap();
    scene.all_say(&lease.instance_id, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspicion_ends_with_the_lease_or_with_a_beat_that_no_daemon_hears() {
    let scene = Scene::start().await;
    let mut stream = BeatStream::open(&scene.daemons[0]).await;
    let mut leases = Vec::new();
    for _ in 0..2 {
        leases.push(scene.callers[0].register(alive("organ", TTL)).await.unwrap());
    }
    stream.beat(&[leases[0].lease_id, leases[1].lease_id]).await.unwrap();
    drop(stream);
    scene.all_say(&leases[0].instance_id, true).await;
    scene.all_say(&leases[1].instance_id, true).await;
    let end = format!("SELECT set_instance_status('{}', 'dead')", leases[0].instance_id);
    run(&scene.sql.client, &end).await;
    // What is saved of a beat counts from a second later on.
    wait_until("a beat through SQL counts", BOUND, async || {
        run(&scene.sql.client, &format!("SELECT beat('{}')", leases[1].instance_id)).await;
        match scene.told().await {
            0 => Ok(()),
            count => Err(count),
        }
    })
    .await;
    scene.all_say(&leases[1].instance_id, false).await;
}
