//! Decisions in the database: rotations at most once in 10 s, and what SQL callers, hooks, purges and migrations leave on record.

use std::time::Duration;

use musterd::{migrate, proto::v1};
use tonic::Code;
use uuid::Uuid;

use crate::{
    cli::musterd,
    harness::{
        daemon::Daemon,
        postgres::{TestDatabase, connect},
        registry::{Registry, column, get, refusal as sqlstate, run},
        served::refusal,
    },
};

/// Puts the last rotation so many seconds further back.
fn ago(seconds: i32) -> String {
    format!(
        "UPDATE registry_epoch SET started_at = started_at - interval '{seconds} s'
         WHERE epoch_number = (SELECT max(epoch_number) FROM registry_epoch)"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn second_rotation_within_ten_seconds_is_refused_unless_it_is_forced() {
    let database = TestDatabase::create().await;
    let (first, second) = tokio::join!(Daemon::start(database.url()), Daemon::start(database.url()));
    let client = connect(database.url()).await;
    let (mut here, mut there) = (first.cluster().await, second.cluster().await);
    let rotate = v1::RotateEpochRequest::default;
    // Both at once: PostgreSQL decides which one is the second.
    let both = tokio::join!(here.rotate_epoch(rotate()), there.rotate_epoch(rotate()));
    let (rotated, refused): (Vec<_>, Vec<_>) = [both.0, both.1].into_iter().partition(Result::is_ok);
    assert_eq!((rotated.len(), refused.len()), (1, 1));
    let rotated = rotated.into_iter().next().unwrap().unwrap().into_inner();
    let told = refusal(refused.into_iter().next().unwrap());
    assert_eq!(told.verdict(), (Code::ResourceExhausted, "QUOTA_EXCEEDED"));
    assert_eq!(told.metadata["unit"], "rotations");
    assert!(told.retry_after.is_some_and(|after| after <= Duration::from_secs(10) && !after.is_zero()), "{told:?}");
    assert!(told.message.contains("less than 10 s ago") && told.message.contains("--force"), "{told:?}");

    // What would change nothing, or is wrong anyway, is answered as ever.
    let again = v1::RotateEpochRequest { new_epoch: rotated.cluster_epoch.clone(), ..rotate() };
    assert!(!there.rotate_epoch(again).await.unwrap().into_inner().rotated);
    let expected = v1::RotateEpochRequest { expected_epoch: Uuid::new_v4().to_string(), ..rotate() };
    assert_eq!(refusal(here.rotate_epoch(expected).await).reason, "EPOCH_MISMATCH");
    let forced = v1::RotateEpochRequest { force: true, ..rotate() };
    assert_eq!(here.rotate_epoch(forced).await.unwrap().into_inner().epoch_number, 3);
    assert_eq!(refusal(there.rotate_epoch(rotate()).await).reason, "QUOTA_EXCEEDED");
    let told = musterd(&["--addr", &first.grpc_addr, "epoch", "rotate"]).await;
    assert!(told.code == Some(1) && told.complaint().contains("musterd epoch rotate --force"), "{told:?}");

    run(&client, &ago(11)).await;
    assert_eq!(there.rotate_epoch(rotate()).await.unwrap().into_inner().epoch_number, 4);
    // A clock that was set back holds nothing up.
    run(&client, &ago(-3_600)).await;
    assert_eq!(here.rotate_epoch(rotate()).await.unwrap().into_inner().epoch_number, 5);
    // SQL callers are not limited, and limit no daemon.
    for _ in 0..2 {
        run(&client, "SELECT set_current_epoch(gen_random_uuid())").await;
    }
    assert_eq!(here.rotate_epoch(rotate()).await.unwrap().into_inner().epoch_number, 8);
    let command = musterd(&["--addr", &first.grpc_addr, "epoch", "rotate", "--force", "-o", "name"]).await;
    assert_eq!(command.code, Some(0), "{command:?}");

    let recorded = "SELECT object || ' ' || (by LIKE 'sql/%') || ' ' || (detail ? 'too_soon_by_ms')
                    FROM registry_audit WHERE action = 'rotate' ORDER BY id";
    let expected = [
        "epoch 2 false false",
        "epoch 3 false true",
        "epoch 4 false false",
        "epoch 5 false false",
        "epoch 6 true false",
        "epoch 7 true false",
        "epoch 8 false false",
        "epoch 9 false true",
    ];
    // Of SQL callers it does not matter.
    let found: Vec<String> = column(&client, recorded).await;
    let without_sql = |all: &[String]| all.iter().filter(|one| !one.contains(" true ")).cloned().collect::<Vec<_>>();
    assert_eq!(without_sql(&found), without_sql(&expected.map(str::to_owned)));
    assert_eq!(found.len(), expected.len());

    let shown =
        musterd(&["--addr", &first.grpc_addr, "audit", "--action", "rotate", "--limit", "2", "-o", "json"]).await;
    let shown: serde_json::Value = serde_json::from_str(&shown.stdout).unwrap();
    let objects: Vec<_> = shown["decisions"].as_array().unwrap().iter().map(|one| one["object"].clone()).collect();
    assert_eq!(objects, ["epoch 9", "epoch 8"]);
    assert_eq!(
        shown["decisions"][0]["detail"]["daemon"],
        serde_json::Value::Null,
        "without a policy the daemon is `by`"
    );
    let table = musterd(&["--addr", &first.grpc_addr, "audit", "--since", "1h"]).await;
    assert!(table.stdout.starts_with("AT ") && table.stdout.contains("epoch 9"), "{table:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sql_callers_hooks_and_purges_are_recorded() {
    let registry = Registry::head().await;
    let client = &registry.client;
    run(client, "SELECT muster_ensure_epoch('test'); SELECT set_current_epoch(gen_random_uuid())").await;
    run(client, "SELECT muster_hold_expiry('work', 60000); SELECT muster_release_expiry(1000)").await;
    run(client, "UPDATE cluster_metadata SET current_epoch = gen_random_uuid()").await;
    run(client, "SELECT muster_hook_remove('none')").await;
    let old = "INSERT INTO registry_death (lease_id, revision, instance_id, logical_id, epoch_number, started_at, died_at, reason, released_at)
               SELECT n, n, gen_random_uuid(), 'x', 1, now() - interval '9 days', now() - interval '8 days', 'stale', now()
               FROM generate_series(900001, 900005) AS n";
    run(client, old).await;
    run(client, "SELECT muster_purge_deaths(60000, 2)").await;
    run(client, "SELECT muster_purge_deaths(60000, 2)").await;
    let recorded = "SELECT action || ' ' || by || ' ' || object || ' ' || coalesce(detail ->> 'count', '-')
                    FROM registry_audit WHERE action !~ '^migrate_' ORDER BY id";
    let expected = [
        "rotate sql/musterd epoch 2 -",
        "hold sql/musterd expiry -",
        "release sql/musterd expiry -",
        "rotate sql/musterd epoch 3 -",
    ];
    let found: Vec<String> = column(client, recorded).await;
    assert_eq!(found[..4], expected);
    let purged: Vec<&String> =
        found.iter().filter(|one| one.starts_with("purge sql/musterd registry_death ")).collect();
    // One row, if the hour has not changed between them.
    let sum: u32 = purged.iter().map(|one| one.rsplit(' ').next().unwrap().parse::<u32>().unwrap()).sum();
    assert!(sum == 4 && purged.len() <= 2 && found.len() == 4 + purged.len(), "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn purge_keeps_a_week_of_decisions_and_leaves_a_trace() {
    let registry = Registry::head().await;
    let client = &registry.client;
    let insert = |age: &str| {
        format!(
            "INSERT INTO registry_audit (at, action, by_role, by, object, detail)
             VALUES (now() - interval '{age}', 'hold', 'musterd', 'token/{age}', '', '{{}}')"
        )
    };
    for age in ["6 days", "8 days", "40 days"] {
        run(client, &insert(age)).await;
    }
    let left = "SELECT by FROM registry_audit WHERE action = 'hold' ORDER BY id";
    assert_eq!(get::<i32>(client, "SELECT muster_purge_audit(30 * 86400000::bigint, 100)").await, 1);
    assert_eq!(column::<String>(client, left).await, ["token/6 days", "token/8 days"]);
    assert_eq!(get::<i32>(client, "SELECT muster_purge_audit(0, 100)").await, 1, "never one of the last 7 days");
    assert_eq!(column::<String>(client, left).await, ["token/6 days"]);
    let traces = "SELECT sum((detail ->> 'count')::bigint)::bigint FROM registry_audit WHERE action = 'purge'";
    assert_eq!(get::<i64>(client, traces).await, 2);
    run(client, "UPDATE registry_audit SET at = now() - interval '9 days', period = NULL WHERE action = 'purge'").await;
    assert!(get::<i32>(client, "SELECT muster_purge_audit(0, 100)").await >= 1);
    assert_eq!(
        get::<i64>(client, "SELECT count(*) FROM registry_audit WHERE action = 'purge'").await,
        0,
        "no trace of traces"
    );
    let note = r#"SELECT muster_audit_note('[{"action": "rotate", "by": "token/a", "object": "epoch 9"}]')"#;
    assert_eq!(sqlstate(client, note).await, "22023", "a daemon's role cannot invent decisions");
}

#[tokio::test(flavor = "multi_thread")]
async fn migrations_and_repairs_are_recorded() {
    let database = TestDatabase::create().await;
    migrate::up(database.url(), "alice@host").await.unwrap();
    let client = connect(database.url()).await;
    // Those before it had nowhere to be recorded.
    let migrations = "SELECT 'migrate_up alice@host ' || right('00' || version, 3) || '_' || name FROM muster_migration
                      WHERE version >= 22 ORDER BY version";
    let mut expected: Vec<String> = column(&client, migrations).await;
    assert_eq!(expected[0], "migrate_up alice@host 022_audit");
    run(&client, "DROP FUNCTION muster_purge_audit(bigint, integer)").await;
    migrate::repair(database.url(), true).await.unwrap();
    run(&client, "DROP FUNCTION muster_audit(text, text, text, jsonb, bigint)").await;
    migrate::up(database.url(), "alice@host").await.unwrap();
    assert!(migrate::eject(database.url(), false, "alice@host").await.unwrap());
    migrate::up(database.url(), "alice@host").await.unwrap();
    let recorded = "SELECT action || ' ' || by || ' ' || object FROM registry_audit ORDER BY id";
    let found: Vec<String> = column(&client, recorded).await;
    let then = [
        "migrate_repair musterd migrate repair function muster_purge_audit(bigint, integer): put back",
        "migrate_repair alice@host function muster_audit(text, text, text, jsonb, bigint): put back",
        "migrate_eject alice@host registry",
        "migrate_return alice@host registry",
    ];
    expected.extend(then.map(str::to_owned));
    assert_eq!(found[..expected.len()], expected);
    assert!(found[expected.len()..].iter().all(|one| one.starts_with("migrate_repair alice@host ")), "{found:?}");
}
