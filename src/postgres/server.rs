//! One PostgreSQL as a database URL names it: its hosts, and how one of them is chosen.
//!
//! The driver tries the hosts of a URL one after the other and has no limit for one that accepts the connection and
//! says nothing, so one frozen host would keep every session from the host that works. Here each host is an attempt of
//! its own with a limit of its own. Attempts start one after the other with a head start, or at once when the one before
//! has failed, and the first host that is suitable wins. The host that was suitable last comes first.

use std::{collections::VecDeque, time::Duration};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_postgres::{
    Config,
    config::{Host, LoadBalanceHosts, TargetSessionAttrs},
};

use super::{
    connect::{CONNECT_TIMEOUT, ConnectError, Target},
    session::{self, Opened, Preparation},
    tls::Connector,
};
use crate::database_url::DatabaseUrl;

/// How long a host may take before the next one is tried beside it.
const HEAD_START: Duration = Duration::from_millis(250);

/// Which host is suitable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Want {
    /// One that takes changes.
    Primary,
    /// Any; one that takes changes is preferred.
    Any,
    /// One that takes no changes, because the URL says `target_session_attrs=read-only`.
    Standby,
}

/// A PostgreSQL and how the daemon connects to it.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    /// A configuration for each host, with that host alone.
    hosts: Vec<Config>,
    all: Target,
    tls: Connector,
    limit: Duration,
    wanted: TargetSessionAttrs,
    is_shuffled: bool,
}

impl Server {
    /// Takes over what a database URL says and adds what every connection needs: a name by which the server's operator
    /// finds it (`application_name` `musterd`), and settings that notice a dead peer soon.
    #[must_use]
    pub(crate) fn new(url: &DatabaseUrl) -> Self {
        let config = url.config();
        let count = config.get_hosts().len().max(config.get_hostaddrs().len());
        Self {
            hosts: (0..count).map(|index| single(config, index)).collect(),
            all: Target::of(config),
            tls: Connector::new(url.tls().clone()),
            limit: config.get_connect_timeout().copied().filter(|own| !own.is_zero()).unwrap_or(CONNECT_TIMEOUT),
            wanted: config.get_target_session_attrs(),
            is_shuffled: config.get_load_balance_hosts() == LoadBalanceHosts::Random,
        }
    }

    /// Looks at the certificates that the URL names, without connecting.
    ///
    /// # Errors
    ///
    /// [`ConnectError::Certificates`].
    pub(crate) fn check(&self) -> Result<(), ConnectError> {
        self.tls.check().map_err(|error| ConnectError::Certificates(error.to_string()))
    }

    /// The server with all of its hosts, for people.
    pub(crate) fn target(&self) -> &Target {
        &self.all
    }

    /// Connects, authenticates and prepares a session. Each host has the URL's `connect_timeout`, by default
    /// [`CONNECT_TIMEOUT`], and at most `longest`. `first` names the host to begin with, and `failed` hears of each host that
    /// could not be used. A session that is behind is returned if no other host has a better one.
    pub(super) async fn open(
        &self,
        want: Want,
        longest: Duration,
        first: Option<&Target>,
        preparation: &Preparation,
        is_behind: impl Fn(&Opened) -> bool,
        mut failed: impl FnMut(&Target, &ConnectError),
    ) -> Result<Opened, ConnectError> {
        let want = match self.wanted {
            TargetSessionAttrs::ReadOnly => Want::Standby,
            TargetSessionAttrs::ReadWrite => Want::Primary,
            _ => want,
        };
        let limit = self.limit.min(longest);
        let attempt = |config| self.attempt(config, limit, preparation);
        choose(self.order(first), want, attempt, is_behind, &mut failed).await.map_err(|errors| self.sum_up(errors))
    }

    /// All hosts but one.
    pub(super) fn hosts_beside(&self, used: &Target) -> impl Iterator<Item = &Config> {
        self.hosts.iter().filter(move |config| Target::of(config) != *used)
    }

    /// Whether the URL names other hosts beside one.
    pub(super) fn has_several_hosts(&self) -> bool {
        self.hosts.len() > 1
    }

    /// Authenticates a second session with the host of another one, and sets it up when that one is `ready` for it. With
    /// several hosts it begins when the first one has chosen: `target`.
    pub(super) async fn second(
        &self,
        target: impl Future<Output = Option<Target>>,
        ready: impl Future<Output = Option<Preparation>>,
    ) -> Result<Option<Opened>, ConnectError> {
        let config = match self.hosts.as_slice() {
            [only] => Some(only),
            hosts => {
                let target = target.await;
                hosts.iter().find(|config| Some(Target::of(config)) == target)
            }
        };
        let Some(config) = config else { return Ok(None) };
        let (greeted, preparation) = tokio::join!(session::greet(config, self.tls.clone()), ready);
        let Some(preparation) = preparation else { return Ok(None) };
        session::prepare(greeted?, config, &self.tls, &preparation).await.map(Some)
    }

    /// Connects to one host.
    pub(super) async fn attempt(
        &self,
        config: &Config,
        limit: Duration,
        preparation: &Preparation,
    ) -> Result<Opened, (Target, ConnectError)> {
        let target = Target::of(config);
        match timeout(limit, Box::pin(session::open(config, self.tls.clone(), preparation))).await {
            Ok(outcome) => outcome.map_err(|error| (target, error)),
            Err(_) => {
                let reason = format!("no answer within {} s", limit.as_secs());
                Err((target.clone(), ConnectError::Unreachable { target, reason }))
            }
        }
    }

    fn order(&self, first: Option<&Target>) -> VecDeque<&Config> {
        let mut hosts: VecDeque<&Config> = self.hosts.iter().collect();
        if self.is_shuffled {
            // As libpq: a different host each time. The clock is random enough to spread load.
            let turn = std::time::SystemTime::UNIX_EPOCH.elapsed().map(|age| age.subsec_nanos()).unwrap_or_default();
            hosts.rotate_left(usize::try_from(turn).unwrap_or_default() % hosts.len().max(1));
        } else if let Some(first) = first
            && let Some(at) = hosts.iter().position(|config| Target::of(config) == *first)
            && let Some(config) = hosts.remove(at)
        {
            hosts.push_front(config);
        }
        hosts
    }

    /// One error for all hosts: one that another configuration must repair, or that all of them are away.
    fn sum_up(&self, mut errors: Vec<ConnectError>) -> ConnectError {
        if errors.len() == 1 {
            return errors.remove(0);
        }
        if let Some(at) = errors.iter().position(|error| error.exit_code() != 3) {
            return errors.remove(at);
        }
        let reason: Vec<String> = errors
            .iter()
            .map(|error| match error {
                ConnectError::Unreachable { target, reason } => format!("{target}: {reason}"),
                ConnectError::NotPrimary { target } => format!("{target}: is a standby"),
                other => other.to_string(),
            })
            .collect();
        let reason = if reason.is_empty() { "it has no host".to_owned() } else { reason.join(", ") };
        ConnectError::Unreachable { target: self.all.clone(), reason }
    }
}

/// A session, as the choice among hosts sees it.
trait Candidate {
    fn target(&self) -> &Target;
    fn is_standby(&self) -> bool;
}

impl Candidate for Opened {
    fn target(&self) -> &Target {
        &self.target
    }

    fn is_standby(&self) -> bool {
        self.is_standby
    }
}

/// Attempts these hosts, in this order, until one is suitable.
async fn choose<'a, T: Candidate, F: Future<Output = Result<T, (Target, ConnectError)>>>(
    mut waiting: VecDeque<&'a Config>,
    want: Want,
    attempt: impl Fn(&'a Config) -> F,
    is_behind: impl Fn(&T) -> bool,
    failed: &mut impl FnMut(&Target, &ConnectError),
) -> Result<T, Vec<ConnectError>> {
    let mut attempts = FuturesUnordered::new();
    let (mut behind, mut standby, mut errors, mut asked) = (None, None, Vec::new(), Vec::new());
    let mut next_at = Instant::now();
    loop {
        tokio::select! {
            () = sleep_until(next_at), if !waiting.is_empty() => {
                asked.extend(waiting.front().map(|config| Target::of(config)));
                attempts.extend(waiting.pop_front().map(&attempt));
                next_at = Instant::now() + HEAD_START;
            }
            Some(outcome) = attempts.next(), if !attempts.is_empty() => {
                next_at = Instant::now();
                let target = outcome.as_ref().map_or_else(|(target, _)| target, |found| found.target());
                asked.retain(|other| other != target);
                match outcome {
                    Ok(found) if is_suitable(&found, want) && is_behind(&found) => {
                        behind = behind.or(Some(found));
                    }
                    Ok(found) if is_suitable(&found, want) => {
                        // Those that had a head start and have not answered.
                        for target in asked {
                            let reason = "it does not answer as fast as another host".to_owned();
                            failed(&target, &ConnectError::Unreachable { target: target.clone(), reason });
                        }
                        return Ok(found);
                    }
                    Ok(found) if want == Want::Any => standby = standby.or(Some(found)),
                    Ok(found) => errors.push(unsuitable(found.target().clone(), want)),
                    Err((target, error)) => {
                        failed(&target, &error);
                        errors.push(error);
                    }
                }
            }
            else => break,
        }
    }
    behind.or(standby).ok_or(errors)
}

fn is_suitable(found: &impl Candidate, want: Want) -> bool {
    match want {
        Want::Primary | Want::Any => !found.is_standby(),
        Want::Standby => found.is_standby(),
    }
}

fn unsuitable(target: Target, want: Want) -> ConnectError {
    match want {
        Want::Primary | Want::Any => ConnectError::NotPrimary { target },
        Want::Standby => {
            let reason = "it is no standby, and the database url says target_session_attrs=read-only".to_owned();
            ConnectError::Unreachable { target, reason }
        }
    }
}

/// The configuration of one host. Built from nothing, because the driver's has no way to take a host away.
fn single(config: &Config, index: usize) -> Config {
    let mut one = Config::new();
    match config.get_hosts().get(index) {
        Some(Host::Tcp(name)) => {
            one.host(name);
        }
        #[cfg(unix)]
        Some(Host::Unix(path)) => {
            one.host_path(path);
        }
        None => {}
    }
    if let Some(address) = config.get_hostaddrs().get(index) {
        one.hostaddr(*address);
    }
    // libpq's rule: one port serves all hosts, otherwise each has its own.
    if let Some(port) = config.get_ports().get(index).or_else(|| config.get_ports().first()) {
        one.port(*port);
    }
    if let Some(user) = config.get_user() {
        one.user(user);
    }
    if let Some(password) = config.get_password() {
        one.password(password);
    }
    if let Some(database) = config.get_dbname() {
        one.dbname(database);
    }
    if let Some(options) = config.get_options() {
        one.options(options);
    }
    one.application_name(config.get_application_name().unwrap_or("musterd"))
        .ssl_mode(config.get_ssl_mode())
        .ssl_negotiation(config.get_ssl_negotiation())
        .channel_binding(config.get_channel_binding())
        .connect_timeout(config.get_connect_timeout().copied().unwrap_or(CONNECT_TIMEOUT))
        .keepalives(config.get_keepalives())
        .keepalives_idle(Duration::from_secs(10))
        .keepalives_interval(Duration::from_secs(5))
        .keepalives_retries(3)
        .tcp_user_timeout(Duration::from_secs(10));
    one
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(url: &str) -> Server {
        Server::new(&DatabaseUrl::parse(url).unwrap())
    }

    #[test]
    fn each_host_keeps_its_port_and_the_urls_options() {
        let server = server("postgres://u:secret@a:1,b:2/d?application_name=mine&options=-c%20jit%3Don");
        let hosts: Vec<String> = server.hosts.iter().map(|config| Target::of(config).to_string()).collect();
        assert_eq!(hosts, ["a:1/d", "b:2/d"]);
        for config in &server.hosts {
            assert_eq!(config.get_application_name(), Some("mine"));
            assert_eq!(config.get_options(), Some("-c jit=on"));
            assert_eq!(config.get_password(), Some(b"secret".as_slice()));
        }
    }

    #[test]
    fn host_that_answered_last_is_tried_first() {
        let server = server("postgres://u@a,b,c/d");
        let order = |first: Option<&Target>| -> Vec<String> {
            server.order(first).into_iter().map(|config| Target::of(config).to_string()).collect()
        };
        assert_eq!(order(None), ["a:5432/d", "b:5432/d", "c:5432/d"]);
        let last = Target::of(&server.hosts[2]);
        assert_eq!(order(Some(&last)), ["c:5432/d", "a:5432/d", "b:5432/d"]);
    }

    #[test]
    fn errors_of_all_hosts_become_one_that_names_each() {
        let server = server("postgres://u@a,b/d");
        let away = |at: usize| ConnectError::Unreachable {
            target: Target::of(&server.hosts[at]),
            reason: "connection refused".to_owned(),
        };
        let standby = ConnectError::NotPrimary { target: Target::of(&server.hosts[1]) };
        let error = server.sum_up(vec![away(0), standby]);
        assert_eq!(error.exit_code(), 3);
        let text = error.to_string();
        assert!(text.contains("a:5432/d: connection refused, b:5432/d: is a standby"), "{text}");
        let fatal = ConnectError::UnknownDatabase { target: Target::of(&server.hosts[1]) };
        assert_eq!(server.sum_up(vec![away(0), fatal]).exit_code(), 78);
    }

    impl Candidate for (Target, &str) {
        fn target(&self) -> &Target {
            &self.0
        }

        fn is_standby(&self) -> bool {
            self.1 == "standby"
        }
    }

    #[tokio::test]
    async fn search_ends_with_the_primary_whatever_the_others_are_and_never_with_a_standby() {
        let kinds = ["dead", "frozen", "standby", "primary"];
        let server = &server("postgres://u@a,b,c/d");
        let cases = (0..64 * 3).flat_map(|number| [(number, Want::Primary), (number, Want::Any)]);
        let cases = cases.map(async |(number, want)| {
            let hosts = [kinds[number % 4], kinds[number / 4 % 4], kinds[number / 16 % 4]];
            let attempt = async |config: &Config| {
                let target = Target::of(config);
                let host = hosts[server.hosts.iter().position(|host| Target::of(host) == target).unwrap()];
                let takes = if host == "frozen" { HEAD_START * 2 } else { HEAD_START / 10 };
                tokio::time::sleep(takes).await;
                let error = ConnectError::NotPrimary { target: target.clone() };
                if ["standby", "primary"].contains(&host) { Ok((target, host)) } else { Err((target, error)) }
            };
            let order = server.order(Some(&Target::of(&server.hosts[number / 64])));
            let found = choose(order, want, attempt, |_| false, &mut |_, _| {}).await.map(|(_, host)| host);
            let is_taken = |host: &&str| *host == "primary" || want == Want::Any && *host == "standby";
            let expected = hosts.into_iter().filter(is_taken).min();
            assert_eq!(found.ok(), expected, "{want:?} among {hosts:?}, beginning with {}", number / 64);
        });
        futures_util::future::join_all(cases).await;
    }
}
