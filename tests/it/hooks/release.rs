//! How hooks run, in SQL: once for each death, together and apart.

use crate::harness::registry::{Background, column, get, id, make_alive, run};

use super::{die, due, failure, held, hook, registry, released, unreleased};

#[tokio::test]
async fn hook_frees_what_ended_leases_held_exactly_once() {
    let registry = registry().await;
    let client = &registry.client;
    hook(client, "free_rows", "").await;
    for instance in 1..=5 {
        die(client, instance).await;
    }
    assert_eq!((unreleased(client).await, held(client).await), (5, 5));
    assert_eq!(released(client, 3).await, 3);
    assert_eq!(released(client, 3).await, 2);
    assert_eq!(released(client, 3).await, 0);
    assert_eq!((unreleased(client).await, held(client).await), (0, 0));
    assert_eq!(get::<i64>(client, "SELECT sum(freed)::bigint FROM registry_death").await, 5);
    let calls = "SELECT sum(cardinality(lease_ids))::bigint FROM calls";
    assert_eq!(get::<i64>(client, calls).await, 5);
}

#[tokio::test]
async fn deaths_that_another_session_has_claimed_are_passed_over() {
    let registry = registry().await;
    let (client, other) = (&registry.client, registry.connect().await);
    hook(client, "free_rows", "").await;
    for instance in 1..=4 {
        die(client, instance).await;
    }
    run(&other, "BEGIN").await;
    assert_eq!(released(&other, 3).await, 3);
    assert_eq!(released(client, 10).await, 1, "the one that is left");
    // The other one fails before its end: what it had freed and marked is back.
    run(&other, "ROLLBACK").await;
    assert_eq!((unreleased(client).await, held(client).await), (3, 3));
    assert_eq!(released(client, 10).await, 3);
    assert_eq!(held(client).await, 0);
}

#[tokio::test]
async fn hook_that_fails_holds_back_no_other_hook_and_no_death() {
    let registry = registry().await;
    let client = &registry.client;
    hook(client, "broken", "PERFORM 1 / 0;").await;
    hook(client, "works", "").await;
    die(client, 1).await;
    assert_eq!(released(client, 10).await, 0);
    assert_eq!(held(client).await, 0, "the other hook has run");
    assert_eq!(failure(client).await, "hook broken: division by zero (22012)");
    // Not due for a second: neither hook is called.
    assert_eq!(released(client, 10).await, 0);
    hook(client, "broken", "").await;
    assert_eq!(released(client, 10).await, 1);
    assert_eq!(column::<String>(client, "SELECT hook FROM calls ORDER BY hook").await, ["broken", "works"]);
    assert_eq!(unreleased(client).await, 0);
}

#[tokio::test]
async fn lease_that_makes_a_hook_fail_does_not_hold_back_the_others() {
    let registry = registry().await;
    let client = &registry.client;
    hook(client, "free_rows", "").await;
    let mut leases = Vec::new();
    for instance in 1..=12 {
        leases.push(die(client, instance).await);
    }
    hook(client, "free_rows", &format!("IF {} = ANY (p_lease_ids) THEN PERFORM 1 / 0; END IF;", leases[5])).await;
    for _ in 0..40 {
        due(client).await;
        released(client, 10).await;
    }
    let left = column::<i64>(client, "SELECT lease_id FROM registry_death WHERE released_at IS NULL").await;
    assert_eq!(left, [leases[5]]);
    // And one that dies now does not wait behind it.
    die(client, 13).await;
    assert_eq!(released(client, 10).await, 1);
}

#[tokio::test]
async fn hook_waits_for_a_lock_as_long_as_it_may_and_is_repeated() {
    let registry = registry().await;
    let (client, other) = (&registry.client, registry.connect().await);
    hook(client, "free_rows", "").await;
    die(client, 1).await;
    run(&other, "BEGIN; SELECT FROM held FOR UPDATE").await;
    assert_eq!(released(client, 10).await, 0);
    assert!(failure(client).await.contains("55P03"), "{}", failure(client).await);
    run(&other, "COMMIT").await;
    due(client).await;
    assert_eq!(released(client, 10).await, 1);
}

#[tokio::test]
async fn registrations_and_deaths_pass_while_a_hook_runs() {
    let registry = registry().await;
    let client = &registry.client;
    hook(client, "slow", "PERFORM pg_advisory_xact_lock(7);").await;
    run(client, "UPDATE registry_hook SET lock_timeout_ms = 10000").await;
    die(client, 1).await;
    run(client, "SELECT pg_advisory_lock(7)").await;
    let running = Background::start(registry.connect().await, "SELECT muster_release_deaths()".to_owned()).await;
    running.blocked(client).await;
    let other = registry.connect().await;
    make_alive(&other, 2, "organ", 100).await;
    run(&other, &format!("SELECT set_instance_status('{}', 'dead')", id(2))).await;
    assert!(!running.has_ended());
    run(client, "SELECT pg_advisory_unlock(7)").await;
    running.end().await.unwrap();
    assert_eq!(unreleased(client).await, 1, "the one that died meanwhile");
}

#[tokio::test]
async fn statement_timeout_ends_a_hook_and_not_the_release_of_others() {
    let registry = registry().await;
    let client = &registry.client;
    hook(client, "slow", "PERFORM pg_sleep(60);").await;
    hook(client, "works", "").await;
    die(client, 1).await;
    run(client, "SET statement_timeout = '300ms'").await;
    assert_eq!(released(client, 10).await, 0);
    run(client, "RESET statement_timeout").await;
    assert!(failure(client).await.starts_with("hook slow: ") && failure(client).await.contains("57014"));
    assert_eq!(held(client).await, 0, "the other hook has run");
}

#[tokio::test]
async fn hook_of_mode_commit_runs_within_a_bounded_death_alone() {
    let registry = registry().await;
    let client = &registry.client;
    hook(client, "free_rows", "").await;
    run(client, "SELECT muster_hook_set('free_rows', 'public.free_rows', 'commit')").await;
    die(client, 1).await;
    assert_eq!((unreleased(client).await, held(client).await), (1, 1), "its statement has no limit");
    run(client, "SET statement_timeout = '1s'").await;
    die(client, 2).await;
    assert_eq!((unreleased(client).await, held(client).await), (0, 0), "with the death, and what was left");
    // What takes too long is undone, and the death is not.
    hook(client, "free_rows", "PERFORM pg_sleep(60);").await;
    run(client, "SELECT muster_hook_set('free_rows', 'public.free_rows', 'commit')").await;
    let lease = die(client, 3).await;
    assert_eq!((unreleased(client).await, held(client).await), (1, 1));
    hook(client, "free_rows", "").await;
    assert_eq!(released(client, 10).await, 1);
    assert_eq!(get::<i64>(client, "SELECT max(lease_id) FROM registry_death").await, lease);
}

#[tokio::test]
async fn hooks_of_a_restored_copy_wait_for_an_operator() {
    let registry = registry().await;
    let client = &registry.client;
    hook(client, "free_rows", "").await;
    die(client, 1).await;
    run(client, "UPDATE registry_hook SET system_id = 'another server'").await;
    assert_eq!(released(client, 10).await, 0);
    let waiting = "SELECT array_to_string(waiting, ',') FROM muster_release_state()";
    assert_eq!(get::<String>(client, waiting).await, "free_rows (set in another PostgreSQL cluster)");
    run(client, "SELECT muster_hook_set('free_rows', 'public.free_rows')").await;
    assert_eq!(released(client, 10).await, 1);
    assert_eq!(held(client).await, 0);
}

#[tokio::test]
async fn deaths_wait_for_a_disabled_hook_until_it_is_removed() {
    let registry = registry().await;
    let client = &registry.client;
    hook(client, "free_rows", "").await;
    run(client, "UPDATE registry_hook SET enabled = false").await;
    die(client, 1).await;
    assert_eq!((released(client, 10).await, unreleased(client).await), (0, 1));
    assert!(get::<bool>(client, "SELECT muster_hook_remove('free_rows')").await);
    assert!(!get::<bool>(client, "SELECT muster_hook_remove('free_rows')").await);
    assert_eq!((unreleased(client).await, held(client).await), (0, 1));
}
