//! Bugs planted on purpose: proof that the checker sees.
//!
//! Each is a small change of one SQL function, made in the test's own database, whose daemons leave it as it is: others put
//! functions back that another session has changed. The text that is replaced must be there, so a bug that can no
//! longer be planted is noticed. A run with a bug is given what makes the bug bite; then some rule has to be broken.

use std::time::Duration;

use musterd::proto::v1::InstanceStatus;
use tokio::time::sleep;

use super::{
    campaign,
    checker::{Demands, Rule},
    client::{Client, Registration},
    history::{Answer, Outcome},
    nemesis::Fault,
    proxy::Mode,
    world::{Database, Population, TTL, World},
};
use crate::harness::{
    postgres::BOUND,
    registry::{get, run},
    wait::wait_until,
};

/// Few, so that the machine is not what is tested.
const FEW: Population = Population { daemons: 2, actors: 8, quitters: 0, writers: 2, routers: 1, watchers: 2 };

/// A world with daemons and without clients.
async fn world(daemons: usize) -> World {
    let mut world = World::shared(daemons, 7).await;
    leave_as_planted(&mut world);
    world.start_daemons().await;
    world
}

/// Its daemons do not put functions back.
fn leave_as_planted(world: &mut World) {
    world.nodes.iter_mut().for_each(|node| node.place.flags.push("--no-migrate".to_owned()));
}

/// Replaces texts in a function.
async fn plant(world: &World, function: &str, changes: &[(&str, &str)]) {
    let sql = world.sql().await;
    let mut text: String = get(&sql, &format!("SELECT pg_get_functiondef('{function}'::regproc)")).await;
    for (right, wrong) in changes {
        assert!(text.contains(right), "{function} no longer has {right:?} in it; plant this bug elsewhere\n{text}");
        text = text.replace(right, wrong);
    }
    run(&sql, &text).await;
}

/// Judges; one of the rules has to be broken.
async fn assert_caught(world: World, name: &str, rules: &[Rule]) {
    let (verdict, _) = world.finish(name, 7, Demands::default()).await;
    let mut broken: Vec<_> = verdict.violations.iter().map(|violation| violation.rule).collect();
    broken.dedup();
    assert!(broken.iter().any(|rule| rules.contains(rule)), "{name} was not caught as {rules:?}; broken: {broken:?}");
}

async fn seconds(seconds: u64) {
    sleep(Duration::from_secs(seconds)).await;
}

/// Waits until an actor with such a lease is declared dead for silence.
async fn death(world: &World, lease: &str) {
    let sql = world.sql().await;
    let dead = format!(
        "SELECT count(*) FROM registry_instance
         WHERE death_reason = 'stale' AND logical_id NOT LIKE 'writer-%' AND {lease}"
    );
    wait_until("a death of an actor", BOUND, async || {
        if get::<i64>(&sql, &dead).await > 0 { Ok(()) } else { Err("none has died") }
    })
    .await;
}

/// A lease of its own, without beats.
async fn lease(world: &mut World, client: &Client, daemon: usize, instance: uuid::Uuid) -> u64 {
    let asked = Registration {
        instance,
        logical_id: "own".to_owned(),
        content: format!("own-{}", world.dice.next()),
        epoch: None,
        status: InstanceStatus::Alive,
        ttl: TTL,
    };
    match client.register(daemon, 1, &asked).await {
        Outcome::Ok(Answer::Registered { lease, .. }) => lease,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sequence_instead_of_the_row_lock_is_caught() {
    let mut world = world(2).await;
    let sequence = "CREATE SEQUENCE planted; SELECT setval('planted', revision + 10) FROM cluster_metadata";
    run(&world.sql().await, sequence).await;
    let changes = [
        ("v_cluster := muster_lock_cluster();", "SELECT * INTO v_cluster FROM cluster_metadata WHERE id = 1;"),
        ("    LOOP\n", "    LOOP\n        v_revision := nextval('planted') - 1; PERFORM pg_sleep(random() * 0.03);\n"),
    ];
    plant(&world, "muster_apply", &changes).await;
    world.populate(Population { writers: 6, watchers: 4, ..FEW }).await;
    seconds(4).await;
    assert_caught(world, "sequence", &[Rule::Order, Rule::Watch, Rule::Answer]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn registrations_into_an_older_epoch_are_caught() {
    let mut world = world(2).await;
    let check = "coalesce(p_op.cluster_epoch, p_cluster.current_epoch) <> p_cluster.current_epoch";
    plant(&world, "muster_apply_register", &[(check, "false")]).await;
    world.populate(FEW).await;
    seconds(1).await;
    campaign::disrupt(&mut world, &[Fault::RotationStorm]).await;
    assert_caught(world, "epoch", &[Rule::Fence]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn status_changes_of_an_older_epoch_are_caught() {
    let mut world = world(2).await;
    plant(&world, "muster_apply_status", &[("ELSIF v_old THEN", "ELSIF false THEN")]).await;
    plant(&world, "muster_reap_old_epoch", &[("LIMIT p_limit", "LIMIT 0")]).await;
    world.populate(Population { writers: 6, ..FEW }).await;
    seconds(1).await;
    campaign::disrupt(&mut world, &[Fault::RotationStorm]).await;
    assert_caught(world, "status-epoch", &[Rule::Fence]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flush_that_revives_the_dead_is_caught() {
    let mut world = world(2).await;
    let changes =
        [(" AND instance.status <> 'dead'", ""), ("SET last_heartbeat =", "SET status = 'alive', last_heartbeat =")];
    plant(&world, "muster_flush_beats", &changes).await;
    // A trigger would refuse it: two guards have to fall.
    plant(
        &world,
        "muster_stamp_row",
        &[("ELSIF OLD.status = 'dead' AND NEW.status <> 'dead' THEN", "ELSIF false THEN")],
    )
    .await;
    let (client, instance) = (world.client(), world.dice.id());
    let lease = lease(&mut world, &client, 0, instance).await;
    // A beat is being saved while the lease ends.
    let (ending, observer) = (world.sql().await, world.sql().await);
    run(&ending, &format!("BEGIN; SELECT FROM registry_instance WHERE lease_id = {lease} FOR UPDATE")).await;
    assert!(matches!(client.beat(0, lease).await, Outcome::Ok(_)));
    wait_until("a flush that waits for the row", BOUND, async || {
        let waits = "SELECT count(*) FROM pg_stat_activity
                     WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%flush%'";
        if get::<i64>(&observer, waits).await > 0 { Ok(()) } else { Err("none waits") }
    })
    .await;
    run(&ending, &format!("SELECT set_instance_status('{instance}', 'dead'); COMMIT")).await;
    seconds(1).await;
    assert_caught(world, "revive", &[Rule::Final]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deaths_before_their_time_are_caught() {
    deaths_before_their_time(World::shared(2, 7).await, "early").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deaths_before_their_time_are_caught_between_secured_daemons() {
    deaths_before_their_time(World::secured(2, 7).await, "early-secured").await;
}

async fn deaths_before_their_time(mut world: World, name: &str) {
    leave_as_planted(&mut world);
    world.start_daemons().await;
    let early = ("interval '1 millisecond'", "interval '50 microseconds'");
    plant(&world, "muster_deadline", &[early]).await;
    // The brake would protect a fleet whose leases all seem silent.
    plant(&world, "muster_brake", &[("\nBEGIN\n", "\nBEGIN\n    RETURN 2147483647;\n")]).await;
    world.populate(FEW).await;
    death(&world, "true").await;
    assert_caught(world, name, &[Rule::FalseDeath]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deaths_by_an_outage_without_a_hold_are_caught() {
    let mut world = world(1).await;
    let held = ("v_cluster := muster_lock_cluster();", "RETURN 0;");
    plant(&world, "muster_note_disruption", &[held]).await;
    // The brake would protect a fleet that is silent at once.
    plant(&world, "muster_brake", &[("\nBEGIN\n", "\nBEGIN\n    RETURN 2147483647;\n")]).await;
    world.populate(Population { daemons: 1, writers: 0, ..FEW }).await;
    seconds(2).await;
    // The daemon has PostgreSQL again a moment before its clients have the daemon again.
    let hole = Mode::BlackHole { from_client: true, from_server: true };
    world.nodes[0].to_database.set(hole);
    world.nodes[0].to_daemon.set(hole);
    seconds(5).await;
    world.nodes[0].to_database.heal();
    seconds(2).await;
    world.nodes[0].to_daemon.heal();
    seconds(1).await;
    assert_caught(world, "hold", &[Rule::LostToOutage]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deaths_all_at_once_without_a_brake_are_caught() {
    let mut world = world(2).await;
    plant(&world, "muster_brake", &[("\nBEGIN\n", "\nBEGIN\n    RETURN 2147483647;\n")]).await;
    world.populate(Population { actors: 40, quitters: 30, writers: 0, ..FEW }).await;
    seconds(8).await;
    assert_caught(world, "brake", &[Rule::Paced]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn locks_in_no_order_are_caught() {
    let mut world = world(2).await;
    let changes = [
        ("PERFORM FROM registry_instance", "PERFORM pg_sleep(0.003) FROM registry_instance"),
        ("ORDER BY instance.lease_id", "ORDER BY random()"),
    ];
    plant(&world, "muster_flush_beats", &changes).await;
    let client = world.client();
    let mut leases = Vec::new();
    for _ in 0..20 {
        let instance = world.dice.id();
        leases.push(lease(&mut world, &client, 0, instance).await);
    }
    // Every lease beats at both daemons.
    let sql = world.sql().await;
    for _ in 0..40 {
        for lease in &leases {
            client.beat(0, *lease).await;
            client.beat(1, *lease).await;
        }
        let deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
        if get::<i64>(&sql, deadlocks).await > 0 {
            break;
        }
        sleep(Duration::from_millis(300)).await;
    }
    assert_caught(world, "unsorted", &[Rule::Hygiene]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repetition_that_takes_effect_twice_is_caught() {
    let mut world = world(2).await;
    let known = "v_row.instance_id IS NOT NULL AND v_row.status <> 'dead'";
    plant(&world, "muster_apply_register", &[(known, "false")]).await;
    world.populate(Population { writers: 4, ..FEW }).await;
    seconds(1).await;
    // Which answers are lost is chance: one of them has to be that of a registration.
    for _ in 0..8 {
        campaign::disrupt(&mut world, &[Fault::LoseAnswers]).await;
    }
    assert_caught(world, "twice", &[Rule::Doubled]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledgements_before_the_disk_has_it_are_caught() {
    let mut world = World::own(1, 7).await;
    leave_as_planted(&mut world);
    world.start_daemons().await;
    // What the disk gets by itself it gets late.
    run(&world.sql().await, "ALTER SYSTEM SET wal_writer_delay = '10s'").await;
    run(&world.sql().await, "SELECT pg_reload_conf()").await;
    let durable = "IF current_setting('synchronous_commit') = 'off' THEN";
    let changes = [(durable, "IF true THEN"), ("'synchronous_commit', 'on'", "'synchronous_commit', 'off'")];
    plant(&world, "muster_lock_cluster", &changes).await;
    world.populate(Population { daemons: 1, ..FEW }).await;
    seconds(2).await;
    if let Database::Own(cluster) = &mut world.database {
        cluster.kill9();
        cluster.start().await;
    }
    seconds(2).await;
    assert_caught(world, "asynchronous", &[Rule::Lost]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_behind_the_back_of_watchers_are_caught() {
    let mut world = world(2).await;
    let set = "SET status = p_op.status, revision = p_revision";
    let hidden = "SET status = p_op.status, revision = p_revision - 1000000";
    plant(&world, "muster_apply_status", &[(set, hidden)]).await;
    world.populate(FEW).await;
    seconds(3).await;
    assert_caught(world, "gap", &[Rule::Watch, Rule::Lost]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn revisions_that_are_used_again_after_a_failover_are_caught() {
    let mut world = world(2).await;
    plant(&world, "muster_confirm_history", &[("\nBEGIN\n", "\nBEGIN\n    RETURN;\n")]).await;
    // Each change brings what its daemon has seen: two guards have to fall.
    plant(&world, "muster_apply", &[("IF v_cluster.revision < p_seen THEN", "IF false THEN")]).await;
    world.populate(FEW).await;
    seconds(2).await;
    // What an asynchronous standby had not yet received is gone.
    let failover = "BEGIN; SET LOCAL session_replication_role = replica;
        CREATE TEMP TABLE kept AS SELECT revision - 30 AS revision FROM cluster_metadata FOR UPDATE;
        DELETE FROM registry_instance WHERE revision > (SELECT revision FROM kept);
        DELETE FROM faults_change WHERE revision > (SELECT revision FROM kept);
        UPDATE cluster_metadata SET revision = (SELECT revision FROM kept); COMMIT;
        SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE datname = current_database() AND application_name = 'musterd'";
    let sql = world.sql().await;
    let revision = "SELECT revision FROM cluster_metadata";
    let lost: i64 = get(&sql, revision).await;
    run(&sql, failover).await;
    wait_until("all lost revisions are used again", BOUND, async || match get::<i64>(&sql, revision).await {
        again if again > lost => Ok(()),
        again => Err(again),
    })
    .await;
    assert_caught(world, "reuse", &[Rule::Doubled]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_deregistration_that_ends_the_next_lease_is_caught() {
    let mut world = world(2).await;
    plant(&world, "muster_apply_status", &[("IF p_op.lease_id < v_row.lease_id THEN", "IF false THEN")]).await;
    let (client, instance) = (world.client(), world.dice.id());
    let first = lease(&mut world, &client, 0, instance).await;
    client.deregister(0, 1, first).await;
    let second = lease(&mut world, &client, 0, instance).await;
    assert!(second > first);
    client.deregister(0, 2, first).await;
    assert_caught(world, "late-end", &[Rule::Phantom]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_that_die_twice_are_caught() {
    let mut world = world(2).await;
    plant(&world, "muster_reap_rows", &[("instance.status <> 'dead'", "true")]).await;
    world.populate(Population { quitters: 4, writers: 0, ..FEW }).await;
    seconds(8).await;
    assert_caught(world, "again", &[Rule::Final]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn beats_that_are_acknowledged_and_not_saved_are_caught() {
    let mut world = world(2).await;
    let saved = "WHERE instance.lease_id = beat.lease_id";
    plant(
        &world,
        "muster_flush_beats",
        &[(saved, "WHERE instance.lease_id % 3 <> 0 AND instance.lease_id = beat.lease_id")],
    )
    .await;
    // A third of the leases: the brake protects the silent as soon as they outnumber the heard.
    world.populate(Population { actors: 16, ..FEW }).await;
    death(&world, "lease_id % 3 = 0").await;
    assert_caught(world, "unsaved", &[Rule::FalseDeath]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_leases_that_never_expire_are_caught() {
    let mut world = world(2).await;
    plant(&world, "muster_reap_rows", &[("LIMIT p_limit", "LIMIT 0")]).await;
    world.populate(Population { quitters: 3, writers: 0, ..FEW }).await;
    seconds(11).await;
    assert_caught(world, "undetected", &[Rule::Detection]).await;
}
