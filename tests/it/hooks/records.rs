//! The record of each death, and the history of leases that it is.

use crate::harness::registry::{SQL_CALLER, column, get, id, make_alive, register, run, silence};

use super::{born, registry};

const RECORDS: &str = "SELECT concat_ws(' ', death.instance_id::text, death.reason, coalesce(death.decided_by, '-'))
     FROM registry_death AS death ORDER BY death.lease_id";

#[tokio::test]
async fn every_death_is_recorded_once_whatever_declares_it() {
    let registry = registry().await;
    let client = &registry.client;
    for instance in 1..=6 {
        make_alive(client, instance, "organ", 100).await;
    }
    run(client, &format!("SELECT set_instance_status('{}', 'dead')", id(1))).await;
    silence(client, 2, 60).await;
    run(client, "UPDATE cluster_metadata SET released_until = now() + interval '1 hour'").await;
    assert_eq!(get::<i32>(client, "SELECT expire_stale_instances(15)").await, 1);
    run(client, &format!("UPDATE registry_instance SET status = 'dead' WHERE instance_id = '{}'", id(3))).await;
    run(client, &format!("DELETE FROM registry_instance WHERE instance_id = '{}'", id(4))).await;
    run(client, &format!("SELECT set_current_epoch('{}')", id(101))).await;
    // Registered again before its death is written down.
    run(client, &register(5, "organ", 101)).await;
    run(client, "SELECT expire_old_epoch_instances()").await;
    // A repetition and a change of another column are no second death.
    run(client, &format!("SELECT set_instance_status('{}', 'dead')", id(1))).await;
    run(client, &format!("UPDATE registry_instance SET version = 'v' WHERE instance_id = '{}'", id(1))).await;
    let expected = [
        format!("{} deregistered {SQL_CALLER}", id(1)),
        format!("{} stale {SQL_CALLER}", id(2)),
        format!("{} operator {SQL_CALLER}", id(3)),
        format!("{} operator {SQL_CALLER}", id(4)),
        format!("{} old_epoch -", id(5)),
        format!("{} old_epoch {SQL_CALLER}", id(6)),
    ];
    assert_eq!(column::<String>(client, RECORDS).await, expected);
    let owners = format!("SELECT bool_and(owner = '{SQL_CALLER}') FROM registry_death");
    assert!(get::<bool>(client, &owners).await);
    let times = "SELECT bool_and(died_at >= started_at AND died_at <= clock_timestamp()) FROM registry_death";
    assert!(get::<bool>(client, times).await);
}

#[tokio::test]
async fn deaths_of_a_sweep_are_recorded_without_a_call_for_each_row() {
    let registry = registry().await;
    let client = &registry.client;
    for instance in 1..=20 {
        make_alive(client, instance, "organ", 100).await;
        silence(client, instance, 60).await;
    }
    run(client, "UPDATE cluster_metadata SET released_until = now() + interval '1 hour'").await;
    // Calls are counted for the transaction that makes them.
    run(client, "SET track_functions = 'pl'; BEGIN").await;
    let calls = "SELECT coalesce(pg_stat_get_xact_function_calls('muster_record_death()'::regprocedure), 0)";
    assert_eq!(get::<i32>(client, "SELECT expire_stale_instances(15)").await, 20);
    assert_eq!(get::<i64>(client, calls).await, 0);
    make_alive(client, 21, "organ", 100).await;
    run(client, &format!("UPDATE registry_instance SET status = 'dead' WHERE instance_id = '{}'", id(21))).await;
    assert_eq!(get::<i64>(client, calls).await, 1, "a death by hand in the same transaction");
    run(client, "COMMIT").await;
    for instance in 31..=40 {
        make_alive(client, instance, "organ", 100).await;
    }
    run(client, &format!("SELECT set_current_epoch('{}')", id(101))).await;
    let other = &registry.connect().await;
    run(other, "SET track_functions = 'pl'; BEGIN").await;
    assert_eq!(get::<i32>(other, "SELECT expire_old_epoch_instances()").await, 10);
    assert_eq!(get::<i64>(other, calls).await, 0);
    run(other, "COMMIT").await;
    let reasons = "SELECT concat_ws(' ', reason, count(*)) FROM registry_death AS death
        JOIN registry_instance AS instance USING (instance_id)
        WHERE (death.lease_id, death.revision, death.died_at, death.reason, death.logical_id, death.owner)
              = (instance.lease_id, instance.revision, instance.stopped_at, instance.death_reason, instance.logical_id, instance.owner)
        GROUP BY reason ORDER BY reason";
    assert_eq!(column::<String>(client, reasons).await, ["old_epoch 10", "operator 1", "stale 20"]);
}

#[tokio::test]
async fn death_that_a_trigger_declares_during_a_sweep_is_recorded_too() {
    let registry = registry().await;
    let client = &registry.client;
    for instance in 1..=2 {
        make_alive(client, instance, "organ", 100).await;
    }
    let follow = format!(
        "CREATE FUNCTION follow() RETURNS trigger LANGUAGE plpgsql AS $body$
         BEGIN
             UPDATE registry_instance SET status = 'dead' WHERE instance_id = '{}' AND status <> 'dead';
             RETURN NULL;
         END $body$;
         CREATE TRIGGER follow AFTER UPDATE OF status ON registry_instance FOR EACH ROW
         WHEN (NEW.status = 'dead') EXECUTE FUNCTION follow()",
        id(2)
    );
    run(client, &follow).await;
    silence(client, 1, 60).await;
    run(client, "UPDATE cluster_metadata SET released_until = now() + interval '1 hour'").await;
    assert_eq!(get::<i32>(client, "SELECT expire_stale_instances(15)").await, 1);
    let recorded = "SELECT concat_ws(' ', instance_id, reason) FROM registry_death ORDER BY lease_id";
    assert_eq!(column::<String>(client, recorded).await, [format!("{} stale", id(1)), format!("{} stale", id(2))]);
}

#[tokio::test]
async fn death_without_a_hook_is_released_at_once() {
    let registry = registry().await;
    super::die(&registry.client, 1).await;
    assert_eq!(super::unreleased(&registry.client).await, 0);
    assert_eq!(super::released(&registry.client, 10).await, 0);
}

#[tokio::test]
async fn alive_at_knows_an_earlier_lease_of_an_instance_id() {
    let registry = registry().await;
    let client = &registry.client;
    born(client, 1).await;
    let during: String = get(client, "SELECT clock_timestamp()::text").await;
    run(client, &format!("SELECT set_instance_status('{}', 'dead')", id(1))).await;
    born(client, 1).await;
    let then = format!("SELECT concat_ws(' ', instance_id, lease_id, status, actor_name) FROM alive_at('{during}')");
    let lease: i64 = get(client, "SELECT lease_id FROM registry_death").await;
    assert_eq!(column::<String>(client, &then).await, [format!("{} {lease} dead actor", id(1))]);
    let now = "SELECT status::text FROM alive_at(clock_timestamp())";
    assert_eq!(column::<String>(client, now).await, ["starting"]);
}

#[tokio::test]
async fn purge_keeps_deaths_that_are_not_released() {
    let registry = registry().await;
    let client = &registry.client;
    super::die(client, 1).await;
    super::hook(client, "free_rows", "PERFORM 1 / 0;").await;
    super::die(client, 2).await;
    run(client, "UPDATE registry_death SET died_at = now() - interval '2 hours'").await;
    super::die(client, 3).await;
    let purge = "SELECT muster_purge_deaths(3600000, 10)";
    assert_eq!(get::<i32>(client, purge).await, 1);
    let left = column::<String>(client, "SELECT instance_id::text FROM registry_death ORDER BY lease_id").await;
    assert_eq!(left, [id(2).to_string(), id(3).to_string()]);
}
