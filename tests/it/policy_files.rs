//! The policy and the tokens as files: replaced in every way while calls are made, and different at two daemons.

use std::{
    fs,
    os::unix::fs::symlink,
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use musterd::access::tokens::{Digest, token};
use musterd_client::{Choice, Client, Filter, Register, Step, Token};
use tokio::{task::JoinSet, time::sleep};

use crate::{
    cli::musterd,
    harness::{
        calls::Calls,
        daemon::{DAEMON_BOUND, Daemon},
        postgres::{TestDatabase, connect},
        registry::get,
        scratch::Scratch,
        volume::Volume,
        wait::wait_until,
    },
};

/// What the actor may in every version of the policy.
const RULES: &str = r#"
[[rule]]
who = ["token/actor"]
may = ["register", "resolve", "read"]
on = ["organ"]

[[rule]]
who = ["anonymous"]
may = ["metrics"]
"#;

fn secret(name: &str) -> String {
    token(name, &[7; 32])
}

/// The rules with one more for the actor.
fn with_name(name: &str) -> String {
    format!("{RULES}\n[[rule]]\nwho = [\"token/actor\"]\nmay = [\"resolve\"]\non = [\"{name}\"]\n")
}

/// Where the files of a daemon are.
struct Files(Scratch);

impl Files {
    fn new(policy: &str) -> Self {
        let files = Self(Scratch::in_memory());
        fs::write(files.policy(), policy).unwrap();
        fs::write(files.tokens(), format!("actor {}\n", Digest::of(&secret("actor")))).unwrap();
        files
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn policy(&self) -> PathBuf {
        self.at("policy.toml")
    }

    fn tokens(&self) -> PathBuf {
        self.at("tokens")
    }

    async fn daemon(&self, database: &TestDatabase) -> Daemon {
        let (policy, tokens) = (self.policy(), self.tokens());
        let flags = [
            "--database-url",
            database.url(),
            "--policy",
            policy.to_str().unwrap(),
            "--tokens",
            tokens.to_str().unwrap(),
        ];
        let daemon = Daemon::spawn(&flags).await;
        let client = actor(&daemon);
        wait_until("the daemon is ready", DAEMON_BOUND, async || client.ready(Duration::from_secs(2)).await).await;
        daemon
    }
}

fn actor(daemon: &Daemon) -> Client {
    let builder =
        Client::builder().daemons([format!("http://{}", daemon.grpc_addr)]).token(Token::text(secret("actor")));
    builder.timeout(Duration::from_secs(30)).retry_for(Duration::ZERO).build().unwrap()
}

/// The codes of the problems that a daemon reports, each with its summary.
async fn problems(client: &Client) -> Vec<(String, String)> {
    let cluster = client.cluster(0).await.unwrap();
    cluster.problems.into_iter().map(|problem| (problem.code, problem.summary)).collect()
}

/// Waits until a daemon reports a problem with this code and this text.
async fn until_reported(client: &Client, code: &str, text: &str) {
    wait_until("the problem is reported", DAEMON_BOUND, async || {
        let problems = problems(client).await;
        let found = problems.iter().any(|(found, summary)| found == code && summary.contains(text));
        if found { Ok(()) } else { Err(problems) }
    })
    .await;
}

/// Waits until a daemon no longer reports a problem with this code.
async fn until_solved(client: &Client, code: &str) {
    wait_until("the problem is over", DAEMON_BOUND, async || {
        let problems = problems(client).await;
        if problems.iter().all(|(found, _)| found != code) { Ok(()) } else { Err(problems) }
    })
    .await;
}

/// Waits until the actor may resolve a name.
async fn until_granted(client: &Client, name: &str) {
    wait_until("the rule is in force", DAEMON_BOUND, async || {
        let known = client.who_am_i().await.unwrap();
        let granted = known.grants.iter().any(|grant| grant.logical_ids.iter().any(|it| it == name));
        if granted { Ok(()) } else { Err(known) }
    })
    .await;
}

/// Short calls, on one connection.
async fn ask(calls: Arc<Calls>, client: Client) {
    while !calls.stop.load(Ordering::Relaxed) {
        calls.note("resolve", client.resolve("organ", &Choice::default()).await);
        calls.note("who_am_i", client.who_am_i().await);
        sleep(Duration::from_millis(20)).await;
    }
}

/// A watch, which nothing may interrupt.
async fn watch(calls: Arc<Calls>, client: Client) {
    let mut watch = client.watch(&Filter::logical_id("organ"));
    while !calls.stop.load(Ordering::Relaxed) {
        match watch.next().await {
            Ok(Step::Interrupted(error)) | Err(error) => calls.note::<()>("watch", Err(error)),
            Ok(_) => calls.note("watch", Ok(())),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn policy_replaced_torn_swapped_or_removed_fails_no_call() {
    let (database, files) = (TestDatabase::create().await, Files::new(RULES));
    let daemon = files.daemon(&database).await;
    let client = actor(&daemon);
    let held = client.register(Register::new("organ")).await.unwrap();
    let (lease, calls) = (held.lease(), Arc::new(Calls::default()));
    let mut crowd = JoinSet::new();
    crowd.spawn(ask(Arc::clone(&calls), actor(&daemon)));
    crowd.spawn(watch(Arc::clone(&calls), actor(&daemon)));
    let (policy, not_used) = (files.policy(), "security_not_reloaded");

    // Another file in its place, by a rename.
    fs::write(files.at("next"), with_name("renamed")).unwrap();
    fs::rename(files.at("next"), &policy).unwrap();
    until_granted(&client, "renamed").await;

    // Written in place and cut off: in the middle of a rule, and before its first byte.
    let whole = with_name("whole");
    for torn in [&whole[..whole.len() - 9], ""] {
        fs::write(&policy, torn).unwrap();
        until_reported(&client, not_used, "policy.toml").await;
        fs::write(&policy, &whole).unwrap();
        until_granted(&client, "whole").await;
        until_solved(&client, not_used).await;
    }

    // As Kubernetes replaces a Secret: by way of a link two directories up.
    let version = |name| vec![("policy.toml", with_name(name))];
    let mut volume = Volume::new(&version("first"));
    symlink(volume.at("policy.toml"), files.at("link")).unwrap();
    fs::rename(files.at("link"), &policy).unwrap();
    until_granted(&client, "first").await;
    volume.swap(&version("second"));
    until_granted(&client, "second").await;

    // A link that leads nowhere, no file at all, and what cannot be read as one.
    drop(volume);
    until_reported(&client, not_used, "cannot read").await;
    fs::remove_file(&policy).unwrap();
    until_reported(&client, not_used, "cannot read").await;
    fs::create_dir(&policy).unwrap();
    until_reported(&client, not_used, "directory").await;
    fs::remove_dir(&policy).unwrap();
    fs::write(&policy, b"# \xff\xfe").unwrap();
    until_reported(&client, not_used, "UTF-8").await;
    let known = client.who_am_i().await.unwrap();
    assert!(format!("{:?}", known.grants).contains("second"), "the last good policy holds: {known:?}");
    fs::write(&policy, with_name("last")).unwrap();
    until_granted(&client, "last").await;
    until_solved(&client, not_used).await;

    assert_eq!(*calls.failures.lock().unwrap(), Vec::<String>::new());
    assert!(calls.made.load(Ordering::Relaxed) > 100 && held.lease() == lease);
    calls.stop.store(true, Ordering::Relaxed);
    crowd.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn daemons_with_different_policies_are_a_problem_at_both_until_they_agree() {
    let database = TestDatabase::create().await;
    let (one, other) = (Files::new(RULES), Files::new(&format!("# The same.\n{RULES}")));
    let daemons = [one.daemon(&database).await, other.daemon(&database).await];
    let clients = [actor(&daemons[0]), actor(&daemons[1])];
    let sql = connect(database.url()).await;
    let policies = "SELECT string_agg(DISTINCT coalesce(policy, 'unknown'), ' ') FROM registry_daemon";
    let agreed: String = wait_until("both daemons tell their policy", DAEMON_BOUND, async || {
        let all: String = get(&sql, policies).await;
        if all.contains('/') && !all.contains(' ') { Ok(all) } else { Err(all) }
    })
    .await;
    for client in &clients {
        until_solved(client, "policies_differ").await;
    }

    fs::write(other.policy(), with_name("more")).unwrap();
    for client in &clients {
        until_reported(client, "policies_differ", "different policies in use").await;
        until_reported(client, "policies_differ", &daemons[1].grpc_addr).await;
    }
    let addr = daemons[0].grpc_addr.as_str();
    fs::write(one.at("token"), secret("actor")).unwrap();
    let token = one.at("token");
    let flags = ["--addr", addr, "--token-file", token.to_str().unwrap()];
    for command in ["status", "check"] {
        let told = musterd(&[&[command], &flags[..]].concat()).await;
        assert!(told.stdout.contains("policies_differ"), "{command}: {told:?}");
    }
    let fingerprints =
        [daemons[0].metric("musterd_policy_fingerprint").await, daemons[1].metric("musterd_policy_fingerprint").await];
    assert!(fingerprints[0] != fingerprints[1], "{fingerprints:?}");

    fs::write(one.policy(), with_name("more")).unwrap();
    for client in &clients {
        until_solved(client, "policies_differ").await;
    }
    let both: String = get(&sql, policies).await;
    assert!(both != agreed && !both.contains(' '), "{both}");

    fs::write(other.tokens(), fs::read_to_string(one.tokens()).unwrap() + &format!("b {}\n", Digest::of(&secret("b"))))
        .unwrap();
    until_reported(&clients[0], "policies_differ", "different tokens in use").await;
    // A daemon without a policy permits everything.
    let open = Daemon::start(database.url()).await;
    until_reported(&clients[0], "policies_differ", "no policy").await;
    let told = musterd(&["--addr", &open.grpc_addr, "status"]).await;
    assert!(told.stdout.contains("policies_differ"), "{told:?}");
}
