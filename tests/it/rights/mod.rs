//! What callers may do to a daemon with a policy, tried against the running daemon: attacks on the lives and the traffic of
//! others, the whole matrix of methods, callers and targets, and whether anything tells what a caller may not know.
//!
//! What is expected comes from [`rules`], which reads the same rules as the daemon and shares no code with it.

mod audit;
mod chance;
mod decisions;
mod drill;
mod interference;
mod limits;
mod matrix;
mod random;
mod routes;
mod rows;
mod rules;
mod streams;

use std::{fs, path::PathBuf, time::Duration};

use musterd::{
    access::tokens::{Digest, token},
    proto::{
        encoded::WatchResponse,
        v1::{
            self, cluster_service_client::ClusterServiceClient, discovery_service_client::DiscoveryServiceClient,
            registry_service_client::RegistryServiceClient,
        },
    },
};
use prost::Message as _;
use tonic::{
    Request, Response, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::Channel,
};
use tonic_types::StatusExt as _;

use self::rules::{ALL, Rule};
use crate::harness::{
    daemon::Daemon,
    registry::{Registry, get},
    scratch::Scratch,
    wait::wait_until,
};

const BOUND: Duration = Duration::from_secs(30);

/// The token of a master, who may do everything.
const MASTER: &str = "master";
/// A token that ended long ago.
const EXPIRED: &str = "expired";
/// A caller without a credential.
const ANONYMOUS: &str = "anonymous";
/// A caller with a token that the daemon does not know.
const STRANGER: &str = "stranger";

/// Shows a token with each call.
#[derive(Clone, Debug)]
struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

type Shown = InterceptedService<Channel, Bearer>;

/// One caller's connection to a daemon.
#[derive(Clone, Debug)]
struct Caller {
    registry: RegistryServiceClient<Shown>,
    discovery: DiscoveryServiceClient<Shown>,
    cluster: ClusterServiceClient<Shown>,
}

/// A registry, a daemon with a policy, and tokens for callers of these names.
struct Guarded {
    sql: Registry,
    daemon: Daemon,
    files: Scratch,
}

impl Guarded {
    /// With these rules, and one for the master.
    async fn start(rules: &[Rule]) -> Self {
        let names: Vec<&str> = rules.iter().map(|rule| rule.who).collect();
        Self::start_with(&written(rules), &names, &[]).await
    }

    /// With this policy, and a rule for the master, tokens of these names, and more flags.
    async fn start_with(policy_text: &str, names: &[&str], more: &[&str]) -> Self {
        let (sql, files) = (Registry::head().await, Scratch::in_memory());
        let daemon = guard(sql.database.url(), &files, (policy_text, names), more).await;
        Self { sql, daemon, files }
    }

    /// The caller with the token of this name.
    async fn caller(&self, name: &str) -> Caller {
        caller_of(&self.daemon, name).await
    }

    /// Puts other rules in use, at once.
    fn set_rules(&self, rules: &[Rule]) {
        write_policy(&self.files, &written(rules));
        self.daemon.signal(nix::sys::signal::Signal::SIGHUP);
    }

    /// Takes the token of a name away, at once.
    fn revoke(&self, name: &str) {
        let path: PathBuf = self.files.path().join("tokens");
        let left = fs::read_to_string(&path).unwrap();
        let left: String =
            left.lines().filter(|line| !line.starts_with(&format!("{name} "))).map(|it| format!("{it}\n")).collect();
        fs::write(path, left).unwrap();
        self.daemon.signal(nix::sys::signal::Signal::SIGHUP);
    }

    /// Waits until the daemon shows all that PostgreSQL has.
    async fn caught_up(&self) {
        let revision: i64 = get(&self.sql.client, "SELECT revision FROM cluster_metadata").await;
        let min_revision = u64::try_from(revision).unwrap();
        let master = self.caller(MASTER).await;
        wait_until("the daemon shows all rows", BOUND, async || {
            let request = v1::GetClusterRequest { min_revision, unserved_limit: 0 };
            master.cluster.clone().get_cluster(request).await.map(drop)
        })
        .await;
    }
}

/// A daemon with this policy, and a rule for the master, tokens of these names, and more flags.
async fn guard(url: &str, files: &Scratch, (policy_text, names): (&str, &[&str]), more: &[&str]) -> Daemon {
    let (policy, tokens) = (files.path().join("policy.toml"), files.path().join("tokens"));
    let (policy, tokens) = (policy.to_str().unwrap(), tokens.to_str().unwrap());
    write_policy(files, policy_text);
    let mut lines = vec![line(MASTER), format!("{} expires=2020-01-01T00:00:00Z", line(EXPIRED))];
    let mut names: Vec<&str> = names.iter().copied().chain(["nobody"]).collect();
    names.sort_unstable();
    names.dedup();
    lines.extend(names.into_iter().map(line));
    fs::write(tokens, lines.join("\n") + "\n").unwrap();
    let flags = ["--database-url", url, "--policy", policy, "--tokens", tokens];
    Daemon::start_with(&[&flags, more].concat()).await
}

/// The caller with the token of this name.
async fn caller_of(daemon: &Daemon, name: &str) -> Caller {
    let bearer = match name {
        ANONYMOUS => None,
        STRANGER => Some(token(MASTER, &[9; 32])),
        name => Some(secret(name)),
    };
    let bearer = Bearer(bearer.map(|token| format!("Bearer {token}").parse().unwrap()));
    let shown = InterceptedService::new(daemon.channel().await, bearer);
    Caller {
        registry: RegistryServiceClient::new(shown.clone()),
        discovery: DiscoveryServiceClient::new(shown.clone()),
        cluster: ClusterServiceClient::new(shown),
    }
}

fn secret(name: &str) -> String {
    token(name, &[7; 32])
}

/// The line of a token in the file of tokens.
fn line(name: &str) -> String {
    format!("{name} {}", Digest::of(&secret(name)))
}

fn written(rules: &[Rule]) -> String {
    let text: Vec<String> = rules.iter().map(Rule::text).collect();
    text.join("\n")
}

fn write_policy(files: &Scratch, rules: &str) {
    let master = Rule { who: MASTER, may: &ALL, on: &["*"] };
    let path = files.path().join("policy.toml");
    fs::write(path.with_extension("new"), format!("{rules}\n{}", master.text())).unwrap();
    fs::rename(path.with_extension("new"), path).unwrap();
}

/// The events of a response of a watch, which carries them encoded.
fn events(response: &WatchResponse) -> impl Iterator<Item = v1::WatchEvent> {
    response.events.iter().map(|event| v1::WatchEvent::decode(event.clone()).unwrap())
}

/// `OK`, or the reason of an error.
fn verdict<T>(result: &Result<Response<T>, Status>) -> String {
    match result {
        Ok(_) => "OK".to_owned(),
        Err(status) => {
            status.get_details_error_info().map_or_else(|| format!("{:?}", status.code()), |info| info.reason)
        }
    }
}
