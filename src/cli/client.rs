//! The way from a client command to a daemon: the address, the connection, the time limit of a call.
//!
//! Client commands speak gRPC only and need no access to the database. The wire is plain HTTP/2; an address that asks
//! for TLS is refused here rather than answered with a handshake nobody understands.

use std::{future::Future, time::Duration};

use tonic::{
    Response, Status,
    transport::{Channel, Endpoint, Uri},
};

use super::exit::Error;
use crate::proto::v1::{
    cluster_service_client::ClusterServiceClient, discovery_service_client::DiscoveryServiceClient,
    registry_service_client::RegistryServiceClient,
};

/// The port of a daemon unless it was told otherwise.
const DEFAULT_PORT: u16 = 7717;

/// The largest answer that is accepted, in bytes: a full page of the largest instances fits.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// How often an idle connection is tried, so that a peer that vanished without a word is noticed.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// Flags of the commands that ask a daemon.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Client options (for commands that ask a daemon)")]
pub struct ClientArgs {
    /// gRPC address of a daemon: host:port or http://host:port
    #[arg(
        long,
        global = true,
        env = "MUSTERD_ADDR",
        value_name = "ADDR",
        default_value = "http://127.0.0.1:7717",
        value_parser = parse_addr
    )]
    pub addr: Uri,

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
}

/// Reads `host:port`, `http://host:port` or `host` (port 7717).
pub(super) fn parse_addr(text: &str) -> Result<Uri, String> {
    if text.starts_with("https://") {
        return Err("TLS is not supported by this version; use http:// or a local TLS proxy".to_owned());
    }
    let rest = text.strip_prefix("http://").unwrap_or(text);
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let malformed = || "expected host:port or http://host:port, with IPv6 in brackets".to_owned();
    let authority: http::uri::Authority = rest.parse().map_err(|_| malformed())?;
    if authority.host().is_empty() || authority.as_str().contains('@') {
        return Err(malformed());
    }
    let host = authority.host();
    let port = match authority.port_u16() {
        Some(port) => port,
        None if authority.as_str() == host => DEFAULT_PORT,
        None => return Err(malformed()),
    };
    format!("http://{host}:{port}").parse().map_err(|_| malformed())
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

/// A connection to a daemon. It reconnects by itself once it has been connected.
#[derive(Debug, Clone)]
pub struct Client {
    channel: Channel,
    addr: String,
    timeout: Duration,
}

impl Client {
    /// Connects within the time limit.
    ///
    /// # Errors
    ///
    /// [`Error::Connect`] or [`Error::Timeout`]: no daemon there, or none that speaks HTTP/2.
    pub async fn connect(args: &ClientArgs) -> Result<Self, Error> {
        let addr = args.addr.to_string().trim_end_matches('/').to_owned();
        let endpoint = Endpoint::from(args.addr.clone())
            .connect_timeout(args.timeout)
            .user_agent(concat!("musterd/", env!("CARGO_PKG_VERSION")))
            .map_err(|cause| Error::Connect { addr: addr.clone(), cause })?
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(args.timeout)
            .keep_alive_while_idle(true);
        // `connect_timeout` bounds the TCP part only; name resolution may take as long as it likes.
        let channel = tokio::time::timeout(args.timeout, endpoint.connect())
            .await
            .map_err(|_| Error::Timeout { addr: addr.clone(), after: args.timeout })?
            .map_err(|cause| Error::Connect { addr: addr.clone(), cause })?;
        Ok(Self { channel, addr, timeout: args.timeout })
    }

    /// Waits for an answer, as long as the time limit allows.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`], or [`Error::Rpc`] with the status.
    pub async fn call<T>(&self, rpc: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Error> {
        match tokio::time::timeout(self.timeout, rpc).await {
            Ok(answer) => Ok(answer?.into_inner()),
            Err(_) => Err(self.silent(self.timeout)),
        }
    }

    /// The error for a daemon that has said nothing for so long.
    #[must_use]
    pub fn silent(&self, after: Duration) -> Error {
        Error::Timeout { addr: self.addr.clone(), after }
    }

    /// The time limit of a call.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// For actors.
    #[must_use]
    pub fn registry(&self) -> RegistryServiceClient<Channel> {
        RegistryServiceClient::new(self.channel.clone())
    }

    /// For routers.
    #[must_use]
    pub fn discovery(&self) -> DiscoveryServiceClient<Channel> {
        DiscoveryServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// For operators.
    #[must_use]
    pub fn cluster(&self) -> ClusterServiceClient<Channel> {
        ClusterServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER_BYTES)
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
    fn an_address_needs_no_scheme_and_no_port() {
        for (text, expected) in [
            ("http://127.0.0.1:7717", "http://127.0.0.1:7717/"),
            ("localhost:9", "http://localhost:9/"),
            ("http://db.example:80/", "http://db.example:80/"),
            ("[::1]:7717", "http://[::1]:7717/"),
            ("db.example", "http://db.example:7717/"),
            ("[::1]", "http://[::1]:7717/"),
        ] {
            assert_eq!(parse_addr(text).expect(text).to_string(), expected);
        }
    }

    #[test]
    fn addresses_that_cannot_work_are_refused() {
        for text in ["", "https://h:1", "http://", "h:99999", "h:", "::1", "ftp://h:1", "u@h:1", "h:1/path", "a b:1"] {
            assert!(parse_addr(text).is_err(), "{text}");
        }
        assert!(parse_addr("https://h:1").is_err_and(|text| text.contains("TLS")));
    }

    #[test]
    fn a_timeout_has_a_unit_and_is_bounded() {
        assert_eq!(parse_timeout("1m 30s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_timeout("250ms"), Ok(Duration::from_millis(250)));
        for text in ["0s", "5", "", "-1s", "2h"] {
            assert!(parse_timeout(text).is_err(), "{text}");
        }
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
