//! Suspicion that one daemon has and the others take over: a broken stream, two beats overdue; and its end, wherever the
//! next beat arrives.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    time::Duration,
};

use musterd::proto::v1;
use tokio::{task::JoinHandle, time::sleep};

use crate::harness::{
    actor::{Caller, alive},
    daemon::Daemon,
    registry::{Registry, get, run},
    wait::wait_until,
    wire::{BeatStream, Watcher},
};

const BOUND: Duration = Duration::from_secs(20);
/// A beat interval of 5 s: without its stream's end, or the hint of another daemon, an instance is suspect after 10 s.
const TTL: Duration = Duration::from_secs(15);

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
        // None of these is to die.
        run(&sql.client, "SELECT muster_hold_expiry('the test', 600000)").await;
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

    /// The suspicion did not come by the passing of time: that takes two thirds of the TTL.
    async fn early(&self, instance_id: &str) {
        let instance = self.callers[0].instance(instance_id).await.unwrap();
        assert!(instance.suspect && instance.lease_remaining > TTL / 3, "{instance:?}");
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
    stream.beat_for_an_interval(&[first.lease_id]).await;
    scene.all_say(&first.instance_id, false).await;
    scene.callers[1].beat(second.lease_id).await.unwrap();

    drop(stream);
    scene.all_say(&first.instance_id, true).await;
    scene.early(&first.instance_id).await;
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
async fn two_overdue_beats_are_detected_where_due_and_published_to_other_daemons() {
    let scene = Scene::start().await;
    // Suspect after 6 s where it beats; elsewhere after 9 s.
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
async fn suspicion_ends_with_the_lease_or_with_a_beat_through_sql() {
    let scene = Scene::start().await;
    let mut stream = BeatStream::open(&scene.daemons[0]).await;
    let mut leases = Vec::new();
    for _ in 0..2 {
        leases.push(scene.callers[0].register(alive("organ", TTL)).await.unwrap());
    }
    stream.beat_for_an_interval(&[leases[0].lease_id, leases[1].lease_id]).await;
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

/// Instances that are beaten by their owner at the first daemon, half of them on a stream, and what each daemon's
/// watchers are told meanwhile.
struct Fleet {
    leases: Vec<u64>,
    beaten: Arc<AtomicU32>,
    tasks: Vec<JoinHandle<()>>,
    told: Arc<AtomicUsize>,
}

impl Fleet {
    async fn start(scene: &Scene) -> Self {
        const TTL: Duration = Duration::from_secs(6);
        let (beaten, told) = (Arc::<AtomicU32>::default(), Arc::<AtomicUsize>::default());
        let (mut leases, mut revision) = (Vec::new(), 0);
        for _ in 0..40 {
            let lease = scene.callers[0].register(alive("organ", TTL)).await.unwrap();
            leases.push(lease.lease_id);
            revision = lease.revision;
        }
        let mut tasks = Vec::new();
        for daemon in &scene.daemons {
            let mut watcher = Watcher::open(daemon, v1::WatchRequest::default()).await.unwrap();
            watcher.reach(revision).await;
            let told = Arc::clone(&told);
            tasks.push(tokio::spawn(async move {
                while watcher.step().await.is_ok() {
                    told.fetch_add(std::mem::take(&mut watcher.suspected), Ordering::Relaxed);
                }
            }));
        }
        let (mut stream, caller) = (BeatStream::open(&scene.daemons[0]).await, scene.callers[0].clone());
        let (own, count) = (leases.clone(), Arc::clone(&beaten));
        tasks.push(tokio::spawn(async move {
            let (on_stream, single) = own.split_at(own.len() / 2);
            loop {
                assert_eq!(stream.beat(on_stream).await.unwrap().renewed as usize, on_stream.len());
                for lease_id in single {
                    caller.beat(*lease_id).await.unwrap();
                }
                count.fetch_add(1, Ordering::Relaxed);
                sleep(Duration::from_millis(300)).await;
            }
        }));
        Self { leases, beaten, tasks, told }
    }

    /// The owner goes on for so many rounds.
    async fn goes_on(&self, rounds: u32) {
        let goal = self.beaten.load(Ordering::Relaxed) + rounds;
        wait_until("the owner beats", BOUND, async || match self.beaten.load(Ordering::Relaxed) {
            beaten if beaten >= goal => Ok(()),
            beaten => Err(beaten),
        })
        .await;
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// A stranger names all leases of a fleet at this daemon, for longer than their interval, and breaks off.
async fn stranger_breaks_off_at(daemon: usize) {
    let scene = Scene::start().await;
    let fleet = Fleet::start(&scene).await;
    fleet.goes_on(2).await;
    let newest = fleet.leases.iter().max().unwrap();
    let everything: Vec<u64> = (1..=newest + 1_000).collect();
    let mut stream = BeatStream::open(&scene.daemons[daemon]).await;
    stream.beat_for_an_interval(&everything).await;
    drop(stream);
    // Longer than any daemon takes to hear of it, and to follow.
    fleet.goes_on(12).await;
    assert_eq!(fleet.told.load(Ordering::Relaxed), 0, "instances were told to be suspect");
}

#[tokio::test(flavor = "multi_thread")]
async fn stranger_that_beats_foreign_leases_and_breaks_off_makes_none_suspect() {
    stranger_breaks_off_at(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stranger_at_another_daemon_makes_none_suspect_either() {
    stranger_breaks_off_at(1).await;
}
