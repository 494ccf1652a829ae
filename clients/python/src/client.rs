//! A client of one registry, as Python sees it. Python keeps one for each set of daemons and files, so that all its
//! registrations beat over one stream.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::PathBuf,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use musterd_client::{Address, LossReason, OnLost, Register, RouterSettings, State, Tls, Token};
use pyo3::{exceptions::PyValueError, prelude::*};
use tokio::sync::watch;
use uuid::Uuid;

use crate::{
    convert::{self, Foreign},
    events::Event,
    exit,
    owned::Owned,
    progress::{self, Progress},
    registration::Registration,
    router::Router,
    runtime::Process,
};

/// A client.
#[pyclass(frozen, module = "musterd._core")]
#[derive(Debug)]
pub(crate) struct Client {
    /// Names it in events.
    token: u64,
    inner: Owned<(&'static Process, musterd_client::Client)>,
    /// Whether changes of its daemon are told.
    is_followed: AtomicBool,
}

/// What Python says of an instance: a dictionary.
#[derive(Debug, FromPyObject)]
#[pyo3(from_item_all)]
struct Settings {
    logical_id: String,
    instance_id: Option<Uuid>,
    cluster_epoch: Option<Uuid>,
    actor_name: String,
    serve_route: String,
    node_id: String,
    /// `None` with a port: the address of the connection.
    ip: Option<String>,
    port: Option<u16>,
    ttl: f64,
    status: String,
    version: String,
    labels: BTreeMap<String, String>,
    on_lost: String,
    stall_after: Option<f64>,
}

impl Settings {
    fn register(&self) -> PyResult<Register> {
        let mut register = Register::new(&self.logical_id)
            .actor_name(&self.actor_name)
            .serve_route(&self.serve_route)
            .node(&self.node_id)
            .version(&self.version)
            .status(convert::status(&self.status)?)
            .ttl(convert::seconds("ttl", self.ttl)?)
            .on_lost(if self.on_lost == "rejoin" { OnLost::Rejoin } else { OnLost::Stop });
        register = self.instance_id.into_iter().fold(register, Register::instance_id);
        register = self.cluster_epoch.into_iter().fold(register, Register::cluster_epoch);
        register = self.port.into_iter().fold(register, Register::port);
        register = match (&self.ip, self.port) {
            (Some(ip), _) => register.ip(ip.parse::<IpAddr>().map_err(|_| {
                PyValueError::new_err(format!("ip: {ip:?} is no IP address; give an IPv4 or IPv6 address"))
            })?),
            (None, Some(_)) => register.ip_of_connection(),
            (None, None) => register,
        };
        Ok(self.labels.iter().fold(register, |register, (key, value)| register.label(key, value)))
    }
}

impl Client {
    fn inner(&self) -> PyResult<(&'static Process, &musterd_client::Client)> {
        self.inner.get().map(|(process, client)| (*process, client)).ok_or_else(|| Foreign::new_err(()))
    }
}

#[pymethods]
impl Client {
    #[new]
    #[expect(clippy::too_many_arguments, reason = "the arguments of the Python function")]
    fn new(
        token: u64,
        daemons: Vec<String>,
        ca: Option<PathBuf>,
        cert: Option<PathBuf>,
        key: Option<PathBuf>,
        token_file: Option<PathBuf>,
        timeout: f64,
        application: &str,
    ) -> PyResult<Self> {
        let mut tls = Tls::from_env();
        tls = ca.into_iter().fold(tls, Tls::ca);
        if let Some(cert) = cert {
            let key = key.unwrap_or_else(|| cert.clone());
            tls = tls.identity(cert, key);
        }
        let builder = musterd_client::Client::builder()
            .daemons(daemons)
            .timeout(convert::seconds("timeout", timeout)?)
            .tls(tls)
            .token(token_file.map_or_else(Token::from_env, Token::file))
            .application(application);
        let client = builder.build().map_err(|error| convert::raise(&error))?;
        Ok(Self { token, inner: Owned::new((Process::current()?, client)), is_followed: AtomicBool::new(false) })
    }

    /// The number that names it in events.
    fn token(&self) -> u64 {
        self.token
    }

    /// Begins to register; states are events under this token.
    fn register(&self, token: u64, settings: Settings) -> PyResult<Registration> {
        let (process, client) = self.inner()?;
        let (register, exits) = (settings.register()?, settings.on_lost == "exit");
        let grace = convert::seconds("ttl", settings.ttl)? / 3;
        let register = register.observer(move |state| observe(process, token, *state, exits.then_some(grace)));
        let registration = Arc::new(client.begin(register).map_err(|error| convert::raise(&error))?);
        if !self.is_followed.swap(true, Ordering::Relaxed) {
            let daemon = client.beat_daemon().map_err(|error| convert::raise(&error))?;
            process.spawn(follow_daemon(process, self.token, daemon));
        }
        let progress = Arc::new(Progress::new(convert::status(&settings.status)?));
        if let Some(limit) = settings.stall_after {
            let limit = convert::seconds("stall_after", limit)?;
            let (weak, ticks) = (Arc::downgrade(&registration), Arc::downgrade(&progress));
            watch_progress(process, token, weak, ticks, limit);
        }
        Ok(Registration::new(process, registration, progress))
    }

    /// Resolves a name by a call to a daemon; the outcome is an event.
    #[pyo3(signature = (token, logical_id, policy, key, near, labels, exclude))]
    #[expect(clippy::too_many_arguments, reason = "the arguments of the Python function")]
    fn resolve(
        &self,
        token: u64,
        logical_id: String,
        policy: &str,
        key: Option<String>,
        near: Option<String>,
        labels: BTreeMap<String, String>,
        exclude: Vec<Uuid>,
    ) -> PyResult<()> {
        let (process, client) = self.inner()?;
        let choice = convert::choice(policy, key, near, labels, exclude)?;
        let client = client.clone();
        process.spawn(async move {
            let outcome = client.resolve(&logical_id, &choice).await;
            process.events.push(Event::Done(token, outcome.into()));
        });
        Ok(())
    }

    /// A router on this client.
    fn router(&self, max_stale: f64, exclude_for: f64, idle: f64) -> PyResult<Router> {
        let (process, client) = self.inner()?;
        let mut settings = RouterSettings::default();
        settings.max_stale = convert::seconds("max_stale", max_stale)?;
        settings.exclude_for = convert::seconds("exclude_for", exclude_for)?;
        settings.idle = convert::seconds("idle", idle)?;
        Ok(Router::new(process, client, settings))
    }

    /// The daemon that answered last, or is asked first.
    fn daemon(&self) -> PyResult<String> {
        Ok(self.inner()?.1.daemon().to_string())
    }
}

/// Tells Python a state, and ends the process if its lease is lost and it must not live on without.
fn observe(process: &Process, token: u64, state: State, exit_grace: Option<Duration>) {
    process.events.push(Event::State(token, state));
    let State::Lost(lost) = state else { return };
    if let Some(grace) = exit_grace.filter(|_| lost.reason != LossReason::Closed) {
        exit::begin(grace);
    }
}

/// Tells Python when another daemon takes the beats.
async fn follow_daemon(process: &'static Process, token: u64, mut daemon: watch::Receiver<Option<Address>>) {
    let mut before = daemon.borrow_and_update().clone();
    while daemon.changed().await.is_ok() {
        let now = daemon.borrow_and_update().clone();
        if let (Some(_), Some(now)) = (before, &now) {
            process.events.push(Event::Daemon(token, now.to_string()));
        }
        before = now;
    }
}

fn watch_progress(
    process: &'static Process,
    token: u64,
    registration: Weak<musterd_client::Registration>,
    progress: Weak<Progress>,
    limit: Duration,
) {
    process.spawn(progress::watch(process, token, registration, progress, limit));
}
