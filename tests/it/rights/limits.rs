//! What one identity may use, and where it may register: quotas and addresses of the policy, tried against the running daemon.

use musterd::proto::v1;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::{BOUND, Guarded, MASTER, rows::registration, verdict};
use crate::harness::{registry::id, wait::wait_until};

/// A rule for the actor: what it may register, and these further lines.
fn actor(more: &str) -> String {
    format!("[[rule]]\nwho = [\"token/actor\"]\nmay = [\"register\", \"read\"]\non = [\"svc*\"]\n{more}\n")
}

async fn guarded(more: &str) -> Guarded {
    let anonymous = "[[rule]]\nwho = [\"anonymous\"]\nmay = [\"metrics\"]\n";
    Guarded::start_with(&format!("{anonymous}{}", actor(more)), &["actor"], &[]).await
}

/// That a call was refused for a quota of this unit, and when to try again.
fn exceeded(status: &Status, unit: &str) {
    let info = status.get_details_error_info().unwrap();
    assert_eq!((status.code(), &*info.reason), (Code::ResourceExhausted, "QUOTA_EXCEEDED"), "{status:?}");
    assert_eq!((&*info.metadata["identity"], &*info.metadata["unit"]), ("token/actor", unit));
    let retry = status.get_details_retry_info().and_then(|retry| retry.retry_delay);
    assert!(retry.is_some_and(|after| !after.is_zero()), "{status:?}");
    assert!(status.message().contains("raise it in a rule"), "{status:?}");
}

async fn refused(guarded: &Guarded) -> f64 {
    guarded.daemon.metric("musterd_refused_total{reason=\"quota_exceeded\"}").await.unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn quotas_and_their_use_are_shown_to_the_identity_itself() {
    let rules = "[[rule]]\nwho = [\"token/actor\"]\nmay = [\"register\", \"read\"]\non = [\"svc-a\"]\nlimits = { records = 7 }\n";
    let guarded = Guarded::start_with(rules, &["actor"], &[]).await;
    let mut actor = guarded.caller("actor").await;
    for number in 1..=2 {
        actor.registry.register(registration(id(number), "svc-a")).await.unwrap();
    }
    let watch = v1::WatchRequest { logical_id: "svc-a".to_owned(), ..Default::default() };
    let _open = actor.discovery.watch(watch).await.unwrap();
    let known = actor.cluster.who_am_i(v1::WhoAmIRequest {}).await.unwrap().into_inner();
    let quotas: Vec<String> = known.quotas.iter().map(|it| format!("{} {} {}", it.unit, it.limit, it.used)).collect();
    assert_eq!(quotas, ["records 7 2", "registrations 200 0", "watches 100 1", "connections 1000 1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn registrations_over_the_rate_are_refused_while_beats_and_deregistration_pass() {
    let guarded = guarded("limits = { registrations = \"1/s\" }").await;
    let mut actor = guarded.caller("actor").await.registry;
    let lease_id = actor.register(registration(id(1), "svc-a")).await.unwrap().into_inner().lease_id;
    // Five at once and one a second: of so many on end one is refused on the slowest machine.
    let mut refusal = None;
    for number in 2..200 {
        if let Err(status) = actor.register(registration(id(number), "svc-a")).await {
            refusal = Some(status);
            break;
        }
    }
    exceeded(&refusal.expect("no registration was refused"), "registrations");
    for _ in 0..20 {
        let beat = v1::BeatRequest { lease_id, ..Default::default() };
        actor.beat(beat).await.unwrap();
    }
    let mut master = guarded.caller(MASTER).await.registry;
    master.register(registration(id(900), "svc-b")).await.unwrap();
    let ended = v1::DeregisterRequest { lease_id, ..Default::default() };
    actor.deregister(ended).await.unwrap();
    assert!(refused(&guarded).await >= 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn records_over_the_quota_are_refused_and_the_dead_count() {
    let guarded = guarded("limits = { records = 3 }").await;
    let mut actor = guarded.caller("actor").await.registry;
    for number in 1..=3 {
        actor.register(registration(id(number), "svc-a")).await.unwrap();
    }
    exceeded(&actor.register(registration(id(4), "svc-a")).await.unwrap_err(), "records");
    actor.register(registration(id(2), "svc-a")).await.expect("a known instance registers again");
    let ended = v1::DeregisterRequest { instance_id: id(1).to_string(), ..Default::default() };
    actor.deregister(ended).await.unwrap();
    exceeded(&actor.register(registration(id(4), "svc-a")).await.unwrap_err(), "records");
    let mut master = guarded.caller(MASTER).await.registry;
    master.register(registration(id(5), "svc-a")).await.expect("others have quotas of their own");
    assert_eq!(refused(&guarded).await, 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_over_the_quota_are_refused_until_one_ends() {
    let guarded = guarded("limits = { watches = 2 }").await;
    let mut actor = guarded.caller("actor").await.discovery;
    let request = || v1::WatchRequest { logical_id_prefix: "svc".to_owned(), ..Default::default() };
    let first = actor.watch(request()).await.unwrap();
    let _second = actor.watch(request()).await.unwrap();
    exceeded(&actor.watch(request()).await.unwrap_err(), "watches");
    drop(first);
    wait_until("a place is free", BOUND, async || actor.watch(request()).await.map(drop)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_over_the_quota_carry_only_what_keeps_leases() {
    let guarded = guarded("limits = { connections = 2 }").await;
    let mut first = guarded.caller("actor").await;
    let registered = first.registry.register(registration(id(1), "svc-a")).await.unwrap().into_inner();
    let mut second = guarded.caller("actor").await;
    let list = v1::ListInstancesRequest { logical_id_prefix: "svc".to_owned(), ..Default::default() };
    second.discovery.list_instances(list.clone()).await.unwrap();
    // Both go on with as many calls as they like.
    second.discovery.list_instances(list.clone()).await.unwrap();
    first.discovery.list_instances(list.clone()).await.unwrap();
    let mut third = guarded.caller("actor").await;
    exceeded(&third.discovery.list_instances(list.clone()).await.unwrap_err(), "connections");
    exceeded(&third.registry.register(registration(id(2), "svc-a")).await.unwrap_err(), "connections");
    let beat = v1::BeatRequest { lease_id: registered.lease_id, ..Default::default() };
    third.registry.beat(beat).await.unwrap();
    drop(second);
    wait_until("a place is free", BOUND, async || third.discovery.list_instances(list.clone()).await.map(drop)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn registered_address_is_that_of_the_peer_or_of_a_network_of_the_rules() {
    let guarded = guarded("addresses = [\"peer\", \"10.0.0.0/8\"]").await;
    let mut actor = guarded.caller("actor").await.registry;
    for (number, address, expected) in [
        (1, "127.0.0.1", "OK"),
        (2, "10.9.9.9", "OK"),
        (3, "", "OK"),
        (4, "192.0.2.1", "PERMISSION_DENIED"),
        (5, "127.0.0.2", "PERMISSION_DENIED"),
        (6, "::1", "PERMISSION_DENIED"),
    ] {
        let request = v1::RegisterRequest { ip_address: address.to_owned(), ..registration(id(number), "svc-a") };
        let answer = actor.register(request).await;
        assert_eq!(verdict(&answer), expected, "{address}");
        if let Err(status) = answer {
            let rules = "addresses = [peer, 10.0.0.0/8] (peer is 127.0.0.1)";
            assert!(status.message().contains(address) && status.message().contains(rules), "{status:?}");
        }
    }
    // An address that is changed by a registration that is repeated is held to the rules, too.
    let moved = v1::RegisterRequest { ip_address: "192.0.2.1".to_owned(), ..registration(id(2), "svc-a") };
    assert_eq!(verdict(&actor.register(moved).await), "PERMISSION_DENIED");
    let mut master = guarded.caller(MASTER).await.registry;
    let free = v1::RegisterRequest { ip_address: "192.0.2.1".to_owned(), ..registration(id(7), "svc-a") };
    assert_eq!(verdict(&master.register(free).await), "OK", "a rule without addresses allows all");
}
