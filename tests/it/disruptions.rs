//! What must never pass for silence, or for the same history: a clock that is stepped, a database that took over, was
//! restored, or has lost what it had confirmed.

use tokio_postgres::Client;

use crate::harness::{
    fleet::{cluster, daemons_heard_of, fleet, living, look, look_by_the_clock, set_clock},
    registry::{Background, Registry, column, field, get, id, register, run},
};

/// The daemon saves beats of these instances that it has just heard.
async fn beat(client: &Client, instances: &[u128]) {
    for instance in instances {
        let lease = field(client, *instance, "lease_id").await;
        let flush =
            format!("SELECT saved FROM muster_flush_beats('{}', '{{{lease}}}', '{{0}}', muster_now())", id(900));
        assert_eq!(get::<i32>(client, &flush).await, 1);
    }
}

const STAMPS_FROM_THE_FUTURE: &str = "
    SELECT (SELECT count(*) FROM registry_instance WHERE last_heartbeat > muster_now())
         + (SELECT count(*) FROM registry_daemon WHERE last_flush > muster_now() OR saved_up_to > muster_now())
         + (SELECT count(*) FROM cluster_metadata WHERE released_until > muster_now())";

#[tokio::test]
async fn clock_that_jumps_forward_expires_no_lease_that_beats_afterwards() {
    let registry = fleet(3, true).await;
    let client = &registry.client;
    run(client, &format!("UPDATE registry_instance SET ttl_ms = 60000 WHERE instance_id = '{}'", id(1))).await;
    assert_eq!(look_by_the_clock(client).await, "0");
    set_clock(client, "1 h").await;
    assert_eq!(look_by_the_clock(client).await, "0 the database clock was stepped");
    let remaining = cluster(client, "round(extract(epoch FROM hold_until - muster_now()))").await;
    assert_eq!(remaining, "65", "the longest TTL and 5 s");
    beat(client, &[1, 2]).await;
    set_clock(client, "1 h 66 s").await;
    beat(client, &[1, 2]).await;
    assert_eq!(look(client).await, "1", "the lease without beats all the time");
    assert_eq!(field(client, 3, "status").await, "dead");
}

#[tokio::test]
async fn callers_that_expect_nothing_expire_no_lease_when_the_clock_jumps() {
    let registry = fleet(3, true).await;
    let client = &registry.client;
    set_clock(client, "10 s").await;
    run(client, "UPDATE registry_instance SET ttl_ms = 5000").await;
    assert_eq!(get::<i32>(client, "SELECT expire_stale_instances()").await, 0, "the daemon seems to be stalled");
    set_clock(client, "1 h").await;
    assert_eq!(get::<i32>(client, "SELECT expire_stale_instances()").await, 0);
    assert_eq!(cluster(client, "hold_reason").await, "a daemon was lost", "or so it seems");
    assert_eq!(living(client).await, 3);
}

#[tokio::test]
async fn a_clock_that_is_off_by_half_a_second_holds_nothing() {
    let registry = fleet(3, true).await;
    for ahead in ["0.5 s", "-0.5 s"] {
        set_clock(&registry.client, ahead).await;
        assert_eq!(look_by_the_clock(&registry.client).await, "0");
    }
}

#[tokio::test]
async fn clock_that_jumps_back_neither_expires_nor_keeps_a_lease() {
    let registry = fleet(3, true).await;
    let client = &registry.client;
    run(client, "SELECT muster_hold_expiry('of a wrong clock', 3600000); SELECT muster_release_expiry(300000)").await;
    run(client, "UPDATE cluster_metadata SET hold_until = muster_now() + interval '10 min'").await;
    set_clock(client, "-1 h").await;
    assert_eq!(get::<i64>(client, STAMPS_FROM_THE_FUTURE).await, 5, "three instances, a daemon, a release");
    assert_eq!(look_by_the_clock(client).await, "0 the database clock was stepped");
    assert_eq!(get::<i64>(client, STAMPS_FROM_THE_FUTURE).await, 0);
    let remaining = cluster(client, "round(extract(epoch FROM hold_until - muster_now()))").await;
    assert_eq!(remaining, "20", "the hold of the wrong clock would have lasted for more than an hour");
    set_clock(client, "-1 h +21 s").await;
    beat(client, &[1, 2]).await;
    assert_eq!(look(client).await, "1", "after the hold the silent die at their deadlines, not an hour later");
    assert_eq!(field(client, 1, "status").await, "alive");
}

/// For how many seconds expiry is on hold.
async fn remaining(client: &Client) -> String {
    cluster(client, "round(extract(epoch FROM hold_until - muster_now()))").await
}

/// As `look_by_the_clock`, by a daemon that knows a clock that is so much ahead.
async fn look_by_a_clock(client: &Client, ahead: &str) -> String {
    daemons_heard_of(client, 0).await;
    let sql = format!(
        "SELECT concat_ws(' ', reaped, CASE WHEN held_for_ms > 0 THEN hold_reason END)
         FROM muster_reap_stale(15000, 500, 'the test', clock_timestamp() + interval '{ahead}', 1000)"
    );
    get(client, &sql).await
}

#[tokio::test]
async fn clock_stepped_forward_and_back_leaves_no_hold_of_an_hour() {
    for expected in [Some("1 h"), None] {
        let registry = fleet(3, true).await;
        let client = &registry.client;
        set_clock(client, "1 h").await;
        assert_eq!(look_by_the_clock(client).await, "0 the database clock was stepped");
        set_clock(client, "0").await;
        let found = match expected {
            Some(ahead) => look_by_a_clock(client, ahead).await,
            // Every daemon was started again meanwhile, and knows no former time.
            None => look(client).await,
        };
        assert_eq!(found, "0 the database clock was stepped");
        assert_eq!(remaining(client).await, "20", "the longest TTL and 5 s, expecting {expected:?}");
        set_clock(client, "21 s").await;
        beat(client, &[1, 2]).await;
        assert_eq!(look(client).await, "1", "expiry goes on");
    }
}

#[tokio::test]
async fn operator_hold_keeps_its_length_when_the_clock_is_stepped() {
    let registry = fleet(3, true).await;
    let client = &registry.client;
    run(client, "SELECT muster_hold_expiry('work', 600000)").await;
    set_clock(client, "1 h").await;
    for daemon in ["the first", "the second"] {
        assert_eq!(look_by_the_clock(client).await, "0 work", "{daemon} daemon to notice");
        assert_eq!(remaining(client).await, "600", "{daemon} daemon to notice");
    }
    set_clock(client, "0").await;
    for daemon in ["the first", "the second"] {
        assert_eq!(look_by_a_clock(client, "1 h").await, "0 work", "back, {daemon} daemon to notice");
        assert_eq!(remaining(client).await, "600", "back, {daemon} daemon to notice");
    }
}

#[tokio::test]
async fn long_ttl_delays_no_other_lease_after_a_disruption() {
    let registry = fleet(4, true).await;
    let client = &registry.client;
    run(client, &format!("UPDATE registry_instance SET ttl_ms = 300000 WHERE instance_id = '{}'", id(1))).await;
    set_clock(client, "1 h").await;
    assert_eq!(look_by_the_clock(client).await, "0 the database clock was stepped");
    assert_eq!(remaining(client).await, "305");
    set_clock(client, "1 h 19 s").await;
    beat(client, &[3, 4]).await;
    assert_eq!(look(client).await, "0 the database clock was stepped", "its own TTL and 5 s are not over");
    set_clock(client, "1 h 21 s").await;
    assert_eq!(look(client).await, "1 the database clock was stepped");
    assert_eq!(field(client, 2, "status").await, "dead");
    set_clock(client, "1 h 304 s").await;
    beat(client, &[3, 4]).await;
    assert_eq!(field(client, 1, "status").await, "alive", "the long one has its time as well");
    set_clock(client, "1 h 307 s").await;
    assert_eq!(look(client).await, "1");
}

#[tokio::test]
async fn operator_hold_keeps_every_lease_although_a_disruption_came_in_between() {
    let registry = fleet(4, true).await;
    let client = &registry.client;
    run(client, "SELECT muster_hold_expiry('work', 30000)").await;
    run(client, &format!("UPDATE registry_instance SET ttl_ms = 300000 WHERE instance_id = '{}'", id(1))).await;
    set_clock(client, "1 h").await;
    assert_eq!(look_by_the_clock(client).await, "0 the database clock was stepped");
    for (at, deaths) in [("1 h 25 s", "0"), ("1 h 31 s", "1")] {
        set_clock(client, at).await;
        beat(client, &[3, 4]).await;
        assert_eq!(look(client).await, format!("{deaths} the database clock was stepped"), "{at}");
    }
}

#[tokio::test]
async fn a_beat_takes_a_stamp_from_the_future_back() {
    let registry = fleet(1, true).await;
    let client = &registry.client;
    set_clock(client, "-1 h").await;
    beat(client, &[1]).await;
    assert_eq!(field(client, 1, "last_heartbeat <= muster_now()").await, "true");
    let daemon = "SELECT last_flush <= muster_now() AND saved_up_to <= muster_now() FROM registry_daemon";
    assert!(get::<bool>(client, daemon).await);
}

/// A fleet of three on a database that a daemon has confirmed: revisions 1 to 4 are used.
async fn confirmed() -> Registry {
    let registry = fleet(3, true).await;
    confirm(&registry.client, 4).await;
    assert_eq!(cluster(&registry.client, "revision").await, "4");
    registry
}

/// The feed of a daemon that has seen so much connects.
async fn confirm(client: &Client, seen: i64) {
    run(client, &format!("SELECT muster_confirm_history({seen})")).await;
}

async fn history(client: &Client) -> String {
    cluster(client, "history_id").await
}

/// Registers, and returns the lease, which is a revision as well.
async fn lease(client: &Client, instance: u128) -> i64 {
    run(client, &register(instance, "organ", 100)).await;
    field(client, instance, "lease_id").await.parse().unwrap()
}

#[tokio::test]
async fn on_another_timeline_or_system_nothing_is_written_under_the_old_history() {
    for (column, reason) in
        [("timeline", "the database has failed over"), ("system_id", "the database was restored from a copy")]
    {
        let registry = confirmed().await;
        let client = &registry.client;
        let before = history(client).await;
        run(client, &format!("UPDATE cluster_metadata SET {column} = 'another'")).await;
        assert_eq!(lease(client, 10).await, 1_000_005, "{column}: what was lost had lower revisions than this");
        let after = history(client).await;
        assert_ne!(after, before, "{column}");
        assert_eq!(look(client).await, format!("0 {reason}"));
        assert_eq!(lease(client, 11).await, 1_000_006, "once");
        confirm(client, 4).await;
        confirm(client, 1_000_006).await;
        assert_eq!((history(client).await, lease(client, 12).await), (after, 1_000_007), "once");
        assert_eq!(cluster(client, "timeline = muster_timeline() AND system_id = muster_system_id()").await, "true");
    }
}

#[tokio::test]
async fn a_reader_that_connects_notices_another_database_before_any_write() {
    for (column, reason) in
        [("timeline", "the database has failed over"), ("system_id", "the database was restored from a copy")]
    {
        let registry = confirmed().await;
        let client = &registry.client;
        let before = history(client).await;
        run(client, &format!("LISTEN muster; UPDATE cluster_metadata SET {column} = 'another'")).await;
        confirm(client, 4).await;
        assert_ne!(history(client).await, before, "{column}");
        assert_eq!(cluster(client, "concat_ws(' ', revision, hold_reason)").await, format!("1000004 {reason}"));
    }
}

#[tokio::test]
async fn revisions_that_a_reader_has_seen_and_the_database_has_lost_are_never_used_again() {
    let registry = confirmed().await;
    let client = &registry.client;
    let before = history(client).await;
    confirm(client, 4).await;
    assert_eq!(history(client).await, before, "nothing is lost");
    confirm(client, 7_000_000).await;
    let after = history(client).await;
    assert_ne!(after, before);
    assert_eq!(
        cluster(client, "concat_ws(' ', revision, hold_reason)").await,
        "8000000 the database has lost revisions"
    );
    confirm(client, 6_999_999).await;
    assert_eq!((history(client).await, lease(client, 10).await), (after, 8_000_001), "one loss, one new history");
    // Lost together with a failover, and by far more than a million.
    run(client, "UPDATE cluster_metadata SET timeline = 'another'").await;
    confirm(client, 20_000_000).await;
    assert_eq!(lease(client, 11).await, 21_000_001);
}

#[tokio::test]
async fn engine_without_a_timeline_still_detects_lost_revisions() {
    let registry = fleet(3, true).await;
    let client = &registry.client;
    for function in ["muster_timeline", "muster_system_id"] {
        let sql = format!(
            "CREATE OR REPLACE FUNCTION {function}() RETURNS text LANGUAGE sql VOLATILE AS 'SELECT NULL::text'"
        );
        run(client, &sql).await;
    }
    let before = history(client).await;
    confirm(client, 4).await;
    assert_eq!((history(client).await, lease(client, 10).await), (before.clone(), 5));
    confirm(client, 100).await;
    assert_ne!(history(client).await, before);
    assert_eq!(lease(client, 11).await, 1_000_101);
}

#[tokio::test]
async fn a_database_that_was_never_confirmed_is_not_taken_for_another_one() {
    let registry = fleet(3, true).await;
    let client = &registry.client;
    assert_eq!(cluster(client, "concat(timeline, system_id)").await, "");
    let before = history(client).await;
    confirm(client, 0).await;
    assert_eq!((history(client).await, cluster(client, "revision").await.as_str()), (before, "4"));
    assert_eq!(cluster(client, "timeline = muster_timeline() AND system_id = muster_system_id()").await, "true");
}

#[tokio::test]
async fn of_two_writers_after_a_failover_one_begins_the_new_history() {
    let registry = confirmed().await;
    let client = &registry.client;
    run(client, "UPDATE cluster_metadata SET timeline = 'another'").await;
    let first = registry.connect().await;
    run(&first, &format!("BEGIN; {}", register(10, "organ", 100))).await;
    let second = Background::start(registry.connect().await, register(11, "organ", 100)).await;
    second.blocked(client).await;
    run(&first, "COMMIT").await;
    second.end().await.unwrap();
    let leases = "SELECT lease_id FROM registry_instance ORDER BY lease_id DESC LIMIT 2";
    assert_eq!(column::<i64>(client, leases).await, [1_000_006, 1_000_005]);
}

#[tokio::test]
async fn a_new_history_holds_expiry_for_beats_that_may_be_lost() {
    let registry = confirmed().await;
    let client = &registry.client;
    run(client, "UPDATE registry_instance SET last_heartbeat = muster_now() - interval '1 h' WHERE lease_id = 2").await;
    run(client, "UPDATE cluster_metadata SET timeline = 'another'").await;
    assert_eq!(look(client).await, "0 the database has failed over", "the reaper itself notices it");
    run(client, "UPDATE cluster_metadata SET hold_until = muster_now()").await;
    daemons_heard_of(client, 0).await;
    assert_eq!(look(client).await, "1");
}
