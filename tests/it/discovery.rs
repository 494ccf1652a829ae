//! Which instance a router gets, and how fresh the answer is.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use musterd::{
    model::InstanceStatus as Status,
    proto::v1::{self, DeathReason, InstanceStatus},
};
use tonic::Code;
use uuid::Uuid;

use crate::harness::{
    daemon::Daemon,
    registry::{get, id, register, run},
    served::{Served, refusal, registration, seconds},
    wire::Wire,
};

#[tokio::test(flavor = "multi_thread")]
async fn the_longest_serving_alive_instance_is_resolved_until_it_stops_serving() {
    let served = Served::start().await;
    let clients = &served.clients;
    // The first to come has the highest instance id, so that the id alone does not decide.
    for instance in [9, 5, 1] {
        clients.register(registration(instance, "organ")).await;
    }
    let best = |instance: u128, alternatives| (id(instance).to_string(), alternatives);
    assert_eq!(clients.best("organ").await, best(9, 2));
    for newcomer in [2, 3, 4] {
        clients.beat(1).await;
        clients.beat(5).await;
        clients.register(registration(newcomer, "organ")).await;
    }
    assert_eq!(clients.best("organ").await, best(9, 5), "beats and newcomers change nothing");

    clients.set_status(9, Status::Draining).await;
    assert_eq!(clients.best("organ").await, best(5, 4));
    clients.set_status(9, Status::Alive).await;
    assert_eq!(clients.best("organ").await, best(9, 5), "it has served longest all the same");
    clients.deregister(9).await;
    assert_eq!(clients.best("organ").await, best(5, 4));
    clients.register(registration(9, "organ")).await;
    assert_eq!(clients.best("organ").await, best(5, 5), "a new lease begins at the end");
    for gone in [5, 1, 2, 3, 4] {
        clients.deregister(gone).await;
    }
    assert_eq!(clients.best("organ").await, best(9, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn resolve_returns_only_instances_alive_in_the_current_epoch() {
    let served = Served::start().await;
    let clients = &served.clients;
    let unknown = refusal(clients.resolve("organ", 0).await);
    assert_eq!(unknown.verdict(), (Code::NotFound, "UNKNOWN_LOGICAL_ID"));

    let starting = InstanceStatus::Starting.into();
    clients.register(v1::RegisterRequest { initial_status: starting, ..registration(1, "organ") }).await;
    clients.register(registration(2, "organ")).await;
    clients.set_status(2, Status::Draining).await;
    clients.register(registration(3, "organ")).await;
    clients.deregister(3).await;
    let none = refusal(clients.resolve("organ", 0).await);
    assert_eq!(none.verdict(), (Code::NotFound, "NO_LIVE_INSTANCE"));

    clients.set_status(1, Status::Alive).await;
    assert_eq!(clients.best("organ").await, (id(1).to_string(), 0));
    let rotated = clients.rotate().await;
    let none = refusal(clients.resolve("organ", 0).await);
    assert_eq!(none.verdict(), (Code::NotFound, "NO_LIVE_INSTANCE"), "an older epoch is dead");
    clients.register(registration(4, "organ")).await;
    let resolved = clients.resolve("organ", 0).await.unwrap();
    assert_eq!((resolved.cluster_epoch, resolved.epoch_number), (rotated.cluster_epoch, rotated.epoch_number));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_shows_the_whole_instance() {
    let served = Served::start().await;
    let request = v1::RegisterRequest {
        actor_name: "actor".into(),
        serve_route: "/route".into(),
        port: 8_000,
        version: "1".into(),
        labels: [("zone".to_owned(), "a".to_owned())].into(),
        ..registration(7, "organ")
    };
    let lease = served.clients.register(request.clone()).await;
    let resolved = served.clients.resolve("organ", lease.revision).await.unwrap();
    assert!(resolved.revision >= lease.revision);
    assert!(resolved.stale_for.is_some());
    let instance = resolved.instance.unwrap();
    let left = instance.lease_remaining.unwrap().seconds;
    assert!((200..=300).contains(&left), "{left} s left of 300");
    let (began, beat) = (instance.started_at.unwrap(), instance.last_beat.unwrap());
    assert!(began.seconds > 0 && beat.seconds >= began.seconds);
    let expected = v1::Instance {
        instance_id: request.instance_id,
        logical_id: request.logical_id,
        lease_id: lease.lease_id,
        cluster_epoch: lease.cluster_epoch,
        epoch_number: lease.epoch_number,
        revision: lease.revision,
        status: InstanceStatus::Alive.into(),
        actor_name: request.actor_name,
        serve_route: request.serve_route,
        node_id: request.node_id,
        ip_address: request.ip_address,
        port: request.port,
        pid: request.pid,
        version: request.version,
        labels: request.labels,
        owner: String::new(),
        status_reason: String::new(),
        status_since: Some(began),
        ttl: request.ttl,
        started_at: Some(began),
        last_beat: Some(beat),
        lease_remaining: instance.lease_remaining,
        suspect: false,
        death: None,
    };
    assert_eq!(instance, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_on_another_daemon_sees_what_it_asks_for_by_revision() {
    let served = Served::start().await;
    let other = Daemon::start(served.sql.database.url()).await;
    let there = Wire::of(&other).await;
    for instance in 1..=60u128 {
        let name = format!("organ_{instance}");
        let lease = served.clients.register(registration(instance, &name)).await;
        let resolved = there.resolve(&name, lease.revision).await.unwrap();
        assert_eq!(resolved.instance.unwrap().lease_id, lease.lease_id);
        let revision = served.clients.deregister(instance).await.revision;
        let gone = refusal(there.resolve(&name, revision).await);
        assert_eq!(gone.reason, "NO_LIVE_INSTANCE", "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revision_that_does_not_come_is_answered_after_a_second() {
    let served = Served::start().await;
    let mut discovery = served.clients.discovery.clone();
    served.clients.register(registration(1, "organ")).await;
    let min_revision = served.revision().await + 1_000_000;
    let began = Instant::now();
    let get = v1::GetInstanceRequest { instance_id: id(1).to_string(), min_revision };
    let list = v1::ListInstancesRequest { min_revision, ..Default::default() };
    let cluster = v1::GetClusterRequest { min_revision, ..Default::default() };
    for refused in [
        refusal(served.clients.resolve("organ", min_revision).await),
        refusal(discovery.get_instance(get).await),
        refusal(discovery.list_instances(list).await),
        refusal(served.clients.cluster.clone().get_cluster(cluster).await),
    ] {
        assert_eq!(refused.verdict(), (Code::Unavailable, "NOT_YET_SEEN"));
        assert!(refused.retry_after.is_some());
    }
    assert!(began.elapsed() >= Duration::from_secs(4), "each waits for a second: {:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_instance_is_shown_with_the_record_of_its_death() {
    let served = Served::start().await;
    let clients = &served.clients;
    clients.register(registration(1, "organ")).await;
    clients.register(registration(2, "organ")).await;
    let ended = clients.deregister(1).await;
    let dead = clients.instance(1).await;
    assert_eq!((dead.status(), dead.revision, dead.suspect), (InstanceStatus::Dead, ended.revision, false));
    let death = dead.death.unwrap();
    assert_eq!(death.reason(), DeathReason::Deregistered);
    let (at, deadline) = (death.at.unwrap(), death.deadline.unwrap());
    assert!(deadline.seconds - at.seconds <= 300 && deadline.seconds > at.seconds, "{at:?} {deadline:?}");

    clients.rotate().await;
    let fenced = clients.instance(2).await;
    assert_eq!(fenced.status(), InstanceStatus::Dead, "at once, before the death is recorded");
    assert_eq!(fenced.death.unwrap().reason(), DeathReason::OldEpoch);
    assert_eq!(clients.instance(1).await.death.unwrap().reason(), DeathReason::Deregistered, "it keeps its own");

    let unknown = v1::GetInstanceRequest { instance_id: id(3).to_string(), min_revision: 0 };
    let unknown = refusal(clients.discovery.clone().get_instance(unknown).await);
    assert_eq!(unknown.verdict(), (Code::NotFound, "UNKNOWN_INSTANCE"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_instance_is_suspect_and_ranks_last_until_it_beats() {
    let served = Served::start().await;
    let clients = &served.clients;
    clients.register(v1::RegisterRequest { ttl: Some(seconds(6)), ..registration(1, "organ") }).await;
    clients.register(registration(2, "organ")).await;
    clients.beat(1).await;
    crate::harness::wait::wait_until("suspicion", Duration::from_secs(30), async || {
        let (best, alternatives) = clients.best("organ").await;
        if best == id(2).to_string() { Ok(()) } else { Err((best, alternatives)) }
    })
    .await;
    // Its lease goes on for a third of the TTL; that it is still there is why it counts as an alternative.
    let suspect = clients.instance(1).await;
    assert_eq!((suspect.status(), suspect.suspect), (InstanceStatus::Alive, true));
    assert_eq!(clients.best("organ").await, (id(2).to_string(), 1));
    clients.beat(1).await;
    assert_eq!(clients.best("organ").await, (id(1).to_string(), 1));
}

/// The instance of each name, as the SQL view has it.
async fn by_sql(served: &Served) -> BTreeMap<String, String> {
    let rows = served.sql.client.query("SELECT logical_id, instance_id FROM active_instance", &[]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get::<_, Uuid>(1).to_string())).collect()
}

/// One step in the life of an instance; `roll` decides which.
async fn step(served: &Served, instance: u128, roll: u64) {
    let clients = &served.clients;
    let (name, instance_id) = (format!("organ_{}", instance % 8), id(instance));
    let by_sql = |function: &str, more: &str| format!("SELECT {function}('{instance_id}'{more})");
    // As of the last step: what was done through SQL shows a moment later.
    let revision = served.revision().await;
    let status = served
        .clients
        .everything_at(revision)
        .await
        .into_iter()
        .find(|on_record| on_record.instance_id == instance_id.to_string())
        .map(|on_record| on_record.status());
    match (status, roll % 7) {
        (None | Some(InstanceStatus::Dead), 0 | 1) => {
            let epoch: Uuid = get(&served.sql.client, "SELECT current_epoch FROM cluster_metadata").await;
            run(&served.sql.client, &register(instance, &name, epoch.as_u128())).await;
            // Long enough that no lease is overdue on a slow machine.
            let lasting = format!("UPDATE registry_instance SET ttl_ms = 300000 WHERE instance_id = '{instance_id}'");
            run(&served.sql.client, &lasting).await;
        }
        (None | Some(InstanceStatus::Dead), _) => {
            drop(
                clients
                    .register(v1::RegisterRequest { ttl: Some(seconds(300)), ..registration(instance, &name) })
                    .await,
            );
        }
        (Some(_), 0) => drop(clients.beat(instance).await),
        (Some(_), 1) => run(&served.sql.client, &by_sql("beat", "")).await,
        (Some(_), 2) => drop(clients.deregister(instance).await),
        (Some(_), 3) => run(&served.sql.client, &by_sql("set_instance_status", ", 'dead'")).await,
        (Some(InstanceStatus::Alive), 4 | 5) => drop(clients.set_status(instance, Status::Draining).await),
        (Some(_), 4 | 5) => drop(clients.set_status(instance, Status::Alive).await),
        (Some(_), _) => run(&served.sql.client, &by_sql("set_instance_status", ", 'alive'")).await,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sql_view_and_resolve_name_the_same_instance_for_every_name() {
    let served = Served::start().await;
    // The same sequence in every run.
    let mut seed = 7u64;
    let mut next = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        seed >> 33
    };
    let mut agreed = 0;
    for round in 0..40 {
        for _ in 0..6 {
            step(&served, u128::from(next() % 32 + 1), next()).await;
        }
        if round == 25 {
            served.clients.rotate().await;
        }
        let revision = served.revision().await;
        let expected = by_sql(&served).await;
        for name in (0..8).map(|name| format!("organ_{name}")) {
            let resolved = served.clients.resolve(&name, revision).await;
            let resolved = resolved.ok().map(|resolved| resolved.instance.unwrap().instance_id);
            assert_eq!(resolved.as_ref(), expected.get(&name), "{name} in round {round}");
        }
        agreed += expected.len();
    }
    assert!(agreed > 100, "hardly any instance was alive: {agreed}");
}
