//! Beats over gRPC: what renews a lease, what does not, and what its owner is told then.

use std::time::Duration;

use musterd::proto::v1::{self, InstanceStatus};
use tonic::Code;

use crate::harness::{
    postgres::BOUND,
    registry::{field, get, id, silence},
    served::{Refusal, Served, refusal, registration, seconds},
    wait::wait_until,
};

fn by_lease(lease_id: u64) -> v1::BeatRequest {
    v1::BeatRequest { lease_id, ..Default::default() }
}

fn by_instance(instance: u128) -> v1::BeatRequest {
    by_both(0, instance)
}

fn by_both(lease_id: u64, instance: u128) -> v1::BeatRequest {
    v1::BeatRequest { lease_id, instance_id: id(instance).to_string() }
}

async fn refused(served: &Served, beat: v1::BeatRequest) -> Refusal {
    refusal(served.clients.registry.clone().beat(beat).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_beat_names_its_lease_by_lease_by_instance_or_by_both() {
    let served = Served::start().await;
    let lease =
        served.clients.register(v1::RegisterRequest { ttl: Some(seconds(6)), ..registration(1, "organ") }).await;
    for beat in [by_lease(lease.lease_id), by_instance(1), by_both(lease.lease_id, 1)] {
        let accepted = served.clients.registry.clone().beat(beat).await.unwrap().into_inner();
        assert_eq!(accepted.lease_id, lease.lease_id);
        assert_eq!((accepted.ttl, accepted.next_beat_in), (Some(seconds(6)), Some(seconds(2))));
        assert_eq!((&accepted.cluster_epoch, accepted.epoch_number), (&lease.cluster_epoch, lease.epoch_number));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_beat_is_saved_and_costs_no_revision() {
    let served = Served::start().await;
    served.clients.register(v1::RegisterRequest { ttl: Some(seconds(2)), ..registration(1, "organ") }).await;
    let before = served.revision().await;
    let first = field(&served.sql.client, 1, "last_heartbeat").await;
    // The first save after a registration is due a third of the TTL later; until then the client goes on.
    wait_until("a saved beat", BOUND, async || {
        served.clients.beat(1).await;
        let now = field(&served.sql.client, 1, "last_heartbeat").await;
        if now > first { Ok(()) } else { Err(now) }
    })
    .await;
    assert_eq!(served.revision().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn beat_without_a_lease_on_record_is_answered_with_register() {
    let served = Served::start().await;
    let lease = served.clients.register(registration(1, "organ")).await;
    let no_lease = served.clients.set_status(1, musterd::model::InstanceStatus::Draining).await;
    let far = no_lease + 1_000_000;
    for (beat, reason) in [
        (by_lease(no_lease), "UNKNOWN_LEASE"),
        (by_lease(far), "UNKNOWN_LEASE"),
        (by_both(no_lease, 1), "UNKNOWN_LEASE"),
        (by_both(far, 1), "UNKNOWN_LEASE"),
        (by_instance(2), "UNKNOWN_INSTANCE"),
    ] {
        let refused = refused(&served, beat.clone()).await;
        assert_eq!(refused.verdict(), (Code::NotFound, reason), "{beat:?}");
    }
    served.clients.registry.clone().beat(by_lease(lease.lease_id)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn beat_of_an_ended_lease_is_refused_with_its_reason() {
    let served = Served::start().await;
    let lease = served.clients.register(registration(1, "organ")).await;
    served.clients.deregister(1).await;
    for beat in [by_lease(lease.lease_id), by_instance(1), by_both(lease.lease_id, 1)] {
        let refused = refused(&served, beat.clone()).await;
        assert_eq!(refused.verdict(), (Code::FailedPrecondition, "LEASE_EXPIRED"), "{beat:?}");
    }
    let state = field(&served.sql.client, 1, "status").await;
    assert_eq!(state, "dead", "no beat revives it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_went_silent_has_ended_for_stale() {
    let served = Served::start().await;
    let lease =
        served.clients.register(v1::RegisterRequest { ttl: Some(seconds(2)), ..registration(1, "organ") }).await;
    silence(&served.sql.client, 1, 60).await;
    wait_until("a death", BOUND, async || {
        let instance = served.clients.instance(1).await;
        if instance.status() == InstanceStatus::Dead { Ok(()) } else { Err(instance) }
    })
    .await;
    let death = served.clients.instance(1).await.death.unwrap();
    assert_eq!(death.reason(), v1::DeathReason::Stale);
    assert!(death.at.unwrap().seconds > death.deadline.unwrap().seconds, "{death:?}");
    let refused = refused(&served, by_lease(lease.lease_id)).await;
    assert_eq!(refused.verdict(), (Code::FailedPrecondition, "LEASE_EXPIRED"));
}

#[tokio::test(flavor = "multi_thread")]
async fn beat_of_a_replaced_lease_is_refused_and_renews_nothing() {
    let served = Served::start().await;
    let old = served.clients.register(registration(1, "organ")).await;
    served.clients.deregister(1).await;
    let new = served.clients.register(registration(1, "organ")).await;
    for beat in [by_lease(old.lease_id), by_both(old.lease_id, 1)] {
        let refused = refused(&served, beat.clone()).await;
        assert_eq!(refused.verdict(), (Code::FailedPrecondition, "LEASE_REPLACED"), "{beat:?}");
    }
    assert_eq!(served.clients.beat(1).await.lease_id, new.lease_id, "the instance's lease is the new one");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_beat_of_an_older_epoch_is_fenced_and_names_the_current_one() {
    let served = Served::start().await;
    let lease = served.clients.register(registration(1, "organ")).await;
    let current = served.clients.rotate().await;
    for beat in [by_lease(lease.lease_id), by_instance(1), by_both(lease.lease_id, 1)] {
        let refused = refused(&served, beat.clone()).await;
        assert_eq!(refused.verdict(), (Code::FailedPrecondition, "EPOCH_FENCED"), "{beat:?}");
        assert_eq!(refused.metadata["currentEpoch"], current.cluster_epoch);
        assert_eq!(refused.metadata["currentEpochNumber"], current.epoch_number.to_string());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lease_and_instance_that_do_not_belong_together_are_refused_and_nothing_happens() {
    let served = Served::start().await;
    let mut registry = served.clients.registry.clone();
    let first = served.clients.register(registration(1, "organ")).await;
    let second = served.clients.register(registration(2, "organ")).await;
    let before = served.revision().await;
    for (lease_id, instance) in [(first.lease_id, 2), (second.lease_id, 1)] {
        let instance_id = id(instance).to_string();
        let status = InstanceStatus::Draining.into();
        for refused in [
            refused(&served, by_both(lease_id, instance)).await,
            refusal(
                registry
                    .set_status(v1::SetStatusRequest {
                        lease_id,
                        instance_id: instance_id.clone(),
                        status,
                        ..Default::default()
                    })
                    .await,
            ),
            refusal(registry.deregister(v1::DeregisterRequest { lease_id, instance_id }).await),
        ] {
            assert_eq!(refused.verdict(), (Code::InvalidArgument, "INVALID_FIELD"), "{refused:?}");
            assert_eq!(refused.fields[0].0, "lease_id", "{refused:?}");
        }
    }
    assert_eq!(served.revision().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn lease_that_beats_at_another_daemon_stays_alive_for_many_ttls() {
    let served = Served::start().await;
    let other = crate::harness::daemon::Daemon::start(served.sql.database.url()).await;
    let there = crate::harness::wire::Wire::of(&other).await;
    served.clients.register(v1::RegisterRequest { ttl: Some(seconds(2)), ..registration(1, "organ") }).await;
    let last = served.clients.register(v1::RegisterRequest { ttl: Some(seconds(2)), ..registration(2, "organ") }).await;
    there.everything_at(last.revision).await;
    let began = std::time::Instant::now();
    while began.elapsed() < Duration::from_secs(6) {
        there.beat(1).await;
        get::<String>(&served.sql.client, &format!("SELECT beat('{}')::text", id(2))).await;
        for instance in [1, 2] {
            let here = served.clients.instance(instance).await;
            assert_eq!(here.status(), InstanceStatus::Alive, "it beats at another daemon, or through SQL");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
