//! The running server and the task that keeps it running.
//!
//! The order of a start is the order in which things can be refused without having touched anything: first what is
//! there and who may run it, then the programs, then the lock, and only then the orphan, the cluster and
//! the server itself.
//!
//! Supervision knows one rule: a server that ended without being asked to is started again, for ever, with pauses that
//! grow to 5 s. musterd answers from memory meanwhile, so trying is always better than giving up; the log says why it
//! fails.

use std::{
    path::PathBuf,
    sync::{Arc, atomic::AtomicI32},
    time::Duration,
};

use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    account, binaries, cluster,
    error::Error,
    layout::{self, Layout, Lock},
    log,
    options::{NAME, Options},
    postmaster::{self, Postmaster, Recipe},
};
use crate::telemetry::Repeated;

/// First and longest pause before a server that ended is started again.
const RESTART_PAUSE_MIN: Duration = Duration::from_millis(100);
const RESTART_PAUSE_MAX: Duration = Duration::from_secs(5);

/// A server that lived this long was healthy: the next pause is the shortest again.
const HEALTHY_AFTER: Duration = Duration::from_secs(10);

/// How often the length of the log is looked at.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Backends of a crashed server notice within moments that it is gone; until then PostgreSQL refuses to start.
const LEFTOVERS_BOUND: Duration = Duration::from_secs(10);

/// A process of PostgreSQL 13 that was just starting then may take much longer. The server names the memory that it shares.
const SHARED_MEMORY_BOUND: Duration = Duration::from_secs(90);
const SHARED_MEMORY_IN_USE: &str = "pre-existing shared memory block";

/// A private PostgreSQL, running until [`stop`](Self::stop).
///
/// Dropping it asks the server to stop without waiting for it. If the daemon is killed, the server stays and is
/// stopped by the next daemon on the same data directory.
#[derive(Debug)]
pub struct LocalServer {
    url: String,
    version: String,
    socket_dir: PathBuf,
    stop: CancellationToken,
    /// Cancelled when the supervisor ends, however it does.
    ended: CancellationToken,
    running: Arc<AtomicI32>,
    supervisor: JoinHandle<()>,
}

impl LocalServer {
    /// Finds the programs, creates the cluster if there is none, starts the server and waits until it answers.
    ///
    /// Takes one to two seconds for a new cluster, a fraction of one for an existing one, and up to 10 minutes if a
    /// crash left much to replay. Dropping the future stops what it has started. Needs a Tokio runtime, which must
    /// live as long as the server.
    ///
    /// # Errors
    ///
    /// Each [`Error`] says what was found and what to do about it. Nothing half-made stays behind.
    pub async fn start(options: Options) -> Result<Self, Error> {
        let data_dir = options.data_dir.as_path();
        let place = cluster::present(data_dir);
        let account = account::choose(options.run_as.as_deref(), &place)?;
        let made_by = cluster::made_by(&place)?;
        let binaries = binaries::find(options.bin_dir.as_deref(), made_by, &place).await?;
        let parent = data_dir.parent().unwrap_or(data_dir);
        account::check_reachable(account.as_ref(), parent).await?;

        let layout = Layout::create(data_dir)?;
        let lock = Lock::acquire(&layout)?;
        layout.open_to(account.as_ref()).await?;
        cluster::complete_upgrade(&layout)?;
        let crashed = postmaster::stop_orphan(&layout.cluster()).await?;
        // Asked again under the lock: another daemon may have made it meanwhile.
        if cluster::made_by(&layout.cluster())?.is_none() {
            cluster::create(&layout, &binaries, account.as_ref(), options.durability).await?;
            tracing::info!(data_dir = %layout.root().display(), version = %binaries.version,
                "private postgresql cluster created");
        }
        let socket_dir = layout.socket_dir(layout::RUN, account.as_ref())?;
        let version = binaries.version.to_string();
        let recipe = Recipe {
            binaries,
            account,
            cluster: layout.cluster(),
            socket_dir: socket_dir.clone(),
            log: layout.log(),
            durability: options.durability,
            running: Arc::default(),
        };
        let running = Arc::clone(&recipe.running);
        let server = first_start(&recipe, crashed).await?;
        tracing::info!(data_dir = %layout.root().display(), %version, "private postgresql started");
        let stop = CancellationToken::new();
        let ended = CancellationToken::new();
        let supervision = supervise(server, recipe, stop.clone(), lock, ended.clone().drop_guard());
        #[expect(clippy::disallowed_methods, reason = "aborted when this handle is dropped, which learns of its end")]
        let supervisor = tokio::spawn(supervision);
        Ok(Self { url: layout::url(&socket_dir, NAME), version, socket_dir, stop, ended, running, supervisor })
    }

    /// The address of the database, in the form that `--database-url` takes. It stays the same for the server's life.
    #[must_use]
    pub fn database_url(&self) -> &str {
        &self.url
    }

    /// The address of another database of this server, which need not exist.
    #[must_use]
    pub fn url_of(&self, database: &str) -> String {
        layout::url(&self.socket_dir, database)
    }

    /// The server's version, such as `15.18`.
    #[must_use]
    pub fn server_version(&self) -> &str {
        &self.version
    }

    /// Waits until the server is no longer watched: after [`stop`](Self::stop), or because the supervisor panicked, which
    /// stops the server.
    pub fn supervision_ended(&self) -> impl Future<Output = ()> + Send + use<> {
        self.ended.clone().cancelled_owned()
    }

    /// What to do before the process ends without having waited for [`stop`](Self::stop): asks the server to stop, from any
    /// thread, without a runtime.
    pub fn emergency_stop(&self) -> impl Fn() + Send + use<> {
        let running = Arc::clone(&self.running);
        move || postmaster::stop_at_once(&running)
    }

    /// Stops the server and gives up the data directory. Takes at most 8 s; whatever was acknowledged stays.
    pub async fn stop(mut self) {
        self.stop.cancel();
        if let Err(error) = (&mut self.supervisor).await {
            tracing::error!(%error, "supervision of the private postgresql failed");
        }
    }
}

impl Drop for LocalServer {
    fn drop(&mut self) {
        // The task owns the server, whose drop asks it to stop.
        self.supervisor.abort();
    }
}

/// Starts the server for the first time and makes sure that our database exists.
pub(super) async fn first_start(recipe: &Recipe, crashed: bool) -> Result<Postmaster, Error> {
    let maintenance = layout::url(&recipe.socket_dir, "postgres");
    let began = Instant::now();
    let server = loop {
        let mut server = Postmaster::spawn(recipe)?;
        match server.wait_ready(&maintenance).await {
            Ok(()) => break server,
            Err(Error::Exited { tail, .. }) if crashed && began.elapsed() < leftovers_bound(&tail) => {
                sleep(RESTART_PAUSE_MIN).await;
            }
            Err(error) => return Err(error),
        }
    };
    let found = statement(&maintenance, "look for the database", FIND_DATABASE).await?;
    if found == 0 {
        statement(&maintenance, "create the database", &format!("CREATE DATABASE {NAME}")).await?;
    }
    Ok(server)
}

/// For how long a server that has ended with these lines is started again after a crash.
fn leftovers_bound(log_tail: &str) -> Duration {
    if log_tail.contains(SHARED_MEMORY_IN_USE) { SHARED_MEMORY_BOUND } else { LEFTOVERS_BOUND }
}

const FIND_DATABASE: &str = "SELECT 1 FROM pg_catalog.pg_database WHERE datname = 'musterd'";

async fn statement(url: &str, action: &'static str, sql: &str) -> Result<usize, Error> {
    postmaster::query(url, sql).await.map_err(|error| match error {
        Some(source) => Error::Statement { action, source },
        None => Error::Unanswered { action },
    })
}

/// Keeps a server running until told to stop. Owns the lock, so that no other process starts one before this one has ended.
async fn supervise(
    mut server: Postmaster,
    recipe: Recipe,
    stop: CancellationToken,
    _lock: Lock,
    _ended: tokio_util::sync::DropGuard,
) {
    let mut pause = RESTART_PAUSE_MIN;
    loop {
        let started = Instant::now();
        tokio::select! {
            () = stop.cancelled() => return server.stop().await,
            status = watch(&mut server, &recipe) => {
                let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
                tracing::error!(status, log = server.log_tail(), "private postgresql ended, starting it again");
            }
        }
        if started.elapsed() >= HEALTHY_AFTER {
            pause = RESTART_PAUSE_MIN;
        }
        server = tokio::select! {
            () = stop.cancelled() => return,
            server = restart(&recipe, &mut pause) => server,
        };
    }
}

/// Waits until the server ends, and keeps its log short meanwhile.
async fn watch(server: &mut Postmaster, recipe: &Recipe) -> std::io::Result<std::process::ExitStatus> {
    loop {
        tokio::select! {
            status = server.ended() => return status,
            () = sleep(LOG_INTERVAL) => {
                if let Err(error) = log::trim(&recipe.log) {
                    tracing::warn!(log = %recipe.log.display(), %error, "log of the private postgresql not shortened");
                }
            }
        }
    }
}

/// Starts the server again, however often it takes. The pause grows with each attempt.
async fn restart(recipe: &Recipe, pause: &mut Duration) -> Postmaster {
    let mut trouble = Repeated::default();
    loop {
        sleep(*pause).await;
        *pause = (*pause * 2).min(RESTART_PAUSE_MAX);
        match Postmaster::spawn(recipe) {
            Ok(server) => return server,
            Err(error) => {
                if let Some(told) = trouble.failed() {
                    let (failures, lasting_ms) = (told.failures, told.lasting_ms());
                    tracing::error!(%error, failures, lasting_ms, "private postgresql not started");
                }
            }
        }
    }
}
