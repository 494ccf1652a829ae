//! What `musterd check --database-url` says of a database that is shared with SQL callers, hooks and the suite.

use musterd::suite;
use serde_json::Value;

use super::musterd;
use crate::harness::registry::{Registry, get, id, make_alive, run, silence};

/// The findings, without a daemon: check, severity, found, fix.
async fn findings(url: &str) -> Vec<[String; 4]> {
    let ended = musterd(&["check", "--timeout", "2s", "--database-url", url, "-o", "json"]).await;
    let json: Value = serde_json::from_str(&ended.stdout).unwrap_or_else(|_| panic!("{ended:?}"));
    let text = |finding: &Value, key: &str| finding[key].as_str().unwrap().to_owned();
    let findings = json["findings"].as_array().unwrap().iter();
    findings.map(|one| ["check", "severity", "found", "fix"].map(|key| text(one, key))).collect()
}

fn assert_found(findings: &[[String; 4]], expected: [&str; 4]) {
    let [check, severity, found, fix] = expected;
    let is_told = findings
        .iter()
        .any(|one| one[0] == check && one[1] == severity && one[2].contains(found) && one[3].contains(fix));
    assert!(is_told, "{expected:?}: {findings:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn facts_about_callers_hooks_and_upkeep_are_named_with_their_fix() {
    let registry = Registry::head().await;
    let (client, url) = (&registry.client, registry.database.url());
    run(client, &format!("SELECT set_current_epoch('{}')", id(100))).await;
    let before = findings(url).await;
    for check in ["sql callers", "sql expiry", "hooks", "autovacuum", "pgvector"] {
        assert!(before.iter().all(|one| one[0] != check), "{check}: {before:#?}");
    }
    assert_found(&before, ["write", "ok", "a change was written and rolled back in ", ""]);
    assert_found(&before, ["migrating", "ok", "role musterd may migrate", ""]);

    make_alive(client, 1, "organ", 100).await;
    make_alive(client, 2, "organ", 100).await;
    silence(client, 2, 100).await;
    run(
        client,
        "INSERT INTO registry_hook (name, function, set_at, set_by) VALUES ('free', 'app.free', now(), 'test')",
    )
    .await;
    run(client, "INSERT INTO registry_death (lease_id, revision, instance_id, logical_id, epoch_number, started_at, died_at, reason,
            decided_by, attempts, last_error)
        VALUES (900, 900, gen_random_uuid(), 'organ', 1, now() - interval '1 h', now() - interval '2 min', 'stale', 'sql/app', 3,
            'hook free: function app.free does not exist')").await;
    run(client, "ALTER TABLE registry_daemon SET (autovacuum_enabled = false)").await;
    suite::up(url, false, "test").await.unwrap();
    let found = findings(url).await;
    assert_found(
        &found,
        ["sql callers", "ok", "2 of their instances live, and no daemon; their expiry last ended a lease 2m", ""],
    );
    assert_found(
        &found,
        ["sql expiry", "warning", "overdue leases: 1; nothing ends them", "SELECT expire_stale_instances()"],
    );
    assert_found(&found, ["hooks", "warning", "hook free: function app.free(bigint[]) does not exist", "create it"]);
    assert_found(
        &found,
        ["hooks", "warning", "deaths that are not released: 1, the first of them for 2m", "correct the function"],
    );
    assert_found(&found, ["autovacuum", "warning", "autovacuum is off for table registry_daemon", "VACUUM"]);
    if !get::<bool>(client, "SELECT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'vector')").await {
        assert_found(&found, ["pgvector", "warning", "extension vector is not available", "install pgvector"]);
    }

    silence(client, 1, 3000).await;
    silence(client, 2, 3000).await;
    let holder = registry.connect().await;
    run(&holder, "BEGIN; UPDATE cluster_metadata SET updated_at = updated_at").await;
    let found = findings(url).await;
    assert_found(
        &found,
        ["sql callers", "warning", "SQL callers beat, last 50m", "see whether SeedCore still calls beat()"],
    );
    assert_found(&found, ["write", "critical", "a session has locked the row", "changes_blocked"]);
}
