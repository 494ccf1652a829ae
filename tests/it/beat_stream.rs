//! BeatStream: many leases over one connection, answers that carry only exceptions, and what its end means.

use std::time::Duration;

use musterd::proto::v1::{BeatStreamRequest, ErrorReason, GetInstanceRequest, RegisterRequest, RotateEpochRequest};

use crate::harness::{
    daemon::Daemon,
    postgres::TestDatabase,
    wait::wait_until,
    wire::{BeatStream, alive, deregister, register, seconds},
};

const BOUND: Duration = Duration::from_secs(20);

async fn suspect(daemon: &Daemon, instance_id: &str) -> bool {
    let request = GetInstanceRequest { instance_id: instance_id.into(), min_revision: 0 };
    daemon.discovery().await.get_instance(request).await.unwrap().into_inner().instance.unwrap().suspect
}

#[tokio::test(flavor = "multi_thread")]
async fn many_leases_are_renewed_and_only_exceptions_are_named() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    let mut registry = daemon.registry().await;
    let mut leases = Vec::new();
    for _ in 0..5 {
        leases.push(register(&mut registry, alive("organ")).await.lease_id);
    }
    let mut stream = BeatStream::open(&daemon).await;
    for _ in 0..3 {
        let answer = stream.beat(&leases).await.unwrap();
        assert_eq!((answer.renewed, answer.exceptions.len()), (5, 0));
        assert_eq!(answer.next_beat_in, seconds(5));
    }
    deregister(&mut registry, leases[2]).await;
    let asked = [leases[0], 0, leases[2], leases[4], leases[4]];
    let answer = stream.beat(&asked).await.unwrap();
    assert_eq!(answer.renewed, 3, "a lease named twice is renewed twice");
    let exceptions: Vec<_> = answer.exceptions.iter().map(|it| (it.lease_id, it.reason())).collect();
    assert!(exceptions.contains(&(0, ErrorReason::UnknownLease)));
    assert!(exceptions.contains(&(leases[2], ErrorReason::LeaseExpired)));
    assert_eq!(exceptions.len(), 2);

    daemon.cluster().await.rotate_epoch(RotateEpochRequest::default()).await.unwrap();
    let answer = stream.beat(&leases[..1]).await.unwrap();
    assert_eq!(answer.exceptions[0].reason(), ErrorReason::EpochFenced);
    assert_eq!(answer.epoch_number, 2);
    assert_eq!(stream.beat(&[]).await.unwrap().next_beat_in, None, "an empty request tells the epoch");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_that_beats_on_a_stream_stays_alive_and_a_silent_one_dies() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    let mut registry = daemon.registry().await;
    let request = |name: &str| RegisterRequest { ttl: seconds(2), ..alive(name) };
    let kept = register(&mut registry, request("kept")).await;
    let silent = register(&mut registry, request("silent")).await;
    let mut stream = BeatStream::open(&daemon).await;
    let is_dead = async |instance_id: &str| {
        let request = GetInstanceRequest { instance_id: instance_id.into(), min_revision: 0 };
        daemon.discovery().await.get_instance(request).await.unwrap().into_inner().instance.unwrap().death.is_some()
    };
    wait_until("the silent one is dead", BOUND, async || {
        assert!(stream.beat(&[kept.lease_id]).await.unwrap().exceptions.is_empty());
        is_dead(&silent.instance_id).await.then_some(()).ok_or("alive")
    })
    .await;
    assert!(!is_dead(&kept.instance_id).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn end_of_a_stream_without_goodbye_makes_its_leases_suspect() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    let mut registry = daemon.registry().await;
    // Overdue, and by that suspect, only after 10 s.
    let lease = register(&mut registry, alive("organ")).await;

    let mut stream = BeatStream::open(&daemon).await;
    stream.beat_for_an_interval(&[lease.lease_id]).await;
    assert!(!suspect(&daemon, &lease.instance_id).await);
    drop(stream);
    let at_once = Duration::from_secs(5);
    wait_until("it is suspect", at_once, async || {
        suspect(&daemon, &lease.instance_id).await.then_some(()).ok_or("not")
    })
    .await;

    let mut stream = BeatStream::open(&daemon).await;
    stream.beat(&[lease.lease_id]).await.unwrap();
    assert!(!suspect(&daemon, &lease.instance_id).await, "the next beat clears it");
    stream.requests.send(BeatStreamRequest { lease_ids: vec![lease.lease_id], goodbye: true }).await.unwrap();
    assert_eq!(stream.responses.message().await.unwrap().unwrap().renewed, 1);
    assert_eq!(stream.responses.message().await.unwrap(), None, "after a goodbye the daemon ends it");
    assert!(!suspect(&daemon, &lease.instance_id).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_of_another_daemon_is_waited_for_instead_of_called_unknown() {
    let database = TestDatabase::create().await;
    let (one, other) = (Daemon::start(database.url()).await, Daemon::start(database.url()).await);
    let mut registry = one.registry().await;
    let mut stream = BeatStream::open(&other).await;
    for _ in 0..20 {
        let lease = register(&mut registry, alive("organ")).await;
        let answer = stream.beat(&[lease.lease_id]).await.unwrap();
        assert_eq!(answer.renewed, 1, "{:?}", answer.exceptions);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_oversized_request_ends_its_stream_alone() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    let mut registry = daemon.registry().await;
    let lease = register(&mut registry, alive("organ")).await;
    let mut good = BeatStream::open(&daemon).await;
    let mut bad = BeatStream::open(&daemon).await;
    let refused = bad.beat(&vec![lease.lease_id; 100_001]).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    assert!(refused.message().contains("100000"), "{}", refused.message());
    assert_eq!(good.beat(&[lease.lease_id]).await.unwrap().renewed, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn client_that_does_not_read_costs_other_clients_nothing() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    let mut registry = daemon.registry().await;
    let lease = register(&mut registry, alive("organ")).await;
    let deaf = BeatStream::open(&daemon).await;
    // Each answer names 2,000 unknown leases: the windows of the connection fill up soon.
    let request = BeatStreamRequest { lease_ids: vec![1_u64; 2_000], goodbye: false };
    let mut sent = 0;
    while sent < 1_000 && deaf.requests.try_send(request.clone()).is_ok() {
        sent += 1;
        tokio::task::yield_now().await;
    }
    let mut good = BeatStream::open(&daemon).await;
    assert_eq!(good.beat(&[lease.lease_id]).await.unwrap().renewed, 1);
    drop(deaf);
    assert!(daemon.terminate().await.success());
}
