//! Commands of operators about deaths: `hold`, `release`, `expire`, `check-lease`, and what `epoch show` shows of it.

use std::time::Duration;

use musterd::proto::v1;

use super::{Ended, musterd};
use crate::harness::{
    actor::{Caller, alive},
    daemon::Daemon,
    postgres::{TestDatabase, connect},
    registry::run,
    wait::wait_until,
};

const BOUND: Duration = Duration::from_secs(20);

async fn scene(database: &TestDatabase) -> (Daemon, Caller, v1::RegisterResponse) {
    let daemon = Daemon::start(database.url()).await;
    let caller = Caller::of(&daemon);
    let lease = caller.register(alive("organ", Duration::from_secs(300))).await.unwrap();
    (daemon, caller, lease)
}

async fn ask(daemon: &Daemon, arguments: &[&str]) -> Ended {
    musterd(&[&["--addr", &daemon.grpc_addr], arguments].concat()).await
}

/// Asks until the answer satisfies.
async fn shows(daemon: &Daemon, arguments: &[&str], done: impl Fn(&Ended) -> bool) -> Ended {
    wait_until("the command shows it", BOUND, async || {
        let ended = ask(daemon, arguments).await;
        if done(&ended) { Ok(ended) } else { Err(ended) }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn expiry_is_held_shown_and_released() {
    let database = TestDatabase::create().await;
    let (daemon, ..) = scene(&database).await;
    let held = ask(&daemon, &["hold", "--for", "10m", "--reason", "work on the network", "-o", "json"]).await.json();
    assert_eq!(held, serde_json::json!({ "remaining": "600s" }));
    let table = shows(&daemon, &["epoch", "show"], |shown| shown.stdout.contains("(work on the network)")).await;
    assert!(table.stdout.lines().next().unwrap().ends_with("HOLD                          BRAKE"), "{table:?}");
    let json = ask(&daemon, &["epoch", "show", "-o", "json"]).await.json();
    assert_eq!((&json["hold"]["reason"], &json["brake"]), (&"work on the network".into(), &serde_json::Value::Null));
    let again = ask(&daemon, &["hold"]).await;
    assert_eq!((again.code, again.stdout.as_str()), (Some(0), "HELD FOR\n305.0s\n"), "the longest TTL and 5 s");

    let released = ask(&daemon, &["release", "--for", "1m"]).await;
    assert_eq!((released.code, released.stdout.as_str()), (Some(0), ""));
    shows(&daemon, &["epoch", "show", "-o", "json"], |shown| {
        serde_json::from_str::<serde_json::Value>(&shown.stdout).is_ok_and(|json| json["hold"].is_null())
    })
    .await;
    assert_eq!(ask(&daemon, &["release", "-o", "json"]).await.json(), serde_json::json!({}));
    for bad in [["hold", "--for", "2h"], ["release", "--for", "999ms"], ["hold", "--for", "soon"]] {
        assert_eq!(ask(&daemon, &bad).await.code, Some(2), "{bad:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_brake_is_shown_with_its_numbers() {
    let database = TestDatabase::create().await;
    let (daemon, ..) = scene(&database).await;
    // The reaper takes a brake off that is not due: no reaper may run before it was shown.
    let client = connect(database.url()).await;
    run(&client, "BEGIN; SELECT muster_lock_cluster()").await;
    let brake =
        "UPDATE cluster_metadata SET brake = 'protect', brake_since = now(), brake_overdue = 51, brake_live = 100";
    run(&client, &format!("{brake}, hold_until = now() + interval '10 min'; COMMIT")).await;
    shows(&daemon, &["epoch", "show"], |shown| shown.stdout.contains("protect (51 of 100 overdue)")).await;
    let json = ask(&daemon, &["epoch", "show", "-o", "json"]).await.json();
    assert_eq!((&json["brake"]["mode"], &json["brake"]["overdue"]), (&"BRAKE_MODE_PROTECT".into(), &"51".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn instance_is_ended_by_its_id_and_its_lease_reports_it() {
    let database = TestDatabase::create().await;
    let (daemon, _caller, lease) = scene(&database).await;
    let (id, number) = (lease.instance_id.as_str(), lease.lease_id.to_string());
    let checked = ask(&daemon, &["check-lease", &number]).await;
    assert_eq!(checked.code, Some(0), "{checked:?}");
    let row: Vec<_> = checked.stdout.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(row[..4], [&number, "organ", id, "alive"]);
    let json = ask(&daemon, &["check-lease", &number, "-o", "json"]).await.json();
    assert_eq!(json["instance"]["leaseId"], number.as_str());
    let unknown = ask(&daemon, &["check-lease", "999999"]).await;
    assert_eq!((unknown.code, unknown.stdout.as_str()), (Some(4), ""));
    assert!(unknown.complaint().ends_with("(UNKNOWN_LEASE)"), "{unknown:?}");
    assert_eq!(ask(&daemon, &["check-lease", "0"]).await.code, Some(2));

    let absent = ask(&daemon, &["expire", "6f1e7a52-3c1b-4c57-9e0e-2b8a4a7d9c10"]).await;
    assert_eq!(absent.code, Some(4), "{absent:?}");
    assert_eq!(ask(&daemon, &["expire", id, "--lease", "999999"]).await.code, Some(4), "it never had that lease");
    let ended = ask(&daemon, &["expire", id, "--lease", &number, "-o", "json"]).await.json();
    assert_eq!(ended["alreadyDead"], false);
    let again = ask(&daemon, &["expire", id]).await.stdout;
    let row: Vec<_> = again.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(row, [id, ended["revision"].as_str().unwrap(), "yes"]);
    let dead = ask(&daemon, &["check-lease", &number]).await;
    assert_eq!(dead.code, Some(5), "{dead:?}");
    assert!(dead.complaint().ends_with("(LEASE_EXPIRED)"), "{dead:?}");
}
