//! The brake and the rule of the stalled daemon: when so many seem dead at once that the fault is more likely in
//! between than with them, and when beats may be on the way.

use tokio_postgres::Client;

use crate::harness::{
    fleet::{cluster, daemons_heard_of, enter, fleet, living, look, look_as_it_is, silent},
    registry::{Background, column, get, id, run},
};

/// The present window began 16 s ago, and so is over.
async fn next_window(client: &Client) {
    run(client, "UPDATE cluster_metadata SET window_at = muster_now() - interval '16 s'").await;
}

#[tokio::test]
async fn ten_or_15_percent_die_at_once() {
    for (live, overdue) in [(40, 10), (100, 15), (200, 30)] {
        let registry = fleet(live, true).await;
        silent(&registry.client, overdue).await;
        assert_eq!(look(&registry.client).await, overdue.to_string(), "of {live}");
        assert_eq!(cluster(&registry.client, "brake").await, "");
    }
}

#[tokio::test]
async fn of_more_only_as_many_die_in_each_window() {
    let registry = fleet(100, true).await;
    let client = &registry.client;
    silent(client, 40).await;
    assert_eq!(look(client).await, "15 pace");
    assert_eq!(look(client).await, "0 pace", "all of this window");
    assert_eq!(cluster(client, "concat_ws(' ', brake_overdue, brake_live)").await, "25 85");
    assert_eq!(get::<i32>(client, "SELECT expire_stale_instances()").await, 0, "for SQL callers too");
    next_window(client).await;
    assert_eq!(look(client).await, "13 pace", "15 % of the 85 that are left");
    next_window(client).await;
    assert_eq!(look(client).await, "11 pace", "15 % of 72");
    next_window(client).await;
    assert_eq!(look(client).await, "1", "and the brake comes off");
    assert_eq!((living(client).await, cluster(client, "brake_since").await.as_str()), (60, ""));
}

#[tokio::test]
async fn deaths_of_one_window_add_up() {
    let registry = fleet(100, true).await;
    let client = &registry.client;
    silent(client, 10).await;
    assert_eq!(look(client).await, "10");
    silent(client, 10).await;
    assert_eq!(look(client).await, "5 pace", "15 of 100 in one window, however they come");
}

#[tokio::test]
async fn death_decided_by_another_daemon_is_not_counted_twice() {
    let registry = fleet(40, true).await;
    let client = &registry.client;
    silent(client, 8).await;
    let first = registry.connect().await;
    run(&first, "BEGIN").await;
    assert_eq!(look(&first).await, "8");
    let reap = "SELECT FROM muster_reap_stale(15000, 500, 'another')";
    let second = Background::start(registry.connect().await, reap.to_owned()).await;
    second.blocked(client).await;
    run(&first, "COMMIT").await;
    second.end().await.unwrap();
    assert_eq!(cluster(client, "concat_ws(' ', brake, window_reaped)").await, "8", "10 may die, 8 are dead");
}

#[tokio::test]
async fn small_fleet_that_is_silent_at_once_is_protected() {
    for live in [2, 3, 10] {
        let registry = fleet(live, true).await;
        silent(&registry.client, live).await;
        assert_eq!(look(&registry.client).await, "0 protect", "of {live}");
    }
    let registry = fleet(3, true).await;
    silent(&registry.client, 2).await;
    assert_eq!(look(&registry.client).await, "0 protect", "two of three");
    let registry = fleet(1, true).await;
    silent(&registry.client, 1).await;
    assert_eq!(look(&registry.client).await, "1", "one silent instance is no sign of a cut network");
}

#[tokio::test]
async fn where_no_daemon_ever_ran_nothing_is_braked() {
    let registry = fleet(100, false).await;
    silent(&registry.client, 100).await;
    assert_eq!(look(&registry.client).await, "100");
}

#[tokio::test]
async fn mostly_silent_fleet_is_protected_until_the_share_falls() {
    let registry = fleet(100, true).await;
    let client = &registry.client;
    silent(client, 50).await;
    assert_eq!(look(client).await, "15 pace", "half of them is not more than half");
    next_window(client).await;
    silent(client, 43).await;
    for _ in 0..2 {
        assert_eq!(look(client).await, "0 protect", "43 of 85");
        next_window(client).await;
    }
    assert_eq!(cluster(client, "concat_ws(' ', brake, brake_overdue, brake_live)").await, "protect 43 85");
    assert_eq!(get::<i32>(client, "SELECT expire_stale_instances()").await, 0, "for SQL callers too");
    silent(client, 42).await;
    assert_eq!(look(client).await, "0 most instances were silent at once", "one of them was heard");
    run(client, "UPDATE cluster_metadata SET hold_until = muster_now()").await;
    assert_eq!(look(client).await, "13 pace", "after the time that each of them has to follow");
    silent(client, 0).await;
    assert_eq!(look(client).await, "0", "all of them were heard");
    assert_eq!((living(client).await, cluster(client, "brake").await.as_str()), (72, ""));
}

#[tokio::test]
async fn protection_ends_after_ten_minutes_and_deaths_are_paced() {
    let registry = fleet(100, true).await;
    let client = &registry.client;
    silent(client, 90).await;
    assert_eq!(look(client).await, "0 protect");
    run(client, "UPDATE cluster_metadata SET silent_since = muster_now() - interval '9 min 50 s'").await;
    assert_eq!(look(client).await, "0 protect");
    run(client, "UPDATE cluster_metadata SET silent_since = muster_now() - interval '10 min'").await;
    assert_eq!(look(client).await, "15 pace");
    next_window(client).await;
    assert_eq!(look(client).await, "13 pace", "still more than half, and no further ten minutes");
}

#[tokio::test]
async fn protection_has_its_ten_minutes_however_long_deaths_were_paced() {
    let registry = fleet(100, true).await;
    let client = &registry.client;
    silent(client, 40).await;
    assert_eq!(look(client).await, "15 pace");
    run(client, "UPDATE cluster_metadata SET brake_since = muster_now() - interval '1 h'").await;
    next_window(client).await;
    silent(client, 80).await;
    assert_eq!(look(client).await, "0 protect");
    assert_eq!(cluster(client, "brake_since > muster_now() - interval '1 min'").await, "true");
}

#[tokio::test]
async fn after_a_hold_protection_has_its_ten_minutes_again() {
    let registry = fleet(100, true).await;
    let client = &registry.client;
    silent(client, 80).await;
    assert_eq!(look(client).await, "0 protect");
    run(client, "UPDATE cluster_metadata SET brake_since = muster_now() - interval '1 h'").await;
    run(client, "SELECT muster_hold_expiry('the test')").await;
    assert_eq!(look(client).await, "0 the test", "no lease is judged, so nothing is braked");
    run(client, "UPDATE cluster_metadata SET hold_until = muster_now()").await;
    assert_eq!(look(client).await, "0 protect");
}

#[tokio::test]
async fn a_release_takes_hold_and_brake_off_for_its_time() {
    let registry = fleet(200, true).await;
    let client = &registry.client;
    silent(client, 150).await;
    assert_eq!(look(client).await, "0 protect");
    run(client, "SELECT muster_hold_expiry('the test'); SELECT muster_release_expiry(60000)").await;
    assert_eq!(cluster(client, "coalesce(brake, hold_reason)").await, "");
    assert_eq!(look(client).await, "150");
    silent(client, 40).await;
    assert_eq!(look(client).await, "40");
    run(client, "UPDATE cluster_metadata SET released_until = muster_now()").await;
    silent(client, 4).await;
    next_window(client).await;
    assert_eq!(look(client).await, "4");
    let registry = fleet(40, true).await;
    let client = &registry.client;
    run(client, "SELECT muster_release_expiry(60000); UPDATE cluster_metadata SET released_until = muster_now()").await;
    silent(client, 30).await;
    assert_eq!(look(client).await, "0 protect", "its time is over");
}

#[tokio::test]
async fn disruption_after_a_release_holds_again() {
    let registry = fleet(20, true).await;
    let client = &registry.client;
    silent(client, 20).await;
    run(client, "SELECT muster_release_expiry(60000); SELECT muster_hold_expiry('the test')").await;
    assert_eq!(look(client).await, "0 the test");
}

#[tokio::test]
async fn a_hold_is_named_with_its_end_and_a_shorter_one_changes_nothing() {
    let registry = fleet(1, true).await;
    let client = &registry.client;
    assert_eq!(get::<i64>(client, "SELECT muster_hold_expiry('long', 600000)").await, 600_000);
    assert_eq!(get::<i64>(client, "SELECT muster_hold_expiry('short')").await, 20_000, "what it asks for");
    let remaining = "round(extract(epoch FROM hold_until - muster_now()) / 60)";
    assert_eq!(cluster(client, &format!("concat_ws(' ', hold_reason, {remaining})")).await, "long 10");
    run(client, "SELECT muster_hold_expiry('longest', 3600000)").await;
    assert_eq!(cluster(client, &format!("concat_ws(' ', hold_reason, {remaining})")).await, "longest 60");
}

#[tokio::test]
async fn no_lease_expires_while_a_daemon_has_not_saved_for_3_s() {
    let registry = fleet(5, true).await;
    let client = &registry.client;
    enter(client, 901).await;
    silent(client, 2).await;
    run(client, "UPDATE registry_daemon SET saved_up_to = muster_now()").await;
    for (heard_ago, expected) in [(4_000, 11), (14_500, 1)] {
        let stalled = format!(
            "UPDATE registry_daemon SET last_flush = muster_now() - {heard_ago} * interval '1 ms' WHERE daemon_id = '{}'",
            id(901)
        );
        run(client, &stalled).await;
        assert_eq!(look_as_it_is(client).await, "0 a daemon has stopped saving beats");
        let held = "SELECT ceil(held_for_ms / 1000.0)::bigint FROM muster_reap_stale(15000, 500, 'the test')";
        assert_eq!(get::<i64>(client, held).await, expected, "until it is given up");
        assert_eq!(get::<i32>(client, "SELECT expire_stale_instances()").await, 0);
    }
    assert_eq!(cluster(client, "hold_until").await, "", "that is no hold yet");
    daemons_heard_of(client, 2_000).await;
    run(client, "UPDATE registry_daemon SET saved_up_to = muster_now()").await;
    assert_eq!(look_as_it_is(client).await, "2", "2 s are not too long");
}

#[tokio::test]
async fn daemon_silent_for_15_s_is_evicted_and_a_hold_begins() {
    let registry = fleet(5, true).await;
    let client = &registry.client;
    enter(client, 901).await;
    silent(client, 2).await;
    daemons_heard_of(client, 0).await;
    let lost = format!(
        "UPDATE registry_daemon SET last_flush = muster_now() - interval '16 s' WHERE daemon_id = '{}'",
        id(901)
    );
    run(client, &lost).await;
    assert_eq!(look(client).await, "2", "unless it came back in time");
    let registry = fleet(5, true).await;
    let client = &registry.client;
    enter(client, 901).await;
    silent(client, 2).await;
    daemons_heard_of(client, 0).await;
    run(client, &lost).await;
    assert_eq!(look_as_it_is(client).await, "0 a daemon was lost");
    let daemons = "SELECT daemon_id FROM registry_daemon ORDER BY 1";
    assert_eq!(column::<uuid::Uuid>(client, daemons).await, [id(900)]);
    let losses = "SELECT daemon_id FROM registry_daemon_loss";
    assert_eq!(column::<uuid::Uuid>(client, losses).await, [id(901)], "the loss is kept");
    let until = cluster(client, "hold_until").await;
    assert_eq!(look(client).await, "0 a daemon was lost");
    assert_eq!(cluster(client, "hold_until").await, until, "one loss, one hold");

    let flush = format!("SELECT entered FROM muster_flush_beats('{}', '{{}}', '{{}}', muster_now())", id(901));
    assert!(!get::<bool>(client, &flush).await, "its next flush tells it");
    enter(client, 901).await;
    assert!(get::<bool>(client, &flush).await);
    assert_eq!(column::<uuid::Uuid>(client, daemons).await, [id(900), id(901)]);
    assert!(column::<uuid::Uuid>(client, losses).await.is_empty(), "its address is served again");
    run(client, "UPDATE cluster_metadata SET hold_until = muster_now()").await;
    assert_eq!(look(client).await, "2", "the hold was not for ever");
}
