//! What a session needs before it is used, set explicitly in every session of the daemon and of the commands.
//!
//! Role, database and server can each give defaults to a session, and some of them change what a statement does: a role
//! that is read-only by default, a statement timeout of 5 ms, row-level security that hides rows without an error.
//! Everything the registry depends on is therefore set here, in the round trip that also asks what kind of server it
//! is. Statements, not start-up options: a connection pooler in between refuses options that it does not know.
//!
//! A pooler that gives each transaction another server process (transaction or statement pooling) loses these settings
//! and runs the prepared statements of other sessions. Each session therefore leaves a mark in its server process: a new
//! session that finds a mark, or one that does not find its own again, is refused. The reset of session pooling removes it.

use std::fmt;

use tokio_postgres::{Client, Config, Connection, SimpleQueryMessage, SimpleQueryRow, Socket};

use super::{
    connect::{ConnectError, OLDEST_SERVER, Target},
    lineage::{IDENTITY, IDENTITY_COLUMNS, Identity},
    tls::{Connector, Stream},
};
use crate::locate::{self, LocateError, Located};

/// What every session sets.
///
/// `row_security = off` makes a statement fail whose rows a policy would hide, instead of returning fewer rows.
/// `synchronous_commit` is raised where a role turned it off, because an acknowledged registration must survive a crash;
/// other values are the operator's choice. `session_replication_role` keeps triggers from firing. After a cut network the other
/// end gives a connection up without a packet that the server could see: without probes its session would stay for two
/// hours, with its locks and its place among `max_connections`.
const SETUP: &str = "
SET default_transaction_read_only = off;
SET default_transaction_isolation = 'read committed';
SET default_transaction_deferrable = off;
SET row_security = off;
SET lock_timeout = '2s';
SET idle_in_transaction_session_timeout = '10s';
SET tcp_keepalives_idle = 5;
SET tcp_keepalives_interval = 3;
SET tcp_keepalives_count = 3;
SET tcp_user_timeout = '15s';
SET jit = off;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SET quote_all_identifiers = off;
SET DateStyle = 'ISO, MDY';
SET IntervalStyle = 'postgres';
SET bytea_output = 'hex';
SET extra_float_digits = 1;
SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off';
SELECT set_config('session_replication_role', 'origin', false)
WHERE current_setting('session_replication_role') <> 'origin';
";

/// A short statement timeout must not end the rest.
const NO_TIMEOUT: &str = "SET statement_timeout = 0;\n";

/// What the server is asked: whether it is a standby, its encoding, and the mark of another session.
const FACTS: &str =
    "SELECT pg_is_in_recovery(), current_setting('server_encoding'), current_setting('musterd.session', true);\n";
const FACTS_COLUMNS: usize = 3;

/// Asks for the mark of this session again.
const MARK: &str = "SELECT current_setting('musterd.session', true)";

/// What a session sets and asks beyond what all of them do, in the same round trip.
#[derive(Clone, Debug, Default)]
pub(super) struct Preparation {
    /// The schema of the registry, quoted; if it is not known, it is searched for.
    pub(super) schema: Option<String>,
    pub(super) identity: AskIdentity,
}

/// Whether a session asks for the identity of its database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum AskIdentity {
    /// No registry is known.
    #[default]
    No,
    /// The registry may be of an older version, which has no functions for that.
    IfKnown,
    Always,
}

/// A session that is set up, but for its search path.
pub(crate) struct Opened {
    pub(crate) client: Client,
    pub(crate) connection: Connection<Socket, Stream>,
    pub(crate) target: Target,
    /// Whether the server is in recovery and takes no changes.
    pub(crate) is_standby: bool,
    /// Which database it is, if that was asked and the registry has an epoch.
    pub(super) identity: Option<Identity>,
    /// The generation of the daemon's sessions that it belongs to.
    pub(crate) generation: u64,
    /// Where the registry is, if that was searched for.
    pub(super) located: Result<Located, LocateError>,
    /// The mark that this session has set; see [`Self::settle`].
    mark: String,
}

impl fmt::Debug for Opened {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Opened({})", self.target)
    }
}

impl Opened {
    /// Runs a call on the client while the connection is driven, which otherwise only happens in a task of its own.
    pub(crate) async fn drive<T>(
        &mut self,
        call: impl AsyncFnOnce(&Client) -> Result<T, tokio_postgres::Error>,
    ) -> Result<T, tokio_postgres::Error> {
        drive(&self.client, &mut self.connection, call).await
    }

    /// Keeps the session to a schema, and asks for the identity of the database. Returns false if the settings of the
    /// session were gone by this transaction: another server process runs it. All in one round trip.
    pub(super) async fn settle(&mut self, preparation: &Preparation) -> Result<bool, tokio_postgres::Error> {
        let path = preparation.schema.as_ref().map(|schema| search_path(schema)).unwrap_or_default();
        let ask = async |client: &Client| {
            let mark = client.simple_query(MARK);
            let rest = async {
                // Without a schema nothing can be found or made; the migrations report it.
                client.batch_execute(&path).await?;
                Ok(())
            };
            let (mark, rest, identity) = tokio::join!(biased; mark, rest, ask_identity(client, preparation.identity));
            rest.and(mark.and_then(|mark| identity.map(|identity| (mark, identity))))
        };
        let (mark, identity) = self.drive(ask).await?;
        self.identity = identity;
        Ok(mark.iter().any(|message| matches!(message, SimpleQueryMessage::Row(row) if row.get(0) == Some(&self.mark))))
    }

    /// Asks for the identity of the database again, and whether it has become a primary.
    pub(super) async fn ask_identity(&mut self) -> Result<(), tokio_postgres::Error> {
        self.identity = self.drive(async |client| ask_identity(client, AskIdentity::Always).await).await?;
        self.is_standby &= self.identity.as_ref().is_none_or(|identity| !identity.is_of_a_primary());
        Ok(())
    }

    /// Runs a statement, and asks for the identity of the database before and after it: one round trip, one transaction.
    pub(super) async fn ask_identity_around(
        &mut self,
        statement: &str,
    ) -> Result<[Option<Identity>; 2], tokio_postgres::Error> {
        let batch = format!("{IDENTITY}; {statement}; {IDENTITY}");
        let answer = self.drive(async |client| client.simple_query(&batch).await).await?;
        let mut identities = rows_with(&answer, IDENTITY_COLUMNS).map(Identity::of);
        Ok([identities.next().flatten(), identities.next().flatten()])
    }
}

async fn ask_identity(client: &Client, ask: AskIdentity) -> Result<Option<Identity>, tokio_postgres::Error> {
    if ask == AskIdentity::No {
        return Ok(None);
    }
    match client.simple_query(IDENTITY).await {
        Ok(answer) => Ok(row_with(&answer, IDENTITY_COLUMNS).and_then(Identity::of)),
        Err(error) if ask == AskIdentity::IfKnown && error.as_db_error().is_some() => Ok(None),
        Err(error) => Err(error),
    }
}

fn search_path(schema: &str) -> String {
    format!("SET search_path = {schema}, pg_temp;\n")
}

fn row_with(answer: &[SimpleQueryMessage], columns: usize) -> Option<&SimpleQueryRow> {
    rows_with(answer, columns).next()
}

fn rows_with(answer: &[SimpleQueryMessage], columns: usize) -> impl Iterator<Item = &SimpleQueryRow> {
    answer.iter().filter_map(move |message| match message {
        SimpleQueryMessage::Row(row) if row.len() == columns => Some(row),
        _ => None,
    })
}

async fn drive<T>(
    client: &Client,
    connection: &mut Connection<Socket, Stream>,
    call: impl AsyncFnOnce(&Client) -> Result<T, tokio_postgres::Error>,
) -> Result<T, tokio_postgres::Error> {
    let mut call = std::pin::pin!(call(client));
    loop {
        tokio::select! {
            biased;
            answer = &mut call => return answer,
            message = std::future::poll_fn(|context| connection.poll_message(context)) => match message {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error),
                // The connection has ended; the call is about to say so.
                None => return call.await,
            },
        }
    }
}

/// A session that is authenticated and has not run a statement.
pub(super) struct Greeted {
    client: Client,
    connection: Connection<Socket, Stream>,
    target: Target,
    major: u32,
}

/// Connects to the one host of `config` and sets the session up.
pub(super) async fn open(config: &Config, tls: Connector, preparation: &Preparation) -> Result<Opened, ConnectError> {
    let greeted = greet(config, tls.clone()).await?;
    prepare(greeted, config, &tls, preparation).await
}

/// Connects to the one host of `config` and authenticates.
pub(super) async fn greet(config: &Config, tls: Connector) -> Result<Greeted, ConnectError> {
    let options = tls.options().clone();
    let connected = config.connect(tls).await;
    let (client, connection) = connected.map_err(|error| ConnectError::classify(&error, config, &options))?;
    let target = Target::of(config);
    let major = check_version(connection.parameter("server_version"), &target)?;
    Ok(Greeted { client, connection, target, major })
}

/// Sets the session up.
pub(super) async fn prepare(
    greeted: Greeted,
    config: &Config,
    tls: &Connector,
    preparation: &Preparation,
) -> Result<Opened, ConnectError> {
    let Greeted { client, mut connection, target, major } = greeted;
    let mark = uuid::Uuid::new_v4().simple().to_string();
    let setup = setup(major, preparation, &mark);
    let ask = async |client: &Client| {
        // Sent one behind the other: one round trip.
        let identity = ask_identity(client, preparation.identity);
        let (answer, identity) = tokio::join!(biased; client.simple_query(&setup), identity);
        answer.and_then(|answer| identity.map(|identity| (answer, identity)))
    };
    let answer = drive(&client, &mut connection, ask).await;
    let (answer, identity) = answer.map_err(|error| ConnectError::classify(&error, config, tls.options()))?;
    let facts = row_with(&answer, FACTS_COLUMNS).and_then(|row| Some((row.get(0)? == "t", row.get(1)?, row.get(2))));
    let Some((is_standby, encoding, other)) = facts else {
        return Err(ConnectError::Refused { target, reason: "it does not answer like a PostgreSQL".to_owned() });
    };
    if encoding != "UTF8" {
        return Err(ConnectError::Encoding { target, found: encoding.to_owned() });
    }
    // The server process of a session is new, or a pooler has reset it.
    if other.is_some_and(|mark| !mark.is_empty()) {
        return Err(ConnectError::Pooled { target });
    }
    let located = locate::read(&answer);
    Ok(Opened { client, connection, target, is_standby, identity, generation: 0, located, mark })
}

/// The set-up for a major version: a server refuses settings that it does not know. The facts come first, because the
/// mark of another session must be read before this one sets its own.
fn setup(major: u32, preparation: &Preparation, mark: &str) -> String {
    let mut text = NO_TIMEOUT.to_owned() + FACTS + SETUP;
    if major >= 14 {
        text.push_str("SET idle_session_timeout = 0;\n");
    }
    if major >= 17 {
        text.push_str("SET transaction_timeout = 0;\n");
    }
    text.push_str(&format!("SELECT set_config('musterd.session', '{mark}', false);\n"));
    match &preparation.schema {
        Some(schema) => text.push_str(&search_path(schema)),
        None => text.push_str(locate::SEARCH),
    }
    text
}

/// Refuses a server below [`OLDEST_SERVER`] and returns its major version. The version comes with the greeting, as text
/// such as `15.3 (Debian ...)`.
fn check_version(version: Option<&str>, target: &Target) -> Result<u32, ConnectError> {
    let version = version.unwrap_or("unknown");
    let digits: String = version.chars().take_while(char::is_ascii_digit).collect();
    match digits.parse::<u32>() {
        Ok(major) if major >= OLDEST_SERVER => Ok(major),
        _ => Err(ConnectError::UnsupportedServer { target: target.clone(), found: version.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_below_13_is_refused() {
        let target = Target::of(Config::new().host("h"));
        for old in ["12.20", "9.6.24", "unknown"] {
            let error = check_version(Some(old), &target).unwrap_err();
            assert!(error.to_string().contains(old), "{error}");
            assert_eq!(error.exit_code(), 78);
        }
        for (supported, major) in [("13.0", 13), ("15.3 (Debian 15.3-1)", 15), ("17beta1", 17)] {
            assert_eq!(check_version(Some(supported), &target).unwrap(), major);
        }
    }

    #[test]
    fn settings_of_newer_servers_are_left_out_for_older_ones() {
        for (major, idle, transaction) in [(13, false, false), (14, true, false), (16, true, false), (17, true, true)] {
            let text = setup(major, &Preparation::default(), "mark");
            assert_eq!(text.contains("idle_session_timeout"), idle, "{major}");
            assert_eq!(text.contains(" transaction_timeout"), transaction, "{major}");
            assert!(text.starts_with(NO_TIMEOUT) && text.contains(locate::SEARCH) && !text.contains("search_path"));
        }
    }
}
