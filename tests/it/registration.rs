//! Leases over gRPC: which instance gets one and keeps it, how its status changes, how it ends.

use std::{collections::BTreeSet, time::Duration};

use futures_util::{StreamExt as _, future::join_all, stream};
use musterd::{
    model::InstanceStatus as Status,
    proto::v1::{self, DeathReason, InstanceStatus},
};
use tonic::Code;
use uuid::Uuid;

use crate::harness::{
    registry::{column, get, id},
    served::{Served, refusal, registration, seconds},
    wire::wire,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_registration_returns_the_same_lease_and_revision() {
    let served = Served::start().await;
    let first = served.clients.register(registration(1, "organ")).await;
    assert_eq!(first.lease_id, first.revision, "a lease is the revision at which it was registered");
    let before = served.revision().await;
    assert_eq!(served.clients.register(registration(1, "organ")).await, first);
    assert_eq!(served.revision().await, before, "nothing changed");
    assert_eq!(served.clients.everything().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_registration_takes_over_changed_attributes_in_place() {
    let served = Served::start().await;
    let starting = InstanceStatus::Starting.into();
    let first = served
        .clients
        .register(v1::RegisterRequest {
            initial_status: starting,
            ip_address: String::new(),
            ..registration(1, "organ")
        })
        .await;
    let began = served.clients.instance(1).await.started_at;

    let changed = v1::RegisterRequest {
        actor_name: "actor".into(),
        serve_route: "/route".into(),
        ip_address: "2001:db8::7".into(),
        port: 8_000,
        ttl: Some(seconds(30)),
        labels: [("zone".to_owned(), "a".to_owned())].into(),
        version: "2".into(),
        ..registration(1, "organ")
    };
    let second = served.clients.register(changed.clone()).await;
    assert_eq!((second.lease_id, second.status()), (first.lease_id, InstanceStatus::Alive));
    assert_eq!((second.ttl, second.beat_interval), (Some(seconds(30)), Some(seconds(10))));
    assert!(second.revision > first.revision);
    let now = served.clients.instance(1).await;
    assert_eq!((now.lease_id, now.revision, now.started_at), (first.lease_id, second.revision, began));
    assert_eq!(
        (now.actor_name, now.serve_route, now.ip_address),
        ("actor".into(), "/route".into(), changed.ip_address)
    );
    assert_eq!((now.port, now.ttl, now.labels, now.version), (8_000, changed.ttl, changed.labels, "2".into()));

    let bare = v1::RegisterRequest {
        initial_status: starting,
        serve_route: "/route".into(),
        ip_address: "2001:db8::7".into(),
        port: 8_000,
        ..registration(1, "organ")
    };
    let third = served.clients.register(bare).await;
    assert_eq!(third.status(), InstanceStatus::Alive, "a repeated call does not move an instance back");
    let now = served.clients.instance(1).await;
    assert_eq!(
        (now.actor_name.as_str(), now.version.as_str(), now.labels.len()),
        ("", "", 0),
        "what is left out is gone"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn live_instance_id_of_another_owner_is_refused_and_the_owner_not_named() {
    let served = Served::start().await;
    served.clients.register(registration(1, "organ")).await;
    // Without node or pid the address and port decide.
    let loose = |port| v1::RegisterRequest { node_id: String::new(), pid: 0, port, ..registration(2, "organ") };
    let held = served.clients.register(loose(80)).await;
    assert_eq!(served.clients.register(loose(80)).await, held);

    let before = served.revision().await;
    for intruder in [
        registration(1, "other"),
        v1::RegisterRequest { node_id: "elsewhere".into(), ..registration(1, "organ") },
        v1::RegisterRequest { pid: 99, ..registration(1, "organ") },
        loose(81),
    ] {
        let refused = refusal(served.clients.registry.clone().register(intruder.clone()).await);
        assert_eq!(refused.verdict(), (Code::AlreadyExists, "INSTANCE_ID_TAKEN"), "{intruder:?}");
        assert_eq!(refused.metadata, [].into(), "{intruder:?}");
    }
    assert_eq!(served.revision().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_instance_id_gets_a_new_lease_that_the_old_one_cannot_change() {
    let served = Served::start().await;
    let mut registry = served.clients.registry.clone();
    let old = served.clients.register(registration(1, "organ")).await;
    served.clients.deregister(1).await;
    let new = served.clients.register(v1::RegisterRequest { pid: 99, ..registration(1, "other") }).await;
    assert!(new.lease_id > old.lease_id);
    assert_eq!(new.lease_id, new.revision);

    let status = |status| v1::SetStatusRequest { lease_id: old.lease_id, status, ..Default::default() };
    for refused in [
        refusal(registry.beat(v1::BeatRequest { lease_id: old.lease_id, ..Default::default() }).await),
        refusal(registry.set_status(status(InstanceStatus::Draining.into())).await),
    ] {
        assert_eq!(refused.verdict(), (Code::FailedPrecondition, "LEASE_REPLACED"));
    }
    let ended = v1::DeregisterRequest { lease_id: old.lease_id, ..Default::default() };
    let ended = registry.deregister(ended).await.unwrap().into_inner();
    assert_eq!((ended.lease_id, ended.already_dead), (old.lease_id, true));
    registry.set_status(status(InstanceStatus::Dead.into())).await.unwrap();

    let now = served.clients.instance(1).await;
    assert_eq!((now.lease_id, now.status(), now.revision), (new.lease_id, InstanceStatus::Alive, new.revision));
    assert_eq!(served.clients.best("other").await.0, new.instance_id);
    assert_eq!(refusal(served.clients.resolve("organ", 0).await).reason, "UNKNOWN_LOGICAL_ID", "its former name");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_into_any_but_the_current_epoch_is_fenced() {
    let served = Served::start().await;
    let in_epoch = |epoch: &str| v1::RegisterRequest { cluster_epoch: epoch.into(), ..registration(1, "organ") };
    let old = served.clients.register(in_epoch("")).await;
    let current = served.clients.rotate().await;
    assert_eq!(
        (current.previous_epoch.as_str(), current.epoch_number),
        (old.cluster_epoch.as_str(), old.epoch_number + 1)
    );

    for epoch in [old.cluster_epoch, Uuid::new_v4().to_string()] {
        let refused = refusal(served.clients.registry.clone().register(in_epoch(&epoch)).await);
        assert_eq!(refused.verdict(), (Code::FailedPrecondition, "EPOCH_FENCED"));
        assert_eq!(refused.metadata["currentEpoch"], current.cluster_epoch);
        assert_eq!(refused.metadata["currentEpochNumber"], current.epoch_number.to_string());
    }
    assert_eq!(served.clients.instance(1).await.lease_id, old.lease_id);
    let new = served.clients.register(in_epoch(&current.cluster_epoch)).await;
    assert!(new.lease_id > old.lease_id, "the instance of the old epoch is replaced");
    assert_eq!((new.cluster_epoch, new.epoch_number), (current.cluster_epoch, current.epoch_number));
}

#[tokio::test(flavor = "multi_thread")]
async fn server_fills_in_defaults_of_a_registration() {
    let served = Served::start().await;
    let bare = v1::RegisterRequest { logical_id: "organ".into(), ..Default::default() };
    let (one, two) = (served.clients.register(bare.clone()).await, served.clients.register(bare).await);
    assert_ne!(one.instance_id, two.instance_id);
    assert_eq!(Uuid::parse_str(&one.instance_id).unwrap().get_version_num(), 4);
    assert_eq!((one.ttl, one.beat_interval), (Some(seconds(15)), Some(seconds(5))));
    assert_eq!(one.status(), InstanceStatus::Starting);
    let epoch: Uuid = get(&served.sql.client, "SELECT current_epoch FROM cluster_metadata").await;
    assert_eq!((one.cluster_epoch, one.epoch_number), (epoch.to_string(), 1));
}

/// Makes an instance with a status, by allowed steps.
async fn make(served: &Served, instance: u128, status: Status) -> v1::RegisterResponse {
    let initial = if status == Status::Starting { Status::Starting } else { Status::Alive };
    let request = v1::RegisterRequest { initial_status: wire(initial).into(), ..registration(instance, "organ") };
    let registered = served.clients.register(request).await;
    if status != initial {
        served.clients.set_status(instance, status).await;
    }
    registered
}

#[tokio::test(flavor = "multi_thread")]
async fn status_changes_by_the_table_of_transitions_only() {
    let served = Served::start().await;
    let pairs = Status::ALL.into_iter().flat_map(|from| Status::ALL.map(|to| (from, to)));
    for (instance, (from, to)) in (1u128..).zip(pairs) {
        let lease = make(&served, instance, from).await;
        let before = served.clients.instance(instance).await;
        assert_eq!(before.status(), wire(from));
        let request = v1::SetStatusRequest { lease_id: lease.lease_id, status: wire(to).into(), ..Default::default() };
        let result = served.clients.registry.clone().set_status(request).await;
        let after = served.clients.instance(instance).await;
        if from.may_become(to) {
            let set = result.unwrap().into_inner();
            assert_eq!((set.lease_id, set.revision), (lease.lease_id, after.revision), "{from:?} to {to:?}");
            assert_eq!(after.status(), wire(to));
            assert_eq!(after.revision > before.revision, from != to, "{from:?} to {to:?}");
        } else {
            let refused = refusal(result);
            let reason = if from == Status::Dead { "LEASE_EXPIRED" } else { "INVALID_TRANSITION" };
            assert_eq!(refused.verdict(), (Code::FailedPrecondition, reason), "{from:?} to {to:?}");
            if from != Status::Dead {
                assert_eq!(refused.metadata["status"], from.as_str());
            }
            assert_eq!((after.status, after.revision), (before.status, before.revision));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn repeated_deregister_ends_a_lease_once() {
    let served = Served::start().await;
    let mut registry = served.clients.registry.clone();
    let lease = served.clients.register(registration(1, "organ")).await;
    let by_lease = v1::DeregisterRequest { lease_id: lease.lease_id, ..Default::default() };
    let first = registry.deregister(by_lease.clone()).await.unwrap().into_inner();
    assert_eq!((first.lease_id, first.already_dead), (lease.lease_id, false));
    for again in [registry.deregister(by_lease).await.unwrap().into_inner(), served.clients.deregister(1).await] {
        assert_eq!(again, v1::DeregisterResponse { already_dead: true, ..first });
    }
    let dead = served.clients.instance(1).await;
    let death = dead.death.unwrap();
    assert_eq!((dead.revision, dead.lease_remaining), (first.revision, Some(seconds(0))));
    assert_eq!(death.reason(), DeathReason::Deregistered);
    assert!(death.decided_by.starts_with(&served.daemon.grpc_addr), "{death:?}");

    let absent = v1::DeregisterRequest { instance_id: id(2).to_string(), ..Default::default() };
    let no_lease = v1::DeregisterRequest { lease_id: dead.revision, ..Default::default() };
    assert_eq!(refusal(registry.deregister(absent).await).verdict(), (Code::NotFound, "UNKNOWN_INSTANCE"));
    assert_eq!(refusal(registry.deregister(no_lease).await).verdict(), (Code::NotFound, "UNKNOWN_LEASE"));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_registrations_at_once_get_a_lease_each() {
    let served = Served::start().await;
    let before = served.revision().await;
    let calls = (1..=200).map(|instance| served.clients.register(registration(instance, "organ")));
    let leases = join_all(calls).await;
    let ids: BTreeSet<u64> = leases.iter().map(|lease| lease.lease_id).collect();
    assert_eq!(ids, (before + 1..=before + 200).collect(), "one revision for each");
    assert!(leases.iter().all(|lease| lease.lease_id == lease.revision));
    let listed: BTreeSet<u64> = served.clients.everything().await.iter().map(|instance| instance.lease_id).collect();
    assert_eq!(listed, ids);
}

#[tokio::test(flavor = "multi_thread")]
async fn registration_whose_caller_disconnects_is_made_whole_or_not_at_all() {
    let served = Served::start().await;
    let before = served.revision().await;
    let request = |instance: u128| v1::RegisterRequest {
        serve_route: format!("/{instance}"),
        labels: [("instance".to_owned(), instance.to_string())].into(),
        ..registration(instance, "organ")
    };
    // Dropped at once, or at some moment on its way.
    let given_up = stream::iter(1..=200u32).map(|instance| {
        let mut registry = served.clients.registry.clone();
        let call = async move { registry.register(request(instance.into())).await };
        tokio::time::timeout(Duration::from_micros(u64::from(instance) * 25), call)
    });
    let outcomes: Vec<_> = given_up.buffer_unordered(4).collect().await;
    assert!(outcomes.iter().any(Result::is_err), "no call was given up");

    let seen = served.clients.everything().await;
    let leases = join_all((1..=200).map(|instance| served.clients.register(request(instance)))).await;
    for instance in seen {
        assert!(leases.iter().any(|lease| lease.lease_id == instance.lease_id), "it got another lease: {instance:?}");
    }
    assert_eq!(served.revision().await, before + 200, "each took effect once");
    let whole = "SELECT instance_id FROM registry_instance WHERE serve_route = '/' || pid \
                 AND labels = jsonb_build_object('instance', pid::text) AND revision = lease_id";
    assert_eq!(column::<Uuid>(&served.sql.client, whole).await.len(), 200);
}
