//! A running daemon whose database fails over, is restored from a copy, or loses what it had confirmed: every watch
//! begins with a reset, what vanished is unknown, and no number that was used is used again.
//!
//! The loss is made by hand: the latest registration is taken back with its revision, as if it had never been there.

use std::time::Duration;

use musterd::proto::v1;
use tokio_postgres::Client;

use crate::harness::{
    actor::{Caller, alive},
    daemon::Daemon,
    postgres::{TestDatabase, connect},
    registry::{column, get, run},
    wait::wait_until,
    wire::{BeatStream, Watcher},
};

const BOUND: Duration = Duration::from_secs(20);

/// Takes back the latest registration, which was a new one, the one before it, which had replaced the lease `back`, and
/// the end of that; applies `change` to the cluster row, and cuts one feed off.
async fn lose_the_latest(client: &Client, back: u64, change: &str) {
    let sql = format!(
        "BEGIN;
         ALTER TABLE registry_instance DISABLE TRIGGER USER;
         DELETE FROM registry_instance WHERE lease_id = (SELECT max(lease_id) FROM registry_instance);
         UPDATE registry_instance SET lease_id = {back}, revision = {back}, replaces_lease_id = NULL
         WHERE replaces_lease_id = {back};
         ALTER TABLE registry_instance ENABLE TRIGGER USER;
         UPDATE cluster_metadata SET revision = revision - 3{change};
         COMMIT"
    );
    run(client, &sql).await;
    let feeds = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                 WHERE datname = current_database() AND query LIKE '%LEFT JOIN LATERAL%' AND pid <> pg_backend_pid()
                 LIMIT 1";
    assert_eq!(column::<bool>(client, feeds).await, [true], "one feed was cut off");
}

async fn reason_of_hold(caller: &Caller) -> String {
    wait_until("expiry is on hold", BOUND, async || caller.cluster().await?.hold.ok_or("none".to_owned())).await.reason
}

async fn a_loss_is_noticed(change: &str, reason: &str) {
    let database = TestDatabase::create().await;
    let (first, second) = tokio::join!(Daemon::start(database.url()), Daemon::start(database.url()));
    let callers = [Caller::of(&first), Caller::of(&second)];
    let client = connect(database.url()).await;
    let kept = callers[0].register(alive("kept", Duration::from_secs(300))).await.unwrap();
    let back = callers[0].register(alive("back", Duration::from_secs(300))).await.unwrap();
    callers[0].deregister(&back.instance_id).await.unwrap();
    let rejoined =
        v1::RegisterRequest { instance_id: back.instance_id.clone(), ..alive("back", Duration::from_secs(300)) };
    let rejoined = callers[0].register(rejoined).await.unwrap();
    let lost = callers[1].register(alive("lost", Duration::from_secs(300))).await.unwrap();
    let history = callers[0].cluster().await.unwrap().history_id;
    let mut watchers = Vec::new();
    for daemon in [&first, &second] {
        let mut watcher = Watcher::open(daemon, v1::WatchRequest::default()).await.unwrap();
        watcher.reach(lost.revision).await;
        assert_eq!(watcher.known.len(), 3);
        watchers.push(watcher);
    }
    let leases = [kept.lease_id, rejoined.lease_id, lost.lease_id];
    let mut streams = [BeatStream::open(&first).await, BeatStream::open(&second).await];
    for stream in &mut streams {
        assert_eq!(stream.beat(&leases).await.unwrap().renewed, 3);
    }

    lose_the_latest(&client, back.lease_id, change).await;
    for (watcher, caller) in watchers.iter_mut().zip(&callers) {
        let before = history.clone();
        watcher.until(|watcher| watcher.resets > 0 && watcher.complete && watcher.history_id != before).await;
        let mut known = [&kept.instance_id, &back.instance_id];
        known.sort();
        assert_eq!(watcher.known.keys().collect::<Vec<_>>(), known);
        assert!(watcher.revision > 1_000_000, "{}", watcher.revision);
        let cluster = caller.cluster().await.unwrap();
        assert_eq!((cluster.history_id, cluster.counts.alive), (watcher.history_id.clone(), 2));
        assert_eq!(reason_of_hold(caller).await, reason);
        assert_eq!(caller.instance(&lost.instance_id).await.unwrap_err(), "UNKNOWN_INSTANCE");
        assert_eq!(caller.best("lost").await, "UNKNOWN_LOGICAL_ID");
        for gone in [lost.lease_id, rejoined.lease_id] {
            assert_eq!(caller.beat(gone).await.unwrap_err(), "UNKNOWN_LEASE");
        }
        assert!(caller.beat(back.lease_id).await.is_ok(), "the replaced instance holds the lease again");
        assert_eq!(caller.best("kept").await, kept.instance_id);
        assert!(caller.beat(kept.lease_id).await.is_ok());
    }
    for stream in &mut streams {
        let response = stream.beat(&leases).await.unwrap();
        let gone: Vec<_> =
            response.exceptions.iter().map(|exception| (exception.lease_id, exception.reason())).collect();
        let unknown = v1::ErrorReason::UnknownLease;
        assert_eq!(gone, [(rejoined.lease_id, unknown), (lost.lease_id, unknown)], "a stream remembers nothing else");
    }
    let next = callers[0].register(alive("next", Duration::from_secs(300))).await.unwrap();
    assert!(next.lease_id > 1_000_000, "no lease that was lost is given again: {next:?}");
    for watcher in &mut watchers {
        watcher.reach(next.revision).await;
        assert!(watcher.known.contains_key(&next.instance_id), "and the watch goes on");
    }
    let resumed = v1::WatchRequest { resume_after: lost.revision, history_id: history, ..Default::default() };
    let mut resumed = Watcher::open(&first, resumed).await.unwrap();
    resumed.until(|watcher| watcher.resets == 1 && watcher.complete).await;
    assert_eq!(resumed.known.len(), 3, "a watch that resumes in the old history is reset too");
    let twice = "SELECT count(*) - count(DISTINCT revision) FROM registry_instance";
    assert_eq!(get::<i64>(&client, twice).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_that_loses_a_registration_resets_every_watcher() {
    a_loss_is_noticed(", timeline = 'another'", "the database has failed over").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_copy_that_lacks_a_registration_resets_every_watcher() {
    a_loss_is_noticed(", system_id = 'another'", "the database was restored from a copy").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_only_lost_a_registration_resets_every_watcher() {
    a_loss_is_noticed("", "the database has lost revisions").await;
}
