//! How a client command reaches a daemon: the addresses, the connection, the time limit of a call.
//!
//! Client commands speak gRPC only and need no access to the database. The wire is plain HTTP/2; an address that asks
//! for TLS is refused here, before a TLS handshake fails at a port that does not speak it.
//!
//! A daemon on this machine that is not there yet is waited for, since `musterd serve &` returns before it listens. On
//! another machine a refused connection is a wrong address or a lost daemon, which waiting hides.

mod addrs;
mod failover;

use std::{future::Future, net::IpAddr, time::Duration};

use tokio::time::{Instant, sleep};
use tonic::{
    Response, Status,
    transport::{Channel, Uri},
};

pub use self::addrs::Addrs;
pub(super) use self::addrs::{parse_addr, text as addr_text};
use self::{
    addrs::{is_loopback, parse_addrs},
    failover::Failover,
};
use super::{
    exit::{self, Error},
    output,
};
use crate::proto::v1::{
    cluster_service_client::ClusterServiceClient, discovery_service_client::DiscoveryServiceClient,
    registry_service_client::RegistryServiceClient,
};

/// The largest answer that is accepted, in bytes: a full page of the largest instances fits.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// How long a daemon on this machine is waited for, unless it is said: `musterd serve &` needs a second or two.
const LOOPBACK_WAIT: Duration = Duration::from_secs(5);
/// How long between two attempts to connect.
const PAUSE: Duration = Duration::from_millis(100);
/// A wait that takes longer than this is told.
const TOLD_AFTER: Duration = Duration::from_secs(1);

/// Flags of the commands that ask a daemon.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Client options (for commands that ask a daemon)")]
pub struct ClientArgs {
    /// gRPC address of a daemon, or of several: host:port, with commas between them
    #[arg(
        long,
        global = true,
        env = "MUSTERD_ADDR",
        value_name = "ADDR",
        default_value = "http://127.0.0.1:7717",
        value_parser = parse_addrs
    )]
    pub addr: Addrs,

    /// How long to wait for the connection, and for each answer
    #[arg(
        long,
        global = true,
        env = "MUSTERD_TIMEOUT",
        value_name = "DURATION",
        default_value = "5s",
        value_parser = parse_timeout
    )]
    pub timeout: Duration,

    /// How long to wait for a daemon that is not there yet [default: 5s on this machine, 0s elsewhere]
    #[arg(long, global = true, env = "MUSTERD_WAIT", value_name = "DURATION", value_parser = parse_wait)]
    pub wait: Option<Duration>,
}

impl ClientArgs {
    /// For one daemon, which must be there.
    #[must_use]
    pub fn at(addr: Uri, timeout: Duration) -> Self {
        Self { addr: addr.into(), timeout, wait: Some(Duration::ZERO) }
    }

    /// For a command whose time limit is for all of it: a daemon on this machine may take all of that to come.
    #[must_use]
    pub(super) fn patient(&self) -> Self {
        let wait = self.addr.iter().any(is_loopback).then_some(self.timeout);
        Self { wait: self.wait.or(wait), ..self.clone() }
    }

    /// How long a daemon that is not there yet is waited for.
    fn patience(&self) -> Duration {
        let default = if self.addr.iter().any(is_loopback) { LOOPBACK_WAIT } else { Duration::ZERO };
        self.wait.unwrap_or(default)
    }

    /// Whether this failure to connect may pass while a daemon starts. Unless it was asked for, only a daemon on this
    /// machine is waited for, and only while nothing listens at its port.
    fn may_come(&self, error: &Error) -> bool {
        self.wait.is_some() || exit::is_refused(error)
    }
}

/// Reads a duration such as `500ms` or `1m 30s`.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("{error}; write for example 500ms, 5s or 2m"))
}

fn parse_timeout(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        Duration::ZERO => Err("must be longer than zero".to_owned()),
        timeout if timeout > Duration::from_secs(3600) => Err("must be at most 1h".to_owned()),
        timeout => Ok(timeout),
    }
}

fn parse_wait(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        wait if wait > Duration::from_secs(3600) => Err("must be at most 1h".to_owned()),
        wait => Ok(wait),
    }
}

/// A way to the daemons. It connects again by itself, and goes on to the next daemon where there are several.
#[derive(Debug, Clone)]
pub struct Client {
    transport: Failover,
    channel: Channel,
    addrs: Addrs,
    timeout: Duration,
}

impl Client {
    /// Connects within the time limit, to the first daemon that can be reached; waits for one that is not there yet.
    ///
    /// # Errors
    ///
    /// [`Error::Connect`] or [`Error::Timeout`]: no daemon there, or none that speaks HTTP/2.
    pub async fn connect(args: &ClientArgs) -> Result<Self, Error> {
        let began = Instant::now();
        let until = began + args.patience();
        let transport = Failover::new(args.addr.clone(), args.timeout, until);
        let mut is_told = false;
        let channel = loop {
            match transport.connect().await {
                Ok(channel) => break channel,
                Err(error) if Instant::now() + PAUSE < until && args.may_come(&error) => {
                    if began.elapsed() > TOLD_AFTER && !std::mem::replace(&mut is_told, true) {
                        let wait = humantime::format_duration(args.patience());
                        output::note(&format!("waiting up to {wait} for a daemon at {}", args.addr));
                    }
                    sleep(PAUSE).await;
                }
                Err(error) => return Err(error),
            }
        };
        Ok(Self { transport, channel, addrs: args.addr.clone(), timeout: args.timeout })
    }

    /// The address that this machine has towards the daemon in use: where others can probably reach it too.
    #[must_use]
    pub fn source(&self) -> Option<IpAddr> {
        self.transport.source()
    }

    /// The address of the daemon in use, as people write it.
    #[must_use]
    pub fn addr(&self) -> String {
        addrs::text(self.addrs.current())
    }

    /// The host of that address.
    #[must_use]
    pub fn host(&self) -> &str {
        self.addrs.current().host().unwrap_or_default()
    }

    /// The connection that was made first, without going on to another daemon: for streams of requests, and to measure.
    #[must_use]
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Waits for an answer, as long as the time limit allows.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`], or [`Error::Rpc`] with the status.
    pub async fn call<T>(&self, rpc: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Error> {
        let limit = self.transport.limit();
        match tokio::time::timeout(limit, rpc).await {
            Ok(answer) => Ok(answer?.into_inner()),
            Err(_) => Err(self.silent(limit)),
        }
    }

    /// The error for a daemon that has said nothing for so long.
    #[must_use]
    pub fn silent(&self, after: Duration) -> Error {
        Error::Timeout { addr: self.addr(), after }
    }

    /// The time limit of a call.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// For actors.
    #[must_use]
    pub fn registry(&self) -> RegistryServiceClient<Failover> {
        RegistryServiceClient::new(self.transport.clone())
    }

    /// For routers.
    #[must_use]
    pub fn discovery(&self) -> DiscoveryServiceClient<Failover> {
        DiscoveryServiceClient::new(self.transport.clone()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// For operators.
    #[must_use]
    pub fn cluster(&self) -> ClusterServiceClient<Failover> {
        ClusterServiceClient::new(self.transport.clone()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }
}

/// Reads a label `key=value`. The value may be empty and may contain `=`.
pub(super) fn parse_label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("expected KEY=VALUE".to_owned()),
    }
}

/// Makes a map of labels.
///
/// # Errors
///
/// [`Error::Usage`] if a key is given twice: one of the two would be lost silently.
pub(super) fn label_map(labels: &[(String, String)]) -> Result<std::collections::HashMap<String, String>, Error> {
    let mut map = std::collections::HashMap::with_capacity(labels.len());
    for (key, value) in labels {
        if map.insert(key.clone(), value.clone()).is_some() {
            return Err(Error::Usage(format!("the label {key} is given twice")));
        }
    }
    Ok(map)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_has_a_unit_and_is_bounded() {
        assert_eq!(parse_timeout("1m 30s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_timeout("250ms"), Ok(Duration::from_millis(250)));
        for text in ["0s", "5", "", "-1s", "2h"] {
            assert!(parse_timeout(text).is_err(), "{text}");
        }
    }

    #[derive(Debug, clap::Parser)]
    struct Only {
        #[command(flatten)]
        args: ClientArgs,
    }

    #[test]
    fn only_a_daemon_on_this_machine_is_waited_for_unless_asked() {
        let patience = |words: &[&str]| {
            let words = [&["x"], words].concat();
            <Only as clap::Parser>::try_parse_from(words).expect("arguments").args.patience()
        };
        assert_eq!(patience(&["--addr", "127.0.0.1:1"]), LOOPBACK_WAIT);
        assert_eq!(patience(&["--addr", "db:1,localhost:2"]), LOOPBACK_WAIT);
        assert_eq!(patience(&["--addr", "db:1"]), Duration::ZERO);
        assert_eq!(patience(&["--addr", "db:1", "--wait", "30s"]), Duration::from_secs(30));
        assert_eq!(patience(&["--addr", "127.0.0.1:1", "--wait", "0s"]), Duration::ZERO);
    }

    #[test]
    fn labels_are_split_at_the_first_equals_sign() {
        assert_eq!(parse_label("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert_eq!(parse_label("a="), Ok(("a".into(), String::new())));
        assert!(parse_label("a").is_err());
        assert!(parse_label("=b").is_err());
        let twice = [("a".to_owned(), "1".to_owned()), ("a".to_owned(), "2".to_owned())];
        assert!(matches!(label_map(&twice), Err(Error::Usage(_))));
    }
}
