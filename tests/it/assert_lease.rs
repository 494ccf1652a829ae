//! What others can rely on: a lease asserted in an application's own transaction, against everything else that goes on;
//! and which instances were alive when.

use tokio_postgres::Client;

use crate::harness::{
    fleet::{fleet, look},
    registry::{Background, Registry, column, field, get, id, make_alive, refusal, register, run, silence},
};

/// Two alive instances, 1 and 2, in epoch 100, and a daemon.
async fn scene() -> Registry {
    fleet(2, true).await
}

async fn assertion(client: &Client, instance: u128) -> String {
    format!("SELECT assert_lease({})", field(client, instance, "lease_id").await)
}

/// A connection with an open transaction that has asserted the lease of an instance.
async fn asserted(registry: &Registry, instance: u128) -> Client {
    let application = registry.connect().await;
    run(&application, &format!("BEGIN; {}", assertion(&registry.client, instance).await)).await;
    application
}

/// A connection that fails as good as at once where it would have to wait for a lock.
async fn impatient(registry: &Registry) -> Client {
    let client = registry.connect().await;
    run(&client, "SET lock_timeout = '50ms'").await;
    client
}

fn set_status(instance: u128, status: &str) -> String {
    format!("SELECT set_instance_status('{}', '{status}')", id(instance))
}

fn rotate(epoch: u128) -> String {
    format!("SELECT set_current_epoch('{}')", id(epoch))
}

#[tokio::test]
async fn only_a_lease_that_is_alive_in_the_current_epoch_can_be_asserted() {
    let registry = scene().await;
    let client = &registry.client;
    for status in ["alive", "draining"] {
        run(client, &set_status(1, status)).await;
        assert_eq!(refusal(client, &assertion(client, 1).await).await, "", "{status}");
    }
    let replaced = assertion(client, 1).await;
    run(client, &set_status(1, "dead")).await;
    assert_eq!(refusal(client, &replaced).await, "MU005", "ended");
    run(client, &register(1, "organ", 100)).await;
    assert_eq!(refusal(client, &assertion(client, 1).await).await, "", "starting");
    assert_eq!(refusal(client, &replaced).await, "MU004", "another lease has its place");
    for unknown in ["99", "0", "-1", "NULL"] {
        assert_eq!(refusal(client, &format!("SELECT assert_lease({unknown})")).await, "MU004", "{unknown}");
    }
    let fenced = assertion(client, 2).await;
    run(client, &rotate(101)).await;
    assert_eq!(refusal(client, &fenced).await, "MU002");
    run(client, "SELECT expire_old_epoch_instances()").await;
    assert_eq!(refusal(client, &fenced).await, "MU002", "also once that is written down");
}

#[tokio::test]
async fn while_a_lease_is_asserted_beats_registrations_and_changes_of_status_pass_at_once() {
    let registry = scene().await;
    let application = asserted(&registry, 1).await;
    let other = impatient(&registry).await;
    let lease = field(&other, 1, "lease_id").await;
    let again = r#"{"op": "register", "logical_id": "organ", "node_id": "1", "serve_route": "/new", "instance_id": "#;
    for call in [
        format!("SELECT beat('{}')", id(1)),
        format!("SELECT saved FROM muster_flush_beats('{}', '{{{lease}}}', '{{0}}', now())", id(900)),
        set_status(1, "draining"),
        set_status(1, "alive"),
        format!(r#"SELECT muster_apply('[{again}"{}"}}]', 'the test')"#, id(1)),
        register(3, "organ", 100),
        set_status(3, "alive"),
        set_status(2, "dead"),
        register(2, "organ", 100),
        "SELECT muster_hold_expiry('the test'); SELECT muster_release_expiry(1)".to_owned(),
        assertion(&other, 1).await,
        "SELECT reaped FROM muster_reap_stale(15000, 10, 'the test')".to_owned(),
    ] {
        assert_eq!(refusal(&other, &call).await, "", "{call}");
    }
    assert_eq!(field(&other, 1, "concat_ws(' ', status, serve_route, lease_id)").await, format!("alive /new {lease}"));
    assert_eq!(refusal(&application, "COMMIT").await, "");
}

#[tokio::test]
async fn the_reaper_passes_over_an_asserted_lease_and_comes_back_for_it() {
    let registry = scene().await;
    let client = &registry.client;
    let application = asserted(&registry, 1).await;
    // The brake would protect a fleet that is silent at once.
    run(client, "SELECT muster_release_expiry(60000)").await;
    for instance in [1, 2] {
        silence(client, instance, 60).await;
    }
    let reaper = impatient(&registry).await;
    assert_eq!(look(&reaper).await, "1", "without waiting");
    assert_eq!(look(&reaper).await, "0");
    assert_eq!([field(client, 1, "status").await, field(client, 2, "status").await], ["alive", "dead"]);
    run(&application, "COMMIT").await;
    assert_eq!(look(&reaper).await, "1");
    assert_eq!(field(client, 1, "status").await, "dead");
}

#[tokio::test]
async fn rotation_waits_for_an_asserted_lease_while_others_pass() {
    let registry = scene().await;
    let client = &registry.client;
    let application = asserted(&registry, 1).await;
    let rotation = Background::start(registry.connect().await, rotate(101)).await;
    rotation.blocked(client).await;
    let other = impatient(&registry).await;
    for call in [register(3, "organ", 100), set_status(3, "alive"), format!("SELECT beat('{}')", id(1))] {
        assert_eq!(refusal(&other, &call).await, "", "{call}");
    }
    let work = "CREATE TABLE work AS SELECT current_epoch FROM cluster_metadata";
    run(&application, &assertion(client, 1).await).await;
    run(&application, work).await;
    assert!(!rotation.has_ended());
    run(&application, "COMMIT").await;
    rotation.end().await.unwrap();
    assert_eq!(get::<uuid::Uuid>(client, "SELECT current_epoch FROM work").await, id(100), "it came before");
    assert_eq!(get::<uuid::Uuid>(client, "SELECT current_epoch FROM cluster_metadata").await, id(101));
    assert_eq!(refusal(client, &assertion(client, 1).await).await, "MU002");
}

#[tokio::test]
async fn rotation_fails_after_its_lock_timeout_and_changes_nothing() {
    let registry = scene().await;
    let application = asserted(&registry, 1).await;
    let operator = impatient(&registry).await;
    assert_eq!(refusal(&operator, &rotate(101)).await, "55P03");
    assert_eq!(get::<i64>(&operator, "SELECT count(*) FROM registry_epoch").await, 1);
    run(&application, "ROLLBACK").await;
    assert_eq!(refusal(&operator, &rotate(101)).await, "");
}

#[tokio::test]
async fn assertion_after_a_death_or_rotation_began_fails() {
    let registry = scene().await;
    let client = &registry.client;
    let (first, second) = (assertion(client, 1).await, assertion(client, 2).await);
    silence(client, 1, 60).await;
    let decider = registry.connect().await;
    for (decision, assertion, expected) in [
        ("SELECT reaped FROM muster_reap_stale(15000, 10, 'the test')".to_owned(), first, "MU005"),
        (rotate(101), second, "MU002"),
    ] {
        run(&decider, &format!("BEGIN; {decision}")).await;
        let application = Background::start(registry.connect().await, assertion).await;
        application.blocked(client).await;
        run(&decider, "COMMIT").await;
        let refused = application.end().await.unwrap_err();
        assert_eq!(refused.code().unwrap().code(), expected);
    }
}

#[tokio::test]
async fn replacing_an_asserted_ended_lease_blocks_no_caller() {
    let registry = scene().await;
    let application = asserted(&registry, 1).await;
    let other = impatient(&registry).await;
    assert_eq!(refusal(&other, &set_status(1, "dead")).await, "", "its own end does not wait");
    assert_eq!(refusal(&other, &register(1, "organ", 100)).await, "MU003", "not now, or under another instance id");
    assert_eq!(refusal(&other, &register(3, "organ", 100)).await, "");
    run(&application, "COMMIT").await;
    assert_eq!(refusal(&other, &register(1, "organ", 100)).await, "");
    assert_eq!(field(&other, 1, "concat_ws(' ', status, lease_id > replaces_lease_id)").await, "starting t");
}

#[tokio::test]
async fn instances_alive_at_a_time_follow_from_the_kept_rows() {
    let registry = scene().await;
    let client = &registry.client;
    let at = |clock: &str| format!("'2026-01-01 {clock}+00'::timestamptz");
    let started = async |instance: u128, clock: &str| {
        let sql =
            format!("UPDATE registry_instance SET started_at = {} WHERE instance_id = '{}'", at(clock), id(instance));
        run(client, &sql).await;
    };
    run(client, &set_status(2, "dead")).await;
    run(client, &format!("UPDATE registry_instance SET stopped_at = {} WHERE status = 'dead'", at("12:10"))).await;
    make_alive(client, 3, "organ", 100).await;
    run(client, &rotate(101)).await;
    run(client, &format!("UPDATE registry_epoch SET started_at = {} WHERE epoch_number = 2", at("12:30"))).await;
    make_alive(client, 4, "organ", 101).await;
    for (instance, clock) in [(1, "12:00"), (2, "12:00"), (3, "12:20"), (4, "12:31")] {
        started(instance, clock).await;
    }
    for written_down in [false, true] {
        for (clock, alive) in [
            ("11:59:59", &[][..]),
            ("12:00", &[1, 2]),
            ("12:09:59", &[1, 2]),
            ("12:10", &[1]),
            ("12:20", &[1, 3]),
            ("12:29:59", &[1, 3]),
            ("12:30", &[]),
            ("12:31", &[4]),
            ("23:00", &[4]),
        ] {
            let sql = format!("SELECT instance_id FROM alive_at({}) ORDER BY 1", at(clock));
            let alive: Vec<_> = alive.iter().map(|instance| id(*instance)).collect();
            assert_eq!(column::<uuid::Uuid>(client, &sql).await, alive, "{clock}, {written_down}");
        }
        run(client, "SELECT expire_old_epoch_instances()").await;
    }
    let died = "SELECT DISTINCT stopped_at = (SELECT started_at FROM registry_epoch WHERE epoch_number = 2)
                FROM registry_instance WHERE death_reason = 'old_epoch'";
    assert_eq!(column::<bool>(client, died).await, [true], "with its epoch, whenever that is written down");
}
