//! A primary with a standby: failover with and without lost commits, and commits that hang because a synchronous
//! standby is missing. Real streaming replication; the link between the two is one that can fail.

use std::time::{Duration, Instant};

use musterd::proto::v1;
use musterd_client::Status;

use super::proxy::{Link, Mode, Upstream};
use crate::harness::{
    actor::{Actor, Caller, alive},
    daemon::Daemon,
    postgres::{BOUND, OwnCluster, connect},
    registry::get,
    wait::wait_until,
    wire::Watcher,
};

const TTL: Duration = Duration::from_secs(4);
/// Of leases that need not beat.
const LONG: Duration = Duration::from_secs(300);
const DEAD: &str = "SELECT count(*) FROM registry_instance WHERE status = 'dead'";

/// What an actor may be told during a failover: nothing that says its lease is over.
const PASSING: [&str; 2] = ["BEATS_NOT_SAVED", "transport"];

/// A primary, the link on which it sends what it commits, and the standby at its end.
struct Pair {
    primary: OwnCluster,
    link: Link,
    standby: OwnCluster,
}

impl Pair {
    async fn create() -> Self {
        let primary = OwnCluster::create().await;
        let link = Link::to(Upstream::Unix(primary.socket())).await;
        let standby = primary.standby(&link.addr).await;
        Self { primary, link, standby }
    }

    /// An address that leads to whichever of the two takes changes.
    fn url(&self) -> String {
        let host = |url: &str| url.split(['@', '/']).nth(3).unwrap().to_owned();
        let both = format!("{},{}", host(self.primary.url()), host(self.standby.url()));
        self.primary.url().replace(&host(self.primary.url()), &both) + "?target_session_attrs=read-write"
    }

    /// Waits until the standby has everything.
    async fn caught_up(&self) {
        let (primary, standby) = (connect(self.primary.url()).await, connect(self.standby.url()).await);
        wait_until("the standby has caught up", BOUND, async || {
            let revision = "SELECT coalesce(max(revision), 0) FROM cluster_metadata";
            let (here, there) = (get::<i64>(&primary, revision).await, get::<i64>(&standby, revision).await);
            if here == there { Ok(()) } else { Err((here, there)) }
        })
        .await;
    }

    /// The primary dies, the standby takes over with what it has.
    async fn fail_over(&mut self) {
        self.primary.kill9();
        self.standby.promote().await;
    }
}

/// Two daemons, two actors that beat at them, and a watcher of each that knows so much.
async fn scene(url: &str) -> ([Daemon; 2], [Caller; 2], Vec<Actor>, Vec<Watcher>) {
    let flags = ["--database-url", url];
    let daemons: [Daemon; 2] = tokio::join!(Daemon::start_as_asked(&flags), Daemon::start_as_asked(&flags)).into();
    let callers = [Caller::of(&daemons[0]), Caller::of(&daemons[1])];
    let (mut actors, mut watchers) = (Vec::new(), Vec::new());
    for name in ["kept-0", "kept-1"] {
        actors.push(Actor::start(&callers, name, TTL).await);
    }
    for daemon in &daemons {
        let mut watcher = Watcher::open(daemon, v1::WatchRequest::default()).await.unwrap();
        watcher.reach(actors[1].lease.revision).await;
        watchers.push(watcher);
    }
    (daemons, callers, actors, watchers)
}

/// Every actor goes on under the lease it has, for longer than its TTL, and was told nothing that frightens it.
async fn all_go_on(callers: &[Caller], actors: &[Actor]) {
    for (actor, caller) in actors.iter().zip(callers.iter().cycle()) {
        actor.accepted(actor.told().accepted + 5).await;
        let told = actor.told();
        assert!(told.refused.iter().all(|reason| PASSING.contains(&reason.as_str())), "{told:?}");
        let instance = caller.instance(actor.id()).await.unwrap();
        assert_eq!((instance.status, instance.lease_id), (Status::Alive, actor.lease.lease_id));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_with_lost_commits_resets_readers_holds_expiry_and_uses_no_revision_again() {
    let mut pair = Pair::create().await;
    let (daemons, callers, actors, mut watchers) = scene(&pair.url()).await;
    // A hold lasts for the longest TTL of the live instances: long enough to be read.
    callers[0].register(alive("idle", LONG)).await.unwrap();
    pair.caught_up().await;
    let history = callers[0].cluster().await.unwrap().history_id;
    // What is acknowledged from here on the standby does not get.
    pair.link.set(Mode::BlackHole { from_client: true, from_server: true });
    let mut lost = Vec::new();
    for number in 0..5 {
        lost.push(callers[number % 2].register(alive("lost", LONG)).await.unwrap());
    }
    let last = lost.last().unwrap().revision;
    for watcher in &mut watchers {
        watcher.reach(last).await;
        assert_eq!(watcher.known.len(), 8);
    }

    pair.fail_over().await;
    for ((watcher, caller), daemon) in watchers.iter_mut().zip(&callers).zip(&daemons) {
        watcher.until(|watcher| watcher.resets > 0 && watcher.complete && watcher.history_id != history).await;
        let known: Vec<_> = watcher.known.values().map(|instance| instance.logical_id.as_str()).collect();
        assert!(known.contains(&"kept-0") && known.contains(&"kept-1") && !known.contains(&"lost"), "{known:?}");
        assert!(watcher.revision > last + 900_000, "{} after {last}", watcher.revision);
        let hold = caller.cluster().await.unwrap().hold.unwrap();
        assert_eq!(hold.reason, "the database has failed over");
        let (status, text) = daemon.http_get("/readyz").await.unwrap();
        assert!(status == 200 && text.contains("the database has failed over"), "{text}");
        for lease in &lost {
            assert_eq!(caller.beat(lease.lease_id).await.unwrap_err(), "UNKNOWN_LEASE");
            assert_eq!(caller.instance(&lease.instance_id).await.unwrap_err(), "UNKNOWN_INSTANCE");
        }
    }
    let resumed = v1::WatchRequest { resume_after: last, history_id: history, ..Default::default() };
    let mut resumed = Watcher::open(&daemons[1], resumed).await.unwrap();
    resumed.until(|watcher| watcher.resets == 1 && watcher.complete).await;
    let next = wait_until("registrations are accepted", BOUND, async || callers[1].register(alive("next", LONG)).await);
    assert!(next.await.lease_id > last + 900_000, "no number that was lost is given again");
    all_go_on(&callers, &actors).await;
    let client = connect(pair.standby.url()).await;
    assert_eq!(get::<i64>(&client, DEAD).await, 0, "no lease expired by it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_to_a_synchronous_standby_loses_nothing_that_was_acknowledged() {
    let mut pair = Pair::create().await;
    let (_daemons, callers, actors, mut watchers) = scene(&pair.url()).await;
    pair.primary.require_standby("*").await;
    pair.caught_up().await;
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..8 {
        let caller = callers[number % 2].clone();
        clients.spawn(async move {
            let mut granted = Vec::new();
            let until = Instant::now() + Duration::from_secs(8);
            while Instant::now() < until {
                let request = alive("storm", LONG);
                // A daemon that finds the other database in time repeats it, and the client gets its answer.
                if let Ok(lease) = caller.register(request).await {
                    granted.push((lease.instance_id, i64::try_from(lease.lease_id).unwrap()));
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            granted
        });
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    pair.fail_over().await;
    let granted: Vec<_> = clients.join_all().await.into_iter().flatten().collect();
    let afterwards = granted.iter().filter(|(_, lease)| *lease > 1_000_000).count();
    assert!(afterwards > 0 && afterwards < granted.len(), "{afterwards} of {} after the failover", granted.len());
    let client = connect(pair.standby.url()).await;
    for (instance_id, lease_id) in &granted {
        let sql = format!(
            "SELECT count(*) FROM registry_instance WHERE instance_id = '{instance_id}' AND lease_id = {lease_id}"
        );
        assert_eq!(get::<i64>(&client, &sql).await, 1, "{instance_id} {lease_id} was acknowledged");
    }
    let reused = "SELECT count(*) - count(DISTINCT revision) FROM registry_instance";
    assert_eq!(get::<i64>(&client, reused).await, 0);
    for watcher in &mut watchers {
        watcher.until(|watcher| watcher.resets > 0 && watcher.complete).await;
    }
    all_go_on(&callers, &actors).await;
    assert_eq!(get::<i64>(&client, DEAD).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_that_hang_for_want_of_a_standby_are_reported_as_unknown_and_take_effect_once() {
    let cluster = OwnCluster::create().await;
    let (_daemons, callers, actors, _watchers) = scene(cluster.url()).await;
    let before = callers[0].cluster().await.unwrap().revision;
    cluster.require_standby("nobody").await;
    let request = alive("hung", LONG);
    // The first one hangs in its commit, the others behind it.
    for attempt in 0..3 {
        let asked = Instant::now();
        let refused = callers[attempt % 2].register(request.clone()).await.unwrap_err();
        assert!(["MAYBE_APPLIED", "DATABASE_UNAVAILABLE"].contains(&refused.as_str()), "{refused}");
        assert!(attempt > 0 || refused == "MAYBE_APPLIED", "it may well be on the disk");
        assert!(asked.elapsed() < Duration::from_secs(4), "it takes 2 s, here {:?}", asked.elapsed());
    }
    // Longer than a TTL by now: reads and beats continue, and no lease expires.
    for caller in &callers {
        assert_eq!(caller.best("kept-0").await, actors[0].id());
        assert_eq!(caller.best("hung").await, "UNKNOWN_LOGICAL_ID", "no answer has what is not yet durable");
    }
    all_go_on(&callers, &actors).await;

    cluster.set("synchronous_standby_names", None).await;
    let granted =
        wait_until("the repetition is acknowledged", BOUND, async || callers[1].register(request.clone()).await);
    assert_eq!(granted.await.lease_id, before + 1, "the first one took effect, and no other");
    all_go_on(&callers, &actors).await;
    let client = connect(cluster.url()).await;
    let revision = get::<i64>(&client, "SELECT revision FROM cluster_metadata").await;
    assert_eq!(u64::try_from(revision).unwrap(), before + 1);
    assert_eq!(get::<i64>(&client, DEAD).await, 0);
}
