//! The first write on a promoted standby begins a new history, whichever function it is: the old primary may have
//! committed revisions that the standby never received, and none of them may be used again.

use super::split_brain::Pair;
use crate::harness::{
    postgres::connect,
    registry::{get, id, make_alive, register, run, silence},
};

/// Each SQL function that changes membership, or what decides about it, in a state in which it has something to do.
fn writes() -> Vec<(&'static str, String)> {
    let of = |instance: u128| id(instance).to_string();
    vec![
        ("register_instance", register(9, "new", 2)),
        ("set_instance_status", format!("SELECT set_instance_status('{}', 'draining')", of(4))),
        ("set_current_epoch", format!("SELECT set_current_epoch('{}')", of(3))),
        ("muster_rotate_epoch", format!("SELECT muster_rotate_epoch('{}', '{}', 'test', 'test')", of(3), of(2))),
        ("muster_daemon_started", format!("SELECT muster_daemon_started('{}', '127.0.0.1:1', '0')", of(7))),
        ("muster_note_disruption", "SELECT muster_note_disruption('test')".to_owned()),
        ("muster_hold_expiry", "SELECT muster_hold_expiry('test')".to_owned()),
        ("muster_release_expiry", "SELECT muster_release_expiry(1000)".to_owned()),
        ("muster_reap_stale", "SELECT muster_reap_stale(15000, 10, 'test')".to_owned()),
        ("expire_stale_instances", "SELECT expire_stale_instances()".to_owned()),
        ("muster_reap_old_epoch", "SELECT muster_reap_old_epoch(10, 'test')".to_owned()),
        ("expire_old_epoch_instances", "SELECT expire_old_epoch_instances()".to_owned()),
        ("muster_purge_dead", "SELECT muster_purge_dead(0, 10)".to_owned()),
        ("muster_confirm_history", "SELECT muster_confirm_history(0)".to_owned()),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn first_write_on_a_promoted_standby_begins_a_new_history() {
    let pair = Pair::create().await;
    let old = connect(pair.old.url()).await;
    musterd::migrate::up(pair.old.url(), "test").await.unwrap();
    run(&old, &format!("SELECT set_current_epoch('{}')", id(1))).await;
    make_alive(&old, 1, "of an older epoch", 1).await;
    run(&old, &format!("SELECT set_current_epoch('{}')", id(2))).await;
    for (instance, name) in [(2, "dead"), (3, "overdue"), (4, "alive")] {
        make_alive(&old, instance, name, 2).await;
    }
    run(&old, &format!("SELECT set_instance_status('{}', 'dead')", id(2))).await;
    silence(&old, 3, 3600).await;
    // As a daemon does: from now on the database knows which one it is.
    run(&old, "SELECT muster_confirm_history(0)").await;
    pair.split().await;

    let new = connect(pair.new.url()).await;
    let history = "SELECT history_id::text FROM cluster_metadata";
    let revision = "SELECT revision FROM cluster_metadata";
    let (before, seen) = (get::<String>(&new, history).await, get::<i64>(&new, revision).await);
    for (name, write) in writes() {
        run(&new, "BEGIN").await;
        run(&new, &write).await;
        let (after, reached) = (get::<String>(&new, history).await, get::<i64>(&new, revision).await);
        assert!(after != before && reached >= seen + 1_000_000, "{name}: {seen} became {reached}, {after}");
        let epochs = "SELECT bool_and(started_revision <= $$) FROM registry_epoch".replace("$$", &reached.to_string());
        assert!(get::<bool>(&new, &epochs).await, "{name}");
        let reason = "SELECT hold_reason = 'the database has failed over' FROM cluster_metadata";
        if name == "muster_rotate_epoch" {
            assert!(get::<bool>(&new, reason).await, "{name}: expiry is not held");
        }
        run(&new, "ROLLBACK").await;
    }
    assert_eq!(get::<String>(&new, history).await, before, "each of them was the first write");
}
