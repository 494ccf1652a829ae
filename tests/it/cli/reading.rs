//! Commands that only look: `get`, `describe`, `explain`, `status`, and the forms in which they and `list` answer.

use std::{collections::HashMap, time::Duration};

use musterd::proto::v1;
use musterd_client::Status;
use serde_json::Value;

use super::{Ended, musterd};
use crate::harness::{
    actor::{Caller, alive},
    daemon::Daemon,
    postgres::{TestDatabase, connect},
    registry::{get, run},
    wait::wait_until,
};

const BOUND: Duration = Duration::from_secs(20);

/// A daemon with three instances of `organ_1`: the best, one that is draining, and one that was deregistered.
async fn scene(database: &TestDatabase) -> (Daemon, [String; 3]) {
    let daemon = Daemon::start(database.url()).await;
    let caller = Caller::of(&daemon);
    let request = v1::RegisterRequest {
        ip_address: "10.0.0.1".into(),
        port: 8_000,
        labels: HashMap::from([("zone".to_owned(), "a".to_owned()), ("tier".to_owned(), "b: c".to_owned())]),
        ..alive("organ_1", Duration::from_secs(300))
    };
    let best = caller.register(request).await.unwrap().instance_id;
    let draining = caller.register(alive("organ_1", Duration::from_secs(300))).await.unwrap();
    caller.set_status(&draining.instance_id, Status::Draining).await.unwrap();
    let dead = caller.register(alive("organ_1", Duration::from_secs(300))).await.unwrap();
    caller.deregister(&dead.instance_id).await.unwrap();
    (daemon, [best, draining.instance_id, dead.instance_id])
}

async fn ask(daemon: &Daemon, arguments: &[&str]) -> Ended {
    musterd(&[&["--addr", &daemon.grpc_addr], arguments].concat()).await
}

/// What it printed; it must have ended well and without a word besides.
async fn shown(daemon: &Daemon, arguments: &[&str]) -> String {
    let ended = ask(daemon, arguments).await;
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{arguments:?}: {ended:?}");
    ended.stdout
}

#[tokio::test(flavor = "multi_thread")]
async fn one_instance_is_shown_in_every_form() {
    let database = TestDatabase::create().await;
    let (daemon, [best, _, dead]) = scene(&database).await;
    let get = async |format: &str| shown(&daemon, &["get", &best, "-o", format]).await;
    let table = get("table").await;
    assert_eq!(table.lines().count(), 2);
    let wide = get("wide").await;
    assert!(wide.lines().next().unwrap().ends_with("STATUS REASON") && wide.contains("tier=b: c,zone=a"), "{wide}");
    let json: Value = serde_json::from_str(&get("json").await).unwrap();
    let line: Value = serde_json::from_str(get("jsonl").await.trim_end()).unwrap();
    assert_eq!(json["instance"]["instanceId"], line["instance"]["instanceId"]);
    assert_eq!(json["instance"]["labels"]["tier"], "b: c");
    let yaml = get("yaml").await;
    for expected in ["---\n", &format!("\n  instanceId: {best}\n"), "\n    tier: \"b: c\"\n", "\n  port: 8000\n"] {
        assert!(yaml.contains(expected), "{expected:?} in\n{yaml}");
    }
    assert_eq!(get("name").await, format!("{best}\n"));
    let gone = shown(&daemon, &["get", &dead, "-o", "json"]).await;
    assert_eq!(
        serde_json::from_str::<Value>(&gone).unwrap()["instance"]["death"]["reason"],
        "DEATH_REASON_DEREGISTERED"
    );

    let unknown = ask(&daemon, &["get", "6f1e7a52-3c1b-4c57-9e0e-2b8a4a7d9c10"]).await;
    assert_eq!(unknown.code, Some(4), "{unknown:?}");
    let no_id = ask(&daemon, &["get", "organ_1"]).await;
    assert_eq!(no_id.code, Some(2));
    assert!(no_id.stderr.contains("musterd describe NAME"), "{no_id:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_names_is_the_input_of_the_next_command() {
    let database = TestDatabase::create().await;
    let (daemon, [best, draining, dead]) = scene(&database).await;
    let mut ids: Vec<String> =
        shown(&daemon, &["list", "--all-statuses", "-o", "name"]).await.lines().map(str::to_owned).collect();
    ids.sort_unstable();
    let mut expected = vec![best, draining, dead];
    expected.sort_unstable();
    assert_eq!(ids, expected);
    let yaml = shown(&daemon, &["list", "-o", "yaml"]).await;
    assert_eq!(yaml.matches("\n- ").count() + yaml.matches("\n  - ").count(), 2, "{yaml}");
    let nothing = ask(&daemon, &["list", "--node", "nowhere"]).await;
    assert_eq!(nothing.code, Some(0));
    assert_eq!(nothing.complaint(), "no instance matches; on record are 1 alive, 0 starting, 1 draining, 1 dead");
    for bad in [&["list", "-o", "xml"][..], &["list", "--watch=1ms"], &["list", "--colour", "never"]] {
        let refused = ask(&daemon, bad).await;
        assert_eq!((refused.code, refused.stdout.as_str()), (Some(2), ""), "{bad:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn describe_explains_an_instance_and_a_name_in_words() {
    let database = TestDatabase::create().await;
    let (daemon, [best, draining, dead]) = scene(&database).await;
    let text = shown(&daemon, &["describe", &best]).await;
    for line in [format!("Instance:    {best}"), "Status:      alive".into(), "Address:     10.0.0.1:8000".into()] {
        assert!(text.lines().any(|shown| shown == line), "{line:?} in\n{text}");
    }
    assert!(text.contains("Labels:      tier=b: c\n             zone=a\n"), "{text}");
    let text = shown(&daemon, &["describe", &dead]).await;
    assert!(text.contains("Because:     deregistered") && text.contains("Decided by:  "), "{text}");

    let text = shown(&daemon, &["describe", "organ_1"]).await;
    assert!(text.contains("On record:   1 alive, 0 starting, 1 draining, 1 dead\n"), "{text}");
    assert!(text.contains(&format!("Best:        {best} 10.0.0.1:8000\n")), "{text}");
    assert!(text.contains(&draining) && text.contains(&format!("Deaths:\n  {dead}  ")), "{text}");
    let ids = shown(&daemon, &["describe", "organ_1", "-o", "name"]).await;
    assert_eq!(ids.lines().count(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn earlier_leases_of_an_instance_and_a_name_are_listed() {
    let database = TestDatabase::create().await;
    let (daemon, [_, _, dead]) = scene(&database).await;
    let (caller, sql) = (Caller::of(&daemon), connect(database.url()).await);
    let again = v1::RegisterRequest { instance_id: dead.clone(), ..alive("organ_1", Duration::from_secs(300)) };
    let first = caller.register(again.clone()).await.unwrap();
    let during: String =
        get(&sql, "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')").await;
    caller.deregister(&dead).await.unwrap();
    let last = caller.register(again).await.unwrap();

    let text = shown(&daemon, &["describe", &dead]).await;
    let earlier = format!("\nEarlier:\n  {dead}  lease {}, ended ", first.lease_id);
    assert!(text.contains(&format!("Lease:       {}, ", last.lease_id)) && text.contains(&earlier), "{text}");
    assert_eq!(
        text.matches("deregistered: the instance, or a command in its name, ended the lease").count(),
        2,
        "{text}"
    );
    let then = shown(&daemon, &["describe", &dead, "--at", &during]).await;
    assert!(
        then.contains("Held:        1 on record\n") && then.contains(&format!("  lease {}, from ", first.lease_id)),
        "{then}"
    );
    let then = shown(&daemon, &["describe", "organ_1", "--at", &during, "-o", "json"]).await;
    let then: Value = serde_json::from_str(&then).unwrap();
    let mut leases: Vec<_> =
        then["leases"].as_array().unwrap().iter().map(|held| held["death"]["reason"].as_str()).collect();
    leases.sort_unstable();
    assert_eq!(leases, [None, None, Some("DEATH_REASON_DEREGISTERED")], "{then}");

    // The registry forgets it a day later, the history does not.
    caller.deregister(&dead).await.unwrap();
    run(&sql, &format!("DELETE FROM registry_instance WHERE instance_id = '{dead}'")).await;
    wait_until("the daemon forgets the instance", BOUND, async || {
        let ended = ask(&daemon, &["get", &dead]).await;
        if ended.code == Some(4) { Ok(()) } else { Err(ended) }
    })
    .await;
    let text = shown(&daemon, &["describe", &dead]).await;
    assert!(text.starts_with(&format!("\nEarlier:\n  {dead}  lease {}, ended ", last.lease_id)), "{text}");
    let json: Value = serde_json::from_str(&shown(&daemon, &["describe", "organ_1", "-o", "json"]).await).unwrap();
    assert_eq!(json["endedLeases"].as_array().unwrap().len(), 3, "{json}");
}

#[tokio::test(flavor = "multi_thread")]
async fn why_one_is_chosen_and_the_others_are_not() {
    let database = TestDatabase::create().await;
    let (daemon, [best, draining, dead]) = scene(&database).await;
    let later = Caller::of(&daemon).register(alive("organ_1", Duration::from_secs(300))).await.unwrap().instance_id;
    let explained: Value = serde_json::from_str(&shown(&daemon, &["explain", "organ_1", "-o", "json"]).await).unwrap();
    let lines: Vec<_> = explained["instances"].as_array().unwrap().iter().collect();
    let told: Vec<_> =
        lines.iter().map(|line| (line["instance"]["instanceId"].as_str().unwrap(), &line["rank"])).collect();
    assert_eq!(
        told,
        [(best.as_str(), &1.into()), (&later, &2.into()), (&draining, &Value::Null), (&dead, &Value::Null),]
    );
    let because: Vec<_> = lines.iter().map(|line| line["because"].as_str().unwrap()).collect();
    assert_eq!(because, ["seniority", "seniority", "draining", "dead"]);
    let table = shown(&daemon, &["explain", "organ_1", "--exclude", &best]).await;
    let first: Vec<_> = table.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(first[..2], ["1", &later], "{table}");
    assert!(table.contains("not considered: the request excludes it"), "{table}");
    let resolved = shown(&daemon, &["resolve", "organ_1", "-o", "name"]).await;
    let ranked = shown(&daemon, &["explain", "organ_1", "-o", "name"]).await;
    assert_eq!(ranked.lines().next(), resolved.lines().next());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_almost_right_is_suggested() {
    let database = TestDatabase::create().await;
    let (daemon, _) = scene(&database).await;
    for command in ["resolve", "describe", "explain"] {
        let unknown = ask(&daemon, &[command, "organ1"]).await;
        assert_eq!((unknown.code, unknown.stdout.as_str()), (Some(4), ""), "{command}");
        let complaint = "no instance of `organ1` is on record (UNKNOWN_LOGICAL_ID); did you mean `organ_1`?";
        assert_eq!(unknown.complaint(), complaint, "{command}");
    }
    assert!(!ask(&daemon, &["resolve", "database"]).await.stderr.contains("did you mean"));
}

#[tokio::test(flavor = "multi_thread")]
async fn status_shows_health_and_unserved_names() {
    let database = TestDatabase::create().await;
    let (daemon, [best, ..]) = scene(&database).await;
    let text = shown(&daemon, &["status"]).await;
    let addr = &daemon.grpc_addr;
    assert!(text.starts_with(&format!("The registry at http://{addr} is healthy.\n")), "{text}");
    assert!(text.contains("NAMES      1 live, 0 unserved, 0 left\n"), "{text}");
    assert!(text.contains(&format!("{addr} (answers)")) && text.contains(", begun "), "{text}");
    assert!(!text.contains('\u{1b}'), "no colour but on a terminal");
    assert!(shown(&daemon, &["status", "--color", "always"]).await.contains("\u{1b}[32mhealthy"));

    assert_eq!(ask(&daemon, &["expire", &best]).await.code, Some(0));
    let unserved = ask(&daemon, &["status"]).await;
    assert_eq!(unserved.code, Some(1), "no name is served: {unserved:?}");
    assert!(unserved.stdout.contains("The only logical id has no live instance"), "{unserved:?}");
    assert!(unserved.stdout.contains("0 live, 1 unserved (organ_1), 0 left\n"), "{unserved:?}");
    let json = ask(&daemon, &["status", "-o", "json"]).await;
    let json: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!((&json["severity"], &json["unservedLogicalIds"][0]), (&"critical".into(), &"organ_1".into()));
    assert_eq!(json["health"]["httpAddress"], daemon.http_addr.as_str());
    wait_until("the reaper has looked", BOUND, async || {
        let json = ask(&daemon, &["status", "-o", "json"]).await;
        let json: Value = serde_json::from_str(&json.stdout).unwrap();
        if json["health"]["lastReapAge"].is_string() { Ok(()) } else { Err(json) }
    })
    .await;
}
