//! `musterd resolve` as a person or a script uses it: policies, several names, exit codes.

use std::process::Output;

use musterd::proto::v1::RegisterRequest;
use serde_json::Value;

use crate::harness::{
    daemon::{Daemon, program},
    postgres::TestDatabase,
    wire::{alive, register},
};

async fn resolve(daemon: &Daemon, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = program();
    command.args(["resolve", "--addr", &daemon.grpc_addr]).args(arguments);
    let output: Output = tokio::process::Command::from(command).output().await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_an_exclusion_and_labels_choose_among_the_instances() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    let mut registry = daemon.registry().await;
    let request = |node_id: &str, zone: &str| RegisterRequest {
        node_id: node_id.into(),
        labels: [("zone".to_owned(), zone.to_owned())].into(),
        ..alive("organ")
    };
    let first = register(&mut registry, request("n1", "a")).await.instance_id;
    let second = register(&mut registry, request("n2", "b")).await.instance_id;
    let chosen = async |arguments: &[&str]| {
        let (code, stdout, stderr) = resolve(&daemon, &[&["organ", "-o", "jsonl"], arguments].concat()).await;
        assert_eq!((code, stderr.as_str()), (Some(0), ""), "{arguments:?}");
        let value: Value = serde_json::from_str(&stdout).unwrap();
        value["instance"]["instanceId"].as_str().unwrap().to_owned()
    };
    assert_eq!(chosen(&[]).await, first);
    assert_eq!(chosen(&["--near", "n2"]).await, second);
    assert_eq!(chosen(&["--exclude", &first]).await, second);
    assert_eq!(chosen(&["--label", "zone=b"]).await, second);
    assert_eq!(chosen(&["--policy", "random", "--label", "zone=a"]).await, first);
    assert_eq!(chosen(&["--key", "k"]).await, chosen(&["--policy", "rendezvous", "--key", "k"]).await);

    let (code, stdout, stderr) = resolve(&daemon, &["organ", "--exclude", &first, "--exclude", &second]).await;
    assert_eq!((code, stdout.as_str()), (Some(4), ""));
    assert!(stderr.contains("NO_LIVE_INSTANCE"), "{stderr}");
    let (code, _, stderr) = resolve(&daemon, &["organ", "--policy", "near"]).await;
    assert_eq!(code, Some(2));
    assert!(stderr.contains("--near"), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn several_names_have_a_line_each_and_one_without_an_instance_makes_the_exit_code_4() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    let mut registry = daemon.registry().await;
    let a = register(&mut registry, alive("a")).await.instance_id;
    let b = register(&mut registry, alive("b")).await.instance_id;

    let (code, stdout, stderr) = resolve(&daemon, &["b", "a"]).await;
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    let rows: Vec<Vec<&str>> = stdout.lines().skip(1).map(|line| line.split_whitespace().take(2).collect()).collect();
    assert_eq!(rows, [["b", &b], ["a", &a]]);

    let (code, stdout, stderr) = resolve(&daemon, &["b", "nowhere", "a", "-o", "jsonl"]).await;
    assert_eq!(code, Some(4));
    assert!(stderr.contains("nowhere") && stderr.contains("UNKNOWN_LOGICAL_ID"), "{stderr}");
    let lines: Vec<Value> = stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told: Vec<_> = lines.iter().map(|line| (line["logicalId"].as_str(), line["reason"].as_str())).collect();
    let found = Some("ERROR_REASON_UNSPECIFIED");
    let expected = [(Some("b"), found), (Some("nowhere"), Some("ERROR_REASON_UNKNOWN_LOGICAL_ID")), (Some("a"), found)];
    assert_eq!(told, expected);
    assert!(lines[1]["instance"].is_null());

    let (code, stdout, _) = resolve(&daemon, &["b", "nowhere", "-o", "json"]).await;
    let document: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, document["results"].as_array().map(Vec::len)), (Some(4), Some(2)));
}
