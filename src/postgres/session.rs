//! What a session needs before it is used, set explicitly in every session of the daemon and of the commands.
//!
//! Role, database and server can each give defaults to a session, and some of them change what a statement does: a role
//! that is read-only by default, a statement timeout of 5 ms, row-level security that hides rows without an error.
//! Everything the registry depends on is therefore set here, in the round trip that also asks what kind of server it
//! is. Statements, not start-up options: a connection pooler in between refuses options that it does not know.

use std::fmt;

use tokio_postgres::{Client, Config, Connection, SimpleQueryMessage, Socket};

use super::{
    connect::{ConnectError, OLDEST_SERVER, Target},
    tls::{Connector, Stream},
};

/// What every session sets. The order matters in one case: a short statement timeout must not end the rest.
///
/// `row_security = off` makes a statement fail whose rows a policy would hide, instead of returning fewer rows.
/// `synchronous_commit` is raised where a role turned it off, because an acknowledged registration must survive a crash;
/// other values are the operator's choice. `session_replication_role` keeps triggers from firing.
const SETUP: &str = "
SET statement_timeout = 0;
SET default_transaction_read_only = off;
SET default_transaction_isolation = 'read committed';
SET default_transaction_deferrable = off;
SET row_security = off;
SET lock_timeout = '2s';
SET idle_in_transaction_session_timeout = '10s';
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

/// What the server is asked, as the last statement of the set-up.
const FACTS: &str = "SELECT pg_is_in_recovery(), current_setting('server_encoding')";

/// A session that is set up, but for its search path.
pub(crate) struct Opened {
    pub(crate) client: Client,
    pub(crate) connection: Connection<Socket, Stream>,
    pub(crate) target: Target,
    /// Whether the server is in recovery and takes no changes.
    pub(crate) is_standby: bool,
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

/// Connects to the one host of `config` and sets the session up.
pub(super) async fn open(config: &Config, tls: Connector) -> Result<Opened, ConnectError> {
    let explain = |error: &tokio_postgres::Error| ConnectError::classify(error, config, tls.options());
    let (client, mut connection) = config.connect(tls.clone()).await.map_err(|error| explain(&error))?;
    let target = Target::of(config);
    let major = check_version(connection.parameter("server_version"), &target)?;
    let setup = setup(major);
    let answer = drive(&client, &mut connection, async |client| client.simple_query(&setup).await).await;
    let answer = answer.map_err(|error| explain(&error))?;
    let facts = answer.iter().rev().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some((row.get(0)? == "t", row.get(1)?.to_owned())),
        _ => None,
    });
    let Some((is_standby, encoding)) = facts else {
        return Err(ConnectError::Refused { target, reason: "it does not answer like a PostgreSQL".to_owned() });
    };
    if encoding != "UTF8" {
        return Err(ConnectError::Encoding { target, found: encoding });
    }
    Ok(Opened { client, connection, target, is_standby })
}

/// The set-up for a major version: a server refuses settings that it does not know.
fn setup(major: u32) -> String {
    let mut text = SETUP.to_owned();
    if major >= 14 {
        text.push_str("SET idle_session_timeout = 0;\n");
    }
    if major >= 17 {
        text.push_str("SET transaction_timeout = 0;\n");
    }
    text + FACTS
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
            let text = setup(major);
            assert_eq!(text.contains("idle_session_timeout"), idle, "{major}");
            assert_eq!(text.contains(" transaction_timeout"), transaction, "{major}");
            assert!(text.ends_with(FACTS));
        }
    }
}
