//! How a client command reaches a daemon: the flags, and the wait for a daemon that starts.
//!
//! Client commands speak gRPC only, through `musterd-client`, and need no access to the database.
//!
//! A daemon on this machine that is not there yet is waited for, since `musterd serve &` returns before it listens. On
//! another machine a refused connection is a wrong address or a lost daemon, which waiting hides.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use musterd_client::{Address, AddressError, Client, Reason, Tls, Token};
use tokio::time::{Instant, sleep};

use super::exit::Error;
use crate::terminal::{args::parse_duration, output};

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
    /// gRPC address of a daemon, or of several: host:port, https://host:port or unix:PATH (admin socket), with commas between them
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

    /// CA of the daemons in PEM form, for https:// addresses [default: the CAs that this system trusts]
    #[arg(long, global = true, env = "MUSTERD_CA", value_name = "FILE")]
    pub ca: Option<PathBuf>,

    /// Certificate of this client in PEM form, for daemons that ask for one
    #[arg(long, global = true, env = "MUSTERD_CERT", value_name = "FILE")]
    pub cert: Option<PathBuf>,

    /// Key of that certificate [default: the file of --cert]
    #[arg(long, global = true, env = "MUSTERD_CERT_KEY", value_name = "FILE", requires = "cert")]
    pub cert_key: Option<PathBuf>,

    /// File with the token of this client; MUSTERD_TOKEN may hold the token itself
    ///
    /// The file is read again while the command runs. A token is sent with TLS, or to this machine, only.
    #[arg(long, global = true, env = "MUSTERD_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,

    /// Send the token without TLS to other machines, too: everything on its way can read it
    #[arg(long, global = true, env = "MUSTERD_INSECURE_SEND_TOKEN", value_parser = clap::builder::BoolishValueParser::new())]
    pub insecure_send_token: bool,
}

impl ClientArgs {
    /// A client of these daemons, which connects at its first call. A call that no daemon takes is an answer: it is not
    /// tried again.
    ///
    /// # Errors
    ///
    /// An address cannot be used.
    pub(crate) fn client(&self) -> Result<Client, Error> {
        let daemons = self.addr.0.iter().map(Address::to_string);
        let builder = Client::builder().daemons(daemons).timeout(self.timeout).retry_for(Duration::ZERO);
        let builder = builder.tls(self.tls()).token(self.token()).insecure_send_token(self.insecure_send_token);
        Ok(builder.application(concat!("musterd/", env!("CARGO_PKG_VERSION"))).build()?)
    }

    /// A client, once there is a daemon, for as long as one is waited for.
    ///
    /// # Errors
    ///
    /// No daemon can be reached. One that is reached and still loads the registry then says so at the first call.
    pub(crate) async fn connect(&self) -> Result<Client, Error> {
        let client = self.client()?;
        let wait_limit = self.wait_limit();
        if wait_limit.is_zero() {
            return Ok(client);
        }
        let began = Instant::now();
        let mut is_told = false;
        loop {
            // A daemon that starts has accepted the connection, and answers once it is ready.
            let left = wait_limit.saturating_sub(began.elapsed());
            let Err(error) = client.ready(left.max(self.timeout)).await else { return Ok(client) };
            let is_loading = error.reason() == Reason::NotYetSeen;
            // Unless it was asked for, only a daemon on this machine is waited for, and only while nothing listens there.
            let may_come = self.wait.is_some() || error.is_refused() || is_loading;
            if !may_come || began.elapsed() + PAUSE >= wait_limit {
                return if is_loading { Ok(client) } else { Err(error.into()) };
            }
            if began.elapsed() > TOLD_AFTER && !std::mem::replace(&mut is_told, true) {
                let wait = humantime::format_duration(wait_limit);
                output::note(&format!("waiting up to {wait} for a daemon at {}", self.addr));
            }
            sleep(PAUSE).await;
        }
    }

    /// The same for one other daemon, which must be there.
    #[must_use]
    pub(crate) fn at(&self, addr: Address) -> Self {
        Self { addr: Addrs(vec![addr]), wait: Some(Duration::ZERO), ..self.clone() }
    }

    /// The files for TLS.
    #[must_use]
    pub(crate) fn tls(&self) -> Tls {
        let tls = self.ca.iter().fold(Tls::new(), |tls, file| tls.ca(file));
        let key = self.cert_key.as_ref().or(self.cert.as_ref());
        self.cert.iter().zip(key).fold(tls, |tls, (certificate, key)| tls.identity(certificate, key))
    }

    /// The file of the key.
    #[must_use]
    pub(crate) fn key_file(&self) -> Option<&Path> {
        self.cert_key.as_deref().or(self.cert.as_deref())
    }

    /// The token.
    pub(crate) fn token(&self) -> Token {
        // The variable that holds a token has no flag: arguments can be read by every user of the machine.
        self.token_file.as_ref().map_or_else(Token::from_env, Token::file)
    }

    /// For a command whose time limit is for all of it: a daemon on this machine may take all of that to come.
    #[must_use]
    pub(crate) fn patient(&self) -> Self {
        let wait = self.is_local().then_some(self.timeout);
        Self { wait: self.wait.or(wait), ..self.clone() }
    }

    fn is_local(&self) -> bool {
        self.addr.0.iter().any(Address::is_loopback)
    }

    /// How long a daemon that is not there yet is waited for.
    fn wait_limit(&self) -> Duration {
        self.wait.unwrap_or(if self.is_local() { LOOPBACK_WAIT } else { Duration::ZERO })
    }
}

/// One or more addresses. All daemons of a cluster give the same answers, so a list is a choice and not a set to ask.
#[derive(Debug, Clone)]
pub struct Addrs(Vec<Address>);

impl Addrs {
    /// All of them, in the order in which they were given.
    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = &Address> {
        self.0.iter()
    }

    /// The first of them.
    pub(crate) fn first(&self) -> Option<&Address> {
        self.0.first()
    }
}

impl fmt::Display for Addrs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<String> = self.0.iter().map(Address::to_string).collect();
        f.write_str(&all.join(", "))
    }
}

/// Reads a list of addresses, separated by commas.
fn parse_addrs(list: &str) -> Result<Addrs, AddressError> {
    list.split(',').map(|one| one.trim().parse()).collect::<Result<_, _>>().map(Addrs)
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

/// Reads a label `key=value`. The value may be empty and may contain `=`.
pub(crate) fn parse_label(text: &str) -> Result<(String, String), String> {
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
pub(crate) fn label_map(labels: &[(String, String)]) -> Result<BTreeMap<String, String>, Error> {
    let mut map = BTreeMap::new();
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
        let wait_limit = |words: &[&str]| {
            let words = [&["x"], words].concat();
            <Only as clap::Parser>::try_parse_from(words).expect("arguments").args.wait_limit()
        };
        assert_eq!(wait_limit(&["--addr", "127.0.0.1:1"]), LOOPBACK_WAIT);
        assert_eq!(wait_limit(&["--addr", "db:1,localhost:2"]), LOOPBACK_WAIT);
        assert_eq!(wait_limit(&["--addr", "db:1"]), Duration::ZERO);
        assert_eq!(wait_limit(&["--addr", "db:1", "--wait", "30s"]), Duration::from_secs(30));
        assert_eq!(wait_limit(&["--addr", "127.0.0.1:1", "--wait", "0s"]), Duration::ZERO);
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
