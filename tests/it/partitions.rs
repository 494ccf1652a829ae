//! A network that is cut between the actors and the daemon: the actors are alive, and no beat arrives.
//!
//! PostgreSQL sees the same rows as after the death of all of them. What differs is that no lease at all is heard any more,
//! while a crash leaves the others beating. Time does not pass in most of these tests: the database clock is moved.

use std::time::Duration;

use tokio_postgres::Client;

use crate::harness::{
    actor::{Caller, alive},
    daemon::Daemon,
    fleet::{cluster, fleet, living, look, set_clock},
    postgres::{TestDatabase, connect},
    registry::{field, get, id, run},
    wait::wait_until,
};

/// The sizes of the fleets that are cut off.
const SIZES: [u32; 5] = [2, 5, 10, 40, 60];
/// TTL of an instance that asked for none, and how often it beats, in milliseconds.
const TTL_MS: u32 = 15_000;
const INTERVAL_MS: u32 = TTL_MS / 3;
/// How long a fleet is cut off.
const CUT_MS: u32 = 30_000;
/// How often the reaper looks at least while a deadline has passed.
const LOOK_MS: u32 = 400;

/// Moves the database clock to so many milliseconds after the beginning of the test.
async fn at(client: &Client, ms: u32) {
    set_clock(client, &format!("{ms} ms")).await;
}

/// Each instance from `first` on was last heard by the database within the interval that ends now, evenly spread.
async fn spread_beats(client: &Client, first: u32, live: u32) {
    let sql = format!(
        "UPDATE registry_instance AS instance
         SET last_heartbeat = muster_now() - ranked.rank * {INTERVAL_MS} / {live} * interval '1 ms'
         FROM (SELECT instance_id, row_number() OVER (ORDER BY lease_id) AS rank FROM registry_instance) AS ranked
         WHERE ranked.instance_id = instance.instance_id AND ranked.rank >= {first}"
    );
    run(client, &sql).await;
}

#[tokio::test]
async fn small_fleet_cut_off_for_30_s_loses_no_instance() {
    for live in SIZES {
        let registry = fleet(live, true).await;
        let client = &registry.client;
        at(client, 0).await;
        spread_beats(client, 1, live).await;
        for ms in (0..CUT_MS).step_by(LOOK_MS as usize) {
            at(client, ms).await;
            look(client).await;
            assert_eq!(living(client).await, i64::from(live), "of {live}, {ms} ms after the cut");
        }
        assert_eq!(cluster(client, "brake").await, "protect", "of {live}");
        // Then one beat arrives after the other, within the interval.
        for heard in 1..=live {
            at(client, CUT_MS + heard * INTERVAL_MS / live).await;
            run(
                client,
                &format!(
                    "UPDATE registry_instance SET last_heartbeat = muster_now() WHERE instance_id = '{}'",
                    id(heard.into())
                ),
            )
            .await;
            look(client).await;
        }
        assert_eq!(living(client).await, i64::from(live), "of {live}, after the cut");
        assert_eq!(cluster(client, "brake").await, "", "of {live}: all are heard");
    }
}

#[tokio::test]
async fn single_crashed_instance_dies_within_its_ttl_and_3_s() {
    for live in [1].into_iter().chain(SIZES) {
        let registry = fleet(live, true).await;
        let client = &registry.client;
        at(client, 0).await;
        spread_beats(client, 1, live).await;
        run(client, "UPDATE registry_instance SET last_heartbeat = muster_now() WHERE lease_id = 2").await;
        let mut ms = 0;
        loop {
            at(client, ms).await;
            spread_beats(client, 2, live).await;
            look(client).await;
            if field(client, 1, "status").await == "dead" {
                break;
            }
            ms += LOOK_MS;
            assert!(ms < TTL_MS + 3_000, "of {live} instances, the crashed one lives {ms} ms after its last beat");
        }
        // By the times in the row: the clock of this machine goes on as well while the test looks.
        let in_time = "stopped_at > death_deadline AND stopped_at < death_deadline + interval '3 s'";
        assert_eq!(field(client, 1, in_time).await, "true", "of {live} instances");
        assert_eq!(living(client).await, i64::from(live) - 1);
    }
}

/// Longer than anything here takes.
const BOUND: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn actors_cut_off_for_three_ttls_keep_their_leases() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    let caller = Caller::of(&daemon);
    let ttl = Duration::from_secs(3);
    let mut leases = Vec::new();
    for _ in 0..12 {
        leases.push(caller.register(alive("organ", ttl)).await.unwrap().lease_id);
        tokio::time::sleep(ttl / 36).await;
    }
    let client = connect(database.url()).await;
    run(&client, "SELECT muster_release_expiry(0)").await;
    wait_until("they are silent for three TTLs", BOUND, async || {
        let silent = "SELECT min(last_heartbeat) < muster_now() - interval '9 s' FROM registry_instance";
        if get::<bool>(&client, silent).await { Ok(()) } else { Err("heard lately") }
    })
    .await;
    assert_eq!(living(&client).await, 12);
    for lease in &leases {
        caller.beat(*lease).await.unwrap();
    }
    // The one that stays away then dies, and only that.
    let (last, others) = leases.split_last().unwrap();
    wait_until("the silent one dies", BOUND, async || {
        for lease in others {
            caller.beat(*lease).await.map_err(|reason| format!("{lease}: {reason}"))?;
        }
        let status = format!("SELECT status::text FROM registry_instance WHERE lease_id = {last}");
        match get::<String>(&client, &status).await {
            status if status == "dead" => Ok(()),
            status => Err(status),
        }
    })
    .await;
    assert_eq!(living(&client).await, 11);
}
