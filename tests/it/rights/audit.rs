//! The audit log of the running daemon: what it records of which caller, and that neither strangers nor a full disk stop anything by it.

use std::fs;

use musterd::proto::v1;
use serde_json::Value;

use super::{BOUND, Guarded, MASTER, STRANGER, rows::registration, secret, verdict};
use crate::harness::{daemon::Daemon, postgres::TestDatabase, registry::id, scratch::Scratch, wait::wait_until};

const RULES: &str = r#"
[[rule]]
who = ["anonymous"]
may = ["metrics"]

[[rule]]
who = ["token/actor"]
may = ["register"]
on = ["svc-a"]
"#;

/// A daemon with an audit log in a file of this directory.
async fn audited(files: &Scratch, more: &[&str]) -> Guarded {
    let file = files.path().join("audit.json").to_str().unwrap().to_owned();
    Guarded::start_with(RULES, &["actor"], &[&["--audit-file", &file], more].concat()).await
}

fn entries(files: &Scratch) -> Vec<Value> {
    let text = fs::read_to_string(files.path().join("audit.json")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

/// Waits for an entry with these values of its fields.
async fn entry(files: &Scratch, fields: &[(&str, &str)]) -> Value {
    wait_until(&format!("an entry with {fields:?}"), BOUND, async || {
        let all = entries(files);
        let fits = |entry: &&Value| fields.iter().all(|(name, value)| entry[*name] == **value);
        all.iter().find(fits).cloned().ok_or(all)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn audit_log_names_caller_peer_object_and_reason_of_decisions() {
    let files = Scratch::in_memory();
    let guarded = audited(&files, &[]).await;
    let (mut master, mut actor) = (guarded.caller(MASTER).await, guarded.caller("actor").await);
    actor.registry.register(registration(id(1), "svc-a")).await.unwrap();
    master.registry.register(registration(id(2), "svc-b")).await.unwrap();
    let rotated = master.cluster.rotate_epoch(v1::RotateEpochRequest::default()).await.unwrap().into_inner();
    let rotation = entry(&files, &[("method", "/muster.v1.ClusterService/RotateEpoch")]).await;
    assert_eq!(rotation["object"], format!("epoch {} ({})", rotated.epoch_number, rotated.cluster_epoch));
    for (field, value) in
        [("identity", "token/master"), ("kind", "token"), ("peer", "127.0.0.1"), ("decision", "allowed")]
    {
        assert_eq!(rotation[field], value, "{rotation}");
    }
    assert!(rotation["timestamp"].as_str().is_some_and(|time| time.ends_with('Z')), "{rotation}");

    let expected = v1::RotateEpochRequest { expected_epoch: id(9).to_string(), ..Default::default() };
    assert_eq!(verdict(&master.cluster.rotate_epoch(expected).await), "EPOCH_MISMATCH");
    entry(&files, &[("decision", "failed"), ("reason", "EPOCH_MISMATCH"), ("identity", "token/master")]).await;
    master.registry.register(registration(id(3), "svc-c")).await.unwrap();
    let expire = v1::ExpireInstanceRequest { instance_id: id(3).to_string(), ..Default::default() };
    master.cluster.expire_instance(expire).await.unwrap();
    entry(&files, &[("object", &format!("instance {}", id(3))), ("decision", "allowed")]).await;

    // A refusal at the gate, one by the handler, one of a caller that is not known, one of the HTTP port.
    assert_eq!(verdict(&actor.cluster.hold_expiry(v1::HoldExpiryRequest::default()).await), "PERMISSION_DENIED");
    entry(&files, &[("identity", "token/actor"), ("method", "/muster.v1.ClusterService/HoldExpiry")]).await;
    assert_eq!(verdict(&actor.registry.register(registration(id(4), "svc-b")).await), "PERMISSION_DENIED");
    let denied = entry(&files, &[("identity", "token/actor"), ("method", "/muster.v1.RegistryService/Register")]).await;
    assert_eq!((&denied["decision"], &denied["reason"]), (&"refused".into(), &"PERMISSION_DENIED".into()));
    assert!(denied["message"].as_str().unwrap().contains("register on \"svc-b\""), "{denied}");
    let mut stranger = guarded.caller(STRANGER).await;
    assert_eq!(verdict(&stranger.cluster.who_am_i(v1::WhoAmIRequest::default()).await), "UNAUTHENTICATED");
    entry(&files, &[("reason", "UNAUTHENTICATED"), ("identity", ""), ("peer", "127.0.0.1")]).await;
    let (status, _) = guarded.daemon.http_get("/api/v1/summary?token=planted").await.unwrap();
    assert_eq!(status, 401);
    entry(&files, &[("method", "GET /api/v1/summary"), ("identity", "anonymous"), ("decision", "refused")]).await;
    guarded.set_rules(&[]);
    entry(&files, &[("object", "policy and tokens"), ("decision", "reloaded")]).await;

    let text = fs::read_to_string(files.path().join("audit.json")).unwrap();
    assert!(
        !text.contains("svc-a") && !text.contains("planted"),
        "neither registrations nor queries are recorded: {text}"
    );
    for name in [MASTER, "actor"] {
        assert!(!text.contains(&secret(name)), "a token is in the audit log");
    }
    assert!(!guarded.daemon.log().contains("musterd::audit"), "the log has what is for the file");
    let denied = guarded.daemon.metric("musterd_refused_total{reason=\"permission_denied\"}").await;
    assert!(denied.is_none() || denied.unwrap() >= 2.0, "{denied:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn audit_of_all_records_registrations_and_deregistrations() {
    let files = Scratch::in_memory();
    let guarded = audited(&files, &["--audit", "all"]).await;
    let mut actor = guarded.caller("actor").await.registry;
    let lease_id = actor.register(registration(id(1), "svc-a")).await.unwrap().into_inner().lease_id;
    let object = format!("svc-a instance {} lease {lease_id}", id(1));
    entry(&files, &[("object", &object), ("identity", "token/actor"), ("decision", "allowed")]).await;
    actor.deregister(v1::DeregisterRequest { lease_id, ..Default::default() }).await.unwrap();
    let object = format!("instance {} lease {lease_id}", id(1));
    entry(&files, &[("object", &object), ("method", "/muster.v1.RegistryService/Deregister")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn audit_of_an_open_daemon_goes_to_the_log_and_names_operators_calls() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start_with(&["--database-url", database.url()]).await;
    let mut cluster = daemon.cluster().await;
    cluster.rotate_epoch(v1::RotateEpochRequest::default()).await.unwrap();
    wait_until("the rotation is in the log", BOUND, async || {
        let log = daemon.log();
        let is_entry = |line: &&str| line.contains("\"target\":\"musterd::audit\"") && line.contains("RotateEpoch");
        log.lines()
            .find(is_entry)
            .map(|line| assert!(line.contains("\"identity\":\"anonymous\""), "{line}"))
            .ok_or(log.clone())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn full_disk_of_the_audit_log_stops_no_call_and_is_counted() {
    let guarded = Guarded::start_with(RULES, &["actor"], &["--audit-file", "/dev/full"]).await;
    let mut master = guarded.caller(MASTER).await;
    for number in 1..=50 {
        master.registry.register(registration(id(number), "svc-b")).await.unwrap();
        let expire = v1::ExpireInstanceRequest { instance_id: id(number).to_string(), ..Default::default() };
        master.cluster.expire_instance(expire).await.unwrap();
    }
    wait_until("all events are counted as dropped", BOUND, async || {
        match guarded.daemon.metric("musterd_audit_events_total{outcome=\"dropped\"}").await {
            Some(count) if count >= 50.0 => Ok(()),
            other => Err(other),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_beyond_ten_a_second_are_counted_instead_of_recorded() {
    let files = Scratch::in_memory();
    let guarded = audited(&files, &[]).await;
    // A flood of HTTP requests without credentials: faster than calls one by one.
    let suppressed = "musterd_audit_events_total{outcome=\"suppressed\"}";
    wait_until("refusals are suppressed", BOUND, async || {
        let mut stranger = guarded.caller(STRANGER).await;
        for _ in 0..100 {
            let _ = stranger.cluster.who_am_i(v1::WhoAmIRequest::default()).await;
        }
        match guarded.daemon.metric(suppressed).await {
            Some(count) if count > 0.0 => Ok(()),
            other => Err(other),
        }
    })
    .await;
    wait_until("an entry tells how many were not recorded", BOUND, async || {
        let mut stranger = guarded.caller(STRANGER).await;
        let _ = stranger.cluster.who_am_i(v1::WhoAmIRequest::default()).await;
        let told = entries(&files).iter().any(|entry| entry["suppressed"].as_u64().is_some_and(|count| count > 0));
        if told { Ok(()) } else { Err(entries(&files).len()) }
    })
    .await;
}
