//! One row that no client could have written harms itself alone: every loop over rows goes on with the others.
//!
//! The odd values are those that the tables accept from a hand: infinite times, times beyond what other types hold, numbers
//! out of range, addresses with a prefix length, labels that no parser of JSON takes, numbers that contradict each other.

use std::time::Duration;

use futures_util::TryStreamExt as _;
use musterd_client::{Epoch, Filter, Instance, Status};
use tokio_postgres::Client;

use crate::harness::{
    actor::{Caller, alive},
    daemon::Daemon,
    postgres::{TestDatabase, connect},
    registry::{Registry, column, field, get, id, make_alive, run, silence},
    wait::wait_until,
};

const BOUND: Duration = Duration::from_secs(20);

/// Times that break arithmetic, conversions, or both.
const ODD_TIMES: [&str; 5] =
    ["-infinity", "infinity", "294276-12-31 23:59:59.999999+00", "4714-11-24 00:00:00+00 BC", "9999-12-31 23:59:59+00"];

/// Assignments that a hand can make to one row.
fn odd_assignments() -> Vec<String> {
    let times = ODD_TIMES.into_iter().flat_map(|time| {
        ["last_heartbeat", "started_at", "stopped_at", "death_deadline"].map(|column| format!("{column} = '{time}'"))
    });
    let others = [
        "labels = '{\"n\": 1e400}'",
        "labels = ('{\"deep\": ' || repeat('[', 200) || repeat(']', 200) || '}')::jsonb",
        "labels = '{\"n\": {\"a\": null}}'",
        "ip_address = '10.0.0.0/8'",
        "ip_address = '::/0'",
        "pid = -1",
        "pid = -2147483648",
        "status = 'dead', stopped_at = NULL, death_reason = NULL",
        "status = 'dead', stopped_at = 'infinity', death_reason = NULL",
        "cluster_epoch = gen_random_uuid()",
        "replaces_lease_id = -9223372036854775808",
        "replaces_lease_id = 9223372036854775807",
        "logical_id = ''",
        "logical_id = repeat('x', 100000)",
        "actor_name = E'\\n', serve_route = E'\\u200b', node_id = '', version = repeat('v', 100000)",
    ];
    times.chain(others.map(str::to_owned)).collect()
}

async fn registry() -> Registry {
    let registry = Registry::head().await;
    run(&registry.client, &format!("SELECT set_current_epoch('{}')", id(100))).await;
    registry
}

fn of(instance: u128) -> String {
    format!("WHERE instance_id = '{}'", id(instance))
}

/// What every loop over rows asks of PostgreSQL, in its own words.
async fn loops(client: &Client, what: &str) {
    for sql in [
        "SELECT expire_stale_instances(15)",
        "SELECT expire_stale_instances(2147483647)",
        "SELECT count(*) FROM muster_reap_stale(15000, 100, 'the test', muster_now(), 60000)",
        "SELECT expire_old_epoch_instances()",
        "SELECT count(*) FROM muster_flush_beats(gen_random_uuid(), (SELECT array_agg(lease_id) FROM registry_instance), (SELECT array_agg(0::bigint) FROM registry_instance))",
        "SELECT count(*) FROM muster_exchange_suspicions((SELECT array_agg(lease_id) FROM registry_instance), (SELECT array_agg(9::bigint) FROM registry_instance), '{}')",
        "SELECT count(*) FROM active_instance",
        "SELECT count(*) FROM active_instances",
        "SELECT count(*) FROM alive_at(now())",
        "SELECT count(*) FROM alive_at('infinity')",
        "SELECT muster_purge_dead(86400000, 100)",
        "SELECT muster_hold_expiry('the test', 1)",
        "SELECT muster_note_disruption('the test')",
        "SELECT muster_release_expiry(1)",
    ] {
        client.query(sql, &[]).await.unwrap_or_else(|error| panic!("{what}: {sql}: {error:?}"));
    }
}

#[tokio::test]
async fn odd_row_stops_no_loop_in_sql() {
    let Registry { client, database: _database } = &registry().await;
    for (number, assignment) in (1000..).zip(odd_assignments()) {
        make_alive(client, number, "odd", 100).await;
        run(client, &format!("UPDATE registry_instance SET {assignment} {}", of(number))).await;
        loops(client, &assignment).await;
    }
    // Ended like any other, and purged in the end.
    let living = "SELECT instance_id FROM registry_instance AS instance JOIN cluster_metadata ON current_epoch = cluster_epoch WHERE status <> 'dead'";
    let living = column::<uuid::Uuid>(client, living).await;
    assert!(living.len() > 10, "{}", living.len());
    for instance_id in living {
        run(client, &format!("SELECT set_instance_status('{instance_id}', 'dead')")).await;
    }
    loops(client, "all of them, dead").await;
}

#[tokio::test]
async fn silent_instance_dies_beside_an_odd_row() {
    let Registry { client, database: _database } = &registry().await;
    for (number, time) in (1..).zip(ODD_TIMES) {
        let (odd, silent) = (1_000 + number, number);
        make_alive(client, odd, "odd", 100).await;
        make_alive(client, silent, "organ", 100).await;
        run(client, &format!("UPDATE registry_instance SET last_heartbeat = '{time}' {}", of(odd))).await;
        silence(client, silent, 3_600).await;
        run(client, "UPDATE cluster_metadata SET hold_until = NULL").await;
        run(client, "SELECT expire_stale_instances(15)").await;
        assert_eq!(field(client, silent, "status").await, "dead", "{time}");
    }
}

#[tokio::test]
async fn beat_from_the_future_counts_as_one_of_now() {
    let Registry { client, database: _database } = &registry().await;
    make_alive(client, 1, "organ", 100).await;
    run(client, "UPDATE registry_instance SET last_heartbeat = 'infinity'").await;
    assert_eq!(get::<i32>(client, "SELECT expire_stale_instances(15)").await, 0, "it has its TTL from here on");
    assert_eq!(
        field(client, 1, "last_heartbeat BETWEEN now() - interval '1 minute' AND now() + interval '1 minute'").await,
        "true"
    );
    silence(client, 1, 3_600).await;
    assert_eq!(get::<i32>(client, "SELECT expire_stale_instances(15)").await, 1);
}

#[tokio::test]
async fn beat_through_sql_heals_an_infinite_time() {
    let Registry { client, database: _database } = &registry().await;
    make_alive(client, 1, "organ", 100).await;
    run(client, "UPDATE registry_instance SET last_heartbeat = 'infinity'").await;
    run(client, &format!("SELECT beat('{}')", id(1))).await;
    assert_eq!(field(client, 1, "isfinite(last_heartbeat)").await, "true");
}

#[tokio::test]
async fn odd_times_of_daemons_and_suspicions_stop_no_loop() {
    let Registry { client, database: _database } = &registry().await;
    make_alive(client, 1, "organ", 100).await;
    for time in ODD_TIMES {
        run(
            client,
            &format!("INSERT INTO registry_daemon VALUES ('{}', 'a', 'v', now(), now()) ON CONFLICT DO NOTHING", id(7)),
        )
        .await;
        run(
            client,
            &format!("UPDATE registry_daemon SET last_flush = '{time}', saved_up_to = '{time}', started_at = '{time}'"),
        )
        .await;
        run(client, &format!("INSERT INTO registry_suspicion VALUES (2, '{time}') ON CONFLICT (lease_id) DO UPDATE SET suspected_at = excluded.suspected_at")).await;
        loops(client, time).await;
        run(
            client,
            &format!(
                "UPDATE cluster_metadata SET hold_until = '{time}', held_until = '{time}', disrupted_at = '{time}', \
                      silent_since = '{time}', stepped_at = '{time}', brake_since = '{time}', window_at = '{time}'"
            ),
        )
        .await;
        loops(client, time).await;
    }
}

#[tokio::test]
async fn daemon_row_from_the_future_does_not_stop_deaths() {
    let Registry { client, database: _database } = &registry().await;
    make_alive(client, 1, "organ", 100).await;
    silence(client, 1, 3_600).await;
    run(
        client,
        &format!("INSERT INTO registry_daemon VALUES ('{}', 'a', 'v', now(), 'infinity', '', '-infinity')", id(7)),
    )
    .await;
    assert_eq!(get::<i32>(client, "SELECT expire_stale_instances(15)").await, 1);
}

#[tokio::test]
async fn dead_row_that_stopped_in_the_future_is_purged() {
    let Registry { client, database: _database } = &registry().await;
    make_alive(client, 1, "organ", 100).await;
    run(client, "UPDATE registry_instance SET status = 'dead', stopped_at = 'infinity'").await;
    assert_eq!(get::<i32>(client, "SELECT muster_purge_dead(86400000, 100)").await, 1);
}

async fn shows(caller: &Caller, instance: u128) -> Instance {
    let instance_id = id(instance).to_string();
    wait_until("the instance shows", BOUND, async || caller.instance(&instance_id).await).await
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_row_stops_no_loop_of_a_daemon() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    let caller = Caller::of(&daemon);
    let client = connect(database.url()).await;
    run(&client, &format!("SELECT set_current_epoch('{}')", id(100))).await;
    for (number, assignment) in (1000..).zip(odd_assignments()) {
        make_alive(&client, number, "odd", 100).await;
        run(&client, &format!("UPDATE registry_instance SET {assignment} {}", of(number))).await;
    }
    let time = "infinity";
    run(&client, &format!("INSERT INTO registry_daemon VALUES ('{}', 'a', 'v', '{time}', '{time}')", id(7))).await;
    run(&client, &format!("UPDATE registry_epoch SET started_at = '-{time}'")).await;
    make_alive(&client, 1, "organ", 100).await;
    shows(&caller, 1).await;
    let listed = caller.list(Filter::all()).await.unwrap();
    assert!(listed.len() > 1, "{listed:?}");
    let epochs: Vec<Epoch> = caller.client().epochs().try_collect().await.unwrap();
    assert_eq!(epochs.len(), 2);
    // A daemon that loads them all at its start.
    let second = Daemon::start(database.url()).await;
    let there = Caller::of(&second);
    for caller in [&caller, &there] {
        let registered = caller.register(alive("fresh", Duration::from_secs(2))).await.unwrap();
        run(&client, "SELECT muster_release_expiry(600000)").await;
        wait_until("a silent instance dies", BOUND, async || {
            match caller.instance(&registered.instance_id).await?.status {
                Status::Dead => Ok(()),
                status => Err(status.as_str().to_owned()),
            }
        })
        .await;
    }
    assert!(!daemon.log().contains("lost its connection"), "{}", daemon.log());
    let metric = daemon.metric("musterd_rows_unreadable_total").await;
    assert_eq!(metric, Some(2.0), "the two rows with labels that cannot be read");
    let log = daemon.log();
    assert_eq!(log.matches("value in a row cannot be read").count(), 2, "once for each row: {log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn instance_started_at_an_infinite_time_ranks_as_in_sql() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    let caller = Caller::of(&daemon);
    let client = connect(database.url()).await;
    run(&client, &format!("SELECT set_current_epoch('{}')", id(100))).await;
    make_alive(&client, 1, "organ", 100).await;
    make_alive(&client, 2, "organ", 100).await;
    run(&client, &format!("UPDATE registry_instance SET started_at = 'infinity', serve_route = '/odd' {}", of(1)))
        .await;
    wait_until("the change shows", BOUND, async || match caller.instance(&id(1).to_string()).await?.serve_route {
        route if route == "/odd" => Ok(()),
        route => Err(route),
    })
    .await;
    let best = column::<uuid::Uuid>(&client, "SELECT instance_id FROM active_instance").await;
    assert_eq!(best, [id(2)]);
    assert_eq!(caller.best("organ").await, id(2).to_string());
}
