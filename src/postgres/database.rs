//! The database of a registry: what every session of a process shares.
//!
//! A handle on where the database is ([`Source`], which can be read again), on the schema that holds the registry, and
//! on the host that answered last. Every session begins here, of the pool, the feed, the migrations and the checks, so
//! that all of them work on one registry under the same settings.
//!
//! Password and host are read again from their file when the server refuses the session or the certificate, and when
//! the daemon is told to reload. Certificates are read for each connection (see [`super::tls`]).

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::timeout};
use tokio_postgres::{Connection, Socket};

use super::{
    change,
    connect::{ConnectError, Target},
    kept::{Driven, Kept},
    lineage::{Behind, Fit, Lineage},
    server::{Server, Want},
    session::{AskIdentity, Opened, Preparation},
    tls::Stream,
};
use crate::{
    database_url::{DatabaseUrl, Source, UrlError},
    telemetry::chain,
};

/// How long an answer may take before a newer primary is looked for.
const SILENCE: Duration = Duration::from_millis(500);

/// A database, as all sessions of a process share it. Clones share everything.
#[derive(Clone, Debug)]
pub struct Database {
    pub(super) shared: Arc<Shared>,
}

#[derive(Debug)]
pub(super) struct Shared {
    source: Source,
    /// Where the registry is: named from the start, or found by the first session.
    pub(super) schema: OnceLock<String>,
    /// Sessions of the start.
    pub(super) kept: Mutex<Kept>,
    /// Which database the sessions belong to; set once it has a registry.
    lineage: OnceLock<Lineage>,
    /// Wakes the search for a newer primary.
    search_requested: Notify,
    state: Mutex<State>,
}

/// A std mutex guards it: held for a few instructions, never across an await.
#[derive(Debug)]
struct State {
    server: Arc<Server>,
    last_good: Option<Target>,
    /// Hosts whose failure is logged.
    failing: BTreeSet<String>,
    /// Whether the loss of a connection is logged, until the next session opens.
    is_loss_logged: bool,
    /// Why the source could not be read, as it was logged last.
    unreadable: Option<String>,
}

/// The source of the URL cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unreadable(String);

impl Database {
    /// The database that `source` names. The registry is in `schema`, or where the first session finds it.
    #[must_use]
    pub fn new(source: Source, schema: Option<&str>) -> Self {
        let server = Arc::new(Server::new(&source.current()));
        let state =
            State { server, last_good: None, failing: BTreeSet::new(), is_loss_logged: false, unreadable: None };
        let schema = schema.map_or_else(OnceLock::new, |schema| schema.to_owned().into());
        let (lineage, search_requested, kept) = (OnceLock::new(), Notify::new(), Mutex::default());
        Self { shared: Arc::new(Shared { source, schema, lineage, search_requested, kept, state: Mutex::new(state) }) }
    }

    /// The same at a URL that does not change.
    ///
    /// # Errors
    ///
    /// [`UrlError`] if the URL cannot be used.
    pub fn at(url: &str, schema: Option<&str>) -> Result<Self, UrlError> {
        Ok(Self::new(Source::fixed(DatabaseUrl::parse(url)?), schema))
    }

    /// Reads the source again, as at an attempt to connect that failed. What cannot be read is logged once, and the former
    /// value stays.
    pub fn reload(&self) -> bool {
        let outcome = self.reread();
        let unreadable = outcome.as_ref().err().map(ToString::to_string);
        let is_news = std::mem::replace(&mut self.state().unreadable, unreadable.clone()) != unreadable;
        if let Some(error) = unreadable.filter(|_| is_news) {
            tracing::warn!(error, "database url could not be reloaded, keeping the former one");
        }
        outcome.unwrap_or(false)
    }

    /// Reads the source again. Returns whether it names another server, user or password than before; sessions that are
    /// open go on.
    ///
    /// # Errors
    ///
    /// [`Unreadable`]; the former value stays.
    pub fn reread(&self) -> Result<bool, Unreadable> {
        let changed = self.shared.source.reload().map_err(Unreadable)?;
        if changed {
            let url = self.shared.source.current();
            tracing::info!(database = %url, "database url reloaded");
            let mut state = self.state();
            state.server = Arc::new(Server::new(&url));
            state.last_good = None;
        }
        Ok(changed)
    }

    /// The URL as it was read last, with its password. Never log it.
    #[must_use]
    pub fn url(&self) -> String {
        self.shared.source.current().expose().to_owned()
    }

    /// The schema of the registry, as far as a session has found it.
    #[must_use]
    pub fn schema(&self) -> Option<&str> {
        self.shared.schema.get().map(String::as_str)
    }

    /// The server with all of its hosts, for people.
    #[must_use]
    pub fn target(&self) -> Target {
        self.state().server.target().clone()
    }

    /// The generation of sessions that counts: another one means another database.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.lineage().map_or(0, Lineage::generation)
    }

    /// Returns when the sessions of this generation have to end.
    pub async fn superseded(&self, generation: u64) {
        match self.lineage() {
            Some(lineage) => lineage.superseded(generation).await,
            None => std::future::pending().await,
        }
    }

    /// From now on all sessions must belong to one database.
    pub fn follow(&self) {
        let _ = self.shared.lineage.set(Lineage::default());
    }

    /// Which database the sessions belong to, if [`Self::follow`] was called.
    pub(crate) fn lineage(&self) -> Option<&Lineage> {
        self.shared.lineage.get()
    }

    /// The highest revision that this daemon has committed or read.
    #[must_use]
    pub fn seen(&self) -> u64 {
        self.lineage().map_or(0, Lineage::seen)
    }

    /// A change was committed, or read, at this revision.
    pub(crate) fn saw(&self, generation: u64, floor: u64, revision: u64) -> bool {
        self.lineage().is_none_or(|lineage| lineage.answered(generation, floor, revision))
    }

    /// The database that was refused lately because it is behind.
    #[must_use]
    pub fn behind(&self) -> Option<Behind> {
        self.lineage().and_then(Lineage::behind)
    }

    /// How often the daemon changed to another database, and how many sessions it refused as behind.
    #[must_use]
    pub fn changes_and_refusals(&self) -> (u64, u64) {
        self.lineage().map(Lineage::counts).unwrap_or_default()
    }

    /// Runs what needs an answer of the database, and looks for a newer primary meanwhile if that takes long.
    pub(crate) async fn watched<T>(&self, answering: impl Future<Output = T>) -> T {
        let mut answering = std::pin::pin!(answering);
        match timeout(SILENCE, &mut answering).await {
            Ok(answer) => answer,
            Err(_) => {
                self.request_search();
                answering.await
            }
        }
    }

    /// A call was not answered: a newer primary may exist.
    pub(super) fn request_search(&self) {
        self.shared.search_requested.notify_one();
    }

    /// Waits for [`Self::request_search`].
    pub(super) fn search_requested(&self) -> impl Future<Output = ()> + '_ {
        self.shared.search_requested.notified()
    }

    /// Opens a session; its connection is not driven yet. Begins again when another session has found another database:
    /// an attempt at the former one may wait for a host that is gone.
    #[tracing::instrument(level = "debug", name = "db.open", skip_all)]
    pub(crate) async fn open(&self, want: Want, limit: Duration) -> Result<Opened, ConnectError> {
        let Some(lineage) = self.lineage() else { return Box::pin(self.open_once(want, limit)).await };
        loop {
            let generation = lineage.generation();
            let opened = tokio::select! {
                biased;
                opened = self.watched(Box::pin(self.open_once(want, limit))) => opened,
                () = lineage.superseded(generation) => continue,
            };
            return opened.inspect_err(|_| self.request_search());
        }
    }

    /// It and its parts are boxed: large and rare, and moved by the calls that wait for it.
    async fn open_once(&self, want: Want, limit: Duration) -> Result<Opened, ConnectError> {
        if let Some(second) = self.take_second(want).await {
            return Ok(second);
        }
        let floor = self.seen();
        let attempt = async || match self.schema() {
            Some(_) => self.try_open(want, limit, floor).await,
            None => self.open_first(want, limit).await,
        };
        let mut opened = match Box::pin(attempt()).await {
            Err(error) if error.may_be_outdated() && self.reload() => Box::pin(attempt()).await,
            outcome => outcome,
        }?;
        self.admit(&mut opened, floor).await?;
        self.used(&opened.target);
        Ok(opened)
    }

    /// Admits a session that was asked for its identity when the daemon had seen `floor`.
    pub(super) async fn admit(&self, opened: &mut Opened, floor: u64) -> Result<(), ConnectError> {
        let Some(lineage) = self.lineage() else { return Ok(()) };
        if let Some(change) = Box::pin(change::admit(lineage, opened, floor)).await? {
            // Before all other sessions end, because those that follow begin with this host.
            self.used(&opened.target);
            opened.generation = change.adopt(&opened.target);
        }
        Ok(())
    }

    /// A session with this host is open.
    pub(super) fn used(&self, target: &Target) {
        let mut state = self.state();
        state.failing.remove(&target.to_string());
        state.last_good = Some(target.clone());
        state.is_loss_logged = false;
    }

    /// The host that was used last, if the URL names others beside it, and the server.
    pub(super) fn used_among_several(&self) -> Option<(Target, Arc<Server>)> {
        let state = self.state();
        let used = state.last_good.clone().filter(|_| state.server.has_several_hosts())?;
        Some((used, Arc::clone(&state.server)))
    }

    /// What a session sets and asks at its beginning.
    pub(super) fn preparation(&self) -> Preparation {
        let schema = self.schema().map(quote_identifier);
        let is_followed = schema.is_some() && self.lineage().is_some();
        Preparation { schema, identity: if is_followed { AskIdentity::Always } else { AskIdentity::No } }
    }

    /// Opens a session and drives it in a task that logs how the connection ends, if it breaks.
    pub(crate) async fn open_driven(&self, want: Want, limit: Duration) -> Result<Driven, ConnectError> {
        if let Some(kept) = self.take_driven(want) {
            return Ok(kept);
        }
        let Opened { client, connection, target, generation, identity, .. } = self.open(want, limit).await?;
        let database = self.clone();
        #[expect(clippy::disallowed_methods, reason = "the calls of the client fail when its driver has ended")]
        let driver = tokio::spawn(async move { database.drive(connection, target).await });
        Ok(Driven { client, driver, generation, identity })
    }

    async fn drive(self, connection: Connection<Socket, Stream>, target: Target) {
        if let Err(error) = connection.await {
            self.connection_lost(&target, &error);
        }
    }

    /// Logs that a connection was lost: once, until the next one is opened. A restart of the server breaks them all.
    pub(crate) fn connection_lost(&self, target: &Target, error: &tokio_postgres::Error) {
        if !std::mem::replace(&mut self.state().is_loss_logged, true) {
            tracing::warn!(server = %target, error = %chain(error), "connection to postgresql lost, connecting again");
        }
    }

    /// The server as the URL names it now, and the host that was used last.
    pub(super) fn server(&self) -> (Arc<Server>, Option<Target>) {
        let state = self.state();
        (Arc::clone(&state.server), state.last_good.clone())
    }

    pub(super) async fn try_open(&self, want: Want, limit: Duration, floor: u64) -> Result<Opened, ConnectError> {
        let (server, first) = self.server();
        let is_behind = |opened: &Opened| match (self.lineage(), &opened.identity) {
            (Some(lineage), Some(identity)) => lineage.fit(identity, floor).0 == Fit::Behind,
            _ => false,
        };
        let preparation = self.preparation();
        let opened = server.open(want, limit, first.as_ref(), &preparation, is_behind, |target, error| {
            tracing::debug!(server = %target, %error, "host of the database url failed");
            self.note_failure(target);
        });
        let opened = opened.await?;
        self.report_failures(&opened.target);
        Ok(opened)
    }

    /// Remembers a host that failed; reported when another host could be used instead.
    fn note_failure(&self, target: &Target) {
        self.state().failing.insert(target.to_string());
    }

    fn report_failures(&self, used: &Target) {
        let mut state = self.state();
        if state.last_good.as_ref() == Some(used) || state.failing.is_empty() {
            return;
        }
        let failing: Vec<String> = state.failing.iter().filter(|host| **host != used.to_string()).cloned().collect();
        state.last_good = Some(used.clone());
        drop(state);
        if !failing.is_empty() {
            tracing::warn!(server = %used, ?failing, "hosts of the database url cannot be used, connected to another one");
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while the lock is held.
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Checks the certificates that a URL names, without connecting.
///
/// # Errors
///
/// [`ConnectError::Certificates`].
pub fn check_certificates(url: &DatabaseUrl) -> Result<(), ConnectError> {
    Server::new(url).check()
}

/// A name as an identifier of SQL.
pub(crate) fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reload_takes_over_what_changed_and_keeps_what_cannot_be_read() {
        let answers =
            Arc::new(Mutex::new(vec![Err("gone".to_owned()), Ok("postgres://u:new@b/d"), Ok("postgres://u:new@b/d")]));
        let reader = move || {
            let answer = answers.lock().unwrap().pop().unwrap_or(Err("no more".to_owned()))?;
            DatabaseUrl::parse(answer).map_err(|error| error.to_string())
        };
        let url = DatabaseUrl::parse("postgres://u:old@a/d").unwrap();
        let database = Database::new(Source::read_by(url, reader), None);
        assert!(database.reload(), "another host and password");
        assert_eq!(database.target().to_string(), "b:5432/d");
        assert!(!database.reload(), "the same again");
        assert!(!database.reload(), "not readable");
        assert_eq!(database.target().to_string(), "b:5432/d");
    }

    #[test]
    fn identifiers_are_quoted() {
        assert_eq!(quote_identifier("Our \"schema\""), "\"Our \"\"schema\"\"\"");
    }
}
