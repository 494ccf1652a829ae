//! Two primaries at once: a standby is promoted while the old primary runs on. A link moves single connections of a
//! daemon from one to the other, and a list of hosts names both.

use std::time::Duration;

use musterd::proto::v1;
use tokio::task::JoinHandle;

use crate::{
    faults::proxy::{Link, Upstream},
    harness::{
        actor::{Caller, alive},
        daemon::Daemon,
        postgres::{BOUND, OwnCluster, connect},
        registry::{column, get, run},
        wait::wait_until,
        wire::Watcher,
    },
};

/// Of instances that need not beat.
const LONG: Duration = Duration::from_secs(300);
const SESSIONS: &str = "SELECT state || ': ' || query FROM pg_stat_activity WHERE application_name = 'musterd'";

/// The old primary and its standby.
pub(super) struct Pair {
    pub(super) old: OwnCluster,
    pub(super) new: OwnCluster,
}

impl Pair {
    pub(super) async fn create() -> Self {
        let old = OwnCluster::create().await;
        let new = old.standby(&format!("{}:5432", directory(&old))).await;
        Self { old, new }
    }

    /// Both, in this order.
    fn url(&self, first: &OwnCluster, second: &OwnCluster) -> String {
        format!("host={},{} user=musterd dbname=musterd", directory(first), directory(second))
    }

    /// The standby takes over with everything that was committed; the old primary runs on.
    pub(super) async fn split(&self) {
        let (old, new) = (connect(self.old.url()).await, connect(self.new.url()).await);
        wait_until("the standby has caught up", BOUND, async || {
            let revision = "SELECT revision FROM cluster_metadata";
            let (here, there) = (get::<i64>(&old, revision).await, get::<i64>(&new, revision).await);
            if here == there { Ok(()) } else { Err((here, there)) }
        })
        .await;
        self.new.promote().await;
    }
}

fn directory(cluster: &OwnCluster) -> String {
    cluster.data_dir().join("run").display().to_string()
}

fn through(link: &Link) -> String {
    let (host, port) = link.addr.split_once(':').unwrap();
    format!("host={host} port={port} user=musterd dbname=musterd sslmode=disable")
}

fn socket(cluster: &OwnCluster) -> Upstream {
    Upstream::Unix(cluster.socket())
}

/// Ends the sessions whose latest query is like this, as a firewall that forgets a connection does.
async fn cut(cluster: &OwnCluster, query: &str) -> usize {
    let sql = format!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
         WHERE application_name = 'musterd' AND query LIKE '%{query}%'"
    );
    column::<bool>(&connect(cluster.url()).await, &sql).await.len()
}

async fn registered(caller: &Caller, logical_id: &str) -> v1::RegisterResponse {
    wait_until("a registration", BOUND, async || caller.register(alive(logical_id, LONG)).await).await
}

async fn no_session_on(cluster: &OwnCluster, daemons: &[&Daemon]) {
    let client = connect(cluster.url()).await;
    wait_until("the daemon has left the old primary", BOUND, async || {
        let left = column::<String>(&client, SESSIONS).await;
        if left.is_empty() {
            Ok(())
        } else {
            Err((left, daemons.iter().map(|daemon| daemon.log()).collect::<Vec<_>>()))
        }
    })
    .await;
}

/// The daemon has loaded the registry again, under a hold.
async fn reset_and_held(caller: &Caller, watcher: &mut Watcher, former: &str) {
    watcher.until(|watcher| watcher.resets > 0 && watcher.complete && watcher.history_id != former).await;
    let cluster = caller.cluster().await.unwrap();
    assert_eq!(cluster.history_id, watcher.history_id);
    assert!(cluster.hold.is_some(), "expiry is on hold: {cluster:?}");
}

async fn one_connection_moves_all(query: &str) {
    let pair = Pair::create().await;
    let link = Link::to(socket(&pair.old)).await;
    let daemon = Daemon::start(&through(&link)).await;
    let caller = Caller::of(&daemon);
    caller.rotate("a session for operators").await.unwrap();
    let kept = registered(&caller, "kept").await;
    let mut watcher = Watcher::open(&daemon, v1::WatchRequest::default()).await.unwrap();
    watcher.reach(kept.revision).await;
    let history = caller.cluster().await.unwrap().history_id;
    pair.split().await;

    link.lead_to(socket(&pair.new));
    wait_until("a session is cut", BOUND, async || match cut(&pair.old, query).await {
        0 => Err("there is none"),
        _ => Ok(()),
    })
    .await;
    if query.contains("rotate") {
        // The engine has sessions to spare; that of operators is opened again by the next operator.
        wait_until("a rotation", BOUND, async || caller.rotate("on the new primary").await).await;
    }
    let next = wait_until("a registration on the new primary", BOUND, async || {
        // Other sessions stay, and a new one is opened when it is needed.
        cut(&pair.old, query).await;
        let next = caller.register(alive("next", LONG)).await?;
        if next.lease_id > 1_000_000 { Ok(next) } else { Err(format!("{next:?}")) }
    })
    .await;
    no_session_on(&pair.old, &[&daemon]).await;
    reset_and_held(&caller, &mut watcher, &history).await;
    watcher.reach(next.revision).await;
    assert_eq!(caller.instance(&next.instance_id).await.unwrap().lease_id, next.lease_id);
    let saved = format!("SELECT count(*) FROM registry_instance WHERE lease_id = {}", next.lease_id);
    assert_eq!(get::<i64>(&connect(pair.new.url()).await, &saved).await, 1);
    assert!(daemon.log().contains("database changed, reloading the registry"), "{}", daemon.log());
    assert!(daemon.metric("musterd_database_changes_total").await.unwrap() >= 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn operator_session_on_a_new_primary_takes_every_session_along() {
    one_connection_moves_all("muster_rotate_epoch").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn flusher_on_a_new_primary_takes_every_session_along() {
    one_connection_moves_all("muster_flush_beats").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn feed_on_a_new_primary_takes_every_session_along() {
    one_connection_moves_all("LEFT JOIN LATERAL").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn old_primary_is_refused_until_the_new_one_is_gone() {
    let mut pair = Pair::create().await;
    let link = Link::to(socket(&pair.old)).await;
    let daemon = Daemon::start(&through(&link)).await;
    let caller = Caller::of(&daemon);
    registered(&caller, "kept").await;
    pair.split().await;
    link.lead_to(socket(&pair.new));
    cut(&pair.old, "").await;
    no_session_on(&pair.old, &[&daemon]).await;
    let newest = wait_until("a registration on the new primary", BOUND, async || {
        let next = caller.register(alive("newest", LONG)).await?;
        if next.lease_id > 1_000_000 { Ok(next) } else { Err(format!("{next:?}")) }
    })
    .await;

    // Sessions for changes and beats are lost and lead to the old primary. That of the feed stays: without it the new primary
    // would be silent, and after 2 s of that the old one is accepted.
    link.lead_to(socket(&pair.old));
    wait_until("the problem is reported", BOUND, async || {
        for query in ["muster_apply", "muster_flush_beats"] {
            cut(&pair.new, query).await;
        }
        let cluster = caller.cluster().await?;
        let codes: Vec<_> = cluster.problems.iter().map(|problem| problem.code.clone()).collect();
        if codes.iter().any(|code| code == "database_behind") { Ok(()) } else { Err(format!("{codes:?}")) }
    })
    .await;
    assert!(daemon.metric("musterd_database_behind_total").await.unwrap() >= 1.0);
    let _ = caller.register(alive("refused", LONG)).await;
    let old = connect(pair.old.url()).await;
    let above =
        format!("SELECT count(*) FROM registry_instance WHERE logical_id = 'refused' OR lease_id > {}", 999_999);
    assert_eq!(get::<i64>(&old, &above).await, 0, "nothing is written to the old primary");

    let history = caller.cluster().await.unwrap().history_id;
    let mut watcher = Watcher::open(&daemon, v1::WatchRequest::default()).await.unwrap();
    watcher.reach(newest.revision).await;
    pair.new.stop_immediate();
    let after = registered(&caller, "after").await;
    assert!(after.lease_id > newest.lease_id, "no lease id goes back: {after:?} after {newest:?}");
    reset_and_held(&caller, &mut watcher, &history).await;
    let kept = "SELECT count(*) FROM registry_instance WHERE logical_id = 'after'";
    assert_eq!(get::<i64>(&old, kept).await, 1);
}

/// Registers one instance after the other until it is ended; returns their lease ids in order.
fn registering(caller: Caller, logical_id: &'static str, until: u64) -> JoinHandle<Vec<u64>> {
    tokio::spawn(async move {
        let mut leases = Vec::new();
        while leases.iter().filter(|lease| **lease > until).count() < 20 {
            if let Ok(response) = caller.register(alive(logical_id, LONG)).await {
                leases.push(response.lease_id);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        leases
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn daemons_leave_an_old_primary_in_any_order_of_hosts() {
    let pair = Pair::create().await;
    let urls = [pair.url(&pair.old, &pair.new), pair.url(&pair.new, &pair.old)];
    let (first, second) = tokio::join!(Daemon::start(&urls[0]), Daemon::start(&urls[1]));
    let callers = [Caller::of(&first), Caller::of(&second)];
    registered(&callers[0], "kept").await;
    let histories = callers[0].cluster().await.unwrap().history_id;
    let mut watchers = Vec::new();
    for daemon in [&first, &second] {
        watchers.push(Watcher::open(daemon, v1::WatchRequest::default()).await.unwrap());
    }
    pair.split().await;
    let loads = [registering(callers[0].clone(), "one", 1_000_000), registering(callers[1].clone(), "two", 1_000_000)];
    no_session_on(&pair.old, &[&first, &second]).await;
    for (load, name) in loads.into_iter().zip(["one", "two"]) {
        let leases = tokio::time::timeout(BOUND, load).await.unwrap().unwrap();
        assert!(leases.is_sorted_by(|one, next| one < next), "{name}: {leases:?}");
    }
    for (caller, watcher) in callers.iter().zip(&mut watchers) {
        reset_and_held(caller, watcher, &histories).await;
    }
    for daemon in [&first, &second] {
        // All of its tasks have found the new primary, and no change ends the sessions that another one has opened there.
        let changes = daemon.metric("musterd_database_changes_total").await.unwrap();
        assert!((changes - 1.0).abs() < f64::EPSILON, "{changes} changes of the database\n{}", daemon.log());
    }
    let [one, two] = [registered(&callers[0], "last").await, registered(&callers[1], "last").await];
    for (caller, lease) in [(&callers[1], &one), (&callers[0], &two)] {
        wait_until("the other daemon knows it", BOUND, async || caller.instance(&lease.instance_id).await).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_put_back_under_live_sessions_give_no_lease_id_again() {
    let cluster = OwnCluster::create().await;
    let daemon = Daemon::start(cluster.url()).await;
    let caller = Caller::of(&daemon);
    let mut last = registered(&caller, "organ").await;
    let client = connect(cluster.url()).await;
    for _ in 0..4 {
        let history = caller.cluster().await.unwrap().history_id;
        last = registered(&caller, "organ").await;
        let back = "BEGIN; ALTER TABLE registry_instance DISABLE TRIGGER USER;
            DELETE FROM registry_instance WHERE lease_id = (SELECT max(lease_id) FROM registry_instance);
            ALTER TABLE registry_instance ENABLE TRIGGER USER;
            UPDATE cluster_metadata SET revision = revision - 1; COMMIT";
        run(&client, back).await;
        let next = registered(&caller, "organ").await;
        assert!(next.lease_id > last.lease_id, "{next:?} after {last:?}");
        wait_until("another history", BOUND, async || {
            let cluster = caller.cluster().await?;
            if cluster.history_id == history { Err(format!("{cluster:?}")) } else { Ok(()) }
        })
        .await;
        last = next;
    }
    assert!(last.lease_id > 4_000_000);
}
