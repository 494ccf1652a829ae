//! The hijack drill: callers with a valid identity try to take the traffic, the leases and the cluster of others.

use futures_util::{StreamExt as _, stream};
use musterd::proto::v1;
use nix::sys::signal::Signal;
use tokio::sync::mpsc;

use super::{Caller, Guarded, MASTER, caller_of, guard, rows::registration, rules::Rule, verdict};
use crate::harness::{
    daemon::Daemon,
    registry::{column, get, id},
    served::{refusal, seconds},
};

/// The rival may register under the actor's name, the thief under another one only.
const RULES: &[Rule] = &[
    Rule { who: "actor", may: &["register", "resolve"], on: &["svc-a"] },
    Rule { who: "rival", may: &["register"], on: &["svc-a"] },
    Rule { who: "thief", may: &["register"], on: &["svc-b"] },
    Rule { who: "operator", may: &["operate"], on: &["svc-a"] },
];

fn actor(instance: u128) -> v1::RegisterRequest {
    v1::RegisterRequest { port: 8_000, ..registration(id(instance), "svc-a") }
}

async fn register(caller: &Caller, request: v1::RegisterRequest) -> v1::RegisterResponse {
    caller.registry.clone().register(request).await.unwrap().into_inner()
}

async fn route(caller: &Caller) -> (String, u32) {
    let request = v1::ResolveRequest { logical_id: "svc-a".to_owned(), ..Default::default() };
    let instance = caller.discovery.clone().resolve(request).await.unwrap().into_inner().instance.unwrap();
    (instance.ip_address, instance.port)
}

#[tokio::test(flavor = "multi_thread")]
async fn registration_of_another_identity_never_redirects_the_route() {
    let guarded = Guarded::start(RULES).await;
    let owner = guarded.caller("actor").await;
    let lease = register(&owner, actor(1)).await;
    let elsewhere = v1::RegisterRequest { ip_address: "10.6.6.6".to_owned(), port: 6_666, ..actor(1) };
    let renamed = v1::RegisterRequest { logical_id: "svc-b".to_owned(), ..elsewhere.clone() };
    for (who, attack, reason) in [
        ("rival", elsewhere.clone(), "INSTANCE_ID_TAKEN"),
        ("rival", actor(1), "INSTANCE_ID_TAKEN"),
        ("thief", elsewhere.clone(), "PERMISSION_DENIED"),
        ("thief", renamed, "INSTANCE_ID_TAKEN"),
        ("nobody", elsewhere.clone(), "PERMISSION_DENIED"),
    ] {
        let refused = refusal(guarded.caller(who).await.registry.register(attack).await);
        assert_eq!(refused.reason, reason, "{who}");
        for told in ["10.0.0.1", "8000", "token/actor", "\"node\""] {
            assert!(!refused.message.contains(told), "{who} is told {told}: {}", refused.message);
        }
        assert!(reason == "PERMISSION_DENIED" || refused.metadata.is_empty(), "{who}: {:?}", refused.metadata);
        assert_eq!(route(&owner).await, ("10.0.0.1".to_owned(), 8_000), "{who}");
    }
    let denied = refusal(guarded.caller("thief").await.registry.register(elsewhere.clone()).await);
    let field = |name: &str| denied.metadata.get(name).map(String::as_str);
    assert_eq!(
        (field("identity"), field("verb"), field("logicalId")),
        (Some("token/thief"), Some("register"), Some("svc-a"))
    );

    assert_eq!(register(&owner, elsewhere).await.lease_id, lease.lease_id, "the owner moves, and keeps its lease");
    assert_eq!(route(&owner).await, ("10.6.6.6".to_owned(), 6_666));
}

/// What must not change about the actor's instances, as a daemon knows them.
async fn lives(daemon: &Caller) -> Vec<(String, i32, bool, String)> {
    let request = v1::ListInstancesRequest { logical_id_prefix: "svc-a".to_owned(), ..Default::default() };
    let all = daemon.discovery.clone().list_instances(request).await.unwrap().into_inner();
    all.instances.into_iter().map(|one| (one.instance_id, one.status, one.suspect, one.owner)).collect()
}

/// The latest beats that a daemon knows of, to the minute: its idea of the database clock moves by milliseconds.
async fn latest_beats(daemon: &Caller) -> Vec<i64> {
    let request = v1::ListInstancesRequest { logical_id_prefix: "svc-a".to_owned(), ..Default::default() };
    let all = daemon.discovery.clone().list_instances(request).await.unwrap().into_inner();
    all.instances.into_iter().map(|one| (one.last_beat.unwrap().seconds + 30) / 60).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_reach_no_lease_by_its_number() {
    let mut guarded = Guarded::start(RULES).await;
    let owner = guarded.caller("actor").await;
    for instance in 1..=5 {
        register(&owner, actor(instance)).await;
    }
    let first = guarded.caller(MASTER).await;
    // The latest beats on record are on the minute, one before the last, so that a beat of now shows.
    let silent = "UPDATE registry_instance SET last_heartbeat = date_trunc('minute', now()) - interval '1 minute'";
    guarded.sql.client.batch_execute(silent).await.unwrap();
    // The same callers at another daemon, which knows those beats alone.
    let file = |name: &str| guarded.files.path().join(name).to_str().unwrap().to_owned();
    let flags =
        ["--database-url", guarded.sql.database.url(), "--policy", &file("policy.toml"), "--tokens", &file("tokens")];
    let here = std::mem::replace(&mut guarded.daemon, Daemon::start_with(&flags).await);
    guarded.caught_up().await;
    let second = guarded.caller(MASTER).await;
    let before = (lives(&first).await, lives(&second).await, latest_beats(&second).await);
    let last: i64 = get(&guarded.sql.client, "SELECT revision FROM cluster_metadata").await;
    let numbers: Vec<u64> = (1..=u64::try_from(last).unwrap() + 2).collect();
    for who in ["rival", "thief"] {
        let caller = guarded.caller(who).await;
        let found: Vec<String> = stream::iter(&numbers).then(|lease_id| attack(&caller, *lease_id)).collect().await;
        assert!(found.iter().all(|reasons| reasons == "UNKNOWN_LEASE UNKNOWN_LEASE UNKNOWN_LEASE"), "{who}: {found:?}");
        // Twice, then the end without a goodbye.
        let (sender, requests) = mpsc::channel(1);
        let requests = stream::unfold(requests, async |mut requests| Some((requests.recv().await?, requests)));
        let mut answers = caller.registry.clone().beat_stream(requests).await.unwrap().into_inner();
        for _ in 0..2 {
            sender.send(v1::BeatStreamRequest { lease_ids: numbers.clone(), goodbye: false }).await.unwrap();
            let answer = answers.message().await.unwrap().unwrap();
            assert_eq!((answer.renewed, answer.exceptions.len()), (0, numbers.len()), "{who}");
            assert!(answer.exceptions.iter().all(|one| one.reason() == v1::ErrorReason::UnknownLease), "{who}");
        }
        // The daemon answers the end when it has drawn its conclusions from it.
        drop(sender);
        assert_eq!(answers.message().await.unwrap(), None, "{who}");
    }
    let nobody = guarded.caller("nobody").await;
    assert_eq!(attack(&nobody, 3).await, "PERMISSION_DENIED PERMISSION_DENIED PERMISSION_DENIED");
    assert_eq!((lives(&first).await, lives(&second).await, latest_beats(&second).await), before);
    let rows = "SELECT status || ' ' || owner FROM registry_instance";
    assert_eq!(column::<String>(&guarded.sql.client, rows).await, ["alive token/actor"; 5]);
    drop(here);
}

/// Beats, drains and ends a lease. Returns the three reasons.
async fn attack(caller: &Caller, lease_id: u64) -> String {
    let mut registry = caller.registry.clone();
    let instance_id = String::new();
    let beat = verdict(&registry.beat(v1::BeatRequest { lease_id, instance_id: instance_id.clone() }).await);
    let status = v1::InstanceStatus::Draining.into();
    let drain = v1::SetStatusRequest { lease_id, instance_id: instance_id.clone(), status, ..Default::default() };
    let drain = verdict(&registry.set_status(drain).await);
    let end = verdict(&registry.deregister(v1::DeregisterRequest { lease_id, instance_id }).await);
    format!("{beat} {drain} {end}")
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_lease_and_absent_lease_have_equal_answers() {
    let guarded = Guarded::start(RULES).await;
    let lease = register(&guarded.caller("actor").await, actor(1)).await;
    // A revision that is no lease: that of a death.
    let thief = guarded.caller("thief").await;
    let own = register(&thief, registration(id(2), "svc-b")).await;
    let end = v1::DeregisterRequest { lease_id: own.lease_id, ..Default::default() };
    let absent = thief.registry.clone().deregister(end).await.unwrap().into_inner().revision;
    for (of_foreign, of_absent) in [
        ((lease.lease_id, String::new()), (absent, String::new())),
        ((0, id(1).to_string()), (0, id(9).to_string())),
        ((absent, id(1).to_string()), (absent, id(9).to_string())),
    ] {
        for method in 0..3 {
            let (foreign, gone) = (tell(&thief, method, &of_foreign).await, tell(&thief, method, &of_absent).await);
            // The caller's own number may be repeated.
            let masked = |(code, message, details): (tonic::Code, String, Vec<u8>), number: u64| {
                let details = String::from_utf8_lossy(&details).replace(&number.to_string(), "N");
                (code, message.replace(&number.to_string(), "N"), details)
            };
            assert_eq!(masked(foreign, of_foreign.0), masked(gone, of_absent.0), "method {method}, {of_foreign:?}");
        }
    }
}

async fn tell(caller: &Caller, method: u8, target: &(u64, String)) -> (tonic::Code, String, Vec<u8>) {
    let mut registry = caller.registry.clone();
    let (lease_id, instance_id) = target.clone();
    let status = v1::InstanceStatus::Draining.into();
    let refused = match method {
        0 => registry.beat(v1::BeatRequest { lease_id, instance_id }).await.unwrap_err(),
        1 => registry
            .set_status(v1::SetStatusRequest { lease_id, instance_id, status, ..Default::default() })
            .await
            .unwrap_err(),
        _ => registry.deregister(v1::DeregisterRequest { lease_id, instance_id }).await.unwrap_err(),
    };
    (refused.code(), refused.message().to_owned(), refused.details().to_vec())
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_right_caller_changes_the_cluster_and_is_named_for_it() {
    let guarded = Guarded::start(RULES).await;
    register(&guarded.caller("actor").await, actor(1)).await;
    for who in ["actor", "rival", "thief", "operator", "nobody"] {
        let mut cluster = guarded.caller(who).await.cluster;
        let rotated = verdict(&cluster.rotate_epoch(v1::RotateEpochRequest::default()).await);
        let hold = v1::HoldExpiryRequest { duration: Some(seconds(60)), reason: String::new() };
        let held = verdict(&cluster.hold_expiry(hold).await);
        let released = verdict(&cluster.release_expiry(v1::ReleaseExpiryRequest::default()).await);
        assert_eq!([rotated, held, released], ["PERMISSION_DENIED"; 3], "{who}");
        if who != "operator" {
            let expire = v1::ExpireInstanceRequest { instance_id: id(1).to_string(), lease_id: 0 };
            assert_eq!(verdict(&cluster.expire_instance(expire).await), "PERMISSION_DENIED", "{who}");
        }
    }
    let untouched = "SELECT concat_ws(' ', epoch_number, hold_until, released_until) FROM cluster_metadata";
    assert_eq!(get::<String>(&guarded.sql.client, untouched).await, "1");

    let expire = v1::ExpireInstanceRequest { instance_id: id(1).to_string(), lease_id: 0 };
    guarded.caller("operator").await.cluster.expire_instance(expire).await.unwrap();
    let decided: String = get(&guarded.sql.client, "SELECT death_decided_by FROM registry_instance").await;
    assert!(decided.ends_with(" for token/operator"), "{decided}");
    guarded.caller(MASTER).await.cluster.rotate_epoch(v1::RotateEpochRequest::default()).await.unwrap();
    let rotated: String =
        get(&guarded.sql.client, "SELECT rotated_by FROM registry_epoch ORDER BY epoch_number DESC LIMIT 1").await;
    assert!(rotated.ends_with(" for token/master"), "{rotated}");
}

#[tokio::test(flavor = "multi_thread")]
async fn instance_without_owner_is_claimed_by_the_first_identity() {
    let guarded = Guarded::start(RULES).await;
    let (owner, rival) = (guarded.caller("actor").await, guarded.caller("rival").await);
    let operations = format!(
        r#"[{{"op":"register","instance_id":"{}","logical_id":"svc-a","status":"alive","node_id":"node","pid":7,"ip_address":"10.0.0.1","port":8000,"ttl_ms":300000,"labels":{{}}}}]"#,
        id(1)
    );
    let applied = "SELECT lease_id FROM muster_apply($1::text::jsonb, 'an open daemon')";
    let lease_id: i64 = guarded.sql.client.query_one(applied, &[&operations]).await.unwrap().get(0);
    guarded.caught_up().await;
    let beat = v1::BeatRequest { lease_id: u64::try_from(lease_id).unwrap(), ..Default::default() };
    for caller in [&rival, &owner] {
        assert_eq!(verdict(&caller.registry.clone().beat(beat.clone()).await), "OK", "it may register the name");
    }
    register(&owner, actor(1)).await;
    assert_eq!(verdict(&owner.registry.clone().beat(beat.clone()).await), "OK");
    assert_eq!(verdict(&rival.registry.clone().beat(beat).await), "UNKNOWN_LEASE");
}

#[tokio::test(flavor = "multi_thread")]
async fn first_lease_of_an_identity_is_its_own_at_a_daemon_that_has_not_seen_it() {
    let names: Vec<String> = (0..12).map(|number| format!("actor-{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let rule = |name: &&str| format!("[[rule]]\nwho = [\"token/{name}\"]\nmay = [\"register\"]\non = [\"svc-a\"]\n");
    let rules: String = names.iter().map(rule).collect();
    let guarded = Guarded::start_with(&rules, &names, &[]).await;
    let other = guard(guarded.sql.database.url(), &guarded.files, (&rules, &names), &[]).await;
    for (number, name) in (1..).zip(&names) {
        let (mut here, there) = (guarded.caller(name).await.registry, caller_of(&other, name).await);
        // Connected, and known as a caller that owns nothing.
        there.cluster.clone().who_am_i(v1::WhoAmIRequest {}).await.unwrap();
        other.signal(Signal::SIGSTOP);
        let lease_id = here.register(registration(id(number), "svc-a")).await.unwrap().into_inner().lease_id;
        let mut registry = there.registry.clone();
        let asked = tokio::spawn(async move {
            match number % 3 {
                0 => verdict(&registry.beat(v1::BeatRequest { lease_id, ..Default::default() }).await),
                1 => {
                    let status = v1::InstanceStatus::Draining.into();
                    verdict(&registry.set_status(v1::SetStatusRequest { lease_id, status, ..Default::default() }).await)
                }
                _ => verdict(&registry.deregister(v1::DeregisterRequest { lease_id, ..Default::default() }).await),
            }
        });
        tokio::task::yield_now().await;
        other.signal(Signal::SIGCONT);
        assert_eq!(asked.await.unwrap(), "OK", "{name}");
    }
}
