//! Commands that ask a daemon, and `migrate`.

use std::{collections::HashMap, time::Duration};

use musterd::proto::v1;
use musterd_client::Status;

use super::{Ended, musterd};
use crate::harness::{
    actor::{Caller, alive},
    daemon::Daemon,
    postgres::{MIGRATIONS, TestDatabase, connect},
    registry::{get, run},
};

/// An address at which nothing listens.
const NOBODY: &str = "127.0.0.1:1";

/// A daemon with three instances: two of `organ_1`, one of them in zone b and draining, and one of `web`.
async fn scene(database: &TestDatabase) -> (Daemon, [String; 3]) {
    let daemon = Daemon::start(database.url()).await;
    let caller = Caller::of(&daemon);
    let register = |name: &str, zone: &str, node: &str| {
        let labels = HashMap::from([("zone".to_owned(), zone.to_owned())]);
        let request = v1::RegisterRequest {
            ip_address: "10.0.0.1".into(),
            port: 8_000,
            serve_route: "/route".into(),
            node_id: node.into(),
            labels,
            ..alive(name, Duration::from_secs(300))
        };
        caller.register(request)
    };
    let best = register("organ_1", "a", "n1").await.unwrap().instance_id;
    let draining = register("organ_1", "b", "n2").await.unwrap();
    let web = register("web", "a", "n2").await.unwrap().instance_id;
    caller.set_status(&draining.instance_id, Status::Draining).await.unwrap();
    (daemon, [best, draining.instance_id, web])
}

async fn ask(daemon: &Daemon, arguments: &[&str]) -> Ended {
    musterd(&[&["--addr", &daemon.grpc_addr], arguments].concat()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn resolve_prints_the_best_instance_as_table_and_as_json() {
    let database = TestDatabase::create().await;
    let (daemon, [best, ..]) = scene(&database).await;
    let table = ask(&daemon, &["resolve", "organ_1"]).await;
    assert_eq!((table.code, table.stderr.as_str()), (Some(0), ""));
    let lines: Vec<Vec<&str>> = table.stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines.len(), 2, "{}", table.stdout);
    assert_eq!(lines[0][..3], ["LOGICAL", "ID", "INSTANCE"]);
    assert_eq!(lines[1][..6], ["organ_1", best.as_str(), "alive", "10.0.0.1:8000", "/route", "n1"]);

    let json = ask(&daemon, &["resolve", "organ_1", "-o", "json"]).await.json();
    let json = &json["results"][0];
    assert_eq!(json["instance"]["instanceId"], best.as_str());
    assert_eq!(json["instance"]["status"], "INSTANCE_STATUS_ALIVE");
    assert_eq!(json["instance"]["labels"]["zone"], "a");
    assert_eq!((&json["alternatives"], &json["instance"]["death"]), (&0.into(), &serde_json::Value::Null));
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_name_exits_4_and_unreachable_daemon_exits_3() {
    let database = TestDatabase::create().await;
    let (daemon, _) = scene(&database).await;
    let unknown = ask(&daemon, &["resolve", "absent"]).await;
    assert_eq!((unknown.code, unknown.stdout.as_str()), (Some(4), ""));
    assert_eq!(unknown.complaint(), "no instance of `absent` is on record (UNKNOWN_LOGICAL_ID)");
    for command in [&["resolve", "organ_1"][..], &["list"], &["epoch", "show"], &["epoch", "rotate"]] {
        let unreachable = musterd(&[&["--addr", NOBODY], command].concat()).await;
        assert_eq!((unreachable.code, unreachable.stdout.as_str()), (Some(3), ""), "{command:?}");
        let complaint = unreachable.complaint();
        assert!(complaint.starts_with("cannot reach the registry at http://127.0.0.1:1"), "{complaint}");
    }
    let usage = musterd(&["resolve"]).await;
    assert_eq!((usage.code, usage.stdout.as_str()), (Some(2), ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn list_filters_by_name_status_node_and_label() {
    let database = TestDatabase::create().await;
    let (daemon, [best, draining, web]) = scene(&database).await;
    let listed = async |arguments: &[&str]| {
        let json = ask(&daemon, &[&["list", "-o", "json"], arguments].concat()).await.json();
        let instances = json["instances"].as_array().unwrap().clone();
        let mut ids: Vec<_> = instances.iter().map(|one| one["instanceId"].as_str().unwrap().to_owned()).collect();
        ids.sort_unstable();
        ids
    };
    let sorted = |ids: &[&String]| {
        let mut ids: Vec<_> = ids.iter().map(|id| (*id).clone()).collect();
        ids.sort_unstable();
        ids
    };
    assert_eq!(listed(&[]).await, sorted(&[&best, &draining, &web]));
    assert_eq!(listed(&["--prefix", "organ"]).await, sorted(&[&best, &draining]));
    assert_eq!(listed(&["--status", "draining"]).await, sorted(&[&draining]));
    assert_eq!(listed(&["--node", "n2"]).await, sorted(&[&draining, &web]));
    assert_eq!(listed(&["--label", "zone=a", "--node", "n2"]).await, sorted(&[&web]));
    assert_eq!(listed(&["--dead"]).await, sorted(&[]));
    let lines = ask(&daemon, &["list", "-o", "jsonl", "--prefix", "organ"]).await;
    assert_eq!(lines.stdout.lines().filter(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()).count(), 2);
    let table = ask(&daemon, &["list", "--prefix", "web"]).await.stdout;
    assert!(table.lines().nth(1).is_some_and(|line| line.contains(&web) && line.contains("alive")), "{table}");
    let long = "x".repeat(300);
    let refused = ask(&daemon, &["list", "--prefix", &long]).await;
    assert_eq!(refused.code, Some(2), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_epoch_is_shown_and_rotated_only_from_the_expected_one() {
    let database = TestDatabase::create().await;
    let (daemon, _) = scene(&database).await;
    let shown = ask(&daemon, &["epoch", "show", "-o", "json"]).await.json();
    let first = shown["clusterEpoch"].as_str().unwrap();
    assert_eq!((&shown["epochNumber"], &shown["counts"]["alive"]), (&"1".into(), &"2".into()));
    let (new, other) = (uuid::Uuid::new_v4().to_string(), uuid::Uuid::new_v4().to_string());

    let mismatch = ask(&daemon, &["epoch", "rotate", "--expect", &other]).await;
    assert_eq!((mismatch.code, mismatch.stdout.as_str()), (Some(5), ""));
    assert!(mismatch.complaint().contains(first) && mismatch.complaint().ends_with("(EPOCH_MISMATCH)"), "{mismatch:?}");

    let rotate = ["epoch", "rotate", "--expect", first, "--new", &new, "--reason", "a test", "-o", "json"];
    let rotated = ask(&daemon, &rotate).await.json();
    assert_eq!((&rotated["clusterEpoch"], &rotated["rotated"]), (&new.as_str().into(), &true.into()));
    assert_eq!(rotated["previousEpoch"], first);
    let again = ask(&daemon, &rotate).await.json();
    assert_eq!((&again["epochNumber"], &again["rotated"]), (&"2".into(), &false.into()), "once, however often asked");
    assert_eq!(ask(&daemon, &["epoch", "rotate", "--new", first]).await.code, Some(5), "never back to an old one");
    assert_eq!(ask(&daemon, &["resolve", "organ_1"]).await.code, Some(4), "all of the old epoch are dead");
    let table = ask(&daemon, &["epoch", "list"]).await.stdout;
    assert!(table.lines().count() == 3 && table.contains(first) && table.contains("a test"), "{table}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fresh_database_is_migrated_and_verified() {
    let database = TestDatabase::create().await;
    let migrate = async |arguments: &[&str]| {
        musterd(&[&["migrate", arguments[0], "--database-url", database.url()], &arguments[1..]].concat()).await
    };
    let pending = migrate(&["status", "--exit-code"]).await;
    assert_eq!(pending.code, Some(1), "{pending:?}");
    assert_eq!(
        pending.stdout.lines().filter(|line| line.contains("pending")).count(),
        MIGRATIONS,
        "{}",
        pending.stdout
    );
    assert_eq!(migrate(&["verify"]).await.code, Some(1));

    let up = migrate(&["up", "-o", "json"]).await.json();
    assert_eq!(
        (up["applied"].as_array().unwrap().len(), &up["current"]),
        (MIGRATIONS, &(MIGRATIONS + 10).into()),
        "the first is 011"
    );
    assert_eq!(migrate(&["up", "-o", "json"]).await.json()["applied"].as_array().unwrap().len(), 0);
    let status = migrate(&["status", "--exit-code", "-o", "json"]).await.json();
    assert!(status.as_array().unwrap().iter().all(|one| one["state"] == "applied"), "{status}");
    let verified = migrate(&["verify"]).await;
    assert_eq!((verified.code, verified.stdout.as_str()), (Some(0), ""));
    assert_eq!(verified.complaint(), "schema verified, no differences");

    let client = connect(database.url()).await;
    run(&client, "DROP INDEX idx_instance_lease_id").await;
    let differs = migrate(&["verify"]).await;
    assert_eq!(differs.code, Some(1));
    assert!(differs.stdout.contains("idx_instance_lease_id"), "{differs:?}");
    assert_eq!(get::<i64>(&client, "SELECT count(*) FROM cluster_metadata").await, 0, "no daemon has run");
}
