//! Why an instance has its status, and since when: set by a daemon's caller or in SQL, and told everywhere.

use std::time::Duration;

use musterd_client::{Reason, Status};

use crate::harness::{
    actor::{Caller, alive},
    daemon::{Daemon, program},
    registry::{Registry, field, get, id, make_alive, refusal, register, run},
};

const TTL: Duration = Duration::from_secs(300);

async fn registry() -> Registry {
    let registry = Registry::head().await;
    run(&registry.client, &format!("SELECT set_current_epoch('{}')", id(100))).await;
    make_alive(&registry.client, 1, "organ", 100).await;
    registry
}

async fn health(registry: &Registry, status: &str, reason: &str) {
    run(&registry.client, &format!("SELECT set_instance_health('{}', '{status}', {reason})", id(1))).await;
}

#[tokio::test]
async fn status_is_set_with_a_reason_and_without_one_loses_it() {
    let registry = registry().await;
    let client = &registry.client;
    health(&registry, "draining", "'new disk'").await;
    assert_eq!(field(client, 1, "status_reason").await, "new disk");
    assert_eq!(field(client, 1, "status_since > started_at").await, "true");
    // The call of SeedCore with two arguments stays what it was.
    run(client, &format!("SELECT set_instance_status('{}', 'alive')", id(1))).await;
    assert_eq!(field(client, 1, "concat_ws(' ', status, status_reason)").await, "alive");
    health(&registry, "dead", "'out of memory'").await;
    assert_eq!(
        field(client, 1, "concat_ws(' ', status, status_reason, status_since = stopped_at)").await,
        "dead out of memory t"
    );
    run(client, &register(1, "organ", 100)).await;
    assert_eq!(field(client, 1, "concat_ws(' ', status_reason, status_since = started_at)").await, "t");
    let long = format!("SELECT set_instance_health('{}', 'alive', repeat('x', 257))", id(1));
    assert_eq!(refusal(client, &long).await, "22023");
}

#[tokio::test]
async fn another_reason_alone_is_a_change_at_most_every_ten_seconds() {
    let registry = registry().await;
    let client = &registry.client;
    let revision = async || get::<i64>(client, "SELECT revision FROM cluster_metadata").await;
    health(&registry, "draining", "'one'").await;
    let before = revision().await;
    health(&registry, "draining", "'two'").await;
    assert_eq!((field(client, 1, "status_reason").await.as_str(), revision().await), ("one", before));
    run(client, "UPDATE registry_instance SET status_since = now() - interval '11 seconds'").await;
    let before = revision().await;
    for unchanged in ["'one'", "''", "NULL"] {
        health(&registry, "draining", unchanged).await;
        assert_eq!(
            (field(client, 1, "status_reason").await.as_str(), revision().await),
            ("one", before),
            "{unchanged}"
        );
    }
    health(&registry, "draining", "'two'").await;
    assert_eq!((field(client, 1, "status_reason").await.as_str(), revision().await), ("two", before + 1));
}

#[tokio::test]
async fn status_changed_by_hand_has_a_new_time_and_no_old_reason() {
    let registry = registry().await;
    let client = &registry.client;
    health(&registry, "draining", "'new disk'").await;
    run(client, "UPDATE registry_instance SET status_since = started_at").await;
    run(client, "UPDATE registry_instance SET status = 'alive'").await;
    let note = "concat_ws(' ', status, status_reason, status_since > started_at)";
    assert_eq!(field(client, 1, note).await, "alive t");
    run(client, "UPDATE registry_instance SET status = 'draining', status_reason = 'by hand'").await;
    assert_eq!(field(client, 1, note).await, "draining by hand t");
}

#[tokio::test(flavor = "multi_thread")]
async fn reason_given_to_one_daemon_is_reported_by_another() {
    let registry = registry().await;
    let url = registry.database.url();
    let (here, there) = tokio::join!(Daemon::start(url), Daemon::start(url));
    let caller = Caller::of(&here);
    let registered = caller.register(alive("organ", TTL)).await.unwrap();
    let client = caller.client();
    let instance_id = registered.instance_id.parse().unwrap();
    let changed = client.set_status_because(instance_id, Status::Draining, "new disk").await.unwrap();
    let reader = Caller::of(&there).client();
    reader.require_revision(changed.revision);
    let told = reader.instance(instance_id).await.unwrap().instance;
    assert_eq!((told.status, told.status_reason.as_str()), (Status::Draining, "new disk"));
    assert!(told.status_since > told.started_at, "{told:?}");
    let refused = client.set_status_because(instance_id, Status::Alive, &"x".repeat(257)).await.unwrap_err();
    assert_eq!(refused.reason(), Reason::InvalidField);

    let output = program()
        .args(["undrain", "--addr", &here.grpc_addr, "--reason", "disk replaced", &registered.instance_id])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let shown = |args: &[&str]| {
        let output = program().args(args).args(["--addr", &here.grpc_addr]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(shown(&["describe", &registered.instance_id]).contains("Reason:      disk replaced"));
    assert!(shown(&["list", "-o", "wide"]).contains("disk replaced"));
    assert!(shown(&["list", "-o", "json"]).contains("\"statusReason\": \"disk replaced\""));
}
