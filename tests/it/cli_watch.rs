//! `musterd watch` as a person or a script uses it: what it prints, what it survives, how it ends.

use std::process::Stdio;

use musterd::proto::v1::{RegisterRequest, RotateEpochRequest};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader, Lines},
    process::{Child, ChildStderr, ChildStdout, Command},
    time::timeout,
};

use crate::harness::{
    daemon::{DAEMON_BOUND, Daemon, program},
    postgres::TestDatabase,
    wire::{alive, deregister, register, seconds},
};

/// A running watch.
struct Watch {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    stderr: Lines<BufReader<ChildStderr>>,
}

impl Watch {
    fn spawn(addr: &str, arguments: &[&str]) -> Self {
        let mut command = program();
        command.args(["watch", "--addr", addr]).args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = Command::from(command).kill_on_drop(true).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let stderr = BufReader::new(child.stderr.take().unwrap()).lines();
        Self { child, lines, stderr }
    }

    /// The next line of standard output; `None` at its end.
    async fn line(&mut self) -> Option<String> {
        timeout(DAEMON_BOUND, self.lines.next_line()).await.unwrap().unwrap()
    }

    async fn json(&mut self) -> Value {
        serde_json::from_str(&self.line().await.unwrap()).unwrap()
    }

    /// The next line of JSON in short: its type, the name it is about, the revision to resume after.
    async fn told(&mut self) -> (String, String, u64) {
        let line = self.json().await;
        let kind = line["type"].as_str().unwrap().trim_start_matches("WATCH_EVENT_TYPE_");
        let name = line["instance"]["logicalId"].as_str().unwrap_or_default();
        (kind.to_owned(), name.to_owned(), line["revision"].as_str().unwrap().parse().unwrap())
    }

    /// Reads standard error until a line that contains this.
    async fn complaint(&mut self, part: &str) -> String {
        let find = async {
            while let Some(line) = self.stderr.next_line().await.unwrap() {
                if line.contains(part) {
                    return line;
                }
            }
            panic!("it ended without a word of `{part}`")
        };
        timeout(DAEMON_BOUND, find).await.unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().unwrap().try_into().unwrap()), signal).unwrap();
    }

    /// Waits for the end: the exit code, and what was left on standard error.
    async fn end(mut self) -> (Option<i32>, String) {
        let status = timeout(DAEMON_BOUND, self.child.wait()).await.unwrap().unwrap();
        let mut stderr = String::new();
        while let Some(line) = self.stderr.next_line().await.unwrap() {
            stderr += &(line + "\n");
        }
        (status.code(), stderr)
    }
}

fn told(kind: &str, name: &str, revision: u64) -> (String, String, u64) {
    (kind.to_owned(), name.to_owned(), revision)
}

/// Long enough that silence says nothing during a test.
fn patient(logical_id: &str) -> RegisterRequest {
    RegisterRequest { ttl: seconds(300), ..alive(logical_id) }
}

#[tokio::test(flavor = "multi_thread")]
async fn watch_prints_a_snapshot_then_every_change_until_a_signal() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    let mut registry = daemon.registry().await;
    let before = register(&mut registry, patient("a-before")).await;
    register(&mut registry, patient("other")).await;
    let mut watch = Watch::spawn(&daemon.grpc_addr, &["--prefix", "a-", "-o", "jsonl"]);
    assert_eq!(watch.told().await, told("PUT", "a-before", 0), "within the snapshot nothing can be resumed");
    assert_eq!(watch.told().await, told("SYNCED", "", before.revision + 1));

    let after = register(&mut registry, patient("a-after")).await;
    assert_eq!(watch.told().await, told("PUT", "a-after", after.revision));
    register(&mut registry, patient("other")).await;
    let gone = deregister(&mut registry, before.lease_id).await;
    let line = watch.json().await;
    assert_eq!(
        (line["type"].as_str(), line["revision"].as_str()),
        (Some("WATCH_EVENT_TYPE_GONE"), Some(&*gone.to_string()))
    );
    assert_eq!(line["instance"]["instanceId"].as_str(), Some(&*before.instance_id));
    assert_eq!(line["instance"]["death"]["reason"].as_str(), Some("DEATH_REASON_DEREGISTERED"));

    let rotated = daemon.cluster().await.rotate_epoch(RotateEpochRequest::default()).await.unwrap().into_inner();
    let epoch = watch.json().await;
    assert_eq!(
        (epoch["type"].as_str(), epoch["clusterEpoch"].as_str()),
        (Some("EPOCH"), Some(&*rotated.cluster_epoch))
    );
    assert_eq!(watch.told().await.0, "GONE", "the reaper writes down the death of the old epoch");
    watch.signal(Signal::SIGTERM);
    assert_eq!(watch.end().await, (Some(0), String::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn watch_resumes_after_its_daemon_was_killed_and_restarted() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    let other = Daemon::start(database.url()).await;
    let mut registry = other.registry().await;
    let kept = register(&mut registry, patient("kept")).await;
    let lost = register(&mut registry, patient("lost")).await;
    let addr = daemon.grpc_addr.clone();
    let mut watch = Watch::spawn(&addr, &["-o", "jsonl"]);
    while watch.told().await.0 != "SYNCED" {}
    let first = register(&mut registry, patient("first")).await;
    // Also where the daemon that is watched had not seen all of the snapshot's changes when it was complete.
    while watch.told().await != told("PUT", "first", first.revision) {}

    daemon.kill9();
    let complaint = watch.complaint("interrupted").await;
    assert!(complaint.contains(&format!("after revision {}", first.revision)), "{complaint}");
    let meanwhile = register(&mut registry, patient("meanwhile")).await;
    let gone = deregister(&mut registry, lost.lease_id).await;
    let again = Daemon::start_with(&["--database-url", database.url(), "--grpc-addr", &addr]).await;
    watch.complaint("watching again").await;
    assert_eq!(watch.told().await, told("PUT", "meanwhile", meanwhile.revision));
    assert_eq!(watch.told().await, told("GONE", "lost", gone));
    let left = deregister(&mut again.registry().await, kept.lease_id).await;
    assert_eq!(watch.told().await, told("GONE", "kept", left), "no reset, nothing twice");

    // A daemon that leaves by itself is no reason to end either.
    assert!(again.terminate().await.success());
    watch.complaint("interrupted").await;
    watch.signal(Signal::SIGINT);
    assert_eq!(watch.end().await.0, Some(0), "also between two attempts");
}

#[tokio::test(flavor = "multi_thread")]
async fn watch_ends_after_its_count_or_when_synced_and_prints_how_to_resume() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    let mut registry = daemon.registry().await;
    let a = register(&mut registry, patient("a")).await;
    register(&mut registry, patient("b")).await;
    let c = register(&mut registry, patient("c")).await;

    let mut watch = Watch::spawn(&daemon.grpc_addr, &["--until-synced"]);
    let mut rows = Vec::new();
    while let Some(line) = watch.line().await {
        rows.push(line.split_whitespace().skip(1).take(2).collect::<Vec<_>>().join(" "));
    }
    assert_eq!(rows, ["EVENT LOGICAL", "PUT a", "PUT b", "PUT c", "SYNCED -"]);
    let (code, stderr) = watch.end().await;
    assert_eq!(code, Some(0));
    let resumption = stderr.split_once("go on from here: ").unwrap().1.trim().to_owned();
    assert!(resumption.starts_with(&format!("--resume-after {} --history ", c.revision)), "{resumption}");

    let mut watch = Watch::spawn(&daemon.grpc_addr, &["--count", "2", "-o", "jsonl"]);
    assert_eq!((watch.told().await.1, watch.told().await.1), ("a".to_owned(), "b".to_owned()));
    assert_eq!(watch.line().await, None);
    assert_eq!(watch.end().await, (Some(0), String::new()));

    let gone = deregister(&mut registry, a.lease_id).await;
    let mut arguments: Vec<_> = resumption.split(' ').collect();
    arguments.extend(["--until-synced", "-o", "jsonl"]);
    let mut watch = Watch::spawn(&daemon.grpc_addr, &arguments);
    assert_eq!(watch.told().await.0, "EPOCH", "a resumed watch may have missed a rotation");
    assert_eq!(watch.told().await, told("GONE", "a", gone), "and nothing that was known before");
    assert_eq!(watch.told().await, told("SYNCED", "", gone));
    assert_eq!(watch.end().await.0, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_leaves_ends_a_watch_quietly_and_one_that_stops_reading_does_not_hold_it() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    let mut registry = daemon.registry().await;
    register(&mut registry, patient("organ")).await;
    let mut watch = Watch::spawn(&daemon.grpc_addr, &[]);
    for expected in ["EVENT", "PUT", "SYNCED"] {
        assert!(watch.line().await.unwrap().contains(expected));
    }
    let Watch { mut child, lines, mut stderr } = watch;
    drop(lines);
    register(&mut registry, patient("organ")).await;
    assert_eq!(timeout(DAEMON_BOUND, child.wait()).await.unwrap().unwrap().code(), Some(0));
    assert_eq!(stderr.next_line().await.unwrap(), None);

    // More than a pipe holds: after the first byte the rest is known to be blocked.
    for _ in 0..20 {
        let labels = (0..30).map(|number| (format!("label-{number}"), "x".repeat(500))).collect();
        register(&mut registry, RegisterRequest { labels, ..patient("large") }).await;
    }
    let Watch { mut child, lines, .. } = Watch::spawn(&daemon.grpc_addr, &["large", "-o", "jsonl"]);
    let mut stdout = lines.into_inner().into_inner();
    timeout(DAEMON_BOUND, stdout.read_u8()).await.unwrap().unwrap();
    kill(Pid::from_raw(child.id().unwrap().try_into().unwrap()), Signal::SIGTERM).unwrap();
    assert_eq!(timeout(DAEMON_BOUND, child.wait()).await.unwrap().unwrap().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn bookmarks_are_printed_on_request_only() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    let mut registry = daemon.registry().await;
    let known = register(&mut registry, patient("known")).await.revision;
    let mut with = Watch::spawn(&daemon.grpc_addr, &["--bookmarks", "-o", "jsonl"]);
    let mut without = Watch::spawn(&daemon.grpc_addr, &["-o", "jsonl"]);
    for watch in [&mut with, &mut without] {
        assert_eq!(watch.told().await, told("PUT", "known", 0));
        assert_eq!(watch.told().await, told("SYNCED", "", known));
    }
    // The second bookmark of one comes after the first of the other.
    assert_eq!(with.told().await, told("BOOKMARK", "", known));
    assert_eq!(with.told().await, told("BOOKMARK", "", known));
    let news = register(&mut registry, patient("news")).await.revision;
    assert_eq!(without.told().await, told("PUT", "news", news));
}

#[tokio::test(flavor = "multi_thread")]
async fn watch_that_cannot_begin_ends_with_the_code_of_its_reason() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    let addr = daemon.grpc_addr.clone();
    let long = format!("k={}", "x".repeat(600));
    for (arguments, code, word) in [
        (&["-o", "json"][..], 2, "jsonl"),
        (&["a", "--prefix", "b"], 2, "--prefix"),
        (&["--resume-after", "3"], 2, "--history"),
        (&["--label", &long], 2, "--label k has 600 bytes"),
    ] {
        let (actual, stderr) = Watch::spawn(&addr, arguments).end().await;
        assert_eq!(actual, Some(code), "{arguments:?}: {stderr}");
        assert!(stderr.contains(word), "{arguments:?}: {stderr}");
    }
    let history = uuid::Uuid::new_v4().to_string();
    let foreign = &["--resume-after", "3", "--history", &history, "--until-synced", "-o", "jsonl"];
    let mut watch = Watch::spawn(&addr, foreign);
    assert_eq!(watch.told().await, told("RESET", "", 0), "of another history nothing can be resumed");
    drop(watch);
    assert!(daemon.terminate().await.success());
    assert_eq!(Watch::spawn(&addr, &[]).end().await.0, Some(3), "an address that was never right");
}
