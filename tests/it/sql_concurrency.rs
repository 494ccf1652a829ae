//! Two connections at once: what waits for what, and what no other session sees in between.

use uuid::Uuid;

use crate::harness::registry::{
    Background, Registry, column, field, get, id, make_alive, refusal, register, run, silence,
};

async fn registry() -> Registry {
    let registry = Registry::head().await;
    run(&registry.client, &format!("SELECT set_current_epoch('{}')", id(100))).await;
    registry
}

fn rotate(epoch: u128) -> String {
    format!("SELECT set_current_epoch('{}')", id(epoch))
}

const FEED: &str = "SELECT revision FROM registry_instance WHERE revision > 1 ORDER BY revision";

#[tokio::test]
async fn two_daemons_on_an_empty_database_begin_one_epoch() {
    let registry = Registry::head().await;
    let first = registry.connect().await;
    run(&first, "BEGIN").await;
    let epoch = get::<Uuid>(&first, "SELECT muster_ensure_epoch('first')").await;
    let second = Background::start(registry.connect().await, "SELECT muster_ensure_epoch('second')".to_owned()).await;
    second.blocked(&registry.client).await;
    run(&first, "COMMIT").await;
    second.end().await.unwrap();
    assert_eq!(column::<Uuid>(&registry.client, "SELECT cluster_epoch FROM registry_epoch").await, [epoch]);
    assert_eq!(get::<Uuid>(&registry.client, "SELECT muster_ensure_epoch('third')").await, epoch);
}

#[tokio::test]
async fn revisions_become_visible_in_their_order() {
    let registry = registry().await;
    let first = registry.connect().await;
    run(&first, &format!("BEGIN; {}", register(1, "organ", 100))).await;
    let second = Background::start(registry.connect().await, register(2, "organ", 100)).await;
    second.blocked(&registry.client).await;
    assert_eq!(column::<i64>(&registry.client, FEED).await, Vec::<i64>::new());
    run(&first, "COMMIT").await;
    second.end().await.unwrap();
    assert_eq!(column::<i64>(&registry.client, FEED).await, [2, 3]);
    assert_eq!(field(&registry.client, 2, "revision").await, "3");
}

#[tokio::test]
async fn a_registration_that_is_rolled_back_leaves_no_gap() {
    let registry = registry().await;
    let first = registry.connect().await;
    run(&first, &format!("BEGIN; {}", register(1, "organ", 100))).await;
    let second = Background::start(registry.connect().await, register(2, "organ", 100)).await;
    second.blocked(&registry.client).await;
    run(&first, "ROLLBACK").await;
    second.end().await.unwrap();
    assert_eq!(field(&registry.client, 2, "revision").await, "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_polls_misses_nothing() {
    const WRITERS: u128 = 4;
    const EACH: u128 = 50;
    let registry = registry().await;
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        let calls: String = (0..EACH).map(|n| register(1 + writer * EACH + n, "organ", 100) + ";").collect();
        let client = registry.connect().await;
        writers.push(tokio::spawn(async move {
            for call in calls.split_inclusive(';') {
                run(&client, call).await;
            }
        }));
    }
    let last = i64::try_from(1 + WRITERS * EACH).unwrap();
    let mut seen = 1;
    while seen < last {
        let sql = format!("SELECT revision FROM registry_instance WHERE revision > {seen} ORDER BY revision");
        for revision in column::<i64>(&registry.client, &sql).await {
            assert_eq!(revision, seen + 1, "one that was not there when {seen} was");
            seen = revision;
        }
    }
    for writer in writers {
        writer.await.unwrap();
    }
}

#[tokio::test]
async fn a_rotation_waits_for_a_registration_that_came_first() {
    let registry = registry().await;
    let first = registry.connect().await;
    run(&first, &format!("BEGIN; {}", register(1, "organ", 100))).await;
    let rotation = Background::start(registry.connect().await, rotate(101)).await;
    rotation.blocked(&registry.client).await;
    run(&first, "COMMIT").await;
    rotation.end().await.unwrap();
    let began = "SELECT started_revision FROM registry_epoch WHERE epoch_number = 2";
    assert_eq!(get::<i64>(&registry.client, began).await, 3, "after the registration, at 2");
}

#[tokio::test]
async fn a_registration_that_waited_for_a_rotation_is_fenced() {
    let registry = registry().await;
    let first = registry.connect().await;
    run(&first, &format!("BEGIN; {}", rotate(101))).await;
    let registration = Background::start(registry.connect().await, register(1, "organ", 100)).await;
    registration.blocked(&registry.client).await;
    run(&first, "COMMIT").await;
    let error = registration.end().await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "MU002");
    assert_eq!(get::<i64>(&registry.client, "SELECT count(*) FROM registry_instance").await, 0);
}

#[tokio::test]
async fn two_operators_notice_each_other() {
    let registry = registry().await;
    let first = registry.connect().await;
    let compare = |new: u128| format!("SELECT verdict FROM muster_rotate_epoch('{}', '{}', '', '')", id(new), id(100));
    run(&first, "BEGIN").await;
    assert_eq!(get::<String>(&first, &compare(101)).await, "rotated");
    let second = Background::start(registry.connect().await, format!("CREATE TABLE answer AS {}", compare(102))).await;
    second.blocked(&registry.client).await;
    run(&first, "COMMIT").await;
    second.end().await.unwrap();
    assert_eq!(get::<String>(&registry.client, "SELECT verdict FROM answer").await, "epoch_mismatch");
}

#[tokio::test]
async fn beats_do_not_wait_for_membership_changes() {
    let registry = registry().await;
    make_alive(&registry.client, 1, "organ", 100).await;
    let lease = field(&registry.client, 1, "lease_id").await;
    let other = registry.connect().await;
    run(&other, &format!("BEGIN; {}; {}", register(2, "organ", 100), rotate(101))).await;
    let beat = format!(
        "SET lock_timeout = '5s'; SELECT beat('{0}'); SELECT saved FROM muster_flush_beats('{0}', '{{{lease}}}', '{{0}}')",
        id(1)
    );
    assert_eq!(refusal(&registry.client, &beat).await, "");
}

#[tokio::test]
async fn a_beat_that_comes_while_the_reaper_waits_saves_the_instance() {
    let registry = registry().await;
    let client = &registry.client;
    for instance in [1, 2] {
        make_alive(client, instance, "organ", 100).await;
        silence(client, instance, 60).await;
    }
    let holder = registry.connect().await;
    run(&holder, "BEGIN; SELECT muster_lock_cluster()").await;
    let reaper = Background::start(registry.connect().await, "SELECT expire_stale_instances()".to_owned()).await;
    reaper.blocked(client).await;
    run(client, &format!("SELECT beat('{}')", id(1))).await;
    run(&holder, "COMMIT").await;
    reaper.end().await.unwrap();
    assert_eq!([field(client, 1, "status").await, field(client, 2, "status").await], ["alive", "dead"]);
}

#[tokio::test]
async fn the_reaper_passes_over_rows_that_are_being_beaten() {
    let registry = registry().await;
    let client = &registry.client;
    for instance in [1, 2] {
        make_alive(client, instance, "organ", 100).await;
        silence(client, instance, 60).await;
    }
    let flush = registry.connect().await;
    run(&flush, &format!("BEGIN; SELECT beat('{}')", id(1))).await;
    assert_eq!(get::<i32>(client, "SELECT expire_stale_instances()").await, 1, "without waiting");
    run(&flush, "COMMIT").await;
    assert_eq!(get::<i32>(client, "SELECT expire_stale_instances()").await, 0);
    assert_eq!(field(client, 1, "status").await, "alive");
}

#[tokio::test]
async fn two_reapers_declare_a_death_once() {
    let registry = registry().await;
    let client = &registry.client;
    make_alive(client, 1, "organ", 100).await;
    silence(client, 1, 60).await;
    let first = registry.connect().await;
    run(&first, "BEGIN; SELECT muster_reap_stale(15000, 10, 'first')").await;
    let second =
        Background::start(registry.connect().await, "SELECT muster_reap_stale(15000, 10, 'second')".to_owned()).await;
    second.blocked(client).await;
    run(&first, "COMMIT").await;
    second.end().await.unwrap();
    assert_eq!(field(client, 1, "concat_ws(' ', death_decided_by, revision)").await, "first 4");
    assert_eq!(get::<i64>(client, "SELECT revision FROM cluster_metadata").await, 4);
}

#[tokio::test]
async fn flushes_of_the_same_leases_never_deadlock() {
    let registry = registry().await;
    let client = &registry.client;
    for instance in 1..=3 {
        make_alive(client, instance, "organ", 100).await;
    }
    let leases = column::<i64>(client, "SELECT lease_id FROM registry_instance ORDER BY 1").await;
    let [low, middle, high] = leases[..] else { panic!("three leases: {leases:?}") };
    // Both are stopped at the one in the middle. Had they taken theirs in the order in which they name them, each would
    // now hold what the other wants next.
    let holder = registry.connect().await;
    run(&holder, &format!("BEGIN; UPDATE registry_instance SET last_heartbeat = now() WHERE lease_id = {middle}"))
        .await;
    let flush = |order: [i64; 3]| {
        format!(
            "SELECT saved FROM muster_flush_beats('{}', '{{{},{},{}}}', '{{0,0,0}}')",
            id(1),
            order[0],
            order[1],
            order[2]
        )
    };
    let up = Background::start(registry.connect().await, flush([low, middle, high])).await;
    up.blocked(client).await;
    let down = Background::start(registry.connect().await, flush([high, middle, low])).await;
    down.blocked(client).await;
    run(&holder, "COMMIT").await;
    up.end().await.unwrap();
    down.end().await.unwrap();
}

#[tokio::test]
async fn a_group_and_a_flush_of_the_same_instances_never_deadlock() {
    let registry = registry().await;
    let client = &registry.client;
    for instance in 1..=3 {
        make_alive(client, instance, "organ", 100).await;
    }
    let leases = column::<i64>(client, "SELECT lease_id FROM registry_instance ORDER BY instance_id").await;
    let holder = registry.connect().await;
    run(&holder, &format!("BEGIN; SELECT beat('{}')", id(2))).await;
    let group: Vec<String> = [3, 2, 1]
        .iter()
        .map(|n| format!(r#"{{"op": "status", "instance_id": "{}", "status": "draining"}}"#, id(*n)))
        .collect();
    let group = Background::start(
        registry.connect().await,
        format!("SELECT muster_apply('[{}]', 'the test')", group.join(",")),
    )
    .await;
    group.blocked(client).await;
    let flush = format!(
        "SELECT saved FROM muster_flush_beats('{}', '{{{},{},{}}}', '{{0,0,0}}')",
        id(1),
        leases[0],
        leases[1],
        leases[2]
    );
    let flush = Background::start(registry.connect().await, flush).await;
    flush.blocked(client).await;
    assert!(!group.has_ended() && !flush.has_ended());
    run(&holder, "COMMIT").await;
    group.end().await.unwrap();
    flush.end().await.unwrap();
}
