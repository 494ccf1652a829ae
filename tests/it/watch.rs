//! Watch: a snapshot, then every change, in order, resumable; and what cannot be continued is said.

use futures_util::{StreamExt as _, stream};
use musterd::proto::v1::{self, InstanceStatus, RotateEpochRequest, WatchRequest};
use tonic::Code;
use uuid::Uuid;

use crate::harness::{
    daemon::Daemon,
    postgres::{BOUND, TestDatabase, connect},
    wait::wait_until,
    wire::{Watcher, alive, deregister, register, seconds, set_status},
};

fn prefix(prefix: &str) -> WatchRequest {
    WatchRequest { logical_id_prefix: prefix.into(), ..Default::default() }
}

async fn names(watcher: &Watcher) -> Vec<String> {
    let mut names: Vec<_> = watcher.known.values().map(|instance| instance.logical_id.clone()).collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_gets_the_snapshot_and_then_every_change_among_what_matches() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    let mut registry = daemon.registry().await;
    let before = register(&mut registry, alive("a-before")).await;
    register(&mut registry, alive("other")).await;

    let mut watcher = Watcher::open(&daemon, prefix("a-")).await.unwrap();
    watcher.reach(before.revision).await;
    assert_eq!(names(&watcher).await, ["a-before"]);

    let after = register(&mut registry, alive("a-after")).await;
    register(&mut registry, alive("other")).await;
    watcher.reach(after.revision).await;
    assert_eq!(names(&watcher).await, ["a-after", "a-before"]);

    let drained = set_status(&mut registry, before.lease_id, InstanceStatus::Draining).await;
    watcher.reach(drained).await;
    assert_eq!(watcher.known[&before.instance_id].status(), InstanceStatus::Draining);
    let gone = deregister(&mut registry, before.lease_id).await;
    watcher.reach(gone).await;
    assert_eq!(names(&watcher).await, ["a-after"]);
    assert_eq!(watcher.seen, [after.revision, drained, gone], "what does not match is not told");
}

#[tokio::test(flavor = "multi_thread")]
async fn filter_reports_when_an_instance_stops_matching() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    let mut registry = daemon.registry().await;
    let mut request = alive("organ");
    request.instance_id = Uuid::new_v4().to_string();
    request.node_id = "n1".into();
    request.pid = 7;
    request.labels = [("zone".to_owned(), "a".to_owned())].into();
    let lease = register(&mut registry, request.clone()).await;
    let filter = WatchRequest {
        logical_id: "organ".into(),
        statuses: vec![InstanceStatus::Alive.into()],
        node_id: "n1".into(),
        labels: request.labels.clone(),
        ..Default::default()
    };
    let mut watcher = Watcher::open(&daemon, filter).await.unwrap();
    watcher.reach(lease.revision).await;
    assert_eq!(watcher.known.len(), 1);

    request.labels = [("zone".to_owned(), "b".to_owned())].into();
    let relabelled = register(&mut registry, request.clone()).await;
    watcher.reach(relabelled.revision).await;
    assert!(watcher.known.is_empty(), "with other labels it no longer matches");

    request.labels = [("zone".to_owned(), "a".to_owned())].into();
    let back = register(&mut registry, request).await;
    watcher.reach(back.revision).await;
    assert_eq!(watcher.known.len(), 1);
    let drained = set_status(&mut registry, lease.lease_id, InstanceStatus::Draining).await;
    watcher.reach(drained).await;
    assert!(watcher.known.is_empty(), "draining was not asked for");
}

#[tokio::test(flavor = "multi_thread")]
async fn resuming_from_any_revision_on_any_daemon_equals_never_having_stopped() {
    let database = TestDatabase::create().await;
    let (one, other) = (Daemon::start(database.url()).await, Daemon::start(database.url()).await);
    let mut registry = one.registry().await;
    let mut steady = Watcher::open(&one, prefix("")).await.unwrap();
    steady.until(|watcher| watcher.complete).await;
    let mut stopped = Vec::new();
    let mut last = 0;
    for round in 0..20_u32 {
        let lease = register(&mut registry, alive(&format!("organ-{}", round % 7))).await;
        last = match round % 3 {
            0 => deregister(&mut registry, lease.lease_id).await,
            1 => set_status(&mut registry, lease.lease_id, InstanceStatus::Draining).await,
            _ => lease.revision,
        };
        steady.reach(lease.revision).await;
        stopped.push((steady.resumption(prefix("")), steady.known.clone()));
    }
    steady.reach(last).await;
    for (request, known) in stopped {
        let mut resumed = Watcher::open(&other, request.clone()).await.unwrap();
        resumed.known = known;
        resumed.revision = request.resume_after;
        resumed.reach(last).await;
        assert_eq!(resumed.resets, 0);
        let statuses = |watcher: &Watcher| -> Vec<_> {
            watcher
                .known
                .values()
                .map(|instance| (instance.instance_id.clone(), instance.status, instance.revision))
                .collect()
        };
        assert_eq!(statuses(&resumed), statuses(&steady), "resumed after {}", request.resume_after);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stream_that_cannot_continue_is_reset_and_sends_a_snapshot() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    let mut registry = daemon.registry().await;
    let dead = register(&mut registry, alive("dead")).await;
    let lease = register(&mut registry, alive("organ")).await;
    let mut watcher = Watcher::open(&daemon, prefix("")).await.unwrap();
    watcher.reach(lease.revision).await;

    let foreign = WatchRequest { history_id: Uuid::new_v4().to_string(), ..watcher.resumption(prefix("")) };
    let mut reset = Watcher::open(&daemon, foreign).await.unwrap();
    reset.until(|watcher| watcher.resets == 1 && watcher.complete).await;
    assert_eq!(reset.known.len(), 2, "the revision is of another history");

    let old = watcher.resumption(prefix(""));
    deregister(&mut registry, dead.lease_id).await;
    let client = connect(database.url()).await;
    client.batch_execute("SELECT muster_purge_dead(0, 10)").await.unwrap();
    let mut reset = Watcher::open(&daemon, old).await.unwrap();
    // Either the daemon had seen the purge and resets, or it had not and tells of the death itself.
    reset.known = watcher.known.clone();
    reset.until(|watcher| watcher.complete && !watcher.known.contains_key(&dead.instance_id)).await;

    // Rows that vanish without a tombstone break the history under an open stream.
    client
        .execute("DELETE FROM registry_instance WHERE lease_id = $1", &[&lease.lease_id.cast_signed()])
        .await
        .unwrap();
    watcher.until(|watcher| watcher.resets == 1 && watcher.complete).await;
    assert!(watcher.known.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn resume_on_old_name_reports_renamed_instance_gone() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    let mut registry = daemon.registry().await;
    let named = WatchRequest { logical_id: "former".into(), ..Default::default() };
    let request = |name: &str| v1::RegisterRequest { instance_id: Uuid::from_u128(7).to_string(), ..alive(name) };
    let lease = register(&mut registry, request("former")).await;
    let mut watcher = Watcher::open(&daemon, named.clone()).await.unwrap();
    watcher.reach(lease.revision).await;
    assert_eq!(watcher.known.len(), 1);
    deregister(&mut registry, lease.lease_id).await;
    register(&mut registry, request("latter")).await;

    // Resumed before it heard of that. A daemon that was not there cannot know, and says so.
    let late = Daemon::start(database.url()).await;
    for (resumed_at, resets) in [(&daemon, 0), (&late, 1)] {
        let mut resumed = Watcher::open(resumed_at, watcher.resumption(named.clone())).await.unwrap();
        resumed.known = watcher.known.clone();
        resumed.step().await.unwrap();
        assert_eq!((names(&resumed).await, resumed.resets), (Vec::new(), resets));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn large_answer_comes_in_pieces_that_every_client_takes() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    let mut registry = daemon.registry().await;
    let first = register(&mut registry, alive("first")).await;
    let mut steady = Watcher::open(&daemon, prefix("")).await.unwrap();
    steady.reach(first.revision).await;
    let before = steady.resumption(prefix(""));
    // Clients take messages of 4 MiB at most, if nothing else is said: these are 6 MiB.
    let labels = || (0..30).map(|at| (format!("label-{at}"), "x".repeat(500))).collect();
    let registered = (0..400).map(|at| {
        let (mut registry, request) = (registry.clone(), v1::RegisterRequest { labels: labels(), ..alive("large") });
        async move { register(&mut registry, v1::RegisterRequest { pid: at, ..request }).await.revision }
    });
    // No more at once than are answered in time on a slow machine.
    let revisions = stream::iter(registered).buffer_unordered(40).collect::<Vec<u64>>().await;
    let last = revisions.into_iter().max().unwrap();

    steady.reach(last).await;
    let mut fresh = Watcher::open(&daemon, prefix("")).await.unwrap();
    fresh.reach(last).await;
    let mut resumed = Watcher::open(&daemon, before.clone()).await.unwrap();
    resumed.known = fresh
        .known
        .iter()
        .filter(|(id, _)| **id == first.instance_id)
        .map(|(id, it)| (id.clone(), it.clone()))
        .collect();
    resumed.step().await.unwrap();
    assert!(resumed.revision < last, "a piece says how far it goes");
    // From the middle of it as well.
    let mut again = Watcher::open(&daemon, resumed.resumption(prefix(""))).await.unwrap();
    again.known = resumed.known.clone();
    again.revision = resumed.revision;
    again.reach(last).await;
    resumed.reach(last).await;
    let ids = |watcher: &Watcher| watcher.known.keys().cloned().collect::<Vec<_>>();
    assert_eq!(ids(&fresh).len(), 401);
    for watcher in [&steady, &resumed, &again] {
        assert_eq!((ids(watcher), watcher.resets), (ids(&fresh), 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_row_that_outlasted_a_later_one_is_gone_everywhere_once_it_is_deleted() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    let mut registry = daemon.registry().await;
    let (earlier, later) = (register(&mut registry, alive("a")).await, register(&mut registry, alive("b")).await);
    deregister(&mut registry, earlier.lease_id).await;
    deregister(&mut registry, later.lease_id).await;
    let client = connect(database.url()).await;
    for lease in [&later, &earlier] {
        let sql = format!("DELETE FROM registry_instance WHERE lease_id = {}", lease.lease_id);
        client.batch_execute(&sql).await.unwrap();
        wait_until("it is no longer on record", BOUND, async || {
            let request = v1::GetInstanceRequest { instance_id: lease.instance_id.clone(), min_revision: 0 };
            daemon.discovery().await.get_instance(request).await.err().map(|it| it.code()).ok_or("it is")
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rotation_is_reported_at_once() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    let mut registry = daemon.registry().await;
    let lease = register(&mut registry, alive("organ")).await;
    let mut watcher = Watcher::open(&daemon, prefix("")).await.unwrap();
    watcher.reach(lease.revision).await;
    let before = watcher.epoch_number;
    let rotated = daemon.cluster().await.rotate_epoch(RotateEpochRequest::default()).await.unwrap().into_inner();
    watcher.reach(rotated.revision).await;
    assert_eq!((before + 1, rotated.epoch_number), (watcher.epoch_number, watcher.epoch_number));
    watcher.until(|watcher| watcher.known.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn suspicion_reaches_watchers_as_a_hint_and_is_cleared() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    let mut registry = daemon.registry().await;
    let request = v1::RegisterRequest { ttl: seconds(6), ..alive("organ") };
    let lease = register(&mut registry, request).await;
    let beat = v1::BeatRequest { lease_id: lease.lease_id, ..Default::default() };
    registry.beat(beat.clone()).await.unwrap();
    let mut watcher = Watcher::open(&daemon, prefix("")).await.unwrap();
    watcher.reach(lease.revision).await;
    watcher.until(|watcher| !watcher.suspects.is_empty()).await;
    assert_eq!(watcher.suspects, std::slice::from_ref(&lease.instance_id));
    registry.beat(beat).await.unwrap();
    watcher.until(|watcher| watcher.suspects.is_empty()).await;
    assert!(watcher.seen.is_empty(), "a hint is no change");
}

#[tokio::test(flavor = "multi_thread")]
async fn watcher_without_matching_changes_still_receives_the_revision() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    let mut registry = daemon.registry().await;
    let mut watcher = Watcher::open(&daemon, prefix("quiet-")).await.unwrap();
    watcher.until(|watcher| watcher.complete).await;
    let begun = watcher.revision;
    let noise = tokio::spawn(async move {
        loop {
            let lease = register(&mut registry, alive("noisy")).await;
            deregister(&mut registry, lease.lease_id).await;
        }
    });
    watcher.until(|watcher| watcher.revision > begun).await;
    assert!(watcher.known.is_empty() && watcher.seen.is_empty());
    assert!(!noise.is_finished(), "there was no pause to wait for");
    noise.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_makes_no_sense_is_refused_with_the_reason() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    let both = WatchRequest { logical_id: "a".into(), ..prefix("b") };
    assert_eq!(Watcher::open(&daemon, both).await.unwrap_err().code(), Code::InvalidArgument);
    let no_history = WatchRequest { resume_after: 5, ..prefix("") };
    let refused = Watcher::open(&daemon, no_history).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("history_id"), "{}", refused.message());

    let mut watcher = Watcher::open(&daemon, prefix("")).await.unwrap();
    watcher.until(|watcher| watcher.complete).await;
    let future = WatchRequest { resume_after: 1_000_000, ..watcher.resumption(prefix("")) };
    assert_eq!(Watcher::open(&daemon, future).await.unwrap_err().code(), Code::Unavailable);
    assert!(daemon.terminate().await.success());
    let ended = loop {
        if let Err(status) = watcher.step().await {
            break status;
        }
    };
    assert_eq!(ended.code(), Code::Unavailable, "an open stream ends with a reason");
}
