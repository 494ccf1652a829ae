//! The known faults of SeedCore's SQL, one test each.
//!
//! Each test runs the same calls on a database that stopped at migration 012, which behaves as SeedCore does, and
//! on one with all migrations. It asserts the fault on the one and the remedy on the other: so it is known that the
//! test would notice the fault.

use crate::harness::registry::{
    Background, Registry, SQL_CALLER, column, field, get, id, make_alive, refusal, register, run, silence,
};

/// Begins an epoch.
fn epoch(number: u128) -> String {
    format!("SELECT set_current_epoch('{}')", id(number))
}

fn status(instance: u128, status: &str) -> String {
    format!("SELECT set_instance_status('{}', '{status}')", id(instance))
}

fn beat(instance: u128) -> String {
    format!("SELECT beat('{}')", id(instance))
}

/// Both databases, in epoch 100.
async fn both() -> (Registry, Registry) {
    let (old, new) = tokio::join!(Registry::seed(), Registry::head());
    for registry in [&old, &new] {
        run(&registry.client, &epoch(100)).await;
    }
    (old, new)
}

#[tokio::test]
async fn beat_that_renews_nothing_reports_it() {
    let (old, new) = both().await;
    let mut answers = Vec::new();
    for client in [&old.client, &new.client] {
        make_alive(client, 1, "organ", 100).await;
        make_alive(client, 2, "organ", 100).await;
        run(client, &status(1, "dead")).await;
        run(client, &epoch(101)).await;
        answers.push([
            refusal(client, &beat(1)).await,
            refusal(client, &beat(2)).await,
            refusal(client, &beat(3)).await,
        ]);
    }
    assert_eq!(answers, [["", "", ""], ["MU005", "MU002", "MU004"]], "dead, old epoch, unknown");
}

#[tokio::test]
async fn beats_do_not_keep_the_dead_fresh() {
    let (old, new) = both().await;
    let mut fresh = Vec::new();
    for client in [&old.client, &new.client] {
        make_alive(client, 1, "organ", 100).await;
        silence(client, 1, 60).await;
        run(client, &status(1, "dead")).await;
        refusal(client, &beat(1)).await;
        fresh.push(get::<bool>(client, "SELECT last_heartbeat > now() - interval '30 s' FROM registry_instance").await);
    }
    assert_eq!(fresh, [true, false]);
}

#[tokio::test]
async fn a_dead_instance_that_registers_again_gets_a_new_lease() {
    let (old, new) = both().await;
    for client in [&old.client, &new.client] {
        make_alive(client, 1, "organ", 100).await;
        run(client, &status(1, "dead")).await;
    }
    let first = field(&new.client, 1, "lease_id").await;
    for client in [&old.client, &new.client] {
        run(client, &register(1, "organ", 100)).await;
    }
    assert_eq!(field(&old.client, 1, "status").await, "dead", "for ever, though it registers and beats");
    assert_eq!(field(&new.client, 1, "status").await, "starting");
    assert_eq!(field(&new.client, 1, "stopped_at").await, "");
    assert_eq!(field(&new.client, 1, "replaces_lease_id").await, first);
    assert_ne!(field(&new.client, 1, "lease_id").await, first);
}

#[tokio::test]
async fn a_registration_into_an_epoch_that_is_not_current_is_refused() {
    let (old, new) = both().await;
    let mut answers = Vec::new();
    for client in [&old.client, &new.client] {
        run(client, &epoch(101)).await;
        answers
            .push([refusal(client, &register(1, "organ", 100)).await, refusal(client, &register(2, "organ", 7)).await]);
    }
    assert_eq!(answers, [["", ""], ["MU002", "MU002"]], "an old epoch, one that never was");
}

#[tokio::test]
async fn a_repeated_registration_takes_over_address_and_route() {
    let (old, new) = both().await;
    let mut found = Vec::new();
    for client in [&old.client, &new.client] {
        make_alive(client, 1, "organ", 100).await;
        run(client, &register(1, "organ", 100).replace("10.0.0.1", "10.0.0.9").replace("/route", "/elsewhere")).await;
        found.push([field(client, 1, "host(ip_address)").await, field(client, 1, "serve_route").await]);
    }
    assert_eq!(found, [["10.0.0.1", "/route"], ["10.0.0.9", "/elsewhere"]]);
    assert_eq!(field(&new.client, 1, "status").await, "alive", "and does not set it back to starting");
}

#[tokio::test]
async fn two_processes_with_one_instance_id_are_not_merged() {
    let (old, new) = both().await;
    let mut answers = Vec::new();
    for client in [&old.client, &new.client] {
        make_alive(client, 1, "organ", 100).await;
        answers.push(refusal(client, &register(1, "organ", 100).replace("'node'", "'another node'")).await);
    }
    assert_eq!(answers, ["", "MU003"]);
}

#[tokio::test]
async fn an_instance_of_an_old_epoch_registers_into_the_current_one() {
    let (old, new) = both().await;
    let mut found = Vec::new();
    for client in [&old.client, &new.client] {
        make_alive(client, 1, "organ", 100).await;
        run(client, &epoch(101)).await;
        run(client, &register(1, "organ", 101)).await;
        found.push(field(client, 1, "cluster_epoch").await);
    }
    assert_eq!(found, [id(100).to_string(), id(101).to_string()]);
}

#[tokio::test]
async fn an_epoch_never_comes_back_and_has_a_number() {
    let (old, new) = both().await;
    let mut answers = Vec::new();
    for client in [&old.client, &new.client] {
        run(client, &epoch(101)).await;
        answers.push([refusal(client, &epoch(101)).await, refusal(client, &epoch(100)).await]);
    }
    assert_eq!(answers, [["", ""], ["", "MU008"]], "the current one again, one of before");
    let current: Vec<uuid::Uuid> = vec![
        get(&old.client, "SELECT current_epoch FROM cluster_metadata").await,
        get(&new.client, "SELECT current_epoch FROM cluster_metadata").await,
    ];
    assert_eq!(current, [id(100), id(101)]);
    assert_eq!(column::<i64>(&new.client, "SELECT epoch_number FROM registry_epoch ORDER BY 1").await, [1, 2]);
}

#[tokio::test]
async fn a_rotation_that_fails_leaves_no_lock_behind() {
    let (old, new) = both().await;
    let mut answers = Vec::new();
    for registry in [&old, &new] {
        let forbid = format!("ALTER TABLE cluster_metadata ADD CHECK (current_epoch <> '{}')", id(13));
        run(&registry.client, &forbid).await;
        let failed = refusal(&registry.client, &epoch(13)).await;
        assert_eq!(failed, "23514", "it fails after it has taken the lock");
        // The first connection stays open, as it does in a pool.
        let another = registry.connect().await;
        answers.push(refusal(&another, &epoch(101)).await);
    }
    assert_eq!(answers, ["P0001", ""]);
}

#[tokio::test]
async fn dead_is_final() {
    let (old, new) = both().await;
    let mut answers = Vec::new();
    for client in [&old.client, &new.client] {
        make_alive(client, 1, "organ", 100).await;
        run(client, &status(1, "dead")).await;
        answers.push((refusal(client, &status(1, "alive")).await, field(client, 1, "status").await));
    }
    assert_eq!(answers, [(String::new(), "alive".to_owned()), ("MU005".to_owned(), "dead".to_owned())]);
}

#[tokio::test]
async fn status_of_an_unknown_instance_cannot_be_set() {
    let (old, new) = both().await;
    let answers = [refusal(&old.client, &status(1, "alive")).await, refusal(&new.client, &status(1, "alive")).await];
    assert_eq!(answers, ["", "MU004"]);
}

#[tokio::test]
async fn one_call_expires_a_bounded_number() {
    let (old, new) = both().await;
    let mut expired = Vec::new();
    for client in [&old.client, &new.client] {
        let fill = format!(
            "INSERT INTO registry_instance (instance_id, logical_id, cluster_epoch, status, last_heartbeat)
             SELECT gen_random_uuid(), 'organ', '{}', 'alive', now() - interval '60 s' FROM generate_series(1, 1200)",
            id(100)
        );
        run(client, &fill).await;
        let mut calls = Vec::new();
        for _ in 0..3 {
            calls.push(get::<i32>(client, "SELECT expire_stale_instances()").await);
        }
        expired.push(calls);
    }
    assert_eq!(expired, [[1200, 0, 0], [1000, 200, 0]]);
}

#[tokio::test]
async fn a_beat_is_a_hot_update() {
    let (old, new) = both().await;
    let mut hot = Vec::new();
    for client in [&old.client, &new.client] {
        make_alive(client, 1, "organ", 100).await;
        run(client, &format!("BEGIN; {}", beat(1))).await;
        hot.push(get::<i64>(client, "SELECT pg_stat_get_xact_tuples_hot_updated('registry_instance'::regclass)").await);
        run(client, "COMMIT").await;
    }
    assert_eq!(hot, [0, 1]);
}

#[tokio::test]
async fn no_index_contains_the_time_of_the_beat() {
    let (old, new) = both().await;
    let sql = "SELECT count(*) FROM pg_index AS index
               JOIN pg_attribute AS field ON field.attrelid = index.indrelid AND field.attnum = ANY (index.indkey)
               WHERE index.indrelid = 'registry_instance'::regclass AND field.attname = 'last_heartbeat'";
    let counts: [i64; 2] = [get(&old.client, sql).await, get(&new.client, sql).await];
    assert_eq!(counts, [1, 0]);
}

#[tokio::test]
async fn the_best_instance_stays_the_same_while_instances_beat() {
    let (old, new) = both().await;
    let mut best = Vec::new();
    for client in [&old.client, &new.client] {
        make_alive(client, 1, "organ", 100).await;
        make_alive(client, 2, "organ", 100).await;
        let mut seen = Vec::new();
        for instance in [1, 2, 1, 2] {
            run(client, &beat(instance)).await;
            seen.push(get::<uuid::Uuid>(client, "SELECT instance_id FROM active_instance").await);
        }
        best.push(seen);
    }
    assert_eq!(best, [[id(1), id(2), id(1), id(2)], [id(1); 4]]);
}

#[tokio::test]
async fn discovery_does_not_empty_when_beats_are_late() {
    let (old, new) = both().await;
    let mut visible = Vec::new();
    for client in [&old.client, &new.client] {
        make_alive(client, 1, "organ", 100).await;
        silence(client, 1, 20).await;
        // Nothing has expired it: the view of SeedCore decides on its own.
        assert_eq!(get::<i32>(client, "SELECT expire_stale_instances(60)").await, 0);
        visible.push((
            get::<i64>(client, "SELECT count(*) FROM active_instance").await,
            get::<i64>(client, "SELECT count(*) FROM active_instances").await,
        ));
    }
    assert_eq!(visible, [(0, 0), (1, 1)]);
}

#[tokio::test]
async fn an_instance_has_a_time_to_live_of_its_own() {
    let (old, new) = both().await;
    for client in [&old.client, &new.client] {
        make_alive(client, 1, "patient", 100).await;
        make_alive(client, 2, "quick", 100).await;
        make_alive(client, 3, "plain", 100).await;
    }
    assert_eq!(refusal(&old.client, "UPDATE registry_instance SET ttl_ms = 300000").await, "42703", "it has none");
    let set = format!("UPDATE registry_instance SET ttl_ms = 300000 WHERE instance_id = '{}'", id(1));
    run(&new.client, &set).await;
    let set = format!("UPDATE registry_instance SET ttl_ms = 2000 WHERE instance_id = '{}'", id(2));
    run(&new.client, &set).await;
    let mut alive = Vec::new();
    for client in [&old.client, &new.client] {
        silence(client, 1, 60).await;
        silence(client, 2, 10).await;
        silence(client, 3, 10).await;
        run(client, "SELECT expire_stale_instances()").await;
        alive.push(column::<String>(client, "SELECT logical_id FROM active_instances ORDER BY 1").await);
    }
    assert_eq!(alive, [["plain", "quick"], ["patient", "plain"]]);
}

#[tokio::test]
async fn dead_instances_have_a_reason_and_are_purged() {
    let (old, new) = both().await;
    for client in [&old.client, &new.client] {
        make_alive(client, 1, "organ", 100).await;
        silence(client, 1, 60).await;
        assert_eq!(get::<i32>(client, "SELECT expire_stale_instances()").await, 1);
    }
    assert_eq!(refusal(&old.client, "SELECT death_reason FROM registry_instance").await, "42703", "no reason is kept");
    assert_eq!(refusal(&old.client, "SELECT muster_purge_dead(0, 10)").await, "42883", "nothing is ever purged");
    assert_eq!(field(&new.client, 1, "death_reason").await, "stale");
    assert_eq!(field(&new.client, 1, "death_decided_by").await, SQL_CALLER);
    assert_eq!(field(&new.client, 1, "death_deadline = last_heartbeat + interval '15 s'").await, "true");
    assert_eq!(get::<i32>(&new.client, "SELECT muster_purge_dead(3600000, 10)").await, 0, "kept for an hour");
    assert_eq!(get::<i32>(&new.client, "SELECT muster_purge_dead(0, 10)").await, 1);
    assert_eq!(get::<i64>(&new.client, "SELECT count(*) FROM registry_instance").await, 0);
}

#[tokio::test]
async fn a_beat_in_a_long_transaction_is_stamped_with_its_own_time() {
    let (old, new) = both().await;
    let mut later = Vec::new();
    for client in [&old.client, &new.client] {
        make_alive(client, 1, "organ", 100).await;
        run(client, &format!("BEGIN; SELECT now(); {}", beat(1))).await;
        later.push(get::<bool>(client, "SELECT last_heartbeat > now() FROM registry_instance").await);
        run(client, "COMMIT").await;
    }
    assert_eq!(later, [false, true]);
}

#[tokio::test]
async fn a_beat_that_waited_for_a_lock_is_not_stamped_with_an_old_time() {
    let (old, new) = both().await;
    let mut fresh = Vec::new();
    for registry in [&old, &new] {
        let client = &registry.client;
        make_alive(client, 1, "organ", 100).await;
        run(client, "BEGIN; UPDATE registry_instance SET actor_name = 'another'").await;
        let beat = Background::start(registry.connect().await, beat(1)).await;
        beat.blocked(client).await;
        let waiting: String = get(client, "SELECT clock_timestamp()::text").await;
        run(client, "COMMIT").await;
        beat.end().await.unwrap();
        fresh.push(get::<bool>(client, &format!("SELECT last_heartbeat > '{waiting}' FROM registry_instance")).await);
    }
    assert_eq!(fresh, [false, true]);
}
