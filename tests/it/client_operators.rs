//! What operators do through the Rust client, and the answers of many parts: against a real daemon.

use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _};
use musterd_client::{Choice, Client, DeathReason, Expiry, Filter, Kind, Reason, Register, Severity, Status, Step};
use uuid::Uuid;

use crate::harness::{daemon::Daemon, postgres::TestDatabase};

fn client(daemon: &Daemon) -> Client {
    Client::builder().daemons([&daemon.grpc_addr]).timeout(Duration::from_secs(20)).build().unwrap()
}

fn organ(name: &str) -> Register {
    Register::new(name).ttl(Duration::from_secs(300))
}

#[tokio::test]
async fn cluster_reports_its_state_and_every_epoch() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    let client = client(&daemon);
    client.ready(Duration::from_secs(20)).await.unwrap();
    let kept = client.register(organ("a")).await.unwrap();
    let before = client.cluster(10).await.unwrap();
    assert_eq!((before.counts.alive, before.daemons.len(), before.epoch_number), (1, 1, 1));
    assert_eq!(
        (before.daemons[0].address.as_str(), &before.version),
        (daemon.grpc_addr.as_str(), &before.daemons[0].version)
    );
    assert!(before.health.as_ref().unwrap().ready && before.database_time.is_some());
    assert!(before.severity != Severity::Unknown && before.expiry != Expiry::Unreported);

    let new = Uuid::new_v4();
    let mismatch = client.rotate_epoch(new, Some(Uuid::new_v4()), "").await.unwrap_err();
    assert_eq!((mismatch.kind(), mismatch.reason()), (Kind::Precondition, Reason::EpochMismatch));
    let rotated = client.rotate_epoch(new, Some(before.cluster_epoch), "a test").await.unwrap();
    assert_eq!((rotated.previous_epoch, rotated.rotated), (Some(before.cluster_epoch), true));
    assert!(!client.rotate_epoch(new, None, "").await.unwrap().rotated, "once, however often it is asked for");
    let epochs: Vec<_> = client.epochs().try_collect().await.unwrap();
    let told: Vec<_> = epochs.iter().map(|epoch| (epoch.cluster_epoch, epoch.reason.as_str())).collect();
    assert_eq!((told[0], told.len()), ((new, "a test"), 2));
    assert_eq!(client.latest_epoch().await.unwrap().unwrap().epoch_number, 2);
    drop(kept);
}

#[tokio::test]
async fn expiry_is_held_released_and_overruled() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    let client = client(&daemon);
    let remaining = client.hold_expiry(Some(Duration::from_secs(600)), "work").await.unwrap();
    assert!(remaining > Duration::from_secs(500));
    let refused = client.hold_expiry(Some(Duration::from_secs(7_200)), "").await.unwrap_err();
    assert_eq!((refused.kind(), refused.violations()[0].field()), (Kind::Invalid, "duration"));
    client.release_expiry(None).await.unwrap();

    let registration = client.register(organ("a").on_lost(musterd_client::OnLost::Stop)).await.unwrap();
    let lease = registration.lease().unwrap();
    let expired = client.expire(lease.instance_id, Some(lease.lease_id)).await.unwrap();
    assert!(!expired.already_dead && client.expire(lease.instance_id, None).await.unwrap().already_dead);
    let dead = client.instance(lease.instance_id).await.unwrap();
    assert!(dead.revision >= expired.revision, "a client reads what it has changed");
    assert_eq!(dead.instance.death.unwrap().reason, DeathReason::Operator);
    assert_eq!(client.check_lease(lease.lease_id).await.unwrap_err().kind(), Kind::Precondition);
}

#[tokio::test]
async fn instances_of_others_are_drained_and_ended() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    let (client, owner) = (client(&daemon), client(&daemon));
    let registration = owner.register(organ("a").on_lost(musterd_client::OnLost::Stop)).await.unwrap();
    let lease = registration.lease().unwrap();
    let drained = client.set_status(lease.instance_id, Status::Draining).await.unwrap();
    assert_eq!(drained.lease_id, lease.lease_id);
    assert_eq!(client.instance(lease.instance_id).await.unwrap().instance.status, Status::Draining);
    assert!(!client.deregister(lease.instance_id).await.unwrap().already_dead);
    assert!(client.deregister(lease.instance_id).await.unwrap().already_dead);
    assert_eq!(client.deregister(Uuid::new_v4()).await.unwrap_err().kind(), Kind::NotFound);
}

#[tokio::test]
async fn many_names_are_resolved_at_once_and_pages_have_their_revision() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    let client = client(&daemon);
    let (a, b) = (client.register(organ("a")).await.unwrap(), client.register(organ("b")).await.unwrap());
    b.set_status(Status::Draining).await.unwrap();
    let names = ["a", "b", "c"].map(str::to_owned);
    let all = client.resolve_all(&names, &Choice::best()).await.unwrap();
    assert_eq!(all.results[0].as_ref().unwrap().0.instance_id, a.instance_id());
    let reasons: Vec<_> = all.results[1..].iter().map(|one| *one.as_ref().unwrap_err()).collect();
    assert_eq!(reasons, [Reason::NoLiveInstance, Reason::UnknownLogicalId]);

    let pages: Vec<_> = client.pages(Filter::all().any_status()).try_collect().await.unwrap();
    assert_eq!((pages[0].instances.len(), pages.len()), (2, 1));
    assert!(pages[0].revision >= all.revision);
    let past = client.list(Filter::all().alive_at(std::time::UNIX_EPOCH));
    assert_eq!(past.count().await, 0, "nothing was alive then");
}

#[tokio::test]
async fn watch_goes_on_after_a_revision_that_was_seen_elsewhere() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    let client = client(&daemon);
    let _a = client.register(organ("a")).await.unwrap();
    let mut watch = client.watch(&Filter::all());
    let Step::Batch(first) = watch.next().await.unwrap() else { panic!("an interruption") };
    assert!(first.complete && first.changes.len() == 1);
    let _b = client.register(organ("b")).await.unwrap();
    let mut watch = client.watch(&Filter::all()).resume_after(first.revision, &first.history_id);
    let Step::Batch(second) = watch.next().await.unwrap() else { panic!("an interruption") };
    assert!(!second.reset && second.complete && second.changes.len() == 1, "{second:?}");
}
