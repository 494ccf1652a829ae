//! The shipped example, `deploy/hooks/seedcore_tasks.sql`, on SeedCore's table of tasks.

use std::time::Duration;

use crate::harness::{
    actor::{Actor, Caller, alive},
    daemon::Daemon,
    registry::{Registry, column, get, id, run},
    wait::wait_until,
};

use super::BOUND;

const EXAMPLE: &str = include_str!("../../../deploy/hooks/seedcore_tasks.sql");

/// The table as SeedCore's migrations 001 and 006 make it.
const TASKS: &str = "
    CREATE TYPE taskstatus AS ENUM ('created', 'queued', 'running', 'completed', 'failed', 'cancelled', 'retry');
    CREATE TABLE tasks (
        id uuid PRIMARY KEY DEFAULT gen_random_uuid(), status taskstatus NOT NULL DEFAULT 'created',
        attempts integer NOT NULL DEFAULT 0, locked_by text, locked_at timestamptz, run_after timestamptz,
        type text NOT NULL, description text, domain text, drift_score double precision NOT NULL DEFAULT 0,
        params jsonb NOT NULL DEFAULT '{}', result jsonb, error text, created_at timestamptz NOT NULL DEFAULT now(),
        updated_at timestamptz NOT NULL DEFAULT now(), owner_id text, lease_expires_at timestamptz,
        last_heartbeat timestamptz
    );
    CREATE INDEX ON tasks (status)";

async fn registry() -> Registry {
    let registry = Registry::head().await;
    run(&registry.client, TASKS).await;
    // Running it again changes nothing.
    for _ in 0..2 {
        run(&registry.client, EXAMPLE).await;
    }
    registry
}

/// Claims tasks of a type, as a dispatcher does.
fn claim(kind: &str, owner: &str, count: u32) -> String {
    format!(
        "INSERT INTO tasks (status, type, owner_id, locked_by, locked_at, lease_expires_at)
         SELECT 'running', '{kind}', '{owner}', '{owner}', clock_timestamp(), now() + interval '10 minutes'
         FROM generate_series(1, {count})"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn running_tasks_of_a_killed_instance_are_queued_again_exactly_once() {
    let registry = registry().await;
    let client = &registry.client;
    let url = registry.database.url();
    let (first, _second) = tokio::join!(Daemon::start(url), Daemon::start(url));
    let caller = Caller::of(&first);
    let mut request = alive("dispatcher", Duration::from_secs(3));
    request.actor_name = "seedcore_dispatcher_0".to_owned();
    let dispatcher = Actor::resume(std::slice::from_ref(&caller), caller.register(request.clone()).await.unwrap());
    run(client, &claim("by name", "seedcore_dispatcher_0", 500)).await;
    run(client, &claim("by id", &dispatcher.id().replace('-', ""), 1)).await;
    run(client, &claim("of another", "seedcore_dispatcher_1", 3)).await;
    let silent = dispatcher.fall_silent().await;
    // The successor takes over the name before the death, and claims.
    let mut successor = request.clone();
    successor.instance_id = uuid::Uuid::new_v4().to_string();
    successor.ttl = Some(prost_types::Duration { seconds: 300, nanos: 0 });
    caller.register(successor).await.unwrap();
    run(client, &claim("of the successor", "seedcore_dispatcher_0", 7)).await;

    wait_until("the tasks are queued", BOUND, async || {
        let running: i64 =
            get(client, "SELECT count(*) FROM tasks WHERE status = 'running' AND type LIKE 'by %'").await;
        if running == 0 { Ok(()) } else { Err((running, first.log())) }
    })
    .await;
    let tasks = "SELECT concat_ws(' ', type, status, attempts, count(*), count(owner_id), count(locked_by)) FROM tasks
                 GROUP BY type, status, attempts ORDER BY 1";
    let expected = [
        "by id queued 1 1 0 0",
        "by name queued 1 500 0 0",
        "of another running 0 3 3 3",
        "of the successor running 0 7 7 7",
    ];
    assert_eq!(column::<String>(client, tasks).await, expected);
    let record = format!("SELECT freed FROM registry_death WHERE instance_id = '{}'", silent.instance_id);
    assert_eq!(get::<i64>(client, &record).await, 501);
}

#[tokio::test]
async fn task_fails_with_the_third_instance_that_ends() {
    let registry = registry().await;
    let client = &registry.client;
    run(client, &format!("SELECT set_current_epoch('{}')", id(100))).await;
    for instance in 1..=3 {
        run(client, &crate::harness::registry::register(instance, "organ", 100)).await;
        run(client, &format!("UPDATE tasks SET status = 'running', owner_id = '{}'", id(instance))).await;
        if instance == 1 {
            run(client, &claim("task", &id(1).to_string(), 1)).await;
        }
        run(client, &format!("SELECT set_instance_status('{}', 'dead')", id(instance))).await;
        assert_eq!(get::<i32>(client, "SELECT muster_release_deaths()").await, 1);
        let status: String = get(client, "SELECT concat_ws(' ', status, attempts) FROM tasks").await;
        assert_eq!(status, format!("{} {instance}", if instance == 3 { "failed" } else { "queued" }));
    }
}

#[tokio::test]
async fn task_that_a_session_holds_is_freed_later() {
    let registry = registry().await;
    let (client, other) = (&registry.client, registry.connect().await);
    run(client, &format!("SELECT set_current_epoch('{}')", id(100))).await;
    run(client, &crate::harness::registry::register(1, "organ", 100)).await;
    run(client, &claim("task", &id(1).to_string(), 2)).await;
    run(&other, "BEGIN; SELECT FROM tasks LIMIT 1 FOR UPDATE").await;
    run(client, &format!("SELECT set_instance_status('{}', 'dead')", id(1))).await;
    assert_eq!(get::<i32>(client, "SELECT muster_release_deaths()").await, 0);
    assert_eq!(get::<i64>(client, "SELECT count(*) FROM tasks WHERE status = 'running'").await, 2, "all or nothing");
    run(&other, "ROLLBACK").await;
    super::due(client).await;
    assert_eq!(get::<i32>(client, "SELECT muster_release_deaths()").await, 1);
    assert_eq!(get::<i64>(client, "SELECT count(*) FROM tasks WHERE status = 'queued'").await, 2);
}
