//! Steps of `musterd migrate up` that are not one transaction: an index that is built beside the traffic, and dead rows that are
//! deleted in batches; each interrupted by a kill and taken up again.

use std::{process::Stdio, time::Duration};

use musterd::migrate::{self, Error, StepKind};
use serde_json::Value;
use tokio_postgres::Client;

use crate::{
    cli::musterd,
    harness::{
        daemon::{Daemon, program},
        postgres::{BOUND, TestDatabase, connect},
        registry::{Registry, column, get, id, make_alive, refusal, run},
        wait::wait_until,
    },
};

const INDEX: &str = "idx_instance_revision";
const IS_VALID: &str =
    "SELECT count(*) FROM pg_index WHERE indexrelid = to_regclass('idx_instance_revision') AND indisvalid";
/// As a session leaves it that is killed between its two statements: no index, and the announcement of its build.
const HALF_BUILT: &str = "DROP INDEX idx_instance_revision;
    INSERT INTO muster_migration (version, name, checksum, applied_by, duration_ms)
    VALUES (-1, 'index idx_instance_revision on registry_instance', '0', 'test', 0)";
/// A writer that has not ended: the build of an index waits for it, a beat does not.
const WRITER: &str =
    "SET application_name = 'nightly import'; BEGIN; LOCK TABLE registry_instance IN ROW EXCLUSIVE MODE";

async fn building(client: &Client) {
    let builds = "SELECT count(*) FROM pg_stat_progress_create_index WHERE datname = current_database()";
    wait_until("an index is being built", BOUND, async || match get::<i64>(client, builds).await {
        0 => Err("none"),
        _ => Ok(()),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn index_whose_build_was_killed_is_built_once_by_many_starters() {
    let registry = Registry::head().await;
    let (client, url) = (&registry.client, registry.database.url());
    run(client, HALF_BUILT).await;
    let writer = registry.connect().await;
    run(&writer, WRITER).await;
    let first = Daemon::spawn(&["--database-url", url]).await;
    building(client).await;
    first.kill9();
    assert_eq!(get::<i64>(client, IS_VALID).await, 0);
    let plan = migrate::plan(url, "test").await.unwrap();
    let kinds: Vec<_> = plan.steps.iter().map(|step| (step.name.as_str(), step.kind)).collect();
    assert_eq!(kinds, [("build index idx_instance_revision on registry_instance", StepKind::Concurrent)]);

    let runs: Vec<_> = (0..17)
        .map(|number| {
            let url = url.to_owned();
            tokio::spawn(async move { migrate::up(&url, &format!("starter {number}")).await })
        })
        .collect();
    run(&writer, "COMMIT").await;
    let mut daemons = Vec::new();
    for _ in 0..3 {
        daemons.push(Daemon::spawn(&["--database-url", url]).await);
    }
    let mut built = Vec::new();
    for one in runs {
        built.extend(one.await.unwrap().unwrap().repaired);
    }
    for daemon in &daemons {
        daemon.wait_ready().await;
    }
    let by_daemons = daemons.iter().filter(|daemon| daemon.log().contains("built an index")).count();
    assert!(built.len() + by_daemons <= 1, "{built:?}, {by_daemons} daemons");
    assert_eq!(get::<i64>(client, IS_VALID).await, 1);
    assert_eq!(migrate::verify(url).await.unwrap(), [""; 0]);
    let deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    assert_eq!(get::<i64>(client, deadlocks).await, 0);
}

#[tokio::test]
async fn plan_of_an_unfinished_index_completes_it_in_a_transaction() {
    let registry = Registry::head().await;
    let (client, url) = (&registry.client, registry.database.url());
    run(client, "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'idx_instance_revision'::regclass").await;
    let ended = musterd(&["migrate", "plan", "-o", "json", "--database-url", url]).await;
    let plan: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!((ended.code, &plan["steps"][0]["kind"]), (Some(10), &Value::from("concurrent")), "{ended:?}");
    assert_eq!(plan["steps"][0]["locks"][0]["mode"], "SHARE UPDATE EXCLUSIVE");
    let sql = plan["sql"].as_str().unwrap();
    run(client, &format!("BEGIN;\n{sql}\nCOMMIT")).await;
    assert_eq!(migrate::verify(url).await.unwrap(), [""; 0]);
    assert!(migrate::plan(url, "test").await.unwrap().steps.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn repair_builds_an_index_beside_beats_and_gives_up_on_a_session_by_name() {
    let registry = Registry::head().await;
    let (client, url) = (&registry.client, registry.database.url().to_owned());
    run(client, &format!("SELECT set_current_epoch('{}')", id(100))).await;
    make_alive(client, 1, "organ", 100).await;
    run(client, &format!("DROP INDEX {INDEX}")).await;
    assert!(migrate::plan(&url, "test").await.unwrap().steps.is_empty(), "a person has dropped it, and puts it back");
    let writer = registry.connect().await;
    run(&writer, WRITER).await;
    let pid: i32 = get(&writer, "SELECT pg_backend_pid()").await;
    let repair = {
        let url = url.clone();
        tokio::spawn(async move { migrate::repair(&url, true).await })
    };
    building(client).await;
    run(client, &format!("SET lock_timeout = '5s'; SELECT beat('{}')", id(1))).await;
    let error = repair.await.unwrap().unwrap_err();
    let text = error.to_string();
    assert!(matches!(&error, Error::Busy { blocker: Some(found), .. } if found.pid == pid), "{text}");
    assert!(text.contains("gave up building index idx_instance_revision on registry_instance"), "{text}");
    assert!(text.contains("application nightly import"), "{text}");
    assert_eq!(error.exit_code(), 1);
    run(&writer, "COMMIT").await;
    let repair = migrate::repair(&url, true).await.unwrap();
    assert_eq!(repair.done, ["index idx_instance_revision on registry_instance: built again"]);
    assert_eq!(migrate::verify(&url).await.unwrap(), [""; 0]);
    assert_eq!(migrate::repair(&url, true).await.unwrap().done, [""; 0]);
}

/// SeedCore's registry with 12,000 dead rows and 100 live ones.
async fn grown() -> (TestDatabase, Client) {
    let database = TestDatabase::create().await;
    let client = connect(database.url()).await;
    run(&client, include_str!("../../migrations/011_add_runtime_registry.sql")).await;
    run(&client, include_str!("../../migrations/012_runtime_registry_functions.sql")).await;
    let fill = format!(
        "SELECT set_current_epoch('{epoch}');
         INSERT INTO registry_instance (instance_id, logical_id, cluster_epoch, status)
         SELECT md5(n::text)::uuid, 'organ', '{epoch}', (CASE WHEN n > 100 THEN 'dead' ELSE 'alive' END)::InstanceStatus
         FROM generate_series(1, 12100) AS n",
        epoch = id(100)
    );
    run(&client, &fill).await;
    (database, client)
}

#[tokio::test(flavor = "multi_thread")]
async fn deletion_of_dead_rows_is_resumed_after_a_kill() {
    const DEAD: &str = "SELECT count(*) FROM registry_instance WHERE status = 'dead'";
    const LIVE: &str = "SELECT instance_id::text FROM registry_instance WHERE status = 'alive' ORDER BY 1";
    let (database, client) = grown().await;
    let url = database.url();
    let live: Vec<String> = column(&client, LIVE).await;
    let plan = musterd(&["migrate", "plan", "--purge-dead", "--database-url", url]).await;
    assert_eq!(plan.code, Some(10), "{plan:?}");
    for (step, kind, rows) in [
        ("delete dead rows, 5000 at a time", "batched", "12000"),
        ("migration 013 (leases_and_revisions)", "transactional", "101"),
    ] {
        let line = plan.stdout.lines().find(|line| line.starts_with(step)).unwrap_or_else(|| panic!("{plan:?}"));
        let words: Vec<&str> = line[step.len()..].split_whitespace().take(2).collect();
        assert_eq!(words, [kind, rows], "{line}");
    }
    // A session holds one of the last rows, so the third batch waits.
    let holder = connect(url).await;
    run(&holder, "BEGIN").await;
    run(&holder, "SELECT FROM registry_instance WHERE status = 'dead' ORDER BY instance_id DESC LIMIT 1 FOR UPDATE")
        .await;
    let up = ["migrate", "up", "--purge-dead", "--max-rows", "500", "--database-url", url];
    let mut killed = tokio::process::Command::from(program());
    let mut killed = killed.args(up).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true).spawn().unwrap();
    wait_until("two batches are committed", Duration::from_secs(60), async || match get::<i64>(&client, DEAD).await {
        2000 => Ok(()),
        left => Err(left),
    })
    .await;
    killed.kill().await.unwrap();
    assert_eq!(refusal(&client, "SELECT FROM muster_migration").await, "42P01", "nothing of the migrations has begun");
    run(&holder, "COMMIT").await;
    let ended =
        musterd(&["migrate", "up", "--purge-dead", "--max-rows", "500", "-o", "json", "--database-url", url]).await;
    let report: Value = serde_json::from_str(&ended.stdout).unwrap_or_else(|_| panic!("{ended:?}"));
    assert_eq!((ended.code, &report["purged"]), (Some(0), &Value::from(2000)), "{ended:?}");
    assert_eq!(get::<i64>(&client, DEAD).await, 0);
    assert_eq!(column::<String>(&client, LIVE).await, live);
    let ended = musterd(&["migrate", "up", "--purge-dead", "-o", "json", "--database-url", url]).await;
    let report: Value = serde_json::from_str(&ended.stdout).unwrap_or_else(|_| panic!("{ended:?}"));
    assert_eq!(report["purged"], 0, "dead rows of musterd are purged by daemons");
}

/// Keeps the migration that numbers the rows from going on until a call waits for its lock.
const WAIT_FOR_A_CALL: &str = "
CREATE FUNCTION wait_for_a_call() RETURNS event_trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM pg_event_trigger_ddl_commands() WHERE object_identity = 'public.registry_instance') THEN
        FOR attempt IN 1 .. 3000 LOOP
            EXIT WHEN EXISTS (SELECT FROM pg_locks WHERE relation = 'registry_instance'::regclass AND NOT granted);
            PERFORM pg_sleep(0.01);
        END LOOP;
    END IF;
END
$$;
CREATE EVENT TRIGGER wait_for_a_call ON ddl_command_end WHEN TAG IN ('ALTER TABLE') EXECUTE FUNCTION wait_for_a_call()";

#[tokio::test(flavor = "multi_thread")]
async fn expiry_of_seedcore_that_waits_for_the_numbering_ends_no_lease() {
    let (database, client) = grown().await;
    let url = database.url().to_owned();
    let beats = "UPDATE registry_instance SET status = 'alive', last_heartbeat = clock_timestamp() - interval '16 s'";
    run(&client, beats).await;
    let live: i64 = get(&client, "SELECT count(*) FROM registry_instance").await;
    run(&client, WAIT_FOR_A_CALL).await;
    let caller = connect(&url).await;
    let up = tokio::spawn(async move { migrate::up(&url, "test").await });
    wait_until("the rows are locked", BOUND, async || {
        let locked = "SELECT count(*) FROM pg_locks WHERE relation = 'registry_instance'::regclass AND mode = 'AccessExclusiveLock' AND granted";
        match get::<i64>(&client, locked).await {
            0 => Err("not locked"),
            _ => Ok(()),
        }
    })
    .await;
    assert_eq!(get::<i32>(&caller, "SELECT expire_stale_instances(15)").await, 0);
    up.await.unwrap().unwrap();
    assert_eq!(get::<i64>(&client, "SELECT count(*) FROM registry_instance WHERE status = 'alive'").await, live);
    assert_eq!(get::<i32>(&client, "SELECT expire_stale_instances(15)").await, 0, "under the hold");
    // A TTL and the time to follow pass: the hold ends by itself.
    run(&client, "UPDATE cluster_metadata SET disrupted_at = disrupted_at - interval '21 s', hold_until = hold_until - interval '21 s'").await;
    assert!(get::<i32>(&client, "SELECT expire_stale_instances(15)").await > 0);
}
