//! The server process: started, waited for, stopped.
//!
//! A process is only ever signalled while it is known to be ours: as a child that has not been reaped, so that its pid
//! cannot belong to anyone else, or as an orphan that was just recognised on our own cluster.

use std::{
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicI32, Ordering},
    },
    time::Duration,
};

use nix::{
    sys::signal::{self, Signal},
    unistd::Pid,
};
use tokio::{
    process::Child,
    time::{Instant, sleep, timeout},
};
use tokio_postgres::{NoTls, error::SqlState};

use super::{
    account::{self, Account},
    binaries::Binaries,
    cluster,
    error::{Context, Error},
    layout, log,
    options::Durability,
    pidfile::{self, Holder},
};

/// How long a server may take to answer at all.
const READY_BOUND: Duration = Duration::from_secs(60);

/// How long it may take as long as it says that it is starting: replaying the log of a crash. Ending it earlier would
/// only make the next start begin again.
const RECOVERY_BOUND: Duration = Duration::from_secs(600);

/// Bound of one attempt to connect, and of one statement of ours.
const STATEMENT_BOUND: Duration = Duration::from_secs(30);

/// A fast stop ends the sessions and writes a checkpoint. After this, an immediate stop leaves the rest to recovery.
const FAST_STOP_BOUND: Duration = Duration::from_secs(5);

/// After this, it is killed. Together 8 s, which leaves the daemon 2 s of its 10 s for everything else.
const IMMEDIATE_STOP_BOUND: Duration = Duration::from_secs(3);

/// Everything that a server is started from, again and again.
#[derive(Debug)]
pub(super) struct Recipe {
    pub(super) binaries: Binaries,
    pub(super) account: Option<Account>,
    pub(super) cluster: PathBuf,
    pub(super) socket_dir: PathBuf,
    pub(super) log: PathBuf,
    pub(super) durability: Durability,
    /// The pid of the server while it is a child that was not reaped; 0 if there is none.
    pub(super) running: Arc<AtomicI32>,
}

/// A running server. Dropping it asks it to stop and does not wait.
#[derive(Debug)]
pub(super) struct Postmaster {
    child: Child,
    log: PathBuf,
    /// Where in the log this server's lines begin.
    log_start: u64,
    running: Arc<AtomicI32>,
}

impl Postmaster {
    /// Starts the server; it is not yet ready.
    pub(super) fn spawn(recipe: &Recipe) -> Result<Self, Error> {
        layout::remove_socket(&recipe.socket_dir)?;
        let (log, log_start) = log::open(&recipe.log)?;
        let program = recipe.binaries.postgres();
        let mut command = account::command(program.as_os_str(), recipe.account.as_ref(), &recipe.cluster);
        command.args(cluster::arguments(&recipe.cluster, &recipe.socket_dir, recipe.durability));
        let stdout = log.try_clone().context("open", &recipe.log)?;
        let child = command.stdout(Stdio::from(stdout)).stderr(Stdio::from(log)).spawn().context("run", &program)?;
        let server = Self { child, log: recipe.log.clone(), log_start, running: Arc::clone(&recipe.running) };
        server.running.store(server.pid().map_or(0, Pid::as_raw), Ordering::Release);
        Ok(server)
    }

    /// Waits until the server answers a statement.
    pub(super) async fn wait_ready(&mut self, url: &str) -> Result<(), Error> {
        let started = Instant::now();
        let mut bound = READY_BOUND;
        let mut pause = Duration::from_millis(10);
        loop {
            match query(url, "SELECT 1").await {
                Ok(_) => return Ok(()),
                Err(Some(error)) if error.code() == Some(&SqlState::CANNOT_CONNECT_NOW) => bound = RECOVERY_BOUND,
                Err(_) => {}
            }
            if started.elapsed() > bound {
                return Err(Error::NotReady {
                    seconds: started.elapsed().as_secs(),
                    tail: self.log_tail(),
                    log: self.log.clone(),
                });
            }
            tokio::select! {
                status = self.ended() => {
                    let status = status.context("wait for the server of", &self.log)?;
                    return Err(Error::Exited {
                        status: status.to_string(), tail: self.log_tail(), log: self.log.clone(),
                    });
                }
                () = sleep(pause) => pause = (pause * 2).min(Duration::from_millis(250)),
            }
        }
    }

    /// Waits until the server ends. May be dropped and called again.
    pub(super) async fn ended(&mut self) -> std::io::Result<ExitStatus> {
        let status = self.child.wait().await;
        self.running.store(0, Ordering::Release);
        status
    }

    /// Stops the server, within 8 s; whatever it has acknowledged stays.
    pub(super) async fn stop(mut self) {
        for (signal, bound) in [(Signal::SIGINT, FAST_STOP_BOUND), (Signal::SIGQUIT, IMMEDIATE_STOP_BOUND)] {
            self.signal(signal);
            if timeout(bound, self.ended()).await.is_ok() {
                return;
            }
            tracing::warn!(?signal, "private postgresql does not stop");
        }
        self.signal(Signal::SIGKILL);
    }

    pub(super) fn log_tail(&self) -> String {
        log::tail(&self.log, self.log_start)
    }

    /// Its pid, unless it has been reaped.
    fn pid(&self) -> Option<Pid> {
        self.child.id().and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw)
    }

    /// Signals the server unless it has been reaped.
    fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid() {
            // It cannot fail for an unreaped child of ours, except under a policy that nothing here could change.
            let _ = signal::kill(pid, signal);
        }
    }
}

/// Asks the server with this pid to stop, if there is one, without waiting for it: it ends its sessions, writes a
/// checkpoint and exits without us.
pub(super) fn stop_at_once(running: &AtomicI32) {
    let pid = running.load(Ordering::Acquire);
    if pid > 0 {
        // As above.
        let _ = signal::kill(Pid::from_raw(pid), Signal::SIGINT);
    }
}

impl Drop for Postmaster {
    fn drop(&mut self) {
        self.signal(Signal::SIGINT);
        // What reaps it now does not tell when, and its pid may then be given to another process.
        self.running.store(0, Ordering::Release);
    }
}

/// Makes sure that no server runs on the cluster, and tells whether one crashed there. For the holder of the lock only.
pub(super) async fn stop_orphan(cluster: &Path) -> Result<bool, Error> {
    let crashed = pidfile::path(cluster).exists();
    let pid = match pidfile::holder(cluster)? {
        Holder::NoProcess => return Ok(crashed),
        Holder::Stranger(_) => {
            pidfile::disown(cluster)?;
            return Ok(crashed);
        }
        Holder::Foreign(pid) => return Err(Error::Foreign { path: cluster.to_path_buf(), pid: pid.as_raw() }),
        Holder::Server(pid) => pid,
    };
    tracing::warn!(pid = pid.as_raw(), "private postgresql of a former daemon still runs, stopping it");
    for (signal, bound) in [(Signal::SIGINT, FAST_STOP_BOUND), (Signal::SIGQUIT, 2 * IMMEDIATE_STOP_BOUND)] {
        // Gone already is as good as stopped; whether it is gone is what the loop looks at.
        let _ = signal::kill(pid, signal);
        let deadline = Instant::now() + bound;
        while Instant::now() < deadline {
            if !pidfile::runs_on(pid, cluster) {
                return Ok(crashed);
            }
            sleep(Duration::from_millis(20)).await;
        }
    }
    Err(Error::OrphanStays { path: cluster.to_path_buf(), pid: pid.as_raw() })
}

/// Runs statements on a connection of their own. `Err(None)`: no answer in time.
pub(super) async fn query(url: &str, sql: &str) -> Result<usize, Option<tokio_postgres::Error>> {
    let work = async {
        let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
        let rows = async move {
            let messages = client.simple_query(sql).await?;
            Ok(messages.iter().filter(|m| matches!(m, tokio_postgres::SimpleQueryMessage::Row(_))).count())
        };
        // The connection ends by itself once the client is dropped with the first future.
        let (rows, _) = tokio::join!(rows, connection);
        rows
    };
    match timeout(STATEMENT_BOUND, work).await {
        Ok(result) => result.map_err(Some),
        Err(_) => Err(None),
    }
}
