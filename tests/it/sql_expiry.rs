//! Saving beats, expiry and its hold, the purge.

use tokio_postgres::Client;

use crate::harness::registry::{Registry, column, field, get, id, make_alive, register, run, silence};

async fn registry() -> Registry {
    let registry = Registry::head().await;
    run(&registry.client, &format!("SELECT set_current_epoch('{}')", id(100))).await;
    registry
}

/// A daemon starts; returns for how many milliseconds it put expiry on hold.
async fn start_daemon(client: &Client, daemon: u128) -> Option<i64> {
    get(client, &format!("SELECT muster_daemon_started('{}', '127.0.0.1:7717', '0.1.0')", id(daemon))).await
}

async fn set_ttl(client: &Client, instance: u128, ttl_ms: u32) {
    run(client, &format!("UPDATE registry_instance SET ttl_ms = {ttl_ms} WHERE instance_id = '{}'", id(instance)))
        .await;
}

async fn expire(client: &Client) -> i32 {
    get(client, "SELECT expire_stale_instances()").await
}

/// Reaps: how many, the next deadline in whole seconds, the hold in whole seconds; as far as there are any.
async fn reap(client: &Client) -> String {
    let sql =
        "SELECT concat_ws(' ', reaped, 'next ' || round(next_in_ms / 1000.0), 'held ' || round(held_for_ms / 1000.0))
               FROM muster_reap_stale(15000, 100, 'the test')";
    get(client, sql).await
}

#[tokio::test]
async fn daemon_that_starts_alone_holds_expiry_until_all_could_beat() {
    let registry = registry().await;
    let client = &registry.client;
    for instance in [1, 2] {
        make_alive(client, instance, "organ", 100).await;
        silence(client, instance, 3600).await;
    }
    set_ttl(client, 2, 60_000).await;
    assert_eq!(start_daemon(client, 1).await, Some(65_000), "the longest TTL and 5 s");
    assert_eq!(reap(client).await, "0 next 20 held 65", "the first has its own TTL and 5 s");
    assert_eq!(expire(client).await, 0, "SQL callers are held as well");
    run(client, "UPDATE cluster_metadata SET hold_until = clock_timestamp() - interval '1 ms'").await;
    run(client, "INSERT INTO registry_daemon VALUES (gen_random_uuid(), 'b', 'v', now(), now())").await;
    silence(client, 2, 0).await;
    assert_eq!(expire(client).await, 1, "and the hold ends by itself");
}

#[tokio::test]
async fn a_daemon_that_joins_another_holds_nothing() {
    let registry = registry().await;
    let client = &registry.client;
    make_alive(client, 1, "organ", 100).await;
    silence(client, 1, 3600).await;
    run(client, &format!("INSERT INTO registry_daemon VALUES ('{}', 'a', 'v', now(), now())", id(1))).await;
    assert_eq!(start_daemon(client, 2).await, Some(0), "the other one hears beats");
    assert_eq!(expire(client).await, 1);
}

#[tokio::test]
async fn daemon_without_a_recent_report_does_not_count() {
    let registry = registry().await;
    let client = &registry.client;
    make_alive(client, 1, "organ", 100).await;
    run(client, &format!("INSERT INTO registry_daemon VALUES ('{}', 'a', 'v', now(), now() - interval '16 s')", id(1)))
        .await;
    assert_eq!(start_daemon(client, 2).await, Some(20_000));
    run(client, "UPDATE cluster_metadata SET hold_until = NULL").await;
    run(client, &format!("SELECT muster_daemon_stopped('{}')", id(2))).await;
    assert_eq!(start_daemon(client, 3).await, Some(20_000), "nor does one that has left");
}

#[tokio::test]
async fn where_no_daemon_ever_ran_nothing_is_held() {
    let registry = registry().await;
    let client = &registry.client;
    make_alive(client, 1, "organ", 100).await;
    silence(client, 1, 3600).await;
    assert_eq!(reap(client).await, "1 next -3585");
    assert_eq!(get::<Option<String>>(client, "SELECT hold_until::text FROM cluster_metadata").await, None);
}

#[tokio::test]
async fn a_hold_never_ends_earlier_because_of_another_one() {
    let registry = registry().await;
    let client = &registry.client;
    assert_eq!(start_daemon(client, 1).await, Some(0), "no instance is alive, so no beat can be missed");
    make_alive(client, 1, "organ", 100).await;
    run(client, "UPDATE cluster_metadata SET hold_until = now() + interval '1 hour', hold_reason = 'long'").await;
    run(client, "SELECT muster_hold_expiry('short')").await;
    assert_eq!(get::<String>(client, "SELECT hold_reason FROM cluster_metadata").await, "long");
}

#[tokio::test]
async fn reaper_receives_the_time_of_its_next_run() {
    let registry = registry().await;
    let client = &registry.client;
    assert_eq!(reap(client).await, "0", "no instance is alive");
    make_alive(client, 1, "organ", 100).await;
    make_alive(client, 2, "organ", 100).await;
    set_ttl(client, 2, 300_000).await;
    silence(client, 2, 290).await;
    assert_eq!(reap(client).await, "0 next 10");
    silence(client, 2, 0).await;
    assert_eq!(reap(client).await, "0 next 15");
}

#[tokio::test]
async fn stale_death_records_time_reason_and_decider() {
    let registry = registry().await;
    let client = &registry.client;
    make_alive(client, 1, "organ", 100).await;
    set_ttl(client, 1, 2000).await;
    silence(client, 1, 10).await;
    assert_eq!(reap(client).await, "1 next -8");
    let record = "concat_ws(' ', status, death_reason, death_decided_by, death_deadline - last_heartbeat, stopped_at > death_deadline)";
    assert_eq!(field(client, 1, record).await, "dead stale the test 00:00:02 t");
}

#[tokio::test]
async fn deaths_of_one_call_are_bounded_and_each_has_its_revision() {
    let registry = registry().await;
    let client = &registry.client;
    for instance in 1..=5 {
        run(client, &register(instance, "organ", 100)).await;
        silence(client, instance, 60).await;
    }
    let reap = "SELECT reaped FROM muster_reap_stale(15000, 3, 'the test')";
    assert_eq!([get::<i32>(client, reap).await, get(client, reap).await, get(client, reap).await], [3, 2, 0]);
    let revisions = column::<i64>(client, "SELECT revision FROM registry_instance ORDER BY lease_id").await;
    assert_eq!(revisions, [7, 8, 9, 10, 11], "the oldest lease first");
}

#[tokio::test]
async fn instances_of_older_epochs_are_written_down_in_batches() {
    let registry = registry().await;
    let client = &registry.client;
    for instance in 1..=3 {
        make_alive(client, instance, "organ", 100).await;
    }
    run(client, &format!("SELECT set_current_epoch('{}')", id(101))).await;
    make_alive(client, 4, "organ", 101).await;
    assert_eq!(get::<i64>(client, "SELECT count(*) FROM active_instances").await, 1, "dead by definition");
    let reap = "SELECT muster_reap_old_epoch(2, 'the test')";
    assert_eq!([get::<i32>(client, reap).await, get(client, reap).await, get(client, reap).await], [2, 1, 0]);
    let reasons =
        column::<Option<String>>(client, "SELECT death_reason FROM registry_instance ORDER BY instance_id").await;
    let old = Some("old_epoch".to_owned());
    assert_eq!(reasons, [old.clone(), old.clone(), old, None]);
}

#[tokio::test]
async fn flush_saves_the_time_of_each_beat_and_never_an_earlier_one() {
    let registry = registry().await;
    let client = &registry.client;
    for instance in 1..=4 {
        make_alive(client, instance, "organ", 100).await;
    }
    silence(client, 1, 60).await;
    silence(client, 4, 60).await;
    run(client, &format!("SELECT set_instance_status('{}', 'dead')", id(4))).await;
    start_daemon(client, 1).await;
    run(client, "UPDATE registry_daemon SET last_flush = now() - interval '10 s'").await;
    let leases = column::<i64>(client, "SELECT lease_id FROM registry_instance ORDER BY instance_id").await;
    let flush = format!(
        "SELECT saved FROM muster_flush_beats('{}', '{{{},{},{},999}}', '{{5000,30000,0,0}}')",
        id(1),
        leases[0],
        leases[1],
        leases[3]
    );
    assert_eq!(get::<i32>(client, &flush).await, 2, "neither the dead one nor the unknown one");
    let age = "round(extract(epoch FROM clock_timestamp() - last_heartbeat))";
    assert_eq!(
        [field(client, 1, age).await, field(client, 2, age).await, field(client, 4, age).await],
        ["5", "0", "60"]
    );
    assert!(get::<bool>(client, "SELECT last_flush > now() - interval '5 s' FROM registry_daemon").await);
    assert_eq!(
        get::<i32>(client, &format!("SELECT saved FROM muster_flush_beats('{}', '{{}}', '{{}}')", id(1))).await,
        0
    );
}

#[tokio::test]
async fn every_update_of_a_flush_is_hot() {
    let registry = registry().await;
    let client = &registry.client;
    let fill = "SELECT muster_apply((
        SELECT jsonb_agg(jsonb_build_object('op', 'register', 'instance_id', gen_random_uuid(), 'logical_id', 'organ', 'node_id', n))
        FROM generate_series(1, 500) AS n), 'the test')";
    run(client, fill).await;
    start_daemon(client, 1).await;
    run(client, "BEGIN").await;
    let flush = format!(
        "SELECT (muster_flush_beats('{}', array_agg(lease_id), array_agg(0::bigint))).saved FROM registry_instance",
        id(1)
    );
    assert_eq!(get::<i32>(client, &flush).await, 500);
    let hot = "SELECT pg_stat_get_xact_tuples_hot_updated('registry_instance'::regclass)";
    assert_eq!(get::<i64>(client, hot).await, 500);
    run(client, "COMMIT").await;
}

#[tokio::test]
async fn the_purge_takes_the_earliest_deaths_and_remembers_them() {
    let registry = registry().await;
    let client = &registry.client;
    // Deaths, of which the first two are made older by hand, which takes a revision each: 6, 8 and 9.
    for instance in 1..=3 {
        run(client, &register(instance, "organ", 100)).await;
    }
    for instance in [2, 1, 3] {
        run(client, &format!("SELECT set_instance_status('{}', 'dead')", id(instance))).await;
        if instance != 3 {
            let old = "SET stopped_at = now() - interval '2 h'";
            run(client, &format!("UPDATE registry_instance {old} WHERE instance_id = '{}'", id(instance))).await;
        }
    }
    let history = "SELECT history_id::text FROM cluster_metadata";
    let before = get::<String>(client, history).await;
    assert_eq!(get::<i32>(client, "SELECT muster_purge_dead(3600000, 1)").await, 1);
    assert_eq!(get::<i64>(client, "SELECT purged_revision FROM cluster_metadata").await, 6);
    assert_eq!(get::<i32>(client, "SELECT muster_purge_dead(3600000, 10)").await, 1);
    assert_eq!(get::<i64>(client, "SELECT purged_revision FROM cluster_metadata").await, 8);
    assert_eq!(get::<i32>(client, "SELECT muster_purge_dead(3600000, 10)").await, 0, "3 has not been dead for long");
    assert_eq!(get::<String>(client, history).await, before, "tombstones are purged, history is not broken");
}
